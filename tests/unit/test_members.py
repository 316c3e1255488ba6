"""Chosen members of a shard, by ranges of it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shardtools.errors import CorruptError
from shardtools.shards.members import IndexedShard
from shardtools.shards.samples import Composer
from shardtools.shards.sidecar import read_sidecar, write_sidecar
from shardtools.shards.writer import ShardWriter
from shardtools.storage import get_storage

ENDINGS = ("tar", "tgz", "tar.zst")


def make(folder: Path, ending: str, samples: int = 3000) -> tuple[IndexedShard, list[bytes]]:
    """Write a shard of some megabytes, with empty members and a large one; return it and the data of its members."""
    choose = random.Random(1)
    data = []
    url = str(folder / f"a.{ending}")
    with get_storage(url).create(url) as sink:
        writer = ShardWriter(sink, url)
        for i in range(samples):
            size = 600_000 if i == 17 else choose.choice((0, 1, 511, 512, 513, 3000))
            record = {"key": f"k/{i:06d}", "bin": choose.randbytes(size), "empty": b"", "txt": b"%d " % i * 40}
            writer.add(*Composer().compose(record))
            data += [record["bin"], record["empty"], record["txt"]]
        sidecar = writer.finish({})
    write_sidecar(url, sidecar)
    stored = read_sidecar(url, None)
    assert stored is not None
    return IndexedShard(url, stored), data


@pytest.mark.parametrize("ending", ENDINGS)
def test_any_members_in_any_order(tmp_path: Path, ending: str) -> None:
    shard, data = make(tmp_path, ending)
    assert shard.can_enter and shard.is_plain == (ending == "tar")
    assert ending == "tar" or len(shard.sidecar.entries) > 5
    choose = np.random.default_rng(0)
    for count in (0, 1, 2, 50, 2000):
        members = choose.integers(len(data), size=count)
        assert shard.read(members) == [data[row] for row in members.tolist()]
    assert shard.read(np.arange(len(data))) == data
    for row in (0, 1, 2, len(data) - 1, 3 * 17, 3 * 17 + 1):
        assert shard.read(np.array([row])) == [data[row]]


@pytest.mark.parametrize("ending", ENDINGS)
def test_only_what_is_needed_is_read(tmp_path: Path, ending: str) -> None:
    shard, data = make(tmp_path, ending)
    size = shard.sidecar.filesize
    assert shard.cost(np.arange(0)) == 0
    last = shard.cost(np.array([len(data) - 1]))
    assert last == len(data[-1]) if ending == "tar" else 0 < last < size / 5
    assert shard.cost(np.array([1])) == 0
    assert shard.cost(np.arange(len(data))) <= size


@pytest.mark.parametrize("ending", ENDINGS)
def test_other_bytes_than_those_of_the_sidecar(tmp_path: Path, ending: str) -> None:
    shard, _ = make(tmp_path, ending)
    path = Path(shard.url)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(CorruptError, match=r"a\.t.*(not the one in the sidecar|decompress)"):
        shard.read(np.array([2, 5]))


def test_without_checksums_they_are_believed(tmp_path: Path) -> None:
    shard, data = make(tmp_path, "tar")
    plain = IndexedShard(shard.url, replace(shard.sidecar, table=replace(shard.table, crc32=None)))
    assert plain.read(np.array([2])) == [data[2]]


def test_a_packed_shard_without_entry_points_cannot_be_entered(tmp_path: Path) -> None:
    shard, _ = make(tmp_path, "tgz", samples=30)
    assert not IndexedShard(shard.url, replace(shard.sidecar, entries=np.empty((0, 2), np.int64))).can_enter
