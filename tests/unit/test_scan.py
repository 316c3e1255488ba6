"""What `scan` finds in a buffer, with Python's tarfile as the judge."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import CorruptError, DuplicateKeyError
from shardtools.shards.scan import _CHUNK, Scan, scan
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK
from tests import tars
from tests.tars import Member, Samples, Shard, archive, files, header, make_tar, member, pax


def scanned(data: bytes) -> Scan:
    return scan(np.frombuffer(data, np.uint8))


def samples_of(data: bytes, table: ShardTable) -> Samples:
    found: Samples = []
    for i, key in enumerate(table.keys.decode()):
        rows = range(table.first[i], table.first[i + 1])
        found.append(
            (
                key,
                {table.fields[table.field[j]]: data[table.offset[j] : table.offset[j] + table.size[j]] for j in rows},
            )
        )
    return found


def samples_in(data: bytes) -> Samples:
    return samples_of(data, scanned(data).table)


@settings(max_examples=300, deadline=None)
@given(tars.shards())
def test_samples_are_those_that_tarfile_finds(shard: Shard) -> None:
    data = shard.data
    found = scanned(data)
    assert samples_of(data, found.table) == tars.expected(data)
    assert (found.consumed, found.ended) == (len(data), True)
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        assert found.table.other == len(file.getmembers()) - len(found.table.field)


@settings(max_examples=150, deadline=None)
@given(tars.shards())
def test_spans_can_be_moved_to_another_shard(shard: Shard) -> None:
    data = shard.data
    table = scanned(data).table
    spans = [data[a:b] for a, b in zip(table.start, table.stop, strict=True)]
    assert all(len(span) % BLOCK == 0 for span in spans)
    assert (table.start[1:] >= table.stop[:-1]).all()
    assert tars.expected(archive(*reversed(spans))) == tars.expected(data)[::-1]


def test_chunks_of_headers_join_seamlessly() -> None:
    """More headers than are looked at together, in samples of three so that chunks end inside them."""
    count = _CHUNK // 2
    data = make_tar(Member(f"{i:05d}.{field}", b"%d" % i) for i in range(count) for field in ("a", "b", "c"))
    assert samples_in(data) == [(f"{i:05d}", dict.fromkeys("abc", b"%d" % i)) for i in range(count)]


@settings(max_examples=100, deadline=None)
@given(tars.shards(), st.integers(1, 4))
def test_chunks_may_end_anywhere(shard: Shard, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("shardtools.shards.scan._CHUNK", chunk)
        assert samples_in(shard.data) == tars.expected(shard.data)


@pytest.mark.parametrize("format", tars.FORMATS)
def test_long_names_beyond_the_first_chunk(format: str) -> None:
    names = [f"{'d' * 60}/{'e' * 60}/{i:05d}.{'t' * (i % 30 + 1)}" for i in range(_CHUNK + 100)]
    data = make_tar([Member(name, name.encode()) for name in names], tars.FORMATS[format])
    assert [f"{key}.{field}" for key, fields in samples_in(data) for field in fields] == names


def test_archives_one_after_another_are_one_shard() -> None:
    one, two = make_tar(files(a_txt=b"1", b_txt=b"2")), make_tar(files(c_txt=b"3"), tarfile.GNU_FORMAT)
    data = one + two + bytes(BLOCK * 3) + one[:1024].replace(b"a.txt", b"d.txt")  # its checksum no longer holds
    with pytest.raises(CorruptError, match="checksum"):
        scanned(data)
    data = one + two + bytes(BLOCK * 3) + make_tar(files(d_txt=b"4"))
    assert samples_in(data) == tars.expected(data, ignore_zeros=True)
    assert [key for key, _ in samples_in(data)] == ["a", "b", "c", "d"]


def test_a_sample_ends_where_its_archive_ends() -> None:
    """Or its span would hold an end-of-archive mark, where every reader of a shard that it is moved to would stop."""
    data = make_tar(files(a_jpg=b"1")) + make_tar(files(a_cls=b"2", b_cls=b"3"))
    table = scanned(data).table
    assert table.keys.decode() == ["a", "a", "b"]
    assert table.stop[0] == 1024


def test_the_table_describes_every_byte_of_a_sample() -> None:
    data = archive(
        header(b"folder/", kind=b"5"),
        pax({"comment": b"x"}, kind=b"g"),
        pax({"mtime": b"1.5"}),
        member(b"a.jpg", b"12345"),
        member(b"README", b"text"),
        member(b"a.cls", b""),
        member(b"b.cls", b"3"),
    )
    table = scanned(data).table
    assert table.keys.decode() == ["a", "b"]
    assert (table.start.tolist(), table.stop.tolist()) == ([1536, 5120], [5120, 6144])
    assert (table.offset.tolist(), table.size.tolist()) == ([3072, 5120, 5632], [5, 0, 1])
    assert (table.first.tolist(), table.fields, table.field.tolist()) == ([0, 2, 3], ("jpg", "cls"), [0, 1, 1])
    assert table.other == 2


def test_offsets_count_from_the_base() -> None:
    data = np.frombuffer(make_tar(files(a_txt=b"1")), np.uint8)
    table = scan(data, base=1 << 40).table
    assert (table.start[0], table.offset[0], table.stop[0]) == (1 << 40, (1 << 40) + 512, (1 << 40) + 1024)


def test_the_last_sample_waits_for_the_next_buffer() -> None:
    data = archive(member(b"a.jpg", b"1"), member(b"README", b"2"), member(b"b.jpg", b"3"), member(b"LICENSE", b"4"))
    found = scan(np.frombuffer(data[: 8 * BLOCK], np.uint8), final=False)
    assert (found.table.keys.decode(), found.consumed, found.ended) == (["a"], 4 * BLOCK, False)
    assert found.table.other == 1, "LICENSE comes again with the next buffer"


def test_an_end_mark_completes_the_last_sample() -> None:
    data = archive(member(b"a.jpg", b"1"))
    found = scan(np.frombuffer(data[: 3 * BLOCK], np.uint8), final=False)
    assert (found.table.keys.decode(), found.consumed, found.ended) == (["a"], 3 * BLOCK, True)


@pytest.mark.parametrize("padding", [0, 1, 511, 512, 20 * 512 + 7])
def test_zeros_after_the_end_mean_nothing(padding: int) -> None:
    data = make_tar(files(a_txt=b"1")) + bytes(padding)
    assert samples_in(data) == [("a", {"txt": b"1"})]


def test_an_archive_without_members_has_no_samples() -> None:
    table = scanned(make_tar([])).table
    assert (len(table), len(table.field), table.first.tolist(), table.keys.decode()) == (0, 0, [0], [])


@pytest.mark.parametrize(
    "name", [b".a", b"d/.b.jpg", b"none", b"d.x/none", b"a.", b"d/", b"d.x/", b"__a__", b"__a.b__", b"__a__/b.c", b"."]
)
def test_members_that_are_no_samples_are_counted(name: bytes) -> None:
    table = scanned(archive(member(name, b"x"), member(b"a.txt", b"y"))).table
    assert (table.keys.decode(), table.other) == (["a"], 1)


@pytest.mark.parametrize(
    ("name", "key", "field"),
    [
        (b"a.b/c.seg.png", "a.b/c", "seg.png"),
        (b"./a.txt", "a", "txt"),
        (b"././a.txt", "a", "txt"),
        (b"/a.txt", "/a", "txt"),
        (b"../a.txt", "../a", "txt"),
        (b"a..txt", "a", ".txt"),
        (b"a.txt.", "a", "txt."),
        (b"__a.txt", "__a", "txt"),
        (b"d/__a__.b", "d/__a__", "b"),
        (b"a.JPG", "a", "JPG"),
        (b"\xff\xfe.t\xfd", "\udcff\udcfe", "t\udcfd"),
        ("ключ.текст".encode(), "ключ", "текст"),
        (b"a b\n.t x", "a b\n", "t x"),
        (b"x" * 96 + b".txt", "x" * 96, "txt"),
        (b"./" + b"x" * 94 + b".txt", "x" * 94, "txt"),
    ],
)
def test_keys_and_fields_of_names(name: bytes, key: str, field: str) -> None:
    assert samples_in(archive(member(name, b"v"))) == [(key, {field: b"v"})]


def test_garbage_behind_the_nul_of_a_name_is_ignored() -> None:
    first, second = (tars.patch(header(name), 6, b"/junk.x") for name in (b"a.txt", b"a.jpg"))
    data = archive(first, second, header(b"long/name.txt"))
    assert samples_in(data) == [("a", {"txt": b"", "jpg": b""}), ("long/name", {"txt": b""})]


def test_keys_that_begin_with_each_other_are_different() -> None:
    names = [b"a.x", b"ab.x", b"abc.x", b"ab.y", b"a.y", b"d/a.x", b"d/ab.x", b"d.x", b"a.b/c.x"]
    keys = [key for key, _ in samples_in(archive(*map(header, names)))]
    assert keys == ["a", "ab", "abc", "ab", "a", "d/a", "d/ab", "d", "a.b/c"]


@pytest.mark.parametrize("kind", [b"0", b"\0", b"7"])
def test_every_kind_of_regular_file_counts(kind: bytes) -> None:
    assert samples_in(archive(member(b"a.txt", b"1", kind=kind))) == [("a", {"txt": b"1"})]


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"D", b"V", b"Z"])
def test_every_other_kind_does_not(kind: bytes) -> None:
    table = scanned(archive(header(b"a.txt", kind=kind), member(b"b.txt", b"1"))).table
    assert (table.keys.decode(), table.other) == (["b"], 1)


def test_a_global_header_at_the_very_end() -> None:
    for payload in ({"comment": b"x"}, {}):
        data = archive(member(b"a.txt", b"1"), pax(payload, kind=b"g"))
        assert samples_in(data) == [("a", {"txt": b"1"})]
        cut = scan(np.frombuffer(data[:-1024], np.uint8), final=False)
        assert (len(cut.table), cut.consumed) == (0, 0)


def test_a_time_and_a_name_in_one_extension_header() -> None:
    long = "n" * 200
    for records in ({"mtime": b"1.5", "path": f"{long}.txt".encode()}, {"path": f"{long}.txt".encode(), "mtime": b"1"}):
        assert samples_in(archive(pax(records), member(b"short.txt", b"1"))) == [(long, {"txt": b"1"})]


def test_extension_headers_that_come_together_all_count() -> None:
    long_link = member(b"././@LongLink", b"l" * 200 + b"\0", kind=b"K")
    long_name = member(b"././@LongLink", b"n" * 200 + b".txt\0", kind=b"L")
    data = archive(long_link, long_name, member(b"short", b"1"))
    assert samples_in(data) == [("n" * 200, {"txt": b"1"})]
    assert scanned(data).table.start.tolist() == [0]


@pytest.mark.parametrize("name", ["key", "__key__", "__url__", "__x.png"])
def test_fields_that_records_use_themselves_are_refused(name: str) -> None:
    data = archive(member(b"a.txt", b"1"), member(b"b.txt", b"2"), member(f"b.{name}".encode(), b"3"))
    with pytest.raises(CorruptError) as caught:
        scan(np.frombuffer(data, np.uint8), url="u.tar")
    assert str(caught.value).startswith(f"u.tar [b.{name}]: a field cannot be called '{name}'")


@pytest.mark.parametrize("between", [b"", member(b"a.cls", b"3"), header(b"d/", kind=b"5")])
def test_two_members_with_one_field_are_refused(between: bytes) -> None:
    data = archive(member(b"0.jpg", b""), member(b"a.jpg", b"1"), between, member(b"a.jpg", b"2"))
    with pytest.raises(DuplicateKeyError) as caught:
        scan(np.frombuffer(data, np.uint8), url="u.tar")
    assert str(caught.value) == (
        "u.tar [a.jpg]: the sample has two members with this field; make the shard again with one of them"
    )


def test_fields_in_any_order_are_fine() -> None:
    data = archive(*(member(name, name) for name in (b"a.x", b"a.y", b"b.y", b"b.x", b"b.z")))
    assert samples_in(data) == [("a", {"x": b"a.x", "y": b"a.y"}), ("b", {"y": b"b.y", "x": b"b.x", "z": b"b.z"})]
