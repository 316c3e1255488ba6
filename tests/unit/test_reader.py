"""Reading shards block by block: the same samples, and the same errors, wherever the blocks end."""

from __future__ import annotations

import gzip
import os
import pickle
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import CorruptError, DuplicateKeyError, NotFoundError, ShardError, TruncatedError
from shardtools.shards.reader import Block, SeenKeys, ShardReader, read_blocks, refuse_repeated
from shardtools.shards.samples import records
from shardtools.shards.scan import scan
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK, END
from tests import tars
from tests.tars import BLOCK_SIZES, Member, Shard, archive, files, header, make_tar, member, pax


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


def columns(table: ShardTable) -> list[object]:
    fields = [table.fields[code] for code in table.field]
    numbers = (table.start, table.stop, table.first, table.offset, table.size)
    return [table.keys.decode(), fields, table.other, *(column.tolist() for column in numbers)]


def read_all_ways(path: Path) -> Iterator[tars.Samples]:
    for size in BLOCK_SIZES:
        for ahead in (False, True):
            yield tars.read(path, block_size=size, ahead=ahead)


def fails(path: Path, kind: type[ShardError]) -> str:
    """Read a bad shard with blocks of every size; return the message, the same for all of them."""
    messages = set()
    for size in BLOCK_SIZES:
        for ahead in (False, True):
            with pytest.raises(kind) as caught:
                tars.read(path, block_size=size, ahead=ahead)
            assert type(caught.value) is kind
            messages.add(str(caught.value))
            assert str(pickle.loads(pickle.dumps(caught.value))) in messages
    (message,) = messages
    assert message.startswith(str(path)) and "\n" not in message and "; " in message
    return message.removeprefix(str(path))


@settings(max_examples=100, deadline=None)
@given(shard=tars.shards(), size=st.sampled_from(BLOCK_SIZES), ahead=st.booleans())
def test_samples_are_those_that_tarfile_finds(folder: Path, shard: Shard, size: int, ahead: bool) -> None:
    path = folder / "random.tar"
    path.write_bytes(shard.data)
    assert tars.read(path, block_size=size, ahead=ahead) == tars.expected(shard.data)


@settings(max_examples=60, deadline=None)
@given(shard=tars.shards(), size=st.sampled_from(BLOCK_SIZES))
def test_tables_join_into_that_of_the_shard(folder: Path, shard: Shard, size: int) -> None:
    path = folder / "random.tar"
    path.write_bytes(shard.data)
    whole = scan(np.frombuffer(shard.data, np.uint8)).table
    blocks = list(read_blocks(str(path), block_size=size))
    assert columns(ShardTable.join([block.table for block in blocks])) == columns(whole)
    samples = np.cumsum([0] + [len(block) for block in blocks])
    assert [block.index for block in blocks] == samples[:-1].tolist()


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(tars.shards(), min_size=2, max_size=3), size=st.sampled_from(BLOCK_SIZES))
def test_concatenated_archives_are_read_to_the_last(folder: Path, parts: list[Shard], size: int) -> None:
    path = folder / "random.tar"
    path.write_bytes(b"".join(part.data for part in parts))
    assert tars.read(path, block_size=size) == [sample for part in parts for sample in tars.expected(part.data)]


def test_a_block_describes_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    data = make_tar([Member(f"{i:03d}.{field}", bytes([i]) * i) for i in range(100) for field in ("jpg", "cls")])
    path.write_bytes(data)
    for block in read_blocks(str(path), block_size=4096):
        table = block.table
        assert bytes(block.buffer) == data[block.base : block.base + len(block.buffer)]
        assert table.start[0] >= block.base and table.stop[-1] <= block.base + len(block.buffer)
        assert block.keys == [f"{block.index + i:03d}" for i in range(len(block))]
        assert block.url == str(path)


def test_records_outlive_their_block(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar([Member(f"{i:03d}.cls", b"%d" % i) for i in range(100)]))
    kept = [record for block in read_blocks(str(path), block_size=1024, ahead=True) for record in records(block)]
    assert [(record["key"], record["cls"]) for record in kept] == [(f"{i:03d}", b"%d" % i) for i in range(100)]
    assert [record["__index__"] for record in kept] == list(range(100))
    assert {record["__url__"] for record in kept} == {str(path)}
    assert {record["__shard__"] for record in kept} == {"a.tar"}


