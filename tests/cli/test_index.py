"""htindex: sidecars and manifests for shards of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import shardtools
from shardtools.shards.sidecar import read_sidecar
from tests.cli.command import Argument, Outcome, call, check_failure
from tests.datasets import snapshot, write_dataset, write_shard


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
        assert sidecar is not None and len(sidecar) == 20 and sidecar.fields == ("cls", "txt")
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


def test_check_finds_what_is_wrong(tmp_path: Path) -> None:
    spec = write_dataset(tmp_path, 2, 5)
    message = check_failure("--check", spec, cwd=tmp_path, program="htindex")
    assert message.endswith("in-0.tar: it has no sidecar that is about it; make it with htindex")
    index(tmp_path, spec)
    data = (tmp_path / "in-1.tar").read_bytes()
    (tmp_path / "in-1.tar").write_bytes(data.replace(b"1-3 ", b"1-9 "))
    message = check_failure("--check", spec, cwd=tmp_path, program="htindex")
    assert "in-1.tar" in message and "checksum" in message
    outcome = index(tmp_path, "--check", "--on-error", "skip", "--report", "r.json", spec)
    assert outcome.status == 3 and "some failed" in outcome.out and "htindex: skipped: " in outcome.err
    assert len(json.loads((tmp_path / "r.json").read_text())["skipped"]) == 1


def test_shards_that_cannot_be_indexed(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", [("a.txt", b""), ("b.txt", b""), ("a.cls", b"")])
    assert "x.tar [a]: this key occurs again" in check_failure("x.tar", cwd=tmp_path, program="htindex")
    (tmp_path / "y.tgz").write_bytes(b"\x1f\x8b nothing")
    assert "y.tgz" in check_failure("y.tgz", cwd=tmp_path, program="htindex")
    assert not list(tmp_path.glob("*.npz")) + list(tmp_path.glob("*.json"))
