"""The client of an exchange of very many samples: all that it does itself, with tasks that return made-up results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks import slow
from benchmarks.model import Work
from benchmarks.ours_scale import JOBS, after, made_up

SPAN = 10_240
"""Bytes of a sample: a header and 9.5 KB."""


def made_up_run(url: str, count: int) -> Any:
    """Return a run that is nowhere."""
    from shardtools.jobs.exchange.run import SAMPLED, Run

    some = min(SAMPLED, count)
    return Run(url, count, SPAN * count, 16 * count, 12 * count, count, some, 16 * some, 0, ("bin",))


@contextmanager
def exchange_client(root: str, shards: int, samples: int, delay: float = 0.0) -> Iterator[Work]:
    """The client of htshuffle: a run for each input, and as many outputs as inputs."""
    from shardtools.jobs.exchange import exchange, planning
    from shardtools.jobs.exchange.cost import S3, SERVICES
    from shardtools.jobs.exchange.keying import Keying
    from shardtools.jobs.exchange.notes import Collected
    from shardtools.jobs.exchange.order import RANDOM_BYTES, RandomOrder
    from shardtools.jobs.exchange.plan import Exchange, plan_exchange
    from shardtools.jobs.exchange.run import Run
    from shardtools.jobs.options import RunOptions
    from shardtools.shards.columns import Texts

    per_shard = samples // shards
    pieces = iter(range(1 << 62))

    def collect(task: Any) -> Collected:
        run = made_up_run(f"{task.prefix}-0000", per_shard)
        return Collected((run,), per_shard, run.data_bytes, 1)

    def read_sampled(run: Run) -> Texts:
        slow.SlowStorage()._wait("GET")
        words = np.sort(RandomOrder(1, next(pieces)).take(run.sampled).view(">u8")[::2])
        rows = np.stack((words, words), axis=1)
        return Texts(rows.view(np.uint8).reshape(-1), RANDOM_BYTES * np.arange(1, run.sampled + 1))

    def locate(task: Any) -> Any:
        values = np.array([int.from_bytes(split[:8].ljust(8, b"\0"), "big") / 2**64 for split in task.splits])
        return np.outer([run.count for run in task.runs], values).astype(np.int64)

    def merge_range(task: Any) -> Run:
        return made_up_run(task.url, per_shard)

    def gather(task: Any) -> Any:
        result = made_up("", task.target.url)
        return replace(result, counts=replace(result.counts, read=per_shard, written=per_shard), content="1")

    fakes = (
        patch.object(exchange, "collect", collect),
        patch.object(exchange, "gather", gather),
        patch.object(planning, "locate", locate),
        patch.object(planning, "locate_group", lambda task: None),
        patch.object(planning, "merge_range", merge_range),
        patch.object(planning, "cut_batch", lambda task: None),
        patch.object(Run, "read_sampled", read_sampled),
        patch.dict(SERVICES, {"slow": S3}),
    )
    count = slow.install(shards, delay)

    def work() -> Any:
        options = RunOptions(jobs=JOBS)
        what = Exchange("htshuffle", Keying("random", seed=1), memory=JOBS << 30)
        plan = plan_exchange(f"slow://indexed/x-{count}.tar", f"slow://out/y-@{shards}.tar", what, options)
        groups = tuple((index,) for index in range(shards))
        inputs = tuple(replace(entry, tar_size=SPAN * per_shard) for entry in plan.inputs)
        exchange.run_exchange(replace(plan, inputs=inputs, groups=groups, spill="slow://spill/"), options)
        return after(shards)

    for fake in fakes:
        fake.start()
    try:
        yield work
    finally:
        for fake in fakes:
            fake.stop()
