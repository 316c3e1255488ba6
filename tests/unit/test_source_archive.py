"""Archives of every layout as samples: what is grouped, left out, and found broken."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings

from shardtools.errors import (
    ChangedError,
    CorruptError,
    DuplicateKeyError,
    JobError,
    LimitError,
    NotFoundError,
    TruncatedError,
)
from shardtools.limits import Limits
from shardtools.sources.archive import open_archive
from shardtools.sources.files import FileRules
from shardtools.sources.opening import SourceRules, open_sources
from shardtools.storage import StorageOptions, using
from tests.servers import NginxServer
from tests.tars import END, FORMATS, Member, Shard, archive, header, make_tar, member, patch, pax, shards
from tests.unit.test_source_folder import keys, samples, write_tree

SCATTERED = [
    Member("b/2.jpg", b"b2"),
    Member("1.cls", b"7"),
    Member("b/", kind=tarfile.DIRTYPE),
    Member("b/2.seg.png", b"seg" * 1000),
    Member("1.jpg", b""),
    Member("b/2.cls", b"8"),
]
EXPECTED = {"1": {"cls": b"7", "jpg": b""}, "b/2": {"jpg": b"b2", "cls": b"8", "seg.png": b"seg" * 1000}}

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "tar.gz": gzip.compress,
    "tgz": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "tar.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "tar.bz2": lambda data: bz2.compress(data[:700]) + bz2.compress(data[700:]),
    "tar.xz": lzma.compress,
}


def zip_bytes(members: list[Member], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for entry in members:
            made.writestr(entry.name, entry.data)
    return file.getvalue()


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def open_files() -> set[str]:
    """Return what this process has open under the folder for temporary files."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the listing itself
            continue
    return {name for name in found if name.startswith(tempfile.gettempdir()) and "deleted" in name}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("ending", PACKERS)
def test_scattered_members_are_grouped(tmp_path: Path, ending: str, format: str) -> None:
    url = write(tmp_path / f"a.{ending}", PACKERS[ending](make_tar(SCATTERED, FORMATS[format], mtime=1.5)))
    before = open_files()
    source = open_archive(url, FileRules())
    assert source.portable == (ending == "tar")
    assert samples(source) == EXPECTED
    assert list(samples(source, [1, 0])) == ["b/2", "1"]
    assert source.left_out() == [] and source.sizes().tolist() == [1024 + 512, 1024 + 1024 + 512 + 3072]
    source.close()
    assert open_files() == before


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_zip(tmp_path: Path, method: int) -> None:
    source = open_archive(write(tmp_path / "a.zip", zip_bytes(SCATTERED, method)), FileRules())
    assert samples(source) == EXPECTED
    assert source.portable and source.left_out() == []


def test_zip_behind_a_program(tmp_path: Path) -> None:
    assert (
        samples(open_archive(write(tmp_path / "a.zip", b"#!/bin/sh\n" + zip_bytes(SCATTERED)), FileRules())) == EXPECTED
    )


