"""What others do with the same shards. Nothing of shardtools is used here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

from benchmarks.model import Work
from benchmarks.peers import count_members, inputs, output
from benchmarks.server import serve


@contextmanager
def cat_twice(root: str, names: Sequence[str], fields: int = 2) -> Iterator[Work]:
    """cat: reads all and writes all, and that twice; no exchange through storage does less."""
    samples = count_members(inputs(root, names)) // fields
    first, second = output(root, "a"), output(root, "b")

    def work() -> int:
        for sources, target in ((inputs(root, names), first), ([first], second)):
            with open(target, "wb") as file:
                subprocess.run(["cat", *sources], stdout=file, check=True)
        return samples

    yield work


@contextmanager
def curl_twice(root: str, names: Sequence[str], fields: int = 2) -> Iterator[Work]:
    """curl: each shard is read from nginx and written to it, and that twice; two shards at a time."""
    samples = count_members(inputs(root, names)) // fields
    with serve(root) as base, ThreadPoolExecutor(2) as pool:

        def copy(shard: int) -> None:
            urls = [base + names[shard], *(f"{base}output/{copy}-{shard}.tar" for copy in "ab")]
            for source, target in pairwise(urls):
                command = ["bash", "-c", 'set -o pipefail; curl -sSf "$0" | curl -sSf -T - "$1"', source, target]
                subprocess.run(command, check=True)

        def work() -> int:
            list(pool.map(copy, range(len(names))))
            return samples

        yield work


@contextmanager
def _ray(root: str, names: Sequence[str], how: str) -> Iterator[Work]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2_000_000_000)
    ray.data.DataContext.get_current().enable_progress_bars = False
    samples = count_members(inputs(root, names)) // 2

    def work() -> int:
        dataset = ray.data.read_webdataset(inputs(root, names), decoder=None)
        ordered = dataset.random_shuffle(seed=1) if how == "shuffle" else dataset.sort("__key__")
        ordered.write_webdataset(output(root), encoder=None)
        return samples

    try:
        ray.data.range(1).materialize()
        yield work
    finally:
        ray.shutdown()


@contextmanager
def ray_shuffle(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Ray Data's read_webdataset, random_shuffle, write_webdataset."""
    with _ray(root, names, "shuffle") as work:
        yield work


@contextmanager
def ray_sort(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Ray Data's read_webdataset, sort, write_webdataset."""
    with _ray(root, names, "sort") as work:
        yield work