@pytest.mark.parametrize("between", [Member("README", bytes(9000)), Member("x.bin", bytes(9000)), None])
def test_blocks_stay_while_those_behind_them_are_read(tmp_path: Path, between: Member | None) -> None:
    """With ``ahead``, one block is worked on and one waits while a third is read, whatever lies between them."""
    path = tmp_path / "a.tar"
    members = []
    for i in range(30):
        members += [Member(f"{i:03d}.{field}", os.urandom(700 + 300 * (i % 7))) for field in ("a", "b")]
        if between and i % 3 == 0:
            members.append(Member(between.name.replace("x", f"x{i}"), between.data))
    path.write_bytes(make_tar([*members, Member("big.bin", os.urandom(50000)), *files(z_txt=b"1")]))
    with ShardReader(str(path), block_size=4096) as reader:
        held: list[tuple[Block, bytes]] = []
        for block in reader._blocks(buffers=3):
            assert all(bytes(old.buffer) == data for old, data in held)
            held = [*held[-1:], (block, bytes(block.buffer))]


def test_concatenated_gzip_members_and_their_padding(tmp_path: Path) -> None:
    """As ``cat a.tgz b.tgz`` gives them, and as programs that compress in parallel split one tar file."""
    one, two = make_tar(files(a_txt=b"1", b_txt=b"2")), make_tar(files(c_txt=b"3"))
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(one) + gzip.compress(two))
    assert all(samples == tars.expected(one) + tars.expected(two) for samples in read_all_ways(path))
    path.write_bytes(b"".join(gzip.compress(one[at : at + 700]) for at in range(0, len(one), 700)) + bytes(1000))
    assert all(samples == tars.expected(one) for samples in read_all_ways(path))


def test_concatenated_zstd_frames(tmp_path: Path) -> None:
    import zstandard

    data = make_tar(files(a_txt=b"1", b_txt=bytes(5000)))
    skippable = b"\x53\x2a\x4d\x18\x04\0\0\0skip"
    path = tmp_path / "a.tar.zst"
    for size in (100, 3000):  # frames of less than 256 bytes have headers of their own
        frames = [zstandard.compress(data[at : at + size]) for at in range(0, len(data), size)]
        for between in (b"", skippable, zstandard.compress(b"")):
            path.write_bytes(between.join(frames))
            assert all(samples == tars.expected(data) for samples in read_all_ways(path))


def test_what_packs_a_shard_is_told_by_its_bytes(tmp_path: Path) -> None:
    import zstandard

    data = make_tar(files(a_txt=b"1"))
    for name in ("a.tar", "a.tgz", "a.tar.zst", "a"):
        for content in (data, gzip.compress(data), zstandard.compress(data)):
            (tmp_path / name).write_bytes(content)
            assert tars.read(tmp_path / name) == tars.expected(data)


