"""htindex: sidecars and manifests for shards of others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import shardtools
from shardtools.shards.columns import Texts
from shardtools.shards.manifest import read_manifest
from shardtools.shards.sidecar import read_sidecar, write_sidecar
from shardtools.shards.table import ShardTable
from tests import tars
from tests.cli.command import Argument, Outcome, call, check_failure
from tests.datasets import snapshot, write_dataset, write_shard, written_dataset


def index(folder: Path, *arguments: Argument) -> Outcome:
    return call(*arguments, cwd=folder, program="htindex")


@pytest.mark.parametrize("ending", ["tar", "tgz", "tar.zst"])
def test_shards_of_others(tmp_path: Path, ending: str) -> None:
    spec = write_dataset(tmp_path, 3, 20, ending=ending)
    outcome = index(tmp_path, spec)
    assert outcome.status == 0 and f"{spec}: 3 shards, 60 samples, 3 sidecars made in " in outcome.out
    manifest = json.loads((tmp_path / f"{spec}.json").read_text())
    assert [entry["nsamples"] for entry in manifest["shardlist"]] == [20, 20, 20]
    for shard in range(3):
        sidecar = read_sidecar(str(tmp_path / f"in-{shard}.{ending}"), None)
        assert sidecar is not None and len(sidecar) == 20 and sidecar.table.fields == ("cls", "txt")
    assert index(tmp_path, "--check", spec).out.startswith(f"{spec}: 3 shards, 60 samples, all right in ")
    dataset = shardtools.open(str(tmp_path / spec))
    assert dataset[41]["key"] == "2/0001" and dataset[41]["cls"] == b"1"
    verified = call(spec, "-f", "cls", "--verify", cwd=tmp_path, program="htextract")
    assert len(verified.out.splitlines()) == 60


def test_what_is_there_stays(tmp_path: Path) -> None:
    spec = write_dataset(tmp_path, 2, 5)
    index(tmp_path, spec)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert "0 sidecars made" in index(tmp_path, spec).out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    content = snapshot(tmp_path)
    assert "2 sidecars made" in index(tmp_path, "--overwrite", spec).out
    assert snapshot(tmp_path) == content


def test_a_shard_that_was_replaced_with_its_sidecar(tmp_path: Path) -> None:
    """The manifest is made again, although it has the right numbers of samples: its size and checksum are others."""
    spec = write_dataset(tmp_path, 2, 5)
    index(tmp_path, spec)
    written_dataset(tmp_path, "new-@1.tar", [[{"key": f"new{i}", "txt": "other"} for i in range(5)]])
    for ending in ("tar", "tar.index.npz"):
        os.replace(tmp_path / f"new-0.{ending}", tmp_path / f"in-1.{ending}")
    assert "0 sidecars made" in index(tmp_path, spec).out
    entry, sidecar = read_manifest(str(tmp_path / f"{spec}.json")), read_sidecar(str(tmp_path / "in-1.tar"), None)
    assert sidecar is not None and entry.sizes is not None and entry.checksums is not None
    assert (entry.sizes[1], entry.checksums[1]) == (sidecar.filesize, sidecar.checksum)
    assert entry.fields == {"cls": 5, "txt": 10}


def test_check_finds_what_is_wrong(tmp_path: Path) -> None:
    spec = write_dataset(tmp_path, 2, 5)
    message = check_failure("-j", "1", "--check", spec, cwd=tmp_path, program="htindex")
    assert message.endswith("in-0.tar: it has no matching sidecar; make it with htindex")
    index(tmp_path, spec)
    data = (tmp_path / "in-1.tar").read_bytes()
    (tmp_path / "in-1.tar").write_bytes(data.replace(b"1-3 ", b"1-9 "))
    message = check_failure("--check", spec, cwd=tmp_path, program="htindex")
    assert "in-1.tar" in message and "checksum" in message
    outcome = index(tmp_path, "--check", "--on-error", "skip", "--report", "r.json", spec)
    assert outcome.status == 3 and "some failed" in outcome.out and "htindex: skipped: " in outcome.err
    assert len(json.loads((tmp_path / "r.json").read_text())["skipped"]) == 1


def with_last(column: Any, more: int) -> Any:
    """Return a column whose last number is larger."""
    changed = column.copy()
    changed[-1] += more
    return changed


OTHER: dict[str, Callable[[ShardTable], ShardTable]] = {
    "keys": lambda table: replace(table, keys=Texts.of([b"k"] * len(table))),
    "fields": lambda table: replace(table, fields=table.fields[::-1]),
    "places": lambda table: replace(table, offset=with_last(table.offset, 512), stop=with_last(table.stop, 512)),
    "sizes": lambda table: replace(table, size=with_last(table.size, 1)),
    "checksums": lambda table: replace(table, crc32=with_last(table.crc32, 1)),
    "others": lambda table: replace(table, other=table.other + 1),
}


@pytest.mark.parametrize("what", OTHER)
def test_check_compares_the_whole_table(what: str, tmp_path: Path) -> None:
    """The checksum of the shard is right, and the sidecar says something else of what is in it."""
    spec = write_dataset(tmp_path, 1, 5)
    index(tmp_path, spec)
    url = str(tmp_path / "in-0.tar")
    sidecar = read_sidecar(url, None)
    assert sidecar is not None
    write_sidecar(url, replace(sidecar, table=OTHER[what](sidecar.table)))
    assert index(tmp_path, spec).status == 0, "it can be read"
    message = check_failure("--check", spec, cwd=tmp_path, program="htindex")
    assert "in-0.tar.index.npz: it does not describe what is in the shard" in message


def test_shards_that_cannot_be_indexed(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", [("a.txt", b""), ("b.txt", b""), ("a.cls", b"")])
    assert "x.tar [a]: this key occurs again" in check_failure("x.tar", cwd=tmp_path, program="htindex")
    (tmp_path / "y.tgz").write_bytes(b"\x1f\x8b nothing")
    assert "y.tgz" in check_failure("y.tgz", cwd=tmp_path, program="htindex")
    assert not list(tmp_path.glob("*.npz")) + list(tmp_path.glob("*.json"))


class TestExport:
    """What the sidecars say, as other programs read it."""

    def test_wids(self, tmp_path: Path) -> None:
        spec = write_dataset(tmp_path, 3, 20)
        before = snapshot(tmp_path)
        outcome = index(tmp_path, "--export", "wids", spec)
        assert f"{spec}: 3 shards, 60 samples, {tmp_path}/in-wids.json made in " in outcome.out
        found = snapshot(tmp_path)
        made = json.loads(found.pop("in-wids.json"))
        assert found == before
        assert made["wids_version"] == 1
        assert made["shardlist"] == [
            {"url": f"in-{i}.tar", "nsamples": 20, "filesize": len(before[f"in-{i}.tar"])} for i in range(3)
        ]
        assert shardtools.open(str(tmp_path / "in-wids.json"))[41]["key"] == "2/0001"
        error = index(tmp_path, "--export", "wids", spec).error(1)
        assert error == f"{tmp_path}/in-wids.json: the output exists; use --overwrite to replace it"
        assert index(tmp_path, "--overwrite", "--export", "wids", spec).status == 0

    def test_wids_elsewhere(self, tmp_path: Path) -> None:
        write_dataset(tmp_path / "a", 2, 5)
        write_dataset(tmp_path / "b", 2, 5)
        outcome = index(tmp_path, "--export", "wids", "-o", "b/all.json", "a/in-@2.tar", "b/in-@2.tar")
        assert "4 shards, 20 samples, b/all.json made in " in outcome.out
        urls = [shard["url"] for shard in json.loads((tmp_path / "b/all.json").read_text())["shardlist"]]
        assert urls == [f"{tmp_path}/a/in-0.tar", f"{tmp_path}/a/in-1.tar", "in-0.tar", "in-1.tar"]
        assert len(shardtools.open(str(tmp_path / "b/all.json"), trust_index=True)) == 20

    @pytest.mark.parametrize("format", tars.FORMATS.values(), ids=tars.FORMATS)
    @pytest.mark.parametrize("mtime", [0, 1.5])
    def test_wids_reads_it(self, format: int, mtime: float, tmp_path: Path) -> None:
        """The real one finds the samples, one by one, where we do."""
        for shard in range(2):
            names = [f"./d.x/{shard}-{i}{'é' * (format != tarfile.PAX_FORMAT)}" for i in range(5)]
            members = [tars.Member(f"{name}.{field}", name.encode()) for name in names for field in ("cls", "seg.txt")]
            (tmp_path / f"in-{shard}.tar").write_bytes(tars.make_tar(members, format, mtime=mtime))
        assert index(tmp_path, "--export", "wids", "in-@2.tar").status == 0
        program = (
            "import sys, wids; ds = wids.ShardListDataset(sys.argv[1], transformations=[], lru_size=9)\n"
            "for i in range(len(ds)): print(ds[i]['__key__'], ds[i]['.cls'].read().decode(), sorted(ds[i]))"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "in-wids.json")]
        environment = {**os.environ, "WIDS_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
        found = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("./d.x")]
        ours = [record["key"] for record in shardtools.open(str(tmp_path / "in-wids.json"))]
        assert found == [[f"./{key}"] * 2 for key in ours] and len(found) == 10

    @pytest.mark.parametrize("format", ["wids", "dali"])
    def test_shards_that_are_packed(self, format: str, tmp_path: Path) -> None:
        for ending in ("tgz", "tar.zst"):
            spec = write_dataset(tmp_path, 2, 2, ending=ending)
            error = check_failure("--export", format, spec, cwd=tmp_path, program="htindex", status=2)
            assert error.startswith(
                f"{tmp_path}/in-0.{ending}: {format.replace('dali', 'DALI')} reads plain .tar files only"
            )
            for shard in range(2):
                (tmp_path / f"in-{shard}.{ending}").rename(tmp_path / f"in-{shard}.tar")
            for _ in range(2):
                error = check_failure("-j", "1", "--export", format, "in-@2.tar", cwd=tmp_path, program="htindex")
                assert error.startswith(
                    f"{tmp_path}/in-0.tar: the shard is compressed, although its name ends with .tar; "
                )
                assert not list(tmp_path.glob("*.idx")) + list(tmp_path.glob("*wids.json"))
                index(tmp_path, "in-@2.tar")  # the sidecars say the same, whatever they say

    @pytest.mark.parametrize(
        ("names", "format", "what"),
        [
            (["d" * 95 + "/a.txt"], tarfile.USTAR_FORMAT, "the name of a member has 101 bytes, and wids reads 100"),
            (["b.txt", "d" * 150 + "/a.txt"], tarfile.GNU_FORMAT, "the name of a member has 156 bytes"),
            (["b.txt", "é" * 150 + "/a.txt"], tarfile.PAX_FORMAT, "the name of a member has 306 bytes"),
            (["b.txt", "é.txt"], tarfile.PAX_FORMAT, "wids does not read the letters"),
            (["b.txt", "\udcff.txt"], tarfile.GNU_FORMAT, "wids does not read the letters"),
            (["b.txt", "a\nb.txt"], tarfile.GNU_FORMAT, "wids does not read the letters"),
            (["b.txt", "c.é"], tarfile.PAX_FORMAT, "wids does not read the letters"),
        ],
    )
    def test_names_that_wids_does_not_read(self, names: list[str], format: int, what: str, tmp_path: Path) -> None:
        (tmp_path / "x-0.tar").write_bytes(tars.make_tar([tars.Member(name, b"1") for name in names], format))
        error = check_failure("--export", "wids", "x-@1.tar", cwd=tmp_path, program="htindex")
        assert error.startswith(f"{tmp_path}/x-0.tar [") and what in error and not list(tmp_path.glob("*.json"))
        assert error.endswith("; rename such members, or leave this shard out")

    def test_no_shard_with_a_sidecar_is_read(self, tmp_path: Path) -> None:
        spec = write_dataset(tmp_path, 2, 5)
        assert index(tmp_path, "--export", "dali", spec).status == 0
        made = [(tmp_path / f"in-{i}.idx").read_bytes() for i in range(2)]
        index(tmp_path, spec)
        for i in range(2):  # of the same size, and unreadable
            (tmp_path / f"in-{i}.tar").write_bytes(bytes((tmp_path / f"in-{i}.tar").stat().st_size))
        assert index(tmp_path, "--overwrite", "--export", "dali", spec).status == 0
        assert [(tmp_path / f"in-{i}.idx").read_bytes() for i in range(2)] == made
        assert index(tmp_path, "--export", "wids", spec).status == 0

    def test_dali(self, tmp_path: Path) -> None:
        spec = write_dataset(tmp_path, 3, 2)
        outcome = index(tmp_path, "--export", "dali", spec)
        assert f"{spec}: 3 shards, 6 samples, 3 index files made in " in outcome.out
        lines = ["v1.2 2"]
        for i in range(2):
            at = 512 + 2048 * i
            lines.append(f"cls {at} 1 1/000{i}.cls txt {at + 1024} 20 1/000{i}.txt")
        assert (tmp_path / "in-1.idx").read_text().splitlines() == lines
        assert not list(tmp_path.glob("*.npz"))
        error = index(tmp_path, "--export", "dali", spec).error(1)
        assert error.endswith("in-0.idx: the output exists (and 2 more); use --overwrite to replace it")

    def test_what_dali_does_not_read(self, tmp_path: Path) -> None:
        spec = write_dataset(tmp_path, 2, 2, ending="tgz")
        error = check_failure("--export", "dali", spec, cwd=tmp_path, program="htindex", status=2)
        assert error.startswith(f"{tmp_path}/in-0.tgz: DALI reads plain .tar files only; ")
        for name in ("a.x.tar", "a.y.tar"):
            write_shard(tmp_path / name, [("a b.txt", b"")])
        error = check_failure("--export", "dali", "a.{x,y}.tar", cwd=tmp_path, program="htindex", status=2)
        assert error.startswith(f"{tmp_path}/a.y.tar: its index would have the same name as that of a.x.tar; ")
        error = check_failure("--export", "dali", "a.x.tar", cwd=tmp_path, program="htindex")
        assert error.startswith(f"{tmp_path}/a.x.tar [a b]: a member's name has a space")
        write_shard(tmp_path / "b.tar", [("a.txt", b"")])
        outcome = index(tmp_path, "--on-error", "skip", "--export", "dali", "{a.x,b}.tar")
        assert outcome.status == 3 and "a.x.tar" in outcome.err
        assert [path.name for path in tmp_path.glob("*.idx")] == ["b.idx"]

    def test_a_shard_that_fails_leaves_no_index_for_wids(self, tmp_path: Path) -> None:
        spec = write_dataset(tmp_path, 2, 5)
        (tmp_path / "in-1.tar").write_bytes(b"no tar file" * 1000)
        assert "in-1.tar" in check_failure("--export", "wids", spec, cwd=tmp_path, program="htindex")
        outcome = index(tmp_path, "--on-error", "skip", "--export", "wids", spec)
        assert outcome.status == 3 and "some failed" in outcome.out
        assert not list(tmp_path.glob("*.json"))

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (
                ["--export", "wids", "in-{0,1}.tar"],
                "the index of such sources has no name of its own; give it one with -o",
            ),
            (["--export", "wids", "in-0.tar", "in-1.tar"], "the index of such sources has no name of its own; "),
            (["--export", "dali", "-o", "x", "in-@2.tar"], "--output needs --export wids; "),
            (["-o", "x", "in-@2.tar"], "--output needs --export wids; "),
            (["--check", "--export", "wids", "in-@2.tar"], "--check and --export cannot be used together; "),
            (["--overwrite", "--export", "wids", "-o", "in-1.tar", "in-@2.tar"], "in-1.tar: the index would replace"),
        ],
    )
    def test_what_makes_no_sense(self, arguments: list[str], error: str, tmp_path: Path) -> None:
        write_dataset(tmp_path, 2, 5)
        before = snapshot(tmp_path)
        assert check_failure(*arguments, cwd=tmp_path, program="htindex", status=2).startswith(error)
        assert snapshot(tmp_path) == before
