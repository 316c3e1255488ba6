"""Small files that claim, or unpack to, a lot: an error that names shard and member, and no memory for it."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from shardtools.errors import LimitError, TruncatedError
from shardtools.jobs.index import index
from shardtools.jobs.options import RunOptions
from shardtools.limits import Limits
from shardtools.shards.reader import read_blocks
from shardtools.storage import StorageOptions, using
from tests import tars
from tests.tars import BLOCK, BLOCK_SIZES, END, Member, archive, header, make_tar, member, patch, pax

MIB = 1 << 20

READ = """
import re, resource, sys
import numpy, zstandard
import shardtools
from shardtools.cli import htextract, htindex, htmapper
from shardtools.errors import ShardtoolsError
from shardtools.jobs.index import index
from shardtools.shards.reader import read_blocks

url, way, megabytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
size = int(re.search("VmSize: *([0-9]+) kB", open("/proc/self/status").read().replace("\\t", ""))[1])
limit = (size << 10) + (megabytes << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # what is not touched counts as well
ways = {
    "read": lambda: sum(map(len, read_blocks(url))),
    "ahead": lambda: sum(map(len, read_blocks(url, ahead=True))),
    "open": lambda: len(shardtools.open(url)),
    "index": lambda: index(url),
}
try:
    print(ways[way]())
except ShardtoolsError as error:
    print(type(error).__name__, error)
"""


def read_in_little_memory(path: Path, way: str, megabytes: int = 400) -> str:
    """Return what a process says that reads a shard in so many megabytes more than it needs to start."""
    command = [sys.executable, "-c", READ, str(path), way, str(megabytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def pack(path: Path, parts: Iterable[bytes]) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for part in parts:
            file.write(part)


def huge(name: bytes, size: int) -> bytes:
    """Return the header of a member of a size that needs base 256."""
    return patch(header(name), 124, b"\x80" + size.to_bytes(11, "big"))


def chain_of_extensions() -> Iterable[bytes]:
    for i in range(60):
        yield pax({"comment": b"%07d" % i + bytes(8 * MIB)})
    yield archive(member(b"a.txt", b"1"))


def long_name_beside_many_short_ones() -> Iterable[bytes]:
    yield pax({"path": b"x" * (12 * MIB) + b".txt"}) + member(b"x", b"")
    for i in range(20_000):
        yield header(b"%06d.txt" % i)
    yield END


def many_long_names() -> Iterable[bytes]:
    for i in range(40):
        yield pax({"path": b"%02d" % i + b"y" * MIB + b".txt"}) + member(b"x", b"")
    yield END


BOMBS: dict[str, tuple[Callable[[], Iterable[bytes]], str]] = {
    "2**40 bytes": (
        lambda: [member(b"a.txt", b"1"), huge(b"b.bin", 1 << 40), bytes(20 * MIB)],
        "LimitError {} [b.bin]: its sample has more than 4,294,967,296 bytes",
    ),
    "2**40 bytes by pax": (
        lambda: [pax({"path": b"d/b.bin", "size": b"%d" % (1 << 40)}), header(b"b"), bytes(20 * MIB)],
        "LimitError {} [d/b.bin]: its sample has more than 4,294,967,296 bytes",
    ),
    "10**99 bytes by pax": (
        lambda: [pax({"size": b"9" * 99}), header(b"b.bin"), bytes(20 * MIB)],
        "LimitError {} [b.bin]: its sample has more than 4,294,967,296 bytes",
    ),
    "3 GiB": (
        lambda: [member(b"a.txt", b"1"), header(b"b.bin", 3 << 30), bytes(100 * MIB)],
        "TruncatedError {} [b.bin]: the shard ends at byte 104859136, inside this member",
    ),
    "an extension header of 8 GiB": (
        lambda: [member(b"a.txt", b"1"), header(b"x", (8 << 30) - 1, kind=b"x"), bytes(100_000)],
        "LimitError {}: its header has more than 16,777,216 bytes",
    ),
    "a long link of 1 GiB": (
        lambda: [header(b"x", 1 << 30, kind=b"K"), bytes(100_000)],
        "LimitError {}: its header has more than 16,777,216 bytes",
    ),
    "a chain of extension headers": (chain_of_extensions, "LimitError {}: its header has more than 16,777,216 bytes"),
    "a long name": (long_name_beside_many_short_ones, "20001"),
    "many long names": (many_long_names, "40"),
}


@pytest.fixture(scope="module", params=BOMBS)
def bomb(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A packed shard without a sidecar, and what reading it says."""
    parts, says = BOMBS[request.param]
    path = tmp_path_factory.mktemp("bomb") / "a.tgz"
    pack(path, parts())
    return path, says


@pytest.mark.parametrize("way", ["read", "ahead", "open", "index"])
def test_a_small_packed_shard_costs_little_memory(bomb: tuple[Path, str], way: str, tmp_path: Path) -> None:
    original, says = bomb
    path = tmp_path / "a.tgz"
    os.link(original, path)  # its sidecar is of this test only
    assert path.stat().st_size < 4 * MIB
    found = read_in_little_memory(path, way)
    if says.isdigit() and way == "index":
        assert found.startswith("[Indexed("), found
    else:
        assert found.startswith(says.format(path)), found


def fails(path: Path, **limits: int) -> set[str]:
    """Read a shard in every way; return what the `LimitError`s say, without the URL."""
    told = set()
    options = StorageOptions(limits=Limits(**limits))
    for size in (*BLOCK_SIZES, 8 << 20, 32 << 20):
        for ahead in (False, True):
            with pytest.raises(LimitError) as caught, using(options):
                list(read_blocks(str(path), ahead=ahead, block_size=size))
            told.add(str(caught.value))
    with pytest.raises(LimitError) as caught:
        index(str(path), options=RunOptions(storage=options))
    told.add(str(caught.value))
    assert all(message.startswith(str(path)) for message in told)
    return {message.removeprefix(str(path)) for message in told}


SAYS = "its sample has more than {:,} bytes, which is the limit; raise the limit if it may be so large"


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_a_sample_that_is_too_large(name: str, tmp_path: Path) -> None:
    """By one large member, or by many small ones, of which the one is named that is too much."""
    write = pack if name == "a.tgz" else lambda path, parts: path.write_bytes(b"".join(parts))
    small = [Member("a.txt", b"1"), Member("a.jpg", bytes(5000))]
    write(tmp_path / name, [make_tar([*small, Member("b/c.bin", bytes(9 * MIB)), Member("d.txt", b"2")])])
    said = f"{SAYS.format(8 * MIB)}: --max sample=SIZE, in Python limits=Limits(sample=SIZE)"
    assert fails(tmp_path / name, sample=8 * MIB) == {f" [b/c.bin]: {said}", f" [b/c]: {said}"}
    write(tmp_path / name, [make_tar([*small, *(Member(f"b.{i:03d}", bytes(100_000)) for i in range(100))])])
    for message in fails(tmp_path / name, sample=8 * MIB):
        assert message.startswith((" [b.08", f" [b]: {said}")) and said in message, message


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_a_sample_that_is_just_small_enough(name: str, tmp_path: Path) -> None:
    """What lies behind a sample does not count, however large: neither another sample nor what is none."""
    path, data = tmp_path / name, make_tar([Member(f"{i}.bin", bytes(MIB - BLOCK)) for i in range(12)])
    path.write_bytes(data if name == "a.tar" else gzip.compress(data))
    for size in BLOCK_SIZES:
        with using(StorageOptions(limits=Limits(sample=MIB))):
            assert tars.read(path, block_size=size) == tars.expected(data)
        with using(StorageOptions(limits=Limits(sample=MIB - 1))), pytest.raises(LimitError):
            tars.read(path, block_size=size)


def test_a_limit_can_be_raised(tmp_path: Path) -> None:
    long = tmp_path / "b.tgz"
    long.write_bytes(gzip.compress(archive(pax({"comment": bytes(99_000)}), member(b"a.txt", b"1"))))
    said = "its header has more than 50,000 bytes, which is the limit; raise the limit if it may be so large"
    said = f"{said}: --max header=SIZE, in Python limits=Limits(header=SIZE)"
    assert fails(long, header=50_000) == {f": {said}", f" [a.txt]: {said}"}
    with using(StorageOptions(limits=Limits(header=100_000))):
        assert tars.read(long) == [("a", {"txt": b"1"})]


def sparse(path: Path, size: int) -> None:
    """Write a shard with a member of ``size`` bytes, all of them a hole in the file, between two small ones."""
    with path.open("wb") as file:
        file.write(member(b"a.txt", b"1") + huge(b"b.bin", size))
        file.seek(-(-size // BLOCK) * BLOCK, os.SEEK_CUR)
        file.write(archive(member(b"c.txt", b"2")))


def test_a_large_member_of_a_plain_shard_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    sparse(path, 9 << 30)
    assert read_in_little_memory(path, "open") == "3"
    for way in ("read", "ahead", "index"):
        found = read_in_little_memory(path, way)
        assert found.startswith(f"LimitError {path} [b.bin]: its sample has more than 4,294,967,296 bytes"), found


def test_a_shard_that_was_cut_off_is_not_called_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    sparse(path, 9 << 30)
    os.truncate(path, 10 * MIB)
    with pytest.raises(TruncatedError) as caught:
        list(read_blocks(str(path)))
    what = "the shard ends at byte 10485760, inside this member; fetch or make the shard again"
    assert str(caught.value) == f"{path} [b.bin]: {what}"


def test_blocks_of_a_large_sample_need_no_more_than_it(tmp_path: Path) -> None:
    """Not the one behind it, too, as large as it is."""
    path = tmp_path / "a.tgz"
    pack(path, [make_tar([Member(f"{i}.bin", bytes(60 * MIB)) for i in range(4)])])
    assert read_in_little_memory(path, "read", 200) == "4"
