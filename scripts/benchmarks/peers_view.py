"""What others do with the same shards. Nothing of shardtools is used here."""

from __future__ import annotations

import json
import os
import random
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.model import Work
from benchmarks.peers import inputs


@contextmanager
def tarfile_at_random(root: str, names: Sequence[str], count: int) -> Iterator[Work]:
    """Python's tarfile: members by name, once the archive was listed."""
    [path] = inputs(root, names)
    choose = random.Random(0)
    with tarfile.open(path) as archive:
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


def _wids(root: str, names: Sequence[str], samples: int) -> Any:
    """Return the shards as wids opens them: without decoding, from where they are."""
    import wids

    index = os.path.join(root, "output", "index.json")
    shards = [{"url": path, "nsamples": samples} for path in inputs(root, names)]
    Path(index).write_text(json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}))
    return wids.ShardListDataset(index, transformations=[], keep=True, lru_size=len(shards))


@contextmanager
def wids_at_random(root: str, names: Sequence[str], samples: int, count: int) -> Iterator[Work]:
    """wids: samples by numbers drawn at random, one by one; every field is read."""
    dataset = _wids(root, names, samples)
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
    dataset = _wids(root, names, samples)
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
