"""htupload on real files, wherever it runs and writes, stopped anywhere: what readers read back are the files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from shardtools.errors import NotFoundError, RefusedError
from shardtools.jobs.options import RunOptions
from shardtools.jobs.report import JobResult
from shardtools.jobs.upload import UploadOptions, plan_upload, run_upload
from shardtools.sources.files import FileRules
from shardtools.sources.folder import list_folder
from tests.cli.command import finish, path_of, run, start
from tests.dask_cluster import dask_cluster
from tests.datasets import UPLOADS, members, snapshot, upload_source
from tests.servers import NginxServer, wait_until
from tests.unit.test_source_folder import write_tree


def write_images(root: Path) -> dict[str, bytes]:
    """Fill a folder with the PNG images that come with Dask, and pieces of them as JPEG; return names and bytes."""
    with as_file(files("distributed") / "http" / "static" / "images") as images:
        for path in sorted(images.glob("*.png")):
            stem = path.stem.replace(".", "-")
            folder = root / stem[:4] / stem
            folder.mkdir(parents=True)
            (folder / "whole.png").write_bytes(path.read_bytes())
            with Image.open(path) as image:
                for i in range(12):
                    box = (i * 4, i * 2, i * 4 + 60 + i, i * 2 + 40)
                    image.convert("RGB").crop(box).save(folder / f"piece {i:02d}.jpg")
                    (folder / f"piece {i:02d}.box.json").write_text(json.dumps(box))
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert len(found) > 50 and min(map(len, found.values())) > 10
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder ``images`` with real ones."""
    root = tmp_path_factory.mktemp("upload") / "images"
    return root, write_images(root)


def read_with_webdataset(urls: list[str]) -> dict[str, bytes]:
    found = {}
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        for field, data in sample.items():
            if not field.startswith("__"):
                name = f"{sample['__key__']}.{field}"
                assert name not in found
                found[name] = data
    return found


