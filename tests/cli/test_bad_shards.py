"""Shards that are broken: one line says where and how, no half shard is ever visible, what was complete stays."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.command import call, check_failure
from tests.datasets import members, pack, parts_of, sample_files, snapshot, tar_bytes, write_dataset, write_shard

SHARDS, SAMPLES = 3, 40


@dataclass(frozen=True)
class Damage:
    """How a shard is broken, and what htmapper says of it: patterns of what and, if any, of the member."""

    ending: str
    damage: Callable[[bytes], bytes]
    says: str


def cut(size: int) -> Callable[[bytes], bytes]:
    """Cut off all after ``size`` bytes, or so many at the end if negative."""
    return lambda data: data[:size]


def flip(at: float) -> Callable[[bytes], bytes]:
    """Change a byte at a part of the length."""

    def change(data: bytes) -> bytes:
        damaged = bytearray(data)
        damaged[int(at * len(data))] ^= 0x55
        return bytes(damaged)

    return change


def flip_checksum(data: bytes) -> bytes:
    damaged = bytearray(data)
    damaged[10 * 1024 + 150] ^= 1
    return bytes(damaged)


def rezip(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: gzip.compress(change(gzip.decompress(data)))


def files(*names: str) -> Callable[[bytes], bytes]:
    return lambda _: tar_bytes((name, b"x") for name in names)


AGAIN = "; fetch or make the shard again$"
DAMAGES = {
    "cut in a header": Damage("tar", cut(20 * 512 + 100), r": the shard ends at byte 10340, inside .*" + AGAIN),
    "cut in data": Damage(
        "tar", cut(21 * 512 + 10), r" \[1/0005.cls\]: the shard ends at byte 10762, inside.*" + AGAIN
    ),
    "cut in padding": Damage("tar", cut(21 * 512 + 400), r" \[1/0005.cls\]: the shard ends at byte 11152.*" + AGAIN),
    "cut between members": Damage("tar", cut(24 * 512), r": the shard ends at byte 12288 without an end.*" + AGAIN),
    "gzip cut": Damage("tgz", cut(-200), r": the gzip data end too early.*" + AGAIN),
    "gzip cut in its trailer": Damage("tar.gz", cut(-4), r": the gzip data end too early.*" + AGAIN),
    "gzip cut in its header": Damage("tgz", cut(5), r": the gzip data end too early.*" + AGAIN),
    "whole gzip of a cut tar": Damage("tgz", rezip(cut(21 * 512)), r" \[1/0005.cls\]: the shard ends.*" + AGAIN),
    "gzip corrupt": Damage("tgz", flip(0.5), r": the gzip data are damaged.*" + AGAIN),
    "gzip checksum": Damage("tgz", flip(0.995), r": the gzip data are damaged.*" + AGAIN),
    "zstd cut": Damage("tar.zst", cut(-100), r": the zstd data end too early.*" + AGAIN),
    "zstd corrupt": Damage("tar.zst", flip(0.5), r": the zstd data are damaged.*" + AGAIN),
    "header checksum": Damage("tar", flip_checksum, r": the header checksum at byte 10240 is wrong.*" + AGAIN),
    "not a tar file": Damage("tar", lambda _: b"<html>no</html>" * 100, r": .*(header|tar)"),
    "a field called key": Damage(
        "tar", files("a.txt", "b.key"), r" \[b.key\]: a field cannot be called 'key'.*; rename"
    ),
    "a field twice": Damage(
        "tar", files("a.txt", "b.txt", "b.txt"), r" \[b.txt\]: .* two members with this field; make"
    ),
    "keys not adjacent": Damage("tar", files("a.txt", "b.txt", "a.cls"), r" \[a\]: this key occurs again .*; htsort"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_broken_shard(name: str, folder: Path) -> None:
    case = DAMAGES[name]
    spec = write_dataset(folder, SHARDS, SAMPLES, ending=case.ending)
    whole = call("-q", "-p", "same.py", spec, f"whole/out-@3.{case.ending}", cwd=folder)
    assert whole.status == 0, whole.err
    bad = folder / f"in-1.{case.ending}"
    good = bad.read_bytes()
    status = os.stat(bad)
    bad.write_bytes(case.damage(good))

    message = call("-j", "1", "-p", "same.py", spec, f"out/out-@3.{case.ending}", cwd=folder).error()
    assert re.search("^" + re.escape(str(bad)) + case.says, message), message
    first = f"out-0.{case.ending}"
    complete = snapshot(folder / "whole")
    assert snapshot(folder / "out") == {name: complete[name] for name in (first, first + ".index.npz")}

    check_failure("-p", "same.py", str(bad), f"one/out.{case.ending}", cwd=folder)
    assert snapshot(folder / "one") == {}

    bad.write_bytes(good)
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    resumed = call("--resume", "-p", "same.py", spec, f"out/out-@3.{case.ending}", cwd=folder)
    assert (resumed.status, resumed.err) == (0, "")
    assert "1 shard there already" in resumed.out
    assert snapshot(folder / "out") == complete


MAP_AND_TELL_PEAK = """
import re
from shardtools.cli.htmapper import main
try:
    main()
