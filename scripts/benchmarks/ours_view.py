"""What datasets and views do: the one place of the suite `view` that calls them.

Every function takes the benchmark's folder and yields the work to be measured.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.model import Work
from benchmarks.server import serve


@contextmanager
def at_random(root: str, pattern: str, count: int) -> Iterator[Work]:
    """Read samples by numbers drawn at random, one by one."""
    import shardtools

    dataset = shardtools.open(os.path.join(root, pattern))
    choose = random.Random(0)
    numbers = [choose.randrange(len(dataset)) for _ in range(count)]
    for number in range(0, len(dataset), max(len(dataset) // 50, 1)):  # every shard's table
        dataset[number]

    def work() -> int:
        for number in numbers:
            dataset[number]
        return count

    yield work


@contextmanager
def slices(root: str, pattern: str, size: int) -> Iterator[Work]:
    """Read all samples in slices."""
    import shardtools

    dataset = shardtools.open(os.path.join(root, pattern))
    for number in range(0, len(dataset), size):
        dataset[number]
    yield lambda: sum(len(dataset[start : start + size]) for start in range(0, len(dataset), size))


@contextmanager
def over_http(root: str, pattern: str, count: int) -> Iterator[Work]:
    """Read samples by a list of numbers drawn at random."""
    import shardtools

    with serve(root) as base:
        dataset = shardtools.open(base + pattern)
        choose = random.Random(0)
        dataset[list(range(0, len(dataset), 50))]
        yield lambda: len(dataset[[choose.randrange(len(dataset)) for _ in range(count)]])


@contextmanager
def contiguous(root: str, pattern: str, count: int) -> Iterator[Work]:
    """Read neighbouring samples as one slice; counts megabytes of them."""
    import shardtools

    with serve(root) as base:
        dataset = shardtools.open(base + pattern)
        dataset[:count]

        def work() -> int:
            return sum(len(value) for record in dataset[:count] for value in record.values()) // 1_000_000

        yield work


@contextmanager
def opening(root: str, shards: int, samples: int) -> Iterator[Work]:
    """Open a dataset by its manifest, and read one sample."""
    from pathlib import Path

    import shardtools
    from benchmarks.data import write_with_shardtools

    folder = os.path.join(root, "output", "huge")
    os.mkdir(folder)
    last = Path(folder, f"{shards - 1:06d}.tar")
    write_with_shardtools(last, ((f"{i:08d}", {"txt": b"%d" % i}) for i in range(samples)))
    entries = [{"url": f"{i:06d}.tar", "nsamples": samples, "filesize": 1, "checksum": ""} for i in range(shards)]
    manifest = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": entries, "fields": {"txt": 1}}
    Path(folder, f"@{shards:06d}.tar.json").write_text(json.dumps(manifest))

    def work() -> int:
        dataset = shardtools.open(os.path.join(folder, f"@{shards:06d}.tar"))
        if dataset[-1]["txt"] != b"%d" % (samples - 1):
            raise RuntimeError("not the last sample")
        return 1

    yield work


@contextmanager
def indexing(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Build the tables of shards, checksums of all members included."""
    from shardtools.shards.indexing import index_shard

    paths = [os.path.join(root, name) for name in names]
    index_shard(paths[0])
    yield lambda: sum(index_shard(path).filesize for path in paths) // 1_000_000