def test_zeros_of_any_length_may_follow(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    data = make_tar(files(a_txt=b"1", b_txt=b"2"))
    for length in (1, 511, 512, 513, 30000):
        path.write_bytes(data + bytes(length))
        assert all(samples == tars.expected(data) for samples in read_all_ways(path))


def test_an_empty_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for data in (END, make_tar([]), bytes(50000)):
        path.write_bytes(data)
        assert all(samples == [] for samples in read_all_ways(path))


def every_kind() -> bytes:
    """A small shard with every kind of header that names of samples come in."""
    return archive(
        pax({"comment": b"x"}, kind=b"g"),
        member(b"a.jpg", bytes(700)),
        member(b"a.cls", b"1"),
        header(b"d/", kind=b"5"),
        pax({"path": b"p" * 300 + b".txt"}),
        member(b"short", b"2"),
        member(b"././@LongLink", b"l" * 120 + b".txt\0", kind=b"L"),
        member(b"short", b"3"),
        member(b"old.txt", b"4", magic=b""),
        member(b"inner.tar", make_tar(files(x_txt=b"5"))[:2048]),
        member(b"z.txt", b""),
    )


@pytest.mark.parametrize("data", [every_kind(), make_tar(files(a_jpg=bytes(700), a_cls=b"1", b_cls=b"", c_jpg=b"2"))])
def test_a_shard_cut_anywhere_never_gives_fewer_samples(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cut.tar"
    whole = tars.expected(data)
    end = len(data.rstrip(b"\0")) + -len(data.rstrip(b"\0")) % BLOCK  # z.txt has no data: its header is the last byte
    complete = 0
    for cut in [*range(0, len(data), BLOCK), 1, 100, 511, 513, 1000, end + 1, end + 511, end + 513, end + 1023]:
        path.write_bytes(data[:cut])
        if cut >= end + BLOCK:
            assert all(samples == whole for samples in read_all_ways(path))
            complete += 1
        elif cut:
            assert f"the shard ends at byte {cut}" in fails(path, TruncatedError)
    assert complete


@pytest.mark.parametrize(
    ("data", "kind", "what"),
    [
        (
            archive(member(b"a.txt", b"1"), tars.header(b"b.txt").replace(b"b", b"c"), member(b"d.txt", b"2")),
            CorruptError,
            ": the header checksum at byte 1024 is wrong",
        ),
        (
            archive(member(b"a.txt", b"1"), b"garbage!" * 128, member(b"d.txt", b"2")),
            CorruptError,
            ": the header checksum at byte 1024 is wrong",
        ),
        (
            archive(member(b"a.txt", b"1")) + b"garbage!" * 64,
            CorruptError,
            ": the header checksum at byte 2048 is wrong",
        ),
        (
            archive(member(b"a.txt", b"1")) + b"junk",
            CorruptError,
            ": unexpected data after the end of the archive, before",
        ),
        (
            archive(member(b"a.txt", b"1")) + bytes(9000) + b"junk",
            CorruptError,
            ": unexpected data after the end of the archive, before",
        ),
        (archive(member(b"a.txt", b"1"), member(b"b.key", b"2")), CorruptError, " [b.key]: a field cannot be called"),
        (
            archive(member(b"a.txt", b"1"), member(b"b.jpg", b""), member(b"b.cls", b""), member(b"b.jpg", b"")),
            DuplicateKeyError,
            " [b.jpg]: the sample has two members with this field",
        ),
        (
            archive(member(b"a.txt", b"1"), tars.header(b"b.txt", 9, kind=b"S", magic=b"ustar  "), bytes(512)),
            CorruptError,
            " [b.txt]: sparse members are not supported",
        ),
        (
            archive(member(b"a.txt", b"1"), member(b"p", b"99 path=b.txt\n", kind=b"x"), header(b"b.txt")),
            CorruptError,
            ": malformed pax header at byte 1024",
        ),
        (
            archive(member(b"a.txt", b"1"), member(b"L", b"b.txt\0", kind=b"L")),
            CorruptError,
            ": no member follows the extension header at byte 1024",
        ),
        (
            archive(member(b"a.txt", b"1"), pax({"path": b"b.txt"}, kind=b"g")),
            CorruptError,
            ": a global pax header at byte 1024 renames or resizes members",
        ),
        (b"not-a-tar-file-at-all", TruncatedError, ": the shard ends at byte 21, inside a tar block"),
        (b"\x1f", TruncatedError, ": the shard ends at byte 1, inside a tar block"),
        (b"\0garbage" * 300, CorruptError, ": this is not a tar file: the first bytes are b'\\x00garbage\\x00gar'"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\xff" * 50, CorruptError, ": the gzip data are damaged"),
        (b"\x28\xb5\x2f\xfd but then nonsense", CorruptError, ": the zstd data are damaged"),
    ],
)
def test_damage_is_named_wherever_blocks_end(tmp_path: Path, data: bytes, kind: type[ShardError], what: str) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(data)
    assert what in fails(path, kind)


def test_an_empty_file_is_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(b"")
    assert fails(path, TruncatedError) == ": the file is empty; fetch or make the shard again"
    path.write_bytes(gzip.compress(b""))
    assert fails(path, TruncatedError) == ": the gzip data decompress to nothing; fetch or make the shard again"


def test_a_missing_shard(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        next(read_blocks(str(tmp_path / "none.tar")))


def test_keys_that_come_again_are_found_wherever_blocks_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    names = ["a.jpg", "a.cls", "b.jpg", "c.jpg", "a.txt", "d.jpg", "c.cls", "b.cls", "b.txt"]
    path.write_bytes(make_tar([Member(name, b"1") for name in names]))
    for size in BLOCK_SIZES:
        repeated = []
        for block in read_blocks(str(path), block_size=size):
            repeated += [(block.index + row, block.keys[row]) for row in block.repeated]
        assert repeated == [(3, "a"), (5, "c"), (6, "b")]
        with pytest.raises(DuplicateKeyError) as caught:
            for block in read_blocks(str(path), block_size=size):
                refuse_repeated(block)
        assert str(caught.value).startswith(f"{path} [a]: this key occurs again after other samples; htsort ")


def test_a_sample_split_between_archives_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar(files(a_jpg=b"1")) + make_tar(files(a_cls=b"2")))
    for size in BLOCK_SIZES:
        repeated = [block.keys[row] for block in read_blocks(str(path), block_size=size) for row in block.repeated]
        assert repeated == ["a"]


@given(st.lists(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), max_size=6), max_size=8))
def test_seen_keys_are_those_of_a_set(batches: list[list[str]]) -> None:
    seen, model = SeenKeys(), set[str]()
    for batch in batches:
        again = []
        for i, key in enumerate(batch):
            if key in model:
                again.append(i)
            model.add(key)
        assert seen.add(batch) == tuple(again)


def test_seen_keys_in_many_small_batches() -> None:
    seen = SeenKeys()
    for i in range(2000):
        assert seen.add([f"{i}", f"{i}x"]) == ()
    assert len(seen._runs) < 20
    for i in range(0, 2000, 97):
        assert seen.add([f"new{i}", f"{i}x"]) == (1,)


# What is left behind.


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "shardtools-ahead"]


