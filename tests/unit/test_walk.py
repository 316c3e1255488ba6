"""The walk over headers finds the same through any function that reads, and what tarfile finds."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import CorruptError
from shardtools.shards.tar import BLOCK
from shardtools.shards.walk import END_MARK, TarHeader, buffer_reader, page_reader, walk
from tests import tars
from tests.tars import Shard, archive, header, member, pax


def headers_of(data: bytes, at: int = 0) -> list[TarHeader]:
    return list(walk(buffer_reader(np.frombuffer(data, np.uint8)), len(data), at=at))


@settings(max_examples=100, deadline=None)
@given(tars.shards())
def test_names_places_and_sizes_are_those_of_tarfile(shard: Shard) -> None:
    found = [each for each in headers_of(shard.data) if each.kind != END_MARK and not each.is_extension]
    with tarfile.open(fileobj=io.BytesIO(shard.data), encoding="utf-8", errors="surrogateescape") as file:
        infos = file.getmembers()
    assert [(each.offset, each.size) for each in found] == [(info.offset_data, info.size) for info in infos]
    names = [each.name.decode("utf-8", "surrogateescape").rstrip("/") for each in found]
    assert names == [info.name.rstrip("/") for info in infos]


@settings(max_examples=100, deadline=None)
@given(tars.shards(), st.integers(1, 5000), st.integers(0, 99))
def test_it_finds_the_same_by_pages_and_from_the_middle(shard: Shard, page: int, base: int) -> None:
    data, expected = shard.data, headers_of(shard.data)
    assert list(walk(page_reader(lambda start, stop: data[start:stop], len(data), page), len(data))) == expected
    moved = walk(buffer_reader(np.frombuffer(data, np.uint8), base), base + len(data), at=base)
    assert [each.start - base for each in moved] == [each.start for each in expected]
    members = [i for i, each in enumerate(expected) if i and not expected[i - 1].is_extension]
    for i in members[:3]:
        assert headers_of(data, expected[i].start) == expected[i:]


def test_pages_hold_no_more_than_the_file() -> None:
    asked = []

    def read(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return bytes(stop - start)

    pages = page_reader(read, 10_000, 4096)
    for start, stop in ((0, 512), (3584, 4096), (4000, 4200), (9500, 10_000), (0, 6000)):
        assert len(pages(start, stop)) == stop - start
    assert asked == [(0, 4096), (4000, 8096), (9500, 10_000), (0, 6000)]


def test_only_the_data_of_extension_headers_are_read_and_only_when_one_goes_on() -> None:
    data = archive(pax({"path": b"long.txt"}), member(b"a.txt", bytes(5000)), member(b"b.txt", b"1"))
    asked = []

    def read(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return data[start:stop]

    steps = walk(read, len(data))
    assert next(steps).is_extension
    assert asked == [(0, 512)]
    assert (next(steps).name, next(steps).name) == (b"long.txt", b"b.txt")
    assert asked[1:] == [(512, 529), (1024, 1536), (6656, 7168)]


def test_the_last_header_may_claim_more_than_there_is() -> None:
    for kind in (b"0", b"x"):
        data = member(b"a.txt", b"1") + header(b"b.txt", 5000, kind=kind)
        *_, last = headers_of(data)
        assert (last.start, last.stop, last.size) == (1024, 1024 + 512 + 5120, 5000)


def test_a_run_of_zeros_is_one_end() -> None:
    data = archive(member(b"a.txt", b"1")) + bytes(9216) + archive(member(b"b.txt", b"2")) + bytes(100)
    found = headers_of(data[: len(data) // BLOCK * BLOCK])
    assert [each.kind for each in found] == [48, END_MARK, 48, END_MARK]
    assert found[1].start == 1024


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * 512, "a.tar: the header checksum at byte 0 is wrong; fetch or make the archive again"),
        (pax({"a": b"b"}) + bytes(1024), "a.tar: no member follows the extension header at byte 0; fetch or make the"),
        (header(b"s", kind=b"S"), r"a.tar \[s\]: sparse members are not supported; make the archive again with tar"),
    ],
)
def test_errors_name_what_is_read(data: bytes, message: str) -> None:
    with pytest.raises(CorruptError, match=f"^{message}"):
        list(walk(lambda start, stop: data[start:stop], len(data), url="a.tar", what="archive"))


def test_checksums_may_be_left_to_the_caller() -> None:
    data = bytearray(archive(member(b"a.txt", b"1")))
    data[0] += 1
    with pytest.raises(CorruptError, match="checksum"):
        headers_of(bytes(data))
    assert next(walk(lambda start, stop: bytes(data[start:stop]), len(data), verify=False)).name == b"b.txt"
