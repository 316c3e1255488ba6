"""Tests of tables of which only some fields are wanted."""

from __future__ import annotations

import io
import tarfile

import numpy as np

from shardtools.shards.scan import scan
from shardtools.shards.table import ShardTable

MEMBERS = ["a.bin", "a.cls", "b.cls", "c.txt", "d.bin", "d.cls", "d.txt"]


def make_table() -> ShardTable:
    """Return the table of samples that do not all have the same fields."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for size, name in enumerate(MEMBERS):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(b"x" * size))
    return scan(np.frombuffer(file.getvalue(), np.uint8)).table


def test_members_of_all() -> None:
    found = make_table().members_of_all(["cls", "bin", "not"])
    assert found.tolist() == [[1, 2, -1, 5], [0, -1, -1, 4], [-1] * 4]
    assert make_table().members_of_all([]).shape == (0, 4)


def test_only_some_fields() -> None:
    table = make_table()
    only = table.only(["cls"])
    assert only.keys.tolist() == [b"a", b"b", b"c", b"d"] and only.counts.tolist() == [1, 1, 0, 1]
    members = only.members_of("cls")
    assert members.tolist() == [0, 1, -1, 2] and only.members_of("bin").tolist() == [-1] * 4
    assert only.offset.tolist() == table.offset[[1, 2, 5]].tolist() and only.size.tolist() == [1, 2, 5]
    assert only.take(np.array([3, 2])).counts.tolist() == [1, 0]


def test_all_fields_are_the_table_itself() -> None:
    table = make_table()
    assert table.only(["txt", "cls", "bin"]) is table
