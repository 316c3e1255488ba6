"""Shards that are not what their sidecars say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import call, run
from tests.datasets import members, snapshot, write_dataset
from tests.servers import NginxServer

SAME = "def process_sample(record):\n    return record\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "same.py").write_text(SAME)
    return tmp_path


def dataset(folder: Path, root: Path, ending: str) -> Path:
    """Make a dataset with sidecars in ``root`` and return its second shard."""
    write_dataset(folder, 3, 50, ending=ending)
    assert call("-p", "same.py", f"in-@3.{ending}", f"{root}/x-@3.{ending}", cwd=folder).status == 0
    return root / f"x-1.{ending}"


def damage(shard: Path) -> None:
    """Change a byte of a field, which no tar header tells."""
    data = bytearray(shard.read_bytes())
    data[data.index(b"1-7 ")] = ord("9")
    shard.write_bytes(data)


def test_a_damaged_download_is_told(folder: Path, nginx: NginxServer) -> None:
    shard = dataset(folder, nginx.root, "tar")
    assert call("-p", "same.py", f"{nginx.url}x-@3.tar", f"{nginx.url}out/@3.tar", cwd=folder).status == 0
    damage(shard)
    outcome = call("-j", "1", "-p", "same.py", f"{nginx.url}x-@3.tar", f"{nginx.url}bad/@3.tar", cwd=folder)
    text = outcome.error()
    assert text.startswith(f"{nginx.url}x-1.tar: its checksum is crc32:") and "delete the sidecar" in text
    assert set(snapshot(nginx.root / "bad")) == {"0.tar", "0.tar.index.npz"}


@pytest.mark.parametrize("ending", ["tar", "tgz", "tar.zst"])
@pytest.mark.parametrize("jobs", ["1", "8"])  # with 8 a block is read ahead
def test_whole_downloads_match(folder: Path, nginx: NginxServer, ending: str, jobs: str) -> None:
    dataset(folder, nginx.root, ending)
    source, destination = f"{nginx.url}x-@3.{ending}", f"{nginx.url}out/@3.{ending}"
    outcome = call("--verify", "-j", jobs, "-p", "same.py", source, destination, cwd=folder)
    assert (outcome.status, outcome.err) == (0, "")
    for i in range(3):
        assert members(nginx.root / f"out/{i}.{ending}") == members(nginx.root / f"x-{i}.{ending}")


def test_a_damaged_shard_can_be_left_out(folder: Path, nginx: NginxServer) -> None:
    damage(dataset(folder, nginx.root, "tar"))
    outcome = call(
        *("--on-error", "skip", "--report", "r.json", "-p", "same.py"),
        *(f"{nginx.url}x-@3.tar", f"{nginx.url}out/@3.tar"),
        cwd=folder,
    )
    assert outcome.status == 3 and "x-1.tar: its checksum is" in outcome.err
    assert {name for name in snapshot(nginx.root / "out") if name.endswith("tar")} == {"0.tar", "2.tar"}
    [skipped] = json.loads((folder / "r.json").read_text())["skipped"]
    assert skipped["shard"] == f"{nginx.url}x-1.tar"


def test_a_sidecar_of_another_shard_is_ignored(folder: Path, nginx: NginxServer) -> None:
    shard = dataset(folder, nginx.root, "tar")
    shard.write_bytes(shard.read_bytes() + bytes(512))
    assert call("-p", "same.py", f"{nginx.url}x-@3.tar", f"{nginx.url}out/@3.tar", cwd=folder).status == 0
    outcome = call("--verify", "-p", "same.py", f"{nginx.url}x-@3.tar", f"{nginx.url}sure/@3.tar", cwd=folder)
    assert outcome.error().startswith(f"{nginx.url}x-1.tar: it has no matching sidecar")


def test_local_shards_are_checked_too(folder: Path) -> None:
    """What is made of a damaged one would get a sidecar that is right."""
    shard = dataset(folder, folder / "d", "tar")
    damage(shard)
    for option in ([], ["--verify"]):
        outcome = call(*option, "-p", "same.py", "d/x-@3.tar", "out/@3.tar", "--overwrite", cwd=folder)
        assert outcome.error().startswith(f"{shard}: its checksum is crc32:")
        assert not (folder / "out" / "1.tar").exists()
    shard.with_name("x-1.tar.index.npz").unlink()
    assert call("-p", "same.py", "d/x-@3.tar", "bare/@3.tar", cwd=folder).status == 0


def test_who_insists_gets_no_unverified_sample(folder: Path) -> None:
    write_dataset(folder, 1, 5)
    outcome = call("--verify", "-p", "same.py", "in-@1.tar", "out/@1.tar", cwd=folder)
    assert outcome.error() == (
        f"{folder}/in-0.tar: it has no matching sidecar, so it cannot be verified; leave out --verify"
    )
    assert not (folder / "out").exists()


@pytest.mark.parametrize("cluster", ["threads", "processes"])
def test_workers_verify_too(folder: Path, cluster: str) -> None:
    damage(dataset(folder, folder / "d", "tar"))
    outcome = run("--verify", "-c", cluster, "-p", "same.py", "d/x-@3.tar", "out/@3.tar", cwd=folder)
    assert "d/x-1.tar: its checksum is crc32:" in outcome.error()