def is_open(path: Path) -> bool:
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return any(os.path.exists(link) and os.readlink(link) == str(path) for link in links)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.tar"
    path.write_bytes(make_tar([Member(f"{i:03d}.cls", b"%d" % i) for i in range(200)]))
    return path


@pytest.mark.parametrize("ahead", [False, True])
def test_a_loop_left_early_leaves_nothing_behind(many: Path, ahead: bool) -> None:
    for block in read_blocks(str(many), block_size=2048, ahead=ahead):
        assert is_open(many) and bool(reading_threads()) is ahead
        assert len(block)
        break
    assert not is_open(many) and reading_threads() == []


@pytest.mark.parametrize("ahead", [False, True])
def test_a_reader_closed_at_any_time_leaves_nothing_behind(many: Path, ahead: bool) -> None:
    for taken in (0, 1, 3):
        with ShardReader(str(many), block_size=2048, ahead=ahead) as reader:
            assert reader.stat.size == many.stat().st_size
            blocks = iter(reader)
            for _ in range(taken):
                next(blocks)
        assert not is_open(many) and reading_threads() == []
        reader.close()


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_of_the_caller_leaves_nothing_behind(many: Path, ahead: bool) -> None:
    with pytest.raises(ZeroDivisionError), ShardReader(str(many), block_size=2048, ahead=ahead) as reader:
        for _ in reader:
            raise ZeroDivisionError
    assert not is_open(many) and reading_threads() == []


def test_an_error_ahead_comes_after_the_blocks_before_it(many: Path) -> None:
    data = bytearray(many.read_bytes())
    data[100 * 1024] ^= 1
    many.write_bytes(data)
    found = []
    with pytest.raises(CorruptError, match="at byte 102400 is wrong"):
        for block in read_blocks(str(many), block_size=2048, ahead=True):
            found += block.keys
    assert found == [f"{i:03d}" for i in range(len(found))] and 98 <= len(found) <= 100
    assert not is_open(many) and reading_threads() == []


# Memory.

_MEASURE = """
import resource, sys
from shardtools.shards.reader import read_blocks
import shardtools.shards.scan, shardtools.storage.local
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
samples = sum(len(block) for block in read_blocks(sys.argv[1], ahead=sys.argv[2] == "ahead"))
print(samples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def sparse_shard(path: Path, sizes: list[int]) -> None:
    """Write a shard of one member a sample whose data are holes in the file."""
    with path.open("wb") as file:
        for i, size in enumerate(sizes):
            file.write(header(f"{i:06d}.bin".encode(), size))
            file.seek(-(-size // BLOCK) * BLOCK, os.SEEK_CUR)
        file.write(END)


@pytest.mark.parametrize("ahead", ["alone", "ahead"])
@pytest.mark.parametrize(
    ("sizes", "limit"),
    [
        ([1 << 20] * 1000, {"alone": 24, "ahead": 64}),  # one block of 8 MB, or three
        ([150 << 20], {"alone": 175, "ahead": 200}),  # one sample, and a block
        ([100] * 3 + [150 << 20] + [100] * 3, {"alone": 185, "ahead": 210}),
        ([50 << 20] * 5, {"alone": 135, "ahead": 360}),  # two samples, and a block
    ],
)
def test_memory_is_that_of_a_block_or_the_largest_sample(
    tmp_path: Path, sizes: list[int], limit: dict[str, int], ahead: str
) -> None:
    path = tmp_path / "sparse.tar"
    sparse_shard(path, sizes)
    command = [sys.executable, "-c", _MEASURE, str(path), ahead]
    samples, kib = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(samples) == len(sizes)
    assert int(kib) / 1024 < limit[ahead]


def test_a_header_that_asks_for_too_much_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    huge = tars.patch(header(b"a.bin"), 124, b"\x80" + (1 << 70).to_bytes(11, "big"))
    path.write_bytes(archive(huge, bytes(100_000)))
    assert " [a.bin]: the shard ends at byte 101536, inside this member" in fails(path, TruncatedError)


@pytest.mark.parametrize("format", tars.FORMATS)
def test_a_sample_of_many_members_is_larger_than_a_block(tmp_path: Path, format: str) -> None:
    path = tmp_path / "a.tar"
    members = [Member(f"a.{i:03d}", b"%d" % i * 400) for i in range(300)]
    path.write_bytes(make_tar([*members, *files(b_txt=b"1")], tars.FORMATS[format]))
    assert all(samples == tars.expected(path.read_bytes()) for samples in read_all_ways(path))


def test_a_shard_of_other_members_only(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar([Member(f"d{i}/", kind=tarfile.DIRTYPE) for i in range(40)] + [Member("README")]))
    for size in BLOCK_SIZES:
        blocks = list(read_blocks(str(path), block_size=size, ahead=True))
        assert sum(block.table.other for block in blocks) == 41
        assert sum(len(block) for block in blocks) == 0
