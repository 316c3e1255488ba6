"""What htshuffle and htsort do: the one place of their suites that calls them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from benchmarks.model import Work
from benchmarks.ours import write_shard
from benchmarks.server import serve


@contextmanager
def exchange_http(
    root: str, pattern: str, outputs: int, order: Literal["random", "key"], memory: int, jobs: int = 2
) -> Iterator[Work]:
    """Do what `exchange` does, with source, spill and destination on nginx."""
    with serve(root) as base, exchange(base, pattern, outputs, order, memory, jobs, root) as work:
        yield work


@contextmanager
def exchange(
    root: str,
    pattern: str,
    outputs: int,
    order: Literal["random", "key"],
    memory: int,
    jobs: int = 2,
    folder: str | None = None,
) -> Iterator[Work]:
    """Shuffle, or sort by key, a whole dataset into so many shards; ``root`` may be the URL of ``folder``."""
    from shardtools.jobs.exchange.exchange import run_exchange
    from shardtools.jobs.exchange.keying import Keying
    from shardtools.jobs.exchange.plan import Exchange, plan_exchange
    from shardtools.jobs.options import RunOptions

    options = RunOptions(jobs=jobs)
    spill = os.path.join(root, "output", "spill", "") if folder else None
    what = Exchange("benchmark", Keying(order, seed=1), memory=memory, spill=spill)

    def run(source: str, destination: str) -> int:
        plan = plan_exchange(os.path.join(root, source), os.path.join(root, "output", destination), what, options)
        return run_exchange(plan, options).counts.written

    run(write_shard(folder or root), "warm-@1.tar")
    yield lambda: run(pattern, f"out-@{outputs:06d}.tar")


@contextmanager
def plan(root: str, runs: int, outputs: int, samples: int) -> Iterator[Work]:
    """Find where each output begins in each run, given the orders of all samples."""
    import numpy as np

    from shardtools.jobs.exchange.cuts import cuts, ranks
    from shardtools.jobs.exchange.order import RANDOM_BYTES, RandomOrder
    from shardtools.shards.columns import Texts

    size = samples // runs
    orders = []
    for run in range(runs):
        words = RandomOrder(1, run).take(size).view(">u8").reshape(-1, 2)
        ordered = np.ascontiguousarray(words[np.argsort(words[:, 0])])
        orders.append(Texts(ordered.view(np.uint8).reshape(-1), RANDOM_BYTES * np.arange(1, size + 1)))
    yield lambda: int(cuts(orders, ranks(runs * size, outputs))[-1].sum())
