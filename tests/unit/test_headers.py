"""Tables made from headers alone are those of reading all; what is unusual or damaged is left to that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools import open as st_open
from shardtools.errors import DuplicateKeyError, LimitError, ShardError
from shardtools.shards import headers
from shardtools.shards.headers import scan_headers
from shardtools.shards.indexing import index_shard, quick_index
from shardtools.shards.table import ShardTable
from tests import tars
from tests.tars import END, Member, Shard, archive, files, header, make_tar, member, patch, pax


@pytest.fixture(autouse=True, scope="module")
def small_too() -> Iterator[None]:
    """Take the headers of small members, too."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(headers, "FIRST", -1)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers") / "a.tar"


def check_same(found: ShardTable, expected: ShardTable) -> None:
    for column in fields_of(ShardTable):
        mine, theirs = getattr(found, column.name), getattr(expected, column.name)
        if column.name == "keys":
            assert mine.tolist() == theirs.tolist()
        elif isinstance(theirs, np.ndarray):
            assert mine.tolist() == theirs.tolist(), column.name
        else:
            assert mine == theirs, column.name


def check(path: Path, data: bytes) -> bool:
    """Check that both ways agree, also on what is wrong; return whether headers were enough."""
    path.write_bytes(data)
    try:
        expected = replace(index_shard(str(path)).table, crc32=None)
    except ShardError as error:
        with pytest.raises(type(error)) as caught:
            quick_index(str(path))
        assert str(caught.value) == str(error)
        return False
    check_same(quick_index(str(path)).table, expected)
    table = scan_headers(str(path))
    if table is not None:
        check_same(table, expected)
    return table is not None


@settings(max_examples=300, deadline=None)
@given(tars.shards())
def test_tables_are_those_of_reading_all(place: Path, shard: Shard) -> None:
    enough = check(place, shard.data)
    assert enough or shard.pax_headers or not shard.members


@settings(max_examples=200, deadline=None)
@given(tars.shards(), st.data())
def test_damage_is_found_alike(place: Path, shard: Shard, draw: st.DataObject) -> None:
    data = bytearray(shard.data)
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.sampled_from(b"\0 07x\xff"))
    check(place, bytes(data[: draw.draw(st.integers(0, len(data)))]))


BODY = bytes(5000)


@pytest.mark.parametrize(
    "data",
    [
        make_tar(files(a_jpg=BODY, b_jpg=BODY)) * 2,
        archive(member(b"a.jpg", BODY)) + b"rest",
        member(b"a.jpg", BODY) + bytes(512) + b"x" * 512,
        member(b"a.jpg", BODY),
        member(b"a.jpg", BODY)[:-1],
        archive(member(b"a.jpg", BODY), pax({"path": b"b.jpg"})),
        archive(pax({"comment": b"x"}, b"g"), member(b"a.jpg", BODY)),
        archive(header(b"a.jpg", 512, kind=b"S") + bytes(512)),
        archive(header(b"a.jpg", 512, kind=b"Z") + bytes(512)),
        b"",
        END,
        bytes(1 << 21),
    ],
)
def test_what_is_unusual_is_left_to_those_who_read_all(place: Path, data: bytes) -> None:
    assert not check(place, data) or data == END


def test_a_long_end_and_large_numbers(place: Path) -> None:
    assert check(place, archive(member(b"a.jpg", BODY)) + bytes(10_240))
    assert not check(place, archive(member(b"a.jpg", BODY)) + bytes(2 << 20))


def test_a_size_in_a_pax_header_or_in_base_256(place: Path) -> None:
    assert check(place, archive(pax({"size": b"5000"}), header(b"a.jpg", 0) + bytes(5120), member(b"b.jpg", BODY)))
    assert check(place, archive(pax({"size": b"9"}), header(b"l", kind=b"2"), member(b"b.jpg", BODY)))
    assert check(place, archive(pax({"comment": b"size=9"}), member(b"a.jpg", BODY)))
    large = patch(header(b"a.jpg"), 124, b"\x80" + (5000).to_bytes(11, "big"))
    assert check(place, archive(large + bytes(5120), member(b"b.jpg", BODY)))


@pytest.mark.parametrize("format", ["base 256", "pax"])
def test_a_member_of_9_gib(place: Path, format: str) -> None:
    """It is a hole in the file; whoever indexes it does not hold it."""
    size = 9 << 30
    head = patch(header(b"b.bin"), 124, b"\x80" + size.to_bytes(11, "big"))
    if format == "pax":
        head = pax({"path": b"b.bin", "size": b"%d" % size}) + header(b"x")
    with place.open("wb") as file:
        file.write(member(b"a.txt", b"1") + head)
        file.seek(size, os.SEEK_CUR)
        file.write(archive(member(b"c.txt", b"2")))
    table = quick_index(str(place)).table
    assert (table.keys.decode(), table.size.tolist()) == (["a", "b", "c"], [1, size, 1])
    assert st_open(str(place))["c"]["txt"] == b"2"


def test_an_extension_header_that_claims_8_gib(place: Path) -> None:
    place.write_bytes(archive(member(b"a.txt", b"1"), header(b"x", (8 << 30) - 1, kind=b"x"), bytes(512)))
    with pytest.raises(LimitError):
        quick_index(str(place))


def test_a_key_that_comes_again(place: Path) -> None:
    place.write_bytes(make_tar([Member("a.jpg", BODY), Member("b.jpg", BODY), Member("a.cls", b"1")]))
    with pytest.raises(DuplicateKeyError, match=r"a.tar \[a\]"):
        scan_headers(str(place))


def test_small_members_are_read_whole_and_large_ones_are_not(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[object] = []
    pread = os.pread
    monkeypatch.setattr(headers, "FIRST", 128)
    monkeypatch.setattr(os, "pread", lambda *args: counts.append(args) or pread(*args))
    place.write_bytes(make_tar(Member(f"{i}.cls", b"1") for i in range(200)))
    assert scan_headers(str(place)) is None
    place.write_bytes(
        make_tar(Member(f"{i}.{name}", bytes(size)) for i in range(200) for name, size in (("a", 3), ("b", 70_000)))
    )
    counts.clear()
    table = scan_headers(str(place))
    assert table is not None and len(table) == 200
    assert len(counts) <= 202, "one for the headers of each sample, and the end"