def test_zip64(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for entry in SCATTERED:
            if not entry.name.endswith("/"):
                with made.open(entry.name, "w", force_zip64=True) as file:
                    file.write(entry.data)
    assert samples(open_archive(str(tmp_path / "a.zip"), FileRules())) == EXPECTED


def test_rules_are_those_of_folders(tmp_path: Path) -> None:
    tree = {
        "dog/a.jpeg": b"1",
        "cat/b.jpeg": b"2",
        "cat/b.txt": b"3",
        "cat/.x.jpeg": b"4",
        ".c/d.jpeg": b"",
        "README": b"",
    }
    write_tree(tmp_path / "in", tree)
    members = [Member(f"./{name}", data) for name, data in tree.items() if name != "README"] + [Member("README")]
    url = write(tmp_path / "a.tar", make_tar(members))
    for rules in (
        SourceRules(key="name", rename=(("jpeg", "jpg"),), classes=True, exclude=("README",)),
        SourceRules(key="hash", include=("*.txt",)),
        SourceRules(key="number"),
    ):
        one, other = open_sources([str(tmp_path / "in")], rules), open_sources([url], rules)
        assert samples(one) == samples(other) and keys(one) == keys(other)
        assert one.notes() == other.notes()
        expected = [(name.replace(f"{tmp_path}/in/", f"{url} [") + "]", reason) for name, reason in one.left_out()]
        assert list(other.left_out()) == expected


@settings(max_examples=60, deadline=None)
@given(shards())
def test_every_member_that_tarfile_reads(shard: Shard) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.tar")
        path.write_bytes(shard.data)
        wanted: dict[str, bytes] = {}
        with tarfile.open(path) as file:
            for info in file:
                parts = [part for part in info.name.split("/") if part not in ("", ".")]
                base = parts[-1] if parts else ""
                meta = re.match("__[^/]*__(/|$)", "/".join(parts))
                if (
                    info.isreg()
                    and not meta
                    and 0 < base.find(".") < len(base) - 1
                    and not any(p.startswith(".") for p in parts)
                ):
                    wanted["/".join(parts)] = file.extractfile(info).read()  # type: ignore[union-attr]
        if not wanted or any(name.rpartition("/")[2].partition(".")[2].startswith("__") for name in wanted):
            return
        source = open_archive(str(path), FileRules())
        found = {f"{key}.{name}": data for key, sample in samples(source).items() for name, data in sample.items()}
        assert found == wanted


def test_gnu_tar(tmp_path: Path) -> None:
    tree = {
        "a.txt": b"1",
        "d" * 60 + "/" + "e" * 60 + "/" + "n" * 90 + ".txt": b"2",
        "ü/x y\n.jpg": b"3",
        "big.bin": bytes(100_000),
    }
    write_tree(tmp_path / "in", tree)
    (tmp_path / "in" / "hard.txt").hardlink_to(tmp_path / "in" / "a.txt")
    (tmp_path / "in" / "soft.txt").symlink_to("a.txt")
    wanted = {name.partition(".")[0]: {name.partition(".")[2]: data} for name, data in tree.items()}
    for format in ("gnu", "pax", "ustar", "oldgnu"):
        subprocess.run(
            ["tar", "cf", "a.tar", f"--format={format}", "--sort=name", "-C", "in", "."], cwd=tmp_path, check=True
        )
        source = open_archive(str(tmp_path / "a.tar"), FileRules())
        assert samples(source) == wanted
        assert source.left_out() == [
            (f"{tmp_path}/a.tar [hard.txt]", "it is a hard link"),
            (f"{tmp_path}/a.tar [soft.txt]", "it is a link"),
        ]


def test_what_is_left_out_of_tar(tmp_path: Path) -> None:
    members = [
        Member("ok.txt", b"1"),
        Member("/abs/a.txt", b"2"),
        Member("../out.txt", b"3"),
        Member("x/../../out.txt", b"4"),
        Member("s.txt", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        Member("dev.txt", kind=tarfile.CHRTYPE),
        Member("pipe.txt", kind=tarfile.FIFOTYPE),
        Member("README", b"5"),
        Member(".hidden.txt", b"6"),
    ]
    source = open_archive(write(tmp_path / "a.tar", make_tar(members)), FileRules())
    assert samples(source) == {"ok": {"txt": b"1"}, "abs/a": {"txt": b"2"}}
    assert dict(source.left_out()) == {
        f"{tmp_path}/a.tar [{name}]": reason
        for name, reason in {
            "../out.txt": "its path leads out of the archive",
            "x/../../out.txt": "its path leads out of the archive",
            "s.txt": "it is a link",
            "dev.txt": "it is not a regular file",
            "pipe.txt": "it is not a regular file",
            "README": "its name has no dot followed by a field",
        }.items()
    }


def test_link_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        link = zipfile.ZipInfo("s.txt")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        made.writestr(link, "/etc/passwd")
        made.writestr("../a.txt", "1")
        made.writestr("b.txt", "2")
    source = open_archive(str(tmp_path / "a.zip"), FileRules())
    assert samples(source) == {"b": {"txt": b"2"}}
    assert [reason for _, reason in source.left_out()] == ["it is a link", "its path leads out of the archive"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["a/b.txt", "./a/b.txt", "a//b.txt"])
def test_two_members_of_one_name(tmp_path: Path, second: str) -> None:
    members = [Member("c.txt"), Member("README"), Member("a/b.txt", b"1"), Member(second, b"2"), Member("README")]
    with pytest.raises(DuplicateKeyError, match=rf"^{tmp_path}/a.tar \[a/b.txt\]: two members have this name; "):
        open_archive(write(tmp_path / "a.tar", make_tar(members)), FileRules())
    with pytest.raises(DuplicateKeyError, match=r"\[a/b.txt\]: two members have this name"):
        open_archive(write(tmp_path / "a.zip", zip_bytes(members)), FileRules())
    source = open_archive(str(tmp_path / "a.tar"), FileRules(exclude=("a/*",)))
    assert samples(source) == {"c": {"txt": b""}}


def test_archives_one_behind_the_other(tmp_path: Path) -> None:
    data = make_tar([Member("a.txt", b"1")]) + make_tar([Member("b.txt", b"2")])
    assert samples(open_archive(write(tmp_path / "a.tar", data), FileRules())) == {
        "a": {"txt": b"1"},
        "b": {"txt": b"2"},
    }


def test_size_in_a_pax_header(tmp_path: Path) -> None:
    data = archive(pax({b"size".decode(): b"3"}), header(b"a.txt", 0), b"abc".ljust(512, b"\0"), member(b"b.txt", b"4"))
    assert samples(open_archive(write(tmp_path / "a.tar", data), FileRules())) == {
        "a": {"txt": b"abc"},
        "b": {"txt": b"4"},
    }


GOOD = make_tar([Member("a.txt", b"1" * 600), Member("b.txt", b"2" * 600)])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", TruncatedError, "the file is empty"),
        (b"hello" * 200, CorruptError, "this is a text file that begins with 'hellohello.*, not a tar file; check"),
        (GOOD[:1000], TruncatedError, r"\[a.txt\]: the archive ends inside this member; fetch or make"),
        (GOOD[:2100], TruncatedError, r"\[b.txt\]: the archive ends inside this member"),
        (GOOD[: 6 * 512], TruncatedError, "ends at byte 3072 without an end-of-archive mark"),
        (patch(GOOD[:512], 124, b"zz") + GOOD[512:], CorruptError, "size is not a number"),
        (GOOD[:1536] + b"x" + GOOD[1537:], CorruptError, "the header checksum at byte 1536 is wrong"),
        (archive(header(b"s.txt", 0, kind=b"S")), CorruptError, r"\[s.txt\]: sparse members are not supported"),
        (archive(pax({"GNU.sparse.name": b"s.txt"}), member(b"x", b"")), CorruptError, "sparse"),
        (archive(header(b"x", 1 << 30, kind=b"x")), CorruptError, "the extension header at byte 0 is damaged"),
        (archive(member(b"x", bytes(17 << 20), kind=b"x")), LimitError, "its header has more than 16,777,216 bytes"),
        (archive(member(b"x", b"nonsense", kind=b"x"), member(b"a.txt", b"")), CorruptError, "malformed pax header"),
        (archive(pax({"size": b"-1536"}), member(b"a.txt", b"")), CorruptError, "malformed pax header at byte 0"),
        (archive(pax({"size": b"9" * 5000}), member(b"a.txt", b"")), CorruptError, "malformed pax header at byte 0"),
        (archive(header(b"a.txt", 1 << 40)), TruncatedError, "ends inside this member"),
        (archive(patch(header(b"a.txt"), 124, b"\xff" * 12)), TruncatedError, "ends inside this member"),
        (END * 10, JobError, "there are no files to upload"),
        (make_tar([Member("README", b"1")]), JobError, "there are no files to upload; check the archive"),
    ],
)
def test_bad_tars(tmp_path: Path, data: bytes, error: type[Exception], message: str) -> None:
    url = write(tmp_path / "a.tar", data)
    with pytest.raises(error, match=f"^{url}.*{message}"):
        open_archive(url, FileRules())


