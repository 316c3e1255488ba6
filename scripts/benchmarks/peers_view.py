"""What others do with the same shards. Nothing of shardtools is used here."""

from __future__ import annotations

import json
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.model import Work
from benchmarks.peers import inputs
from benchmarks.server import serve


@contextmanager
def tarfile_at_random(root: str, names: Sequence[str], count: int) -> Iterator[Work]:
    """Python's tarfile on a file of fsspec: members by name, once the archive was listed."""
    import fsspec

    [path] = inputs(root, names)
    choose = random.Random(0)
    with fsspec.open(path, "rb") as file, tarfile.open(fileobj=file) as archive:
        members = archive.getmembers()
        by_name = {member.name: member for member in members}
        keys = [member.name.partition(".")[0] for member in members if member.name.endswith(".cls")]

        def work() -> int:
            for _ in range(count):
                key = choose.choice(keys)
                for field in ("cls", "jpg"):
                    data = archive.extractfile(by_name[f"{key}.{field}"])
                    if data is None or not data.read():
                        raise RuntimeError("no data")
            return count

        yield work


@contextmanager
def ratarmount_at_random(root: str, names: Sequence[str], count: int) -> Iterator[Work]:
    """ratarmountcore, the library of ratarmount: members by name, once the archive was indexed, in memory."""
    from ratarmountcore.mountsource.factory import open_mount_source

    [path] = inputs(root, names)
    choose = random.Random(0)
    archive = open_mount_source(path, indexFilePath=":memory:")
    keys = [name.partition(".")[0] for name in archive.list("/") or () if name.endswith(".cls")]

    def work() -> int:
        for _ in range(count):
            key = choose.choice(keys)
            for field in ("cls", "jpg"):
                found = archive.lookup(f"/{key}.{field}")
                if found is None:
                    raise RuntimeError("no such member")
                with archive.open(found) as file:
                    file.read()
        return count

    yield work


def _zarr(root: str, samples: int, size: int, chunk: int) -> Any:
    """Return an array of as many bytes as the samples have, in chunks of some samples, on the disk."""
    import numpy as np
    import zarr

    path = os.path.join(root, "output", "array.zarr")
    array = zarr.create_array(path, shape=(samples, size), chunks=(chunk, size), dtype="uint8", compressors=None)
    choose = np.random.default_rng(0)
    for start in range(0, samples, 1000):
        array[start : start + 1000] = choose.integers(0, 256, (min(1000, samples - start), size), np.uint8)
    return array


@contextmanager
def zarr_at_random(root: str, samples: int, size: int, count: int) -> Iterator[Work]:
    """zarr: rows of an array of bytes that has a chunk for each."""
    array = _zarr(root, samples, size, 1)
    choose = random.Random(0)

    def work() -> int:
        for _ in range(count):
            array[choose.randrange(samples)]
        return count

    yield work


@contextmanager
def zarr_slices(root: str, samples: int, size: int, length: int) -> Iterator[Work]:
    """zarr: slices that are whole chunks."""
    array = _zarr(root, samples, size, length)

    def work() -> int:
        return sum(len(array[start : start + length]) for start in range(0, samples, length))

    yield work


@contextmanager
def curl_range(root: str, names: Sequence[str], size: int) -> Iterator[Work]:
    """curl: as many bytes from the start of a shard."""
    [name] = names
    with serve(root) as base:

        def work() -> int:
            command = ["curl", "-sf", "-o", "/dev/null", "-r", f"0-{size - 1}", "-w", "%{size_download}", base + name]
            return int(subprocess.run(command, check=True, capture_output=True).stdout) // 1_000_000

        yield work


def open_with_wids(root: str, names: Sequence[str], samples: int) -> Any:
    """Return the shards as wids opens them: without decoding, from where they are."""
    import wids

    index = os.path.join(root, "output", "index.json")
    shards = [{"url": path, "nsamples": samples} for path in inputs(root, names)]
    Path(index).write_text(json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}))
    return wids.ShardListDataset(index, transformations=[], keep=True, lru_size=len(shards))


@contextmanager
def wids_at_random(root: str, names: Sequence[str], samples: int, count: int) -> Iterator[Work]:
    """wids: samples by numbers drawn at random, one by one; every field is read."""
    dataset = open_with_wids(root, names, samples)
    choose = random.Random(0)
    for number in range(0, len(dataset), samples):
        dataset[number]

    def work() -> int:
        for _ in range(count):
            read(dataset[choose.randrange(len(dataset))])
        return count

    yield work


@contextmanager
def wids_slices(root: str, names: Sequence[str], samples: int) -> Iterator[Work]:
    """wids: the same, one after the other."""
    dataset = open_with_wids(root, names, samples)
    for number in range(0, len(dataset), samples):
        dataset[number]

    def work() -> int:
        for number in range(len(dataset)):
            read(dataset[number])
        return len(dataset)

    yield work


def read(sample: Any) -> None:
    """Read what wids gives as files in memory."""
    for value in sample.values():
        if hasattr(value, "read"):
            value.read()