@pytest.mark.parametrize("ending", ["tar", "tgz"])
def test_webdataset_and_tar_read_back_every_file(
    images: tuple[Path, dict[str, bytes]], tmp_path: Path, ending: str
) -> None:
    root, expected = images
    outcome = run(root, f"out-@7.{ending}", cwd=tmp_path, program="htupload")
    assert (outcome.status, outcome.err) == (0, "")
    assert read_with_webdataset([f"{tmp_path}/out-{i}.{ending}" for i in range(7)]) == expected
    (tmp_path / "back").mkdir()
    for i in range(7):
        subprocess.run(["tar", "xf", tmp_path / f"out-{i}.{ending}", "-C", tmp_path / "back"], check=True)
    subprocess.run(["diff", "-r", root, tmp_path / "back"], check=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Dask cluster of two workers."""
    with dask_cluster(2) as running:
        yield running.address


@pytest.mark.parametrize("options", ["-j 1", "-j 4", "-c processes -j 2", "-c cluster"])
def test_same_bytes_wherever_it_runs(
    images: tuple[Path, dict[str, bytes]], tmp_path: Path, options: str, cluster: str
) -> None:
    root, _ = images
    arguments = ("--shuffle", "--class-from-folder", "--split", "train=0.8,val=0.2", root, "{split}-@5.tgz")
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    run(*arguments, cwd=tmp_path / "one", program="htupload")
    outcome = run(*options.replace("cluster", cluster).split(), *arguments, cwd=tmp_path / "other", program="htupload")
    assert (outcome.status, outcome.err) == (0, "")
    one = snapshot(tmp_path / "one")
    assert len(one) == 22 and snapshot(tmp_path / "other") == one


def test_to_and_from_a_server(images: tuple[Path, dict[str, bytes]], tmp_path: Path, nginx: NginxServer) -> None:
    root, expected = images
    run(root, "local-@4.tgz", cwd=tmp_path, program="htupload")
    outcome = run(root, f"{nginx.url}data/local-@4.tgz", cwd=tmp_path, program="htupload")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{nginx.url}data/local-@4.tgz: 4 shards, ")
    assert {name: data for name, data in snapshot(nginx.root / "data").items() if UPLOADS not in name} == snapshot(
        tmp_path
    )
    assert read_with_webdataset([f"pipe:curl -s {nginx.url}data/local-{i}.tgz" for i in range(4)]) == expected
    again = run(f"{nginx.url}data/local-@4.tgz", "again-@4.tgz", cwd=tmp_path, program="htupload")
    assert again.status == 0, again
    assert [(tmp_path / f"again-{i}.tgz").read_bytes() for i in range(4)] == [
        (tmp_path / f"local-{i}.tgz").read_bytes() for i in range(4)
    ]


# what goes wrong in the middle


def bad_source(root: Path, what: str) -> str:
    """Make a file unreadable after the folder was listed, and return what the error says."""
    path = root / "05.txt"
    path.unlink()
    if what == "vanished":
        return f"{path}: there is no such file; check the path"
    path.mkdir()
    return f"{path}: this is a folder; name a file"


@pytest.mark.parametrize("jobs", [1, 4])
@pytest.mark.parametrize("what", ["vanished", "replaced"])
def test_file_that_cannot_be_read_in_the_middle(tmp_path: Path, what: str, jobs: int) -> None:
    root = write_tree(tmp_path / "in", {f"{i:02d}.txt": b"%d" % i for i in range(20)})
    destination = f"{tmp_path}/out-@4.tar"

    def attempt(options: RunOptions) -> list[JobResult]:
        source = list_folder(str(root), FileRules())
        plans = plan_upload(source, destination, UploadOptions(), options)
        attempt.message = bad_source(root, what)  # type: ignore[attr-defined]
        try:
            return run_upload(plans, source, options)
        finally:
            (root / "05.txt").rmdir() if what == "replaced" else None
            write_tree(root, {"05.txt": b"5"})

    with pytest.raises((NotFoundError, RefusedError)) as caught:
        attempt(RunOptions(jobs=jobs, report=f"{tmp_path}/r.json"))
    assert str(caught.value) == attempt.message  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "r.json").read_text())["error"] == str(caught.value)
    assert not (tmp_path / "out-1.tar").exists() and not (tmp_path / "out-@4.tar.json").exists()

    (result,) = attempt(RunOptions(jobs=jobs, overwrite=True, on_error="skip", report=f"{tmp_path}/r.json"))
    assert not result.is_whole and result.counts.written == 19
    (entry,) = json.loads((tmp_path / "r.json").read_text())["skipped"]
    assert entry["key"] == "05" and entry["reason"] == attempt.message  # type: ignore[attr-defined]
    assert [name for name, _ in members(tmp_path / "out-1.tar")] == [f"{i:02d}.txt" for i in (6, 7, 8, 9)]

    (result,) = upload_source(
        list_folder(str(root), FileRules()), destination, options=RunOptions(resume=True, overwrite=True)
    )
    assert result.is_whole and sum(shard.resumed for shard in result.shards) in (2, 3)
    found = [member for i in range(4) for member in members(tmp_path / f"out-{i}.tar")]
    assert found == [(f"{i:02d}.txt", b"%d" % i) for i in range(20)]


def test_listed_file_that_is_not_there(tmp_path: Path) -> None:
    write_tree(tmp_path, {"a.txt": b"1", "c.txt": b"3"})
    command = f"printf 'a.txt\\nb.txt\\nc.txt\\n' | {path_of('htupload')} --on-error skip - out.tar"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and "2 samples" in done.stdout
    assert done.stderr == f"htupload: skipped: - [b]: {tmp_path}/b.txt: there is no such file; check the path\n"
    assert members(tmp_path / "out.tar") == [("a.txt", b"1"), ("c.txt", b"3")]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder with ``in``, of some work, and what becomes of it."""
    folder = tmp_path_factory.mktemp("many")
    data = os.urandom(20_000) + bytes(20_000)
    write_tree(folder / "in", {f"{i % 7}/{i:04d}.bin": b"%d" % i + data for i in range(2000)})
    outcome = run(folder / "in", "out-@40.tgz", cwd=folder, program="htupload")
    assert outcome.status == 0
    return folder / "in", {name: data for name, data in snapshot(folder).items() if name.startswith("out")}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_resumed(many: tuple[Path, dict[str, bytes]], tmp_path: Path, how: signal.Signals) -> None:
    source, expected = many
    process = start("-j", "1", source, "out-@40.tgz", cwd=tmp_path, program="htupload")
    wait_until(lambda: len(list(tmp_path.glob("*.npz"))) > 2 or process.poll() is not None, "the third shard")
    os.killpg(process.pid, how)
    outcome = finish(process)
    if how == signal.SIGINT:
        assert outcome.status == 130
        assert outcome.err == "htupload: interrupted; run it again with --resume to continue\n"
    left = {name: data for name, data in snapshot(tmp_path).items() if not name.startswith(".")}
    assert 4 < len(left) < len(expected), "it was over before it was stopped"
    assert {name: expected[name] for name in left} == left
    done = sum(name.endswith(".npz") for name in left)
    outcome = run("--resume", source, "out-@40.tgz", cwd=tmp_path, program="htupload")
    assert (outcome.status, outcome.err) == (0, "")
    assert f", {done} shards there already" in outcome.out
    assert {name: data for name, data in snapshot(tmp_path).items() if not name.startswith(".")} == expected