finally:
    print(re.search("VmHWM: *([0-9]+) kB", open("/proc/self/status").read().replace("\\t", ""))[1])
"""


def test_member_over_8_gib_in_the_header_only(folder: Path) -> None:
    """A size that the file does not hold is a truncated shard: told at once, and no memory is set aside for it."""
    info = tarfile.TarInfo("a/huge.bin")
    info.size = 9 << 30
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        (folder / "huge.tar").write_bytes(info.tobuf(format) + bytes(20 * 512))
        done = subprocess.run(
            [sys.executable, "-c", MAP_AND_TELL_PEAK, "-p", "same.py", "huge.tar", "out/o.tar"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert re.search(
            rf"error: {re.escape(str(folder))}/huge.tar \[a/huge.bin\]: the shard ends at byte ", done.stderr
        ), done
        assert snapshot(folder / "out") == {}
        assert int(done.stdout) < 300 * 1024


def test_missing_shard(folder: Path) -> None:
    spec = write_dataset(folder, SHARDS, SAMPLES)
    (folder / "in-1.tar").unlink()
    message = check_failure("-p", "same.py", "in-1.tar", "out/o.tar", cwd=folder)
    assert message == f"{folder}/in-1.tar: there is no such file; check the path"
    assert snapshot(folder / "out") == {} if (folder / "out").exists() else True
    assert call("-j", "1", "-p", "same.py", spec, "all/out-@3.tar", cwd=folder).error() == message
    assert set(snapshot(folder / "all")) == {"out-0.tar", "out-0.tar.index.npz"}


def test_folder_in_place_of_a_shard(folder: Path) -> None:
    (folder / "in.tar").mkdir()
    message = check_failure("-p", "same.py", "in.tar", "out/o.tar", cwd=folder)
    assert message == f"{folder}/in.tar: this is a folder; name a file"


class TestSkip:
    """--on-error skip leaves out what is broken, and lists it."""

    def test_broken_shards(self, folder: Path) -> None:
        spec = write_dataset(folder, 4, SAMPLES)
        goods = {name: (folder / name).read_bytes() for name in ("in-1.tar", "in-3.tar")}
        stamps = {name: os.stat(folder / name).st_mtime_ns for name in goods}
        whole = call("-q", "-p", "same.py", spec, "whole/out-@4.tar", cwd=folder)
        assert whole.status == 0
        (folder / "in-1.tar").write_bytes(goods["in-1.tar"][:5000])
        (folder / "in-3.tar").unlink()

        command = ("-p", "same.py", "--on-error", "skip", spec, "out/out-@4.tar")
        outcome = call(*command, cwd=folder)
        assert outcome.status == 3
        assert outcome.out.startswith(f"{folder}/out/out-@4.tar: 2 shards, 80 samples, ")
        assert outcome.err.splitlines() == [
            f"htmapper: skipped: {folder}/in-1.tar [1/0002.cls]: the shard ends at byte 5000, inside this member; "
            "fetch or make the shard again",
            f"htmapper: skipped: {folder}/in-3.tar: there is no such file; check the path",
            "htmapper: not written: 2 shards and the manifest; correct the sources, then use --resume",
        ]
        complete = snapshot(folder / "whole")
        kept = {f"out-{i}.tar{ending}" for i in (0, 2) for ending in ("", ".index.npz")}
        assert snapshot(folder / "out") == {name: complete[name] for name in kept}

        for name, data in goods.items():
            (folder / name).write_bytes(data)
            os.utime(folder / name, ns=(stamps[name], stamps[name]))
        # A shard that was made again is another object, and so is its mark; all else is the same.
        for on_error in ("skip", "fail"):
            outcome = call("--resume", "-p", "same.py", "--on-error", on_error, spec, "out/out-@4.tar", cwd=folder)
            assert (outcome.status, outcome.err) == (0, "")
        result = snapshot(folder / "out")
        assert set(result) == parts_of("out", shards=4)
        assert {name: result[name] for name in result if "3.tar.index" not in name} == {
            name: complete[name] for name in complete if "3.tar.index" not in name
        }

    def test_repeated_keys(self, folder: Path) -> None:
        write_shard(folder / "in.tar", [("a.txt", b"1"), ("b.txt", b"2"), ("a.cls", b"3"), ("c.txt", b"4")])
        outcome = call("-p", "same.py", "--on-error", "skip", "in.tar", "out.tar", cwd=folder)
        assert outcome.status == 3
        assert "1 sample skipped" in outcome.out
        assert outcome.err == f"htmapper: skipped: {folder}/in.tar [a]: this key occurs again after other samples\n"
        assert [name for name, _ in members(folder / "out.tar")] == ["a.txt", "b.txt", "c.txt"]


class TestLegal:
    """What looks odd and is right."""

    @pytest.mark.parametrize("ending", ["tar", "tgz", "tar.gz", "tar.zst"])
    def test_empty_shard(self, folder: Path, ending: str) -> None:
        write_shard(folder / f"in.{ending}", [])
        outcome = call("-p", "same.py", f"in.{ending}", f"out.{ending}", cwd=folder)
        assert (outcome.status, outcome.err) == (0, "")
        assert f"out.{ending}: 1 shard, 0 samples, " in outcome.out
        assert members(folder / f"out.{ending}") == []
        assert {f"out.{ending}", f"out.{ending}.index.npz", f"out.{ending}.json"} <= set(snapshot(folder))

    def test_members_that_belong_to_no_sample_are_counted(self, folder: Path) -> None:
        names = ["README", ".hidden", "a/.b.txt", "__meta__", "a/1.txt"]
        write_shard(folder / "in.tar", [(name, b"x") for name in names])
        outcome = call("-p", "same.py", "in.tar", "out.tar", cwd=folder)
        assert outcome.status == 0
        assert "1 sample," in outcome.out and "4 members left out that belong to no sample" in outcome.out
        assert [name for name, _ in members(folder / "out.tar")] == ["a/1.txt"]

    @pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    def test_odd_names(self, folder: Path, format: int) -> None:
        names = ["schön/日本語🙂.txt", "dir.d/v1.0/a.seg.png", "sp ace/a b.txt", "p" * 90 + "/" + "q" * 95 + ".txt"]
        if format != tarfile.USTAR_FORMAT:
            names += ["deep/" * 80 + "k.txt", "x" * 240 + ".json", "日" * 200 + "/ü.txt"]
        names.sort(key=str.encode)
        files = [(name, b'"%d"' % i) for i, name in enumerate(names)]
        (folder / "in.tar").write_bytes(tar_bytes(files, format))
        assert call("-p", "same.py", "in.tar", "out.tar", cwd=folder).status == 0
        assert members(folder / "out.tar") == files
        listed = subprocess.run(
            ["tar", "--quoting-style=literal", "-tf", "out.tar"], cwd=folder, capture_output=True, check=True
        )
        assert listed.stdout.decode().splitlines() == names

    def test_dotted_names_keep_key_and_field(self, folder: Path) -> None:
        (folder / "see.py").write_text(
            "def process_sample(record):\n"
            "    return {'key': record['key'], 'json': sorted(set(record) - {'key'}), 'seg.mask.txt': record['key']}\n"
        )
        write_shard(folder / "in.tar", [("a.b/c.d/e.seg.png", b"1"), ("a.b/c.d/e.txt", b"2")])
        assert call("-p", "see.py", "in.tar", "out.tar", cwd=folder).status == 0
        assert members(folder / "out.tar") == [
            ("a.b/c.d/e.json", b'["seg.png", "txt"]'),
            ("a.b/c.d/e.seg.mask.txt", b"a.b/c.d/e"),
        ]

    def test_key_that_is_no_text(self, folder: Path) -> None:
        """Bytes that are not UTF-8 come out as they went in, and can be shown."""
        name = b"caf\xe9.txt"
        (folder / "in.tar").write_bytes(tar_bytes([(os.fsdecode(name), b"x")], tarfile.GNU_FORMAT))
        command = [str(Path(sys.executable).parent / "htmapper"), "-p", "same.py", b"in.tar", b"out-\xe9.tar"]
        outcome = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        assert outcome.returncode == 0, outcome.stderr
        assert b"out-" in outcome.stdout
        data = Path(os.fsdecode(os.fsencode(folder) + b"/out-\xe9.tar")).read_bytes()
        assert data.startswith(name)

    def test_several_gzip_members_and_archives(self, folder: Path) -> None:
        first, second = (tar_bytes(sample_files(shard, 3)) for shard in (1, 2))
        (folder / "in.tgz").write_bytes(pack(first, "a.tgz") + pack(second, "b.tgz"))
        assert call("-p", "same.py", "in.tgz", "out.tar", cwd=folder).status == 0
        assert len(members(folder / "out.tar")) == 12
