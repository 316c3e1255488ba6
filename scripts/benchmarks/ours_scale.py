"""What the client of each program does for very many shards: the one place of the suite `scale` that calls them.

Each function takes a number of shards, and yields the client's work: everything except what tasks do, on a storage
whose every request takes 20 ms (`slow.py`). Tasks return made-up results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import slow
from benchmarks.model import Done, Work

JOBS = 64
"""Tasks at a time, which do nothing."""


def made_up(source: str, url: str) -> Any:
    """Return the result of a task that has written the shard at ``url``."""
    from shardtools.jobs.target import Counts, ShardResult

    return ShardResult(
        source, url, Counts(20, 0, 0, 20), 20480, 20480, f"crc32:{hash(url) & 0xFFFFFFFF:08x}", {"jpg": 20}
    )


def after(shards: int) -> Done:
    return Done(shards, note=slow.asked())


def complete(spec: str) -> None:
    """Let the dataset ``spec`` be there, with sidecars and a manifest."""
    from shardtools.shards.manifest import build_manifest, write_manifest
    from shardtools.shards.sidecar import sidecar_url
    from shardtools.spec import Destination

    target = Destination(spec)
    slow.pretend(target.urls())
    slow.pretend(list(map(sidecar_url, target.urls())))
    entries = [made_up("", url).entry for url in target.urls()]
    write_manifest(target, build_manifest(target, entries, {}))


@contextmanager
def map_client(root: str, shards: int, mode: str = "") -> Iterator[Work]:
    """The client of htmapper; with the ``mode`` "overwrite" half as many shards again are replaced and removed."""
    from benchmarks.ours import write_script
    from shardtools import engine
    from shardtools.jobs.map import plan_map
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.run import run_plan
    from shardtools.jobs.script import read_script

    script = read_script(write_script(root))
    options = RunOptions(jobs=JOBS, overwrite=mode == "overwrite")
    slow.install(shards, 0)
    if mode:
        complete(f"slow://out/y-@{shards:07d}.tar")
        complete(f"slow://out/y-@{shards + shards // 2:07d}.tar")
    count = slow.install(shards)

    def work() -> Done:
        plan = plan_map(f"slow://indexed/x-{count}.tar", f"slow://out/y-@{shards:07d}.tar", script, options)
        urls = plan.destination.urls()
        tasks = [engine.Task(made_up, (task.name, url), url) for task, url in zip(plan.tasks, urls, strict=True)]
        run_plan(replace(plan, tasks=tasks), options)
        return after(shards)

    yield work


class _Source:
    """A source of samples without contents."""

    name = "folder"
    random_access = portable = True

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def part(self, rows: Any) -> Any:
        return rows

    def names(self) -> Sequence[str]:
        return [self.name]

    def read_by_tasks(self) -> Sequence[str]:
        return []

    def notes(self) -> dict[str, Any]:
        return {}

    def left_out(self) -> Sequence[tuple[str, str]]:
        return ()


@contextmanager
def upload_client(root: str, shards: int) -> Iterator[Work]:
    """The client of htupload, after its source was listed: ten samples for each shard."""
    from shardtools import engine
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.upload import UploadOptions, plan_upload, run_upload

    slow.install(1)
    source: Any = _Source(10 * shards)
    options = RunOptions(jobs=JOBS)

    def work() -> Done:
        plans = plan_upload(source, f"slow://out/y-@{shards}.tar", UploadOptions(shuffle=True), options)
        made = [
            replace(plan, tasks=[engine.Task(made_up, (task.name, task.name), task.name) for task in plan.tasks])
            for plan in plans
        ]
        run_upload(made, source, options)
        return after(shards)

    yield work


@contextmanager
def index_client(root: str, shards: int) -> Iterator[Work]:
    """htindex over shards that all have sidecars: it makes the manifest that is missing."""
    from shardtools.jobs.index import index
    from shardtools.jobs.options import RunOptions

    count = slow.install(shards)

    def work() -> Done:
        index(f"slow://bare/x-{count}.tar", options=RunOptions(jobs=JOBS))
        return after(shards)

    yield work


@contextmanager
def extract_client(root: str, shards: int) -> Iterator[Work]:
    """htextract --keys: what comes from the sidecars alone."""
    from shardtools.jobs.extraction.extract import run_extract
    from shardtools.jobs.extraction.extract_shard import ExtractOptions
    from shardtools.jobs.options import RunOptions

    count = slow.install(shards)

    def work() -> Done:
        run_extract(f"slow://bare/x-{count}.tar", ExtractOptions(), "slow://out/rows.tsv", RunOptions(jobs=JOBS))
        return after(shards)

    yield work


@contextmanager
def exchange_plan(root: str, shards: int, place: str, star: bool = False) -> Iterator[Work]:
    """What htshuffle and htsort do before any work: inputs, outputs, groups."""
    from shardtools.jobs.exchange.keying import Keying
    from shardtools.jobs.exchange.plan import Exchange, plan_exchange
    from shardtools.jobs.options import RunOptions

    count = slow.install(shards)
    what = Exchange("benchmark", Keying("random", seed=1))
    source = f"slow://{place}/x-{'*' if star else count}.tar"

    def work() -> Done:
        plan_exchange(source, f"slow://out/y-@{shards}.tar", what, RunOptions(jobs=2))
        return after(shards)

    yield work


def nothing(number: int) -> int:
    """Do nothing, as a task."""
    return number


@contextmanager
def scheduler(root: str, tasks: int, workers: int = 2) -> Iterator[Work]:
    """Tasks that do nothing, through a Dask scheduler and workers of one thread each."""
    from benchmarks.ours import dask_cluster
    from shardtools import engine

    with dask_cluster(workers) as address:
        some = [engine.Task(nothing, (number,), "x") for number in range(tasks)]
        engine.run(some[:200], lambda done: None, cluster=address)

        def work() -> int:
            seen = np.zeros(tasks, bool)

            def note(done: engine.Done) -> None:
                seen[done.index] = True

            engine.run(some, note, cluster=address)
            return int(seen.sum())

        yield work
