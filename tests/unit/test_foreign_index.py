"""What other programs have written beside shards is used where it is right, and what is not right never is."""

from __future__ import annotations

import json
import os
import pickle
import re
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import shardtools
from shardtools.errors import LimitError, NotFoundError, ShardError, SpecError
from shardtools.limits import Limits
from shardtools.shards.foreign import dali, wids
from shardtools.shards.foreign.energon import EnergonIndex
from shardtools.shards.foreign.listing import Listing, sidecar_of
from shardtools.shards.foreign.read import read_foreign
from shardtools.shards.indexing import index_shard
from shardtools.shards.manifest import ShardEntry
from shardtools.shards.table import ShardTable
from shardtools.shards.trust import check_place
from shardtools.storage import StorageOptions, using
from tests import tars
from tests.datasets import sample_files, tar_bytes, write_dataset
from tests.servers import NginxServer, wait_until
from tests.tars import Member

_SLOW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


# What the other programs do.


def wds2idx(shard: Path) -> bytes:
    """Return the index, version 1.2, that DALI's wds2idx makes of a shard from what GNU tar says of it."""

    def told(*options: str) -> list[str]:
        command = ["tar", "--list", *options, "--file", os.fspath(shard)]
        done = subprocess.run(command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, check=True)
        return done.stdout.decode("ascii").split("\n")

    samples: list[list[str]] = []
    last = None
    for place, details in zip(told("--block-num"), told("--verbose"), strict=False):
        if not details.startswith("-"):
            continue
        block, name = re.fullmatch(r"block ([0-9]+): (.*)", place).groups()  # type: ignore[union-attr]
        dot = name.find(".", name.rfind("/") + 1)
        key, extension = name[:dot], name[dot + 1 :]
        if key in ("", "/") or key.endswith("/"):
            continue
        if key != last:
            samples.append([])
            last = key
        samples[-1].append(f"{extension} {(int(block) + 1) * 512} {details.split()[2]} {name}")
    return "".join(f"{line}\n" for line in [f"v1.2 {len(samples)}", *map(" ".join, samples)]).encode()


def prepare(folder: Path, names: Sequence[str]) -> None:
    """Write what ``energon prepare`` of megatron-energon 7.4.1 does, as far as shards and samples are concerned."""
    meta = folder / ".nv-meta"
    meta.mkdir(exist_ok=True)
    (meta / "index.sqlite").unlink(missing_ok=True)
    counts = {}
    with sqlite3.connect(meta / "index.sqlite") as database:
        database.execute(
            "CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, "
            "sample_index INTEGER NOT NULL, byte_offset INTEGER, byte_size INTEGER)"
        )
        database.execute(
            "CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT, "
            "content_byte_offset INTEGER, content_byte_size INTEGER)"
        )
        for number, name in enumerate(names):
            last, index = None, -1
            with tarfile.open(folder / name) as archive:
                for info in archive:
                    match = re.fullmatch(r"((?:.*/)?[^.]+)\.([^/]*)", info.name)
                    if not info.isreg() or re.match(r"__[^/]*__($|/)", info.name) or match is None:
                        continue
                    if match[1] != last:
                        last, index = match[1], index + 1
                        database.execute(
                            "INSERT INTO samples VALUES (?, ?, ?, ?, 0)", (number, last, index, info.offset)
                        )
                    part = (number, index, match[2], info.offset_data, info.size)
                    database.execute("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", part)
            counts[name] = index + 1
        database.execute("CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index)")
    database.close()
    (meta / ".info.json").write_text(json.dumps({"energon_version": "7.4.1", "shard_counts": counts}, indent=2))


# Helpers.


def index_dali(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name.replace(".tar", ".idx")).write_bytes(wds2idx(folder / name))


MAKERS: dict[str, Callable[[Path, Sequence[str]], None]] = {"dali": index_dali, "energon": prepare}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[Path, Sequence[str]], None]:
    """What writes the index of another program for some shards of a folder."""
    return MAKERS[request.param]


def foreign(shard: Path) -> ShardTable | None:
    """Return the table that the indexes beside a shard give, None if they are not used."""
    url = os.fspath(shard)
    found = read_foreign(url, shard.stat().st_size, EnergonIndex([url]))
    return None if found is None else found.table


def scanned(shard: Path) -> ShardTable:
    return index_shard(os.fspath(shard)).table


