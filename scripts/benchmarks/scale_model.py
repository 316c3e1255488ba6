"""What a shuffle from S3 to S3 would take, by the cost model of ``htshuffle --dry-run``: the table in docs/scale.md.

PYTHONPATH=scripts:. python -m benchmarks.scale_model
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from shardtools.jobs.exchange.cost import S3, Cost, Merge, Services, Shape, choose_merge, estimate

SHARD, SAMPLE = 10**9, 100_000
"""Bytes of an input or output shard, and of a sample."""

THREADS = 4
"""Threads of a worker."""

BUDGET = 12 * 10**9
"""Bytes of samples that a worker holds: three quarters of --memory 16GB."""

WORKER_RATE = 400e6
"""Bytes a second that a worker moves from and to S3: the model's 100 MB/s for each thread."""

TASK_RATE = 370
"""Tasks a second of the scheduler: what the suite `scale` measured."""

PREFIX_GETS, PREFIX_PUTS = 5_500, 3_500
"""Requests a second that S3 answers for one prefix, at first."""


@dataclass(frozen=True)
class Estimate:
    """A shuffle of so many bytes: its cost, its merge pass if there is one, and its tasks."""

    size: int
    cost: Cost
    merge: Merge | None
    tasks: int


def shuffle_of(size: int) -> Estimate:
    """Return what a shuffle costs into as many shards as there were."""
    shards = ceil(size / SHARD)
    runs = ceil(size / (BUDGET // THREADS // SHARD * SHARD))
    shape = Shape(shards, size, size // SAMPLE, runs, runs, shards, batch=BUDGET // 2 // THREADS)
    services = Services(S3, S3, S3)
    merge = choose_merge(shape, services)
    merges = 0 if merge is None else ceil(runs / merge.fan_in) * merge.ranges
    return Estimate(size, estimate(shape, services, merge), merge, runs + merges + shards)


def parts_of_time(of: Estimate, workers: int) -> dict[str, float]:
    """Return how many seconds each part of the machinery would need if it were the only one."""
    threads = workers * THREADS
    busy = min(threads, ceil(of.size / SHARD))  # a pass has no more tasks than that
    return {
        "network": 2 * of.cost.passes * of.size / (WORKER_RATE * busy / THREADS),
        "waiting for requests": of.cost.reads * S3.seconds / busy,
        "scheduler": of.tasks / TASK_RATE,
        "requests of one prefix": of.cost.reads / PREFIX_GETS + of.cost.writes / PREFIX_PUTS,
    }


def in_words(seconds: float) -> str:
    """Return a duration with two digits."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"


def _rounded(number: float) -> str:
    """Return a number with about three digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def row(size: int) -> str:
    """Return a line of the table."""
    of = shuffle_of(size)
    name = f"{size // 10**15} PB" if size >= 10**15 else f"{size // 10**12} TB"
    cells = [name, str(of.cost.passes), f"{_rounded(of.cost.requests / 1e6)} M", f"${_rounded(of.cost.dollars)}"]
    for workers in (10, 100, 1000):
        parts = parts_of_time(of, workers)
        first = max(parts, key=lambda name: parts[name])
        cells.append(f"{in_words(parts[first])}: {first}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    print("| dataset | passes | requests | dollars | 10 workers | 100 workers | 1,000 workers |")
    print("|--:|--:|--:|--:|---|---|---|")
    for size in (10**12, 10**13, 10**14, 10**15):
        print(row(size))


if __name__ == "__main__":
    main()
