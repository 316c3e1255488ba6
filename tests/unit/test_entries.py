"""Entry points of compressed shards, found again in their bytes."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import shardtools as st
from shardtools.shards.compression import GZIP_HEADER
from shardtools.shards.entries import EntryFinder
from shardtools.shards.indexing import index_shard
from shardtools.shards.sidecar import read_sidecar
from shardtools.shards.table import ShardTable
from shardtools.types import Ints
from tests.datasets import pack, sample_files, tar_bytes, write_shard

MARKS = b"\0\0\xff\xff" * 300


def make(folder: Path, ending: str) -> Path:
    """Write a shard of samples of 100 KB, some of which hold the bytes that a flush leaves."""
    rng = random.Random(1)
    files = [(f"{i}.bin", MARKS + rng.randbytes(50_000) + MARKS + bytes(50_000)) for i in range(20)]
    write_shard(folder / "in-0.tar", files)
    st.sort(str(folder / "in-0.tar"), str(folder / f"out-@1{ending}"))
    return folder / f"out-0{ending}"


@pytest.mark.parametrize("ending", [".tgz", ".tar.zst"])
def test_a_new_sidecar_has_the_entry_points_of_the_lost_one(tmp_path: Path, ending: str) -> None:
    shard = make(tmp_path, ending)
    lost = read_sidecar(str(shard), None)
    assert lost is not None and len(lost.entries) == 7
    found = index_shard(str(shard))
    np.testing.assert_array_equal(found.entries, lost.entries)
    data = shard.read_bytes()
    for step in (1, 999):
        finder = EntryFinder()
        for at in range(0, len(data), step):
            finder.take(memoryview(data)[at : at + step])
        np.testing.assert_array_equal(finder.entries(found.table), lost.entries)


def entries_of(data: bytes, path: Path) -> Ints:
    path.write_bytes(data)
    return index_shard(str(path)).entries


def test_files_that_look_like_ours_have_none(tmp_path: Path) -> None:
    tar = tar_bytes(list(sample_files(0, 40, 3000)))
    tail = zlib.crc32(tar).to_bytes(4, "little") + len(tar).to_bytes(4, "little")

    def packed(flush: int) -> bytes:
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        cuts = [tar[at : at + 5120] for at in range(0, len(tar), 5120)]
        return b"".join(deflate.compress(cut) + deflate.flush(flush) for cut in cuts) + deflate.flush()

    path = tmp_path / "a.tgz"
    assert len(entries_of(GZIP_HEADER + packed(zlib.Z_FULL_FLUSH) + tail, path)) > 1
    assert len(entries_of(GZIP_HEADER + packed(zlib.Z_SYNC_FLUSH) + tail, path)) == 0  # refers to what came before
    twice = GZIP_HEADER + packed(zlib.Z_FULL_FLUSH) + tail + pack(bytes(1024), "b.tgz")  # a second member
    assert len(entries_of(twice, path)) == 0
    assert len(entries_of(pack(tar, "a.tgz"), path)) == 0
    assert len(entries_of(tar, tmp_path / "a.tar")) == 0


@settings(max_examples=50, deadline=None)
@given(some.binary(max_size=200), some.sampled_from([GZIP_HEADER, b"\x28\xb5\x2f\xfd", b""]))
def test_no_bytes_are_too_odd(data: bytes, head: bytes) -> None:
    finder = EntryFinder()
    finder.take(memoryview(head + data + MARKS))
    finder.take(memoryview(data))
    assert len(finder.entries(ShardTable.join([]))) == 0