def check(found: ShardTable | None, expected: ShardTable) -> None:
    """Make sure that two tables tell the same of samples and members."""
    assert found is not None
    assert found.keys.decode() == expected.keys.decode() and found.fields == expected.fields
    for name in ("stop", "first", "field", "offset", "size"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert found.start.tolist() == [0, *expected.stop.tolist()][: len(expected)]


@dataclass(frozen=True)
class Request:
    """A line of the server's log; ``size`` is that of the body that was sent."""

    method: str
    name: str
    status: int
    size: int


def requests(nginx: NginxServer) -> list[Request]:
    """Return what the server was asked for, once it has written down all of it."""
    last = (-1, 0.0)

    def settled() -> bool:
        nonlocal last
        size, now = nginx.log_path.stat().st_size, time.monotonic()
        if size != last[0]:
            last = size, now
        return now - last[1] > 0.3

    wait_until(settled, "the log of the server")
    lines = re.findall(r'"(\w+) /(\S*) HTTP/1.1" (\d+) (\d+) ', nginx.log_path.read_text())
    return [Request(method, name, int(status), int(size)) for method, name, status, size in lines]


# One table, whoever tells it.


@_SLOW
@given(shard=tars.shards())
def test_dali_tells_what_scanning_finds(shard: tars.Shard, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("dali") / "a.tar"
    path.write_bytes(shard.data)
    index_dali(path.parent, ["a.tar"])
    try:
        expected = scanned(path)
    except ShardError:
        assert foreign(path) is None
        return
    if len(expected) and not has_gnu_names(shard):
        check(foreign(path), expected)
    elif (found := foreign(path)) is not None:
        check(found, expected)


def has_gnu_names(shard: tars.Shard) -> bool:
    """Return whether names have GNU tar's extension headers: tar tells where those are, and wds2idx takes that."""
    names = [member.name.encode("utf-8", "surrogateescape") for member in shard.members]
    return shard.format == tarfile.GNU_FORMAT and max(map(len, names), default=0) > 100


@_SLOW
@given(shard=tars.shards())
def test_energon_tells_what_scanning_finds(shard: tars.Shard, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("energon") / "a.tar"
    path.write_bytes(shard.data)
    try:
        prepare(path.parent, ["a.tar"])
    except (sqlite3.IntegrityError, UnicodeEncodeError):  # it does not take such a shard
        assume(False)
    try:
        expected = scanned(path)
    except ShardError:
        assert foreign(path) is None
        return
    if len(expected):
        check(foreign(path), expected)


_NAMES = st.text("abcXYZ019-_+=@", min_size=1, max_size=8)
_FOLDERS = st.sampled_from(["", "d/", "v1.0/" * 22])


@st.composite
def ordinary_shards(draw: st.DrawFn) -> tars.Shard:
    """Tar files of samples alone, with names that every program takes."""
    keys = draw(
        st.lists(st.builds("{}{}{}".format, _FOLDERS, _NAMES, st.integers(0, 99)), min_size=1, max_size=8, unique=True)
    )
    members = [
        Member(f"{key}.{field}", b"x" * draw(st.sampled_from([0, 1, 511, 512, 513, 5000])))
        for key in keys
        for field in draw(st.lists(st.sampled_from(["jpg", "seg.png", "CLS", "a-b_c"]), min_size=1, unique=True))
    ]
    return tars.Shard(
        members, draw(st.sampled_from(sorted(tars.FORMATS.values()))), draw(st.sampled_from([0, 1.5])), None
    )


@_SLOW
@given(shard=ordinary_shards().filter(lambda shard: not has_gnu_names(shard)))
def test_ours_for_dali_is_that_of_wds2idx(shard: tars.Shard, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("export") / "a.tar"
    path.write_bytes(shard.data)
    made = dali.dump_index(scanned(path), str(path))
    assert made == wds2idx(path)
    (path.parent / "a.idx").write_bytes(made)
    check(foreign(path), scanned(path))


# Stale indexes.

OLD = [Member(f"{i:02d}.{field}", b"%d" % i * size) for i in range(40) for field, size in (("cls", 1), ("txt", 700))]

STALE = {
    "more samples": [*OLD, Member("zz.txt", b"new")],
    "fewer samples": OLD[:-2],
    "other sizes": [Member(member.name, member.data + bytes(600)) for member in OLD],
    "a size in its block": [Member(member.name, member.data + b"!") for member in OLD],
    "other names": [Member("x" + member.name, member.data) for member in OLD],
    "other fields": [Member(member.name.replace("txt", "xyz"), member.data) for member in OLD],
    "another order": OLD[40:] + OLD[:40],
    "something before": [Member("README", b"hello" * 200), *OLD],
    "no files any more": [Member(member.name, kind=tarfile.SYMTYPE, link="/tmp") for member in OLD],
}


class TestStale:
    @pytest.mark.parametrize("change", STALE)
    def test_another_shard(self, change: str, make: Callable[[Path, Sequence[str]], None], tmp_path: Path) -> None:
        shard = tmp_path / "in.tar"
        shard.write_bytes(tars.make_tar(OLD))
        make(tmp_path, ["in.tar"])
        check(foreign(shard), scanned(shard))
        shard.write_bytes(tars.make_tar(STALE[change]))
        assert foreign(shard) is None
        (tmp_path / ".nv-meta" / ".info.json").unlink(missing_ok=True)  # its counts are told, and wrong
        dataset = shardtools.open(str(shard))
        assert [(r["key"], dict(r)) for r in dataset[:]] == [(r["key"], dict(r)) for r in dataset]

    def test_members_that_were_put_between(self, tmp_path: Path) -> None:
        """An index that lists them all but one is noticed wherever that one stands: what is before it is wider."""
        shard = tmp_path / "in.tar"
        for at in range(1, len(OLD)):
            shard.write_bytes(tars.make_tar(OLD))
            found = scanned(shard)
            rest = np.delete(np.arange(len(OLD)), at)
            names = [OLD[row].name.encode() for row in rest]
            listing = Listing(names, found.offset[rest], found.size[rest])
            assert sidecar_of(str(shard), shard.stat().st_size, listing) is None

    @pytest.mark.parametrize(
        "end", [b"", bytes(512) + b"x" * 512, tars.member(b"z.txt", b"z"), bytes(2 << 20), bytes(100)]
    )
    def test_what_follows_the_last_member(
        self, end: bytes, make: Callable[[Path, Sequence[str]], None], tmp_path: Path
    ) -> None:
        """No end of the archive, a part of one, another member, or more than anybody would read."""
        shard = tmp_path / "in.tar"
        shard.write_bytes(tars.make_tar(OLD))
        make(tmp_path, ["in.tar"])
        shard.write_bytes(shard.read_bytes()[: int(scanned(shard).stop[-1])] + end)
        assert foreign(shard) is None

    def test_damage(self, make: Callable[[Path, Sequence[str]], None], tmp_path: Path) -> None:
        shard = tmp_path / "in.tar"
        shard.write_bytes(tars.make_tar(OLD))
        make(tmp_path, ["in.tar"])
        data = bytearray(shard.read_bytes())
        data[10] ^= 1  # in the first header
        shard.write_bytes(data)
        assert foreign(shard) is None
        shard.write_bytes(b"")
        assert foreign(shard) is None

    @pytest.mark.parametrize(
        "members",
        [
            [("a.txt", b"1"), ("b.txt", b"2"), ("a.cls", b"3")],
            [("a.txt", b"1"), ("a.txt", b"2")],
            [("a.key", b"1")],
            [("a.__x", b"1")],
        ],
        ids=["a key twice", "a field twice", "a field called key", "a field of ours"],
    )
    def test_what_scanning_refuses(self, members: list[tuple[str, bytes]], tmp_path: Path) -> None:
        shard = tmp_path / "in.tar"
        shard.write_bytes(tar_bytes(members))
        index_dali(tmp_path, ["in.tar"])
        assert foreign(shard) is None
        with pytest.raises(ShardError):
            len(shardtools.open(str(shard)))

    @pytest.mark.parametrize(
        ("offset", "size"),
        [
            ([512, 1024], [1, 1]),  # one in the other
            ([1536, 512], [1, 1]),
            ([513, 2048], [1, 1]),
            ([512, 1 << 40], [1, 1]),
            ([512, 1536], [1, 2**63 - 1]),
            ([512, 1536], [-1, 1]),
            ([0, 1536], [1, 1]),
            ([], []),
        ],
    )
    def test_numbers_that_make_no_sense(self, offset: list[int], size: list[int], tmp_path: Path) -> None:
        shard = tmp_path / "in.tar"
        shard.write_bytes(tar_bytes([("a.txt", b"1"), ("b.txt", b"2")]))
        listing = Listing([b"a.txt", b"b.txt"][: len(offset)], np.array(offset, np.int64), np.array(size, np.int64))
        assert sidecar_of(str(shard), shard.stat().st_size, listing) is None
        good = Listing([b"a.txt", b"b.txt"], np.array([512, 1536]), np.array([1, 1]))
        assert sidecar_of(str(shard), shard.stat().st_size, good) is not None


class TestDali:
    @pytest.mark.parametrize(
        ("url", "index"),
        [
            ("/d.x/a.tar", "/d.x/a.idx"),
            ("/d/a.b.tar", "/d/a.idx"),
            ("/d/.a.tar", "/d/.a.idx"),
            ("s3://bucket/a.tar", "s3://bucket/a.idx"),
            ("http://me@host/a.tar?x=1.2", "http://me@host/a.idx?x=1.2"),
        ],
    )
    def test_its_name(self, url: str, index: str) -> None:
        assert dali.index_url(url) == index

    def test_names_of_all_kinds(self) -> None:
        data = (
            b"v1.2 5\n"
            b"jpg 512 10 my photo.jpg seg map 1536 2 my photo.seg map\n"
            b"jpg 3072 1 a b/c d/x y.jpg jpg 2.txt 4096 3 a b/c d/x y.jpg 2.txt\n"
            b"README 5120 3 README\n"
            b" 6144 3 x.\n"
            b"txt 7168 3 \\320\\272\\\\.txt\n"
        )
        spelt, raw = dali.parse_index(data, 1 << 30)
        assert spelt.names[:-1] == raw.names[:-1] and raw.names[-1] == rb"\320\272\\.txt"
        assert spelt.names == [
            b"my photo.jpg",
            b"my photo.seg map",
            b"a b/c d/x y.jpg",
            b"a b/c d/x y.jpg 2.txt",
            b"README",
            b"x.",
            "к\\.txt".encode(),
        ]
        assert raw.offset.tolist() == [512, 1536, 3072, 4096, 5120, 6144, 7168]
        assert raw.size.tolist() == [10, 2, 1, 3, 3, 3, 3]

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"v1.2 0",
            b"v1.1 1\njpg 512 10\n",
            b"v1.2 2\njpg 512 10 x.jpg\n",
            b"v1.2 1\njpg 512 10 x.jpg",
            b"v1.2 1\njpg 512 10 x.png\n",
            b"v1.2 1\njpg 512 10 x.jpg cls\n",
            b"v1.2 1\njpg 512 ten x.jpg\n",
            b"v1.2 1\njpg 512 -1 x.jpg\n",
            bytes(4096),
        ],
    )
    def test_what_is_no_index(self, data: bytes, tmp_path: Path) -> None:
        assert not dali.parse_index(data, 1 << 30)
        shard = tmp_path / "a.tar"
        shard.write_bytes(tar_bytes([("x.jpg", b"0123456789")]))
        (tmp_path / "a.idx").write_bytes(data)
        assert shardtools.open(str(shard))[0]["jpg"] == b"0123456789"

    @pytest.mark.parametrize("name", ["back\\slash.txt", "ключ.txt", "\udcff.txt", "new\nline.txt", "octal\\101.txt"])
    @pytest.mark.parametrize("format", tars.FORMATS)
    def test_names_as_tar_prints_them(self, name: str, format: str, tmp_path: Path) -> None:
        shard = tmp_path / "a.tar"
        shard.write_bytes(tars.make_tar([Member("a.txt", b"a"), Member(name, b"b")], tars.FORMATS[format]))
        index_dali(tmp_path, ["a.tar"])
        check(foreign(shard), scanned(shard))

    def test_names_as_python_has_them(self, tmp_path: Path) -> None:
        """wds2idx uses Python's tarfile where there is no tar."""
        shard = tmp_path / "a.tar"
        shard.write_bytes(tar_bytes([("octal\\101.txt", b"b"), ("ключ.txt", b"c")]))
        (tmp_path / "a.idx").write_text("v1.2 2\ntxt 512 1 octal\\101.txt\ntxt 1536 1 ключ.txt\n", "utf-8")
        check(foreign(shard), scanned(shard))

    def test_offsets_of_older_versions_for_pax(self, tmp_path: Path) -> None:
        """They took the header before the next member for its extension header, and came out 1024 too high."""
        shard = tmp_path / "a.tar"
        shard.write_bytes(tars.make_tar(OLD, tarfile.PAX_FORMAT, mtime=1.5))
        found = wds2idx(shard)
        (tmp_path / "a.idx").write_bytes(re.sub(rb" ([0-9]{4,}) ", lambda m: b" %d " % (int(m[1]) + 1024), found))
        assert foreign(shard) is None
        (tmp_path / "a.idx").write_bytes(found)
        check(foreign(shard), scanned(shard))

    def test_long_names_of_gnu_tar(self, tmp_path: Path) -> None:
        """wds2idx is wrong about them, which is seen among many others, too; ours is right."""
        shard = tmp_path / "a.tar"
        for at in range(0, len(OLD), 8):
            members = [*OLD[:at], Member("n" * 150 + ".txt", b"long"), *OLD[at:]]
            shard.write_bytes(tars.make_tar(members, tarfile.GNU_FORMAT))
            index_dali(tmp_path, ["a.tar"])
            assert foreign(shard) is None
            (tmp_path / "a.idx").write_bytes(dali.dump_index(scanned(shard), str(shard)))
            check(foreign(shard), scanned(shard))

    def test_shards_that_it_cannot_hold(self, tmp_path: Path) -> None:
        shard = tmp_path / "a.tar"
        shard.write_bytes(tar_bytes([("b/a photo.jpg", b"1")]))
        with pytest.raises(ShardError, match=r"a\.tar \[b/a photo\]: a member's name has a space"):
            dali.dump_index(scanned(shard), str(shard))
        shard.write_bytes(tar_bytes([("README", b"1")]))
        with pytest.raises(ShardError, match=r"a\.tar: it has no samples"):
            dali.dump_index(scanned(shard), str(shard))

    def test_only_it_and_members_are_read(self, nginx: NginxServer) -> None:
        spec = write_dataset(nginx.root, 3, 300)
        index_dali(nginx.root, [f"in-{i}.tar" for i in range(3)])
        size = (nginx.root / "in-0.tar").stat().st_size
        dataset = shardtools.open(nginx.url + spec)
        assert dataset[430]["key"] == "1/0130" and len(dataset) == 900 and dataset.fields == ("cls", "txt")
        of_shards = [
            request for request in requests(nginx) if request.name.endswith(".tar") and request.method == "GET"
        ]
        assert 0 < sum(request.size for request in of_shards) < size / 4 and {r.status for r in of_shards} == {206}


class TestEnergon:
    def test_it_is_read_once(self, nginx: NginxServer, tmp_path: Path) -> None:
        spec = write_dataset(nginx.root, 3, 300)
        prepare(nginx.root, [f"in-{i}.tar" for i in (2, 0, 1)])
        dataset = shardtools.open(nginx.url + spec)
        assert len(dataset) == 900
        asked = {request.name for request in requests(nginx) if request.status < 400}
        assert asked == {".nv-meta/.info.json"}
        assert [record["key"] for record in dataset[[1, 301, 899]]] == ["0/0001", "1/0001", "2/0299"]
        told = [request for request in requests(nginx) if request.name == ".nv-meta/index.sqlite"]
        assert [request.method for request in told if request.method == "GET"] == ["GET"]
        of_shards = [
            request for request in requests(nginx) if request.name.endswith(".tar") and request.method == "GET"
        ]
        size = (nginx.root / "in-0.tar").stat().st_size
        assert 0 < sum(request.size for request in of_shards) < size / 4 and {r.status for r in of_shards} == {206}
        again = pickle.loads(pickle.dumps(dataset))
        assert len(again) == 900 and again[300]["txt"] == dataset[300]["txt"]

    def test_folders(self, tmp_path: Path) -> None:
        for shard, name in enumerate(["train/a.tar", "train/b.tar", "val/a.tar"]):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(tar_bytes(sample_files(shard, 5 + shard)))
        prepare(tmp_path, ["train/a.tar", "val/a.tar", "train/b.tar"])
        dataset = shardtools.open(str(tmp_path / "{train/a,train/b,val/a}.tar"))
        assert len(dataset) == 18 and dataset[11]["key"] == "2/0000"
        urls = [str(tmp_path / name) for name in ("val/a.tar", "train/b.tar")]
        index = EnergonIndex(urls)
        assert index.counts() == [7, 6]
        for url in urls:
            found = read_foreign(url, Path(url).stat().st_size, index)
            check(None if found is None else found.table, scanned(Path(url)))
        assert EnergonIndex([*urls, str(tmp_path / "val/c.tar")]).counts() is None

    def test_packed_shards_are_counted(self, tmp_path: Path) -> None:
        spec = write_dataset(tmp_path, 2, 5, ending="tar.gz")
        prepare(tmp_path, ["in-0.tar.gz", "in-1.tar.gz"])
        dataset = shardtools.open(str(tmp_path / spec))
        assert "10 samples" in repr(dataset) and dataset[7]["key"] == "1/0002"

    def test_counts_of_other_shards(self, tmp_path: Path) -> None:
        spec = write_dataset(tmp_path, 2, 5)
        prepare(tmp_path, ["in-0.tar", "in-1.tar"])
        write_dataset(tmp_path, 2, 6)
        dataset = shardtools.open(str(tmp_path / spec))
        what = r"in-1\.tar: it has 6 samples, and 5 in \.nv-meta/\.info\.json; name the shards themselves, and"
        with pytest.raises(SpecError, match=what):
            dataset[9]

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"shard_counts": 3}', '{"shard_counts": {"in-0.tar": "many"}}'])
    def test_broken_counts(self, text: str, tmp_path: Path) -> None:
        spec = write_dataset(tmp_path, 2, 5)
        prepare(tmp_path, ["in-0.tar", "in-1.tar"])
        (tmp_path / ".nv-meta" / ".info.json").write_text(text)
        assert len(shardtools.open(str(tmp_path / spec))) == 10

    @pytest.mark.parametrize("change", ["no file", "no tables", "no database", "nulls", "older"])
    def test_broken_database(self, change: str, nginx: NginxServer) -> None:
        write_dataset(nginx.root, 2, 5)
        prepare(nginx.root, ["in-0.tar", "in-1.tar"])
        path = nginx.root / ".nv-meta" / "index.sqlite"
        if change in ("nulls", "older"):
            with sqlite3.connect(path) as database:
                statement = {
                    "nulls": "UPDATE sample_parts SET content_byte_size = NULL",
                    "older": "DROP TABLE sample_parts",
                }
                database.execute(statement[change])
            database.close()
        else:
            path.unlink()
            if change != "no file":
                path.write_bytes({"no tables": b"", "no database": b"no database" * 1000}[change])
        for folder in (f"{nginx.root}/", nginx.url):  # where it is, and from memory
            dataset = shardtools.open(f"{folder}in-@2.tar")
            assert len(dataset) == 10 and dataset[7]["txt"].startswith(b"1-2 ")


VIEWS = """
ALTER TABLE sample_parts RENAME TO real_parts;
ALTER TABLE samples RENAME TO real_samples;
CREATE VIEW samples AS WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c)
    SELECT 0 AS tar_file_id, 'k' || x AS sample_key, x AS sample_index FROM c;
CREATE VIEW sample_parts AS WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c)
    SELECT 0 AS tar_file_id, x AS sample_index, 'txt' AS part_name, x * 1024 AS content_byte_offset,
    1 AS content_byte_size FROM c;
"""
PRODUCT = """
UPDATE sample_parts SET sample_index = 0;
CREATE TABLE n (x);
WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c LIMIT 20000) INSERT INTO n SELECT x FROM c;
INSERT INTO sample_parts SELECT 0, 0, 'f' || x, 512, 1 FROM n;
INSERT INTO samples SELECT 0, 'k' || x, 0, 0, 0 FROM n;
"""
GENERATED = """
DROP TABLE sample_parts;
CREATE TABLE sample_parts (tar_file_id, sample_index, content_byte_offset, content_byte_size,
    part_name AS (hex(zeroblob(400000000))));
INSERT INTO sample_parts VALUES (0, 0, 512, 1);
"""
LONG = """
CREATE TABLE n (x);
WITH RECURSIVE c(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM c LIMIT 20000) INSERT INTO n SELECT x FROM c;
INSERT INTO sample_parts SELECT 0, 0, 'f' || x, 512, 1 FROM n;
UPDATE samples SET sample_key = hex(zeroblob(30000)) || sample_key;
"""


class TestHostileDatabase:
    """A database is a program: whatever it does, it takes little time and memory, and the shard is scanned."""

    @pytest.mark.parametrize("script", [VIEWS, PRODUCT, GENERATED, LONG], ids=["views", "product", "generated", "long"])
    def test_it_ends(self, script: str, nginx: NginxServer) -> None:
        write_dataset(nginx.root, 1, 5)
        prepare(nginx.root, ["in-0.tar"])
        with sqlite3.connect(nginx.root / ".nv-meta" / "index.sqlite") as database:
            database.executescript(script)
        database.close()
        program = "import sys, shardtools; ds = shardtools.open(sys.argv[1]); print(ds[3]['key'], len(ds))"
        limited = f"import resource as r; r.setrlimit(r.RLIMIT_DATA, (1 << 30, 1 << 30)); {program}"
        for folder in (f"{nginx.root}/", nginx.url):
            command = [sys.executable, "-c", limited, f"{folder}in-0.tar"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            assert done.stdout == "0/0003 5\n"

    def test_a_job_that_ends_stops_it(self, tmp_path: Path) -> None:
        write_dataset(tmp_path, 1, 5)
        prepare(tmp_path, ["in-0.tar"])
        with sqlite3.connect(tmp_path / ".nv-meta" / "index.sqlite") as database:
            database.executescript(PRODUCT)
        database.close()

        class Stopped(Exception):
            pass

        def stop() -> None:
            raise Stopped

        url = str(tmp_path / "in-0.tar")
        with using(StorageOptions(), stop), pytest.raises(Stopped):
            EnergonIndex([url]).listing(url, 10**9)

    def test_its_tables_are_used_whatever_else_it_has(self, tmp_path: Path) -> None:
        write_dataset(tmp_path, 1, 5)
        prepare(tmp_path, ["in-0.tar"])
        with sqlite3.connect(tmp_path / ".nv-meta" / "index.sqlite") as database:
            database.execute("CREATE VIEW v AS SELECT * FROM samples")
            database.execute("CREATE INDEX parts ON sample_parts(tar_file_id, sample_index)")
        database.close()
        check(foreign(tmp_path / "in-0.tar"), scanned(tmp_path / "in-0.tar"))

    @pytest.mark.parametrize("text", ["[" * 100_000, '{"shard_counts": {"in-0.tar": ' + "9" * 100_000 + "}}",
                                      '{"shard_counts": {"in-0.tar": 1' + "0" * 100 + "}}"])  # fmt: skip
    def test_counts_that_make_no_sense(self, text: str, tmp_path: Path) -> None:
        write_dataset(tmp_path, 1, 5)
        prepare(tmp_path, ["in-0.tar"])
        (tmp_path / ".nv-meta" / ".info.json").write_text(text)
        assert len(shardtools.open(str(tmp_path / "in-0.tar"))) == 5

    def test_pipes(self, tmp_path: Path) -> None:
        """Nobody writes to them, so to open one would last for ever."""
        for name in ("info", "database", "idx"):
            folder = tmp_path / name
            folder.mkdir()
            write_dataset(folder, 1, 5)
            prepare(folder, ["in-0.tar"])
            pipe = {"info": ".nv-meta/.info.json", "database": ".nv-meta/index.sqlite", "idx": "in-0.idx"}[name]
            (folder / pipe).unlink(missing_ok=True)
            os.mkfifo(folder / pipe)
            program = "import sys, shardtools; ds = shardtools.open(sys.argv[1]); print(ds[3]['key'], len(ds))"
            command = [sys.executable, "-c", program, str(folder / "in-0.tar")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
            assert done.stdout == "0/0003 5\n"


def test_a_size_that_leads_back(tmp_path: Path) -> None:
    """A pax header before a member that is listed says that the member before it ends where it begins."""
    data = b"1234567"
    shard = tmp_path / "a.tar"
    head = tars.pax({"size": b"-1536"}) + tars.member(b"README", b"")
    shard.write_bytes(tars.archive(head, tars.member(b"a.txt", data)))
    offset = len(head) + 512
    shard.with_suffix(".idx").write_bytes(b"v1.2 1\ntxt %d %d a.txt\n" % (offset, len(data)))
    program = "import sys, shardtools; ds = shardtools.open(sys.argv[1]); print(ds[0])"
    command = [sys.executable, "-c", program, str(shard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "malformed pax header" in done.stderr


@pytest.mark.parametrize("line", [b"1 " * 200_000, b"1 1 1 /" * 30_000, b"a 1 1 x/" * 30_000 + b" "])
def test_a_line_that_can_be_read_in_many_ways(line: bytes) -> None:
    started = time.monotonic()
    dali.parse_index(b"v1.2 1\n" + line + b"\n", 1 << 30)
    assert time.monotonic() - started < 20


class TestWids:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write_dataset(tmp_path, 3, 5)
        return tmp_path

    def shards(self, *names: str, count: int = 5) -> list[dict[str, object]]:
        return [{"url": name, "nsamples": count} for name in names]

    def write(self, path: Path, **index: object) -> str:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, **index}))
        return str(path)

    def keys(self, spec: str, *, trust_index: bool = False) -> list[str]:
        dataset = shardtools.open(spec, trust_index=trust_index)
        return [dataset[i]["key"] for i in range(0, len(dataset), 5)]

    def test_what_it_lists(self, folder: Path) -> None:
        url = self.write(folder / "index.json", shardlist=self.shards("in-1.tar", "in-0.tar"))
        assert self.keys(url) == ["1/0000", "0/0000"]
        dataset = shardtools.open([url])
        assert "2 shards, 10 samples" in repr(dataset) and dataset.fields == ("cls", "txt")
        assert pickle.loads(pickle.dumps(dataset))[7]["key"] == "0/0002"

    def test_it_is_all_that_is_read(self, nginx: NginxServer) -> None:
        write_dataset(nginx.root, 3, 5)
        self.write(nginx.root / "i" / "index.json", shardlist=self.shards("../in-2.tar", "/in-0.tar"))
        dataset = shardtools.open(f"{nginx.url}i/index.json?token=1")
        assert len(dataset) == 10
        assert [(request.method, request.name) for request in requests(nginx)] == [("GET", "i/index.json?token=1")]
        assert dataset[6]["key"] == "0/0001"
        assert ("GET", "in-0.tar?token=1") in {(request.method, request.name) for request in requests(nginx)}

    def test_a_manifest_of_ours(self, folder: Path) -> None:
        from shardtools.jobs.index import index

        index(str(folder / "in-@3.tar"))
        dataset = shardtools.open(str(folder / "in-@3.tar.json"))
        assert len(dataset) == 15 and dataset.fields == ("cls", "txt") and dataset[14]["key"] == "2/0004"

    def test_datasets(self, folder: Path, nginx: NginxServer) -> None:
        write_dataset(nginx.root, 1, 5, name="far")
        self.write(nginx.root / "far.json", shardlist=self.shards("far-0.tar"))
        self.write(folder / "d" / "other.json", shardlist=self.shards("../in-2.tar"))
        parts = [
            {"name": "one", "shardlist": self.shards("in-1.tar")},
            {"source_url": "d/other.json", "weight": 3},
            {"source_url": f"{nginx.url}far.json"},
            {"base": str(folder), "shardlist": self.shards("./in-0.tar")},
        ]
        url = self.write(folder / "all.json", datasets=parts)
        assert self.keys(url, trust_index=True) == ["1/0000", "2/0000", "0/0000", "0/0000"]
        del parts[2]
        assert self.keys(self.write(folder / "own.json", datasets=parts)) == ["1/0000", "2/0000", "0/0000"]

    def test_places_that_it_may_not_name(self, folder: Path, nginx: NginxServer) -> None:
        """A local index names what is in its folder, one of a server what is on that, unless it is trusted."""
        write_dataset(nginx.root, 1, 5, name="far")
        secret = folder.parent / "private.tar"  # no word that another test has as a password
        secret.write_bytes((folder / "in-0.tar").read_bytes())
        outside = r"index names a place outside of its {}: .*{}; if you trust the index, .* --trust-index, or trust_in"
        near = self.write(nginx.root / "near.json", shardlist=self.shards("far-0.tar"))
        for name in (
            str(secret),
            "../private.tar",
            secret.as_uri(),
            f"{nginx.url}far-0.tar",
            f"{folder.name}/../in-0.tar",
        ):
            url = self.write(folder / "i.json", shardlist=self.shards("in-0.tar", name))
            if name.endswith("in-0.tar"):
                assert self.keys(self.write(folder / "i.json", shardlist=self.shards(f"x/../{name}"))) == ["0/0000"]
                continue
            with pytest.raises(SpecError, match=outside.format("folder", Path(name).name)):
                shardtools.open(url)
            assert self.keys(url, trust_index=True)[0] == "0/0000"
        url = self.write(folder / "i.json", datasets=[{"source_url": f"{nginx.url}near.json"}])
        with pytest.raises(SpecError, match=outside.format("folder", "near.json")):
            shardtools.open(url)
        assert self.keys(url, trust_index=True) == ["0/0000"] and near

    @pytest.mark.parametrize("name", ["/etc/x.tar", "file:///etc/x.tar", "FILE:///etc/x.tar"])
    def test_files_of_this_machine_in_an_index_of_a_server(self, name: str, nginx: NginxServer) -> None:
        """They are never read, not even if it is trusted: a path is one on the server."""
        self.write(nginx.root / "i.json", shardlist=self.shards(name))
        if name.startswith("/"):
            assert shardtools.open(f"{nginx.url}i.json").urls == [f"{nginx.url}etc/x.tar"]
            return
        for trusted in (False, True):
            with pytest.raises(
                SpecError, match=r"i\.json: the index names a file of this machine: /etc/x\.tar; download"
            ):
                shardtools.open(f"{nginx.url}i.json", trust_index=trusted)

    @pytest.mark.parametrize(
        ("index", "place", "own"),
        [
            ("http://host/d/i.json", "http://host/e/a.tar", True),
            ("http://me:pw@Host:80/d/i.json", "http://host/a.tar", True),
            ("http://host/d/i.json", "https://host/d/a.tar", False),
            ("http://host/d/i.json", "http://host:81/d/a.tar", False),
            ("http://host/d/i.json", "http://evil/d/a.tar", False),
            ("http://host/d/i.json", "http://evil\\@host/d/a.tar", False),
            ("http://host/d/i.json", "http://host@evil/d/a.tar", False),
            ("http://host/d/i.json", "http://ho\tst/d/a.tar", False),
            ("http://host/d/i.json", "s3://host/d/a.tar", False),
            ("http://[::1]:80/i.json", "http://[::1]/a.tar", True),
            ("s3://bucket/d/i.json", "s3://bucket/e/a.tar", True),
            ("s3://bucket/d/i.json", "s3://other/d/a.tar", False),
            ("gs://bucket/d/i.json", "s3://bucket/d/a.tar", False),
            ("/d/i.json", "/d/e/a.tar", True),
            ("/d/i.json", "file:///d/a.tar", True),
            ("/d/i.json", "/d/../e/a.tar", False),
            ("/d/i.json", "/dd/a.tar", False),
            ("/d/i.json", "s3://d/a.tar", False),
            ("/d/i.json", "-", False),
        ],
    )
    def test_own_places(self, index: str, place: str, own: bool) -> None:
        with nullcontext() if own else pytest.raises(SpecError):
            check_place(place, index, index, trusted=False)
        check_place(place, index, index, trusted=True)

    @pytest.mark.parametrize("place", ["-", "/a.tar", "file:///a.tar"])
    def test_a_server_never_names_files_of_this_machine(self, place: str) -> None:
        with pytest.raises(SpecError, match="names a file of this machine"):
            check_place(place, "s3://bucket/i.json", "s3://bucket/i.json", trusted=True)

    @pytest.mark.parametrize(
        "text", ["[" * 100_000, '{"a":' * 100_000, '{"wids_version": 1, "n": ' + "9" * 100_000 + "}"]
    )
    def test_json_that_python_does_not_take(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "i.json").write_text(text)
        with pytest.raises(
            SpecError, match=r"i\.json: this is not a shard index of wids: it is not JSON: (it is nest|a numb)"
        ):
            shardtools.open(str(tmp_path / "i.json"))

    def test_numbers_and_names_that_make_no_sense(self, tmp_path: Path) -> None:
        for shard in ({"url": "a.tar", "nsamples": 10**100}, {"url": "\ud800.tar", "nsamples": 1}):
            (tmp_path / "i.json").write_text(json.dumps({"wids_version": 1, "shardlist": [shard]}))
            with pytest.raises(SpecError, match=r"has no number of samples|half a surrogate"):
                shardtools.open(str(tmp_path / "i.json"))

    def test_one_that_is_too_large(self, folder: Path) -> None:
        url = self.write(folder / "i.json", shardlist=self.shards("in-0.tar"), padding=" " * 10_000)
        with (
            using(StorageOptions(limits=Limits(manifest=5_000))),
            pytest.raises(LimitError, match="--max manifest=SIZE"),
        ):
            wids.read_index(url)

    @pytest.mark.parametrize(
        ("base", "reference", "url"),
        [
            ("/d/i.json", "a.tar", "/d/a.tar"),
            ("/d/i.json", "../e/a?b.tar", "/e/a?b.tar"),
            ("/d/i.json", "/e/a.tar", "/e/a.tar"),
            ("/d/i.json", "http://host/a.tar", "http://host/a.tar"),
            ("s3://bucket/d//i.json", "a.tar", "s3://bucket/d//a.tar"),
            ("s3://bucket/d/i.json", "/a.tar", "s3://bucket/a.tar"),
            ("http://me:pw@host:80/d/i.json?t=1", "./e/a.tar", "http://me:pw@host:80/d/e/a.tar?t=1"),
            ("http://host/d/i.json?t=1", "a.tar?u=2", "http://host/d/a.tar?u=2"),
            ("http://host/d/i.json?t=1", "gs://bucket/a.tar", "gs://bucket/a.tar"),
        ],
    )
    def test_what_a_relative_url_means(self, base: str, reference: str, url: str) -> None:
        assert wids._resolve(base, base, reference) == url

    @pytest.mark.parametrize(
        ("index", "what"),
        [
            ("{", "it is not JSON"),
            ("[]", 'it has no "wids_version": 1'),
            ('{"wids_version": 2, "shardlist": []}', 'it has no "wids_version": 1'),
            ('{"wids_version": 1}', "it lists no shards"),
            ('{"wids_version": 1, "shardlist": {}}', "its shardlist is not a list"),
            ('{"wids_version": 1, "shardlist": [{"url": "a.tar"}]}', "shard 0 of a shardlist has no number of samples"),
            (
                '{"wids_version": 1, "shardlist": [{"url": "a", "nsamples": -1}]}',
                "shard 0 of a shardlist has no number",
            ),
            ('{"wids_version": 1, "shardlist": ["a.tar"]}', "shard 0 of a shardlist has no number"),
            ('{"wids_version": 1, "shardlist": [{"nsamples": 1}]}', "a shard or dataset has no URL"),
            ('{"wids_version": 1, "datasets": [3]}', "its datasets are not a list of objects"),
            ('{"wids_version": 1, "datasets": [{}]}', "a dataset has no shardlist"),
            ('{"wids_version": 1, "datasets": [{"source_url": "i.json"}]}', "it refers to further datasets"),
            (
                '{"wids_version": 1, "shardlist": [{"url": "a.tar", "nsamples": 1}, {"url": "./a.tar", "nsamples":2}]}',
                "it lists a.tar twice",
            ),
        ],
    )
    def test_broken_ones(self, index: str, what: str, tmp_path: Path) -> None:
        (tmp_path / "i.json").write_text(index)
        with pytest.raises(SpecError) as raised:
            shardtools.open(str(tmp_path / "i.json"))
        message = str(raised.value)
        assert (
            message.startswith(f"{tmp_path}/i.json: this is not a shard index of wids: {what}") and "\n" not in message
        )
        assert message.endswith("; check it, or name the shards, as in train-@1000.tgz")

    def test_none_and_a_wrong_one(self, folder: Path) -> None:
        with pytest.raises(NotFoundError, match=r"no\.json"):
            shardtools.open(str(folder / "no.json"))
        url = self.write(folder / "index.json", shardlist=self.shards("in-0.tar", count=9))
        with pytest.raises(SpecError, match=r"in-0\.tar: it has 5 samples, and 9 in index\.json; name the shards"):
            shardtools.open(url)[0]

    def test_ours(self, folder: Path) -> None:
        """What wids 0.1.11 insists on: the version, and url and nsamples of every shard; its URLs are relative."""
        entries = [ShardEntry(f"/{place}/in-{i}.tar", 5, 100, "", {}) for i, place in enumerate(["a/b", "a/b/c", "x"])]
        index = json.loads(wids.build_index("/a/b/i.json", "in", entries))
        assert index["wids_version"] == 1 and index["__kind__"] == "wids-shard-index-v1" and index["name"] == "in"
        assert [shard["url"] for shard in index["shardlist"]] == ["in-0.tar", "c/in-1.tar", "/x/in-2.tar"]
        assert all(shard["nsamples"] == 5 and shard["filesize"] == 100 for shard in index["shardlist"])
        far = ShardEntry("http://me:pw@host/a.tar?sig=1", 5, 100, "", {})
        assert json.loads(wids.build_index("/a/i.json", "in", [far]))["shardlist"][0]["url"] == "http://host/a.tar"
        near = json.loads(wids.build_index("http://me:pw@host/i.json?sig=2", "in", [far]))
        assert near["shardlist"][0]["url"] == "a.tar"


def test_order_of_preference(tmp_path: Path) -> None:
    """Ours, the cache's, DALI's, Energon's: each is used only where those before it are missing."""
    from shardtools.jobs.index import index

    shard, cache = tmp_path / "in.tar", str(tmp_path / "cache")
    shard.write_bytes(tars.make_tar(OLD))

    def is_ours(cache: str | None = None) -> bool:
        """Return whether the table is one that we made."""
        return bool(shardtools.open(str(shard), cache=cache).shard(0).indexed.sidecar.job)

    assert is_ours(cache) and (tmp_path / "cache" / "tables").exists()
    for make in MAKERS.values():
        make(tmp_path, ["in.tar"])
        assert not is_ours() and is_ours(cache)
    (tmp_path / "in.idx").write_bytes(wds2idx(shard).replace(b"v1.2", b"v1.0"))
    assert not is_ours()
    index(str(shard))
    assert is_ours()