@pytest.mark.parametrize("ending", [ending for ending in PACKERS if ending != "tar"])
def test_bad_packed_tars(tmp_path: Path, ending: str) -> None:
    data = make_tar([Member(f"{i}.bin", os.urandom(1000)) for i in range(50)])
    packed = PACKERS[ending](data)
    before = open_files()
    url = write(tmp_path / f"a.{ending}", packed[: len(packed) * 2 // 3])
    with pytest.raises(TruncatedError, match=f"^{url}: .*; fetch or make the archive again$"):
        open_archive(url, FileRules())
    middle = len(packed) // 2
    write(tmp_path / f"a.{ending}", packed[:middle] + bytes(200) + packed[middle + 200 :])
    with pytest.raises((CorruptError, TruncatedError), match=f"^{url}"):
        samples(open_archive(url, FileRules()))
    assert open_files() == before


def test_bad_zips(tmp_path: Path) -> None:
    data = zip_bytes([Member("a.txt", b"1" * 1000), Member("b.txt", os.urandom(1000))])
    for broken in (b"", b"hello" * 100, data[:-30], data[: len(data) // 2]):
        url = write(tmp_path / "a.zip", broken)
        with pytest.raises(CorruptError, match=f"^{url}: this is not a zip file, or it is damaged.*; fetch or make"):
            open_archive(url, FileRules())
    place = data.index(b"b.txt") + 100
    url = write(tmp_path / "a.zip", data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    part = open_archive(url, FileRules()).part(np.arange(2))
    assert part.record(0)["txt"] == b"1" * 1000
    with pytest.raises(CorruptError, match=rf"^{url} \[b.txt\]: the member is damaged"):
        part.record(1)
    write(tmp_path / "a.zip", b"PK\1\2" + data[4:])
    with pytest.raises(CorruptError, match=r"\[a.txt\]: the member is damaged: its local header"):
        open_archive(url, FileRules()).part(np.arange(2)).record(0)


def test_zip_that_says_less_than_it_holds(tmp_path: Path) -> None:
    """What is inflated is bounded by what the directory says."""
    data = bytearray(zip_bytes([Member("a.txt", bytes(10_000_000))]))
    directory = data.rindex(b"PK\1\2")
    data[directory + 24 : directory + 28] = (100).to_bytes(4, "little")
    with pytest.raises(CorruptError, match=r"\[a.txt\]: the member is damaged"):
        samples(open_archive(write(tmp_path / "a.zip", bytes(data)), FileRules()))


def test_zip_that_cannot_be_read(tmp_path: Path) -> None:
    data = bytearray(zip_bytes([Member("a.txt", b"1")]))
    directory = data.rindex(b"PK\1\2")
    data[directory + 8] |= 1
    with pytest.raises(JobError, match=r"\[a.txt\]: the member is encrypted; unzip it"):
        open_archive(write(tmp_path / "a.zip", bytes(data)), FileRules())
    with pytest.raises(JobError, match=r"compression method 14 is not supported; unzip it"):
        open_archive(write(tmp_path / "b.zip", zip_bytes([Member("a.txt", b"1")], zipfile.ZIP_LZMA)), FileRules())


def test_archive_that_changes(tmp_path: Path) -> None:
    url = write(tmp_path / "a.tar", make_tar(SCATTERED))
    part = open_archive(url, FileRules()).part(np.arange(2))
    write(tmp_path / "a.tar", make_tar(SCATTERED + [Member("z.txt")] * 30))
    with pytest.raises(ChangedError, match=f"^{url}: the archive was changed while it was read"):
        part.record(0)
    os.unlink(url)
    with pytest.raises(NotFoundError):
        part.record(0)


def test_facts_are_those_of_the_archive_not_of_the_temporary_file(tmp_path: Path) -> None:
    url = write(tmp_path / "a.tgz", gzip.compress(make_tar(SCATTERED)))
    facts = [open_archive(url, FileRules()).part(np.arange(2)).facts() for _ in range(2)]
    assert facts[0] == facts[1]
    os.utime(url, ns=(0, 10**18))
    assert open_archive(url, FileRules()).part(np.arange(2)).facts() != facts[0]


def test_packed_archive_is_read_by_another_process(tmp_path: Path) -> None:
    source = open_archive(write(tmp_path / "a.tgz", gzip.compress(make_tar(SCATTERED))), FileRules())
    (tmp_path / "part.pickle").write_bytes(pickle.dumps(source.part(np.arange(2))))
    code = "import pickle, sys; p = pickle.load(open(sys.argv[1], 'rb')); print([p.record(i)['cls'] for i in range(2)])"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "part.pickle"], capture_output=True, check=True, text=True, timeout=60
    )
    assert done.stdout == "[b'7', b'8']\n"
    source.close()


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.zip"])
def test_archive_on_a_server(nginx: NginxServer, name: str) -> None:
    data = {"a.tar": make_tar(SCATTERED), "a.tgz": gzip.compress(make_tar(SCATTERED)), "a.zip": zip_bytes(SCATTERED)}
    (nginx.root / name).write_bytes(data[name])
    source = open_sources([nginx.url + name])
    assert samples(source) == EXPECTED and not source.portable
    assert source.name == nginx.url + name
    source.close()
    with pytest.raises(NotFoundError):
        open_sources([f"{nginx.url}b.tar"])


def test_no_room_to_unpack(tmp_path: Path) -> None:
    url = write(tmp_path / "a.tgz", gzip.compress(make_tar([Member("a.bin", bytes(3_000_000))])))
    code = (
        "import resource, signal, sys\n"
        "from shardtools.sources.opening import open_sources\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "open_sources([sys.argv[1]])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, timeout=60)
    assert "there is no room to unpack the archive" not in done.stdout
    assert f"FullError: {url}: there is no room to unpack" in done.stderr and "set TMPDIR" in done.stderr


def test_several_archives_by_a_spec(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"in-{i}.tar", make_tar([Member(f"{i}.txt", b"%d" % i)]))
    expected = {str(i): {"txt": b"%d" % i} for i in range(3)}
    assert samples(open_sources([f"{tmp_path}/in-@3.tar"])) == expected
    assert samples(open_sources([f"{tmp_path}/in-*.tar"])) == expected
    assert samples(open_sources([f"{tmp_path}/in-{{0,1}}.tar", f"{tmp_path}/in-2.tar"])) == expected
    write(tmp_path / "in-2.tar", make_tar([Member("1.jpg")]))
    with pytest.raises(DuplicateKeyError, match=r"in-1.tar \[1.txt\] and .*in-2.tar \[1.jpg\]"):
        open_sources([f"{tmp_path}/in-@3.tar"])


def claim(data: bytes, size: int, packed: int | None = None) -> bytes:
    """Return a zip file of one member whose directory says that it has another size."""
    at = data.index(b"PK\x01\x02")
    changed = bytearray(data)
    changed[at + 24 : at + 28] = min(size, 0xFFFFFFFE).to_bytes(4, "little")
    if packed is not None:
        changed[at + 20 : at + 24] = packed.to_bytes(4, "little")
    return bytes(changed)


class TestSizes:
    """What an archive says of sizes is not believed, and what is read is no more than a sample may have."""

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    def test_a_zip_that_says_what_cannot_be(self, method: int, tmp_path: Path) -> None:
        data = zip_bytes([Member("a.txt", b"1" * 600)], method)
        for changed in (claim(data, 4 << 30), claim(data, 600, 3 << 30), claim(data, 4 << 30, 3 << 30)):
            url = write(tmp_path / "a.zip", changed)
            with pytest.raises(CorruptError, match=rf"^{url} \[a\.txt\]: the member cannot be where, or as large as"):
                open_archive(url, FileRules())

    def test_a_zip_of_64_bits_that_says_what_cannot_be(self, tmp_path: Path) -> None:
        """Numbers up to 2**64 do not fit into a column of the list."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made, made.open("a.txt", "w", force_zip64=True) as entry:
            entry.write(b"1" * 600)
        data = bytearray(file.getvalue())
        at = data.index(b"PK\x01\x02")
        extra = b"\x01\x00\x10\x00" + b"\xff" * 16
        data[at + 20 : at + 28] = b"\xff" * 8
        data[at + 30 : at + 32] = len(extra).to_bytes(2, "little")
        end = data.index(b"PK\x05\x06")
        data[end + 12 : end + 16] = (end - at + len(extra)).to_bytes(4, "little")
        data[at + 46 + 5 : at + 46 + 5] = extra
        with pytest.raises(CorruptError, match=r"a\.zip \[a\.txt\]: the member cannot be where"):
            open_archive(write(tmp_path / "a.zip", bytes(data)), FileRules())

    @pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
    def test_a_sample_that_is_too_large(self, ending: str, tmp_path: Path) -> None:
        members = [Member("a.txt", bytes(600)), Member("a.bin", bytes(600)), Member("b.txt", bytes(2_000_000))]
        data = zip_bytes(members) if ending == "zip" else PACKERS[ending](make_tar(members))
        url = write(tmp_path / f"a.{ending}", data)
        for name in ("a", "b"):
            source = open_archive(url, FileRules(include=(f"{name}.*",)))
            wanted = rf"\[{name}\.txt\]: its sample has more than 1,000 bytes"
            part = source.part(np.arange(1))
            with using(StorageOptions(limits=Limits(sample=1000))), pytest.raises(LimitError, match=wanted):
                part.record(0)
            part.close()
            source.close()

    def test_an_extension_header_that_is_too_large(self, tmp_path: Path) -> None:
        url = write(tmp_path / "a.tar", archive(pax({"path": b"d/" * 5000 + b"a.txt"}), member(b"a.txt", b"")))
        with using(StorageOptions(limits=Limits(header=5000))):
            with pytest.raises(LimitError, match=r"its header has more than 5,000 bytes.*--max header=SIZE"):
                open_archive(url, FileRules())
        open_archive(url, FileRules()).close()

    def test_a_bomb_takes_no_memory(self, tmp_path: Path) -> None:
        """A member that unpacks to 1 GB, in a process that may have less, and a sample that may have 300 MB."""
        file = io.BytesIO()
        with (
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
            made.open("a.txt", "w") as entry,
        ):
            for _ in range(64):
                entry.write(bytes(16 << 20))
        url = write(tmp_path / "a.zip", file.getvalue())
        limited = (
            "import resource as r, sys; r.setrlimit(r.RLIMIT_DATA, (800 << 20, 800 << 20))\n"
            "from shardtools.cli.htupload import main; main(sys.argv[1:], prog_name='htupload')"
        )
        command = [sys.executable, "-c", limited, url, str(tmp_path / "x-@1.tar"), "--max", "sample=300MB"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and "[a.txt]: its sample has more than 300,000,000 bytes" in done.stderr, done
