"""A worker with a disk of its own where the client has files: nothing is done, and no output is scattered."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Outcome, run
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.datasets import snapshot, write_dataset, written_dataset
from tests.servers import NginxServer, nginx_server

pytestmark = pytest.mark.slow

FIX = "; use a folder that all machines share, or URLs of a server, or leave out -c"


def disk_of_its_own(folder: Path, then: str) -> list[str]:
    """Return a command before another one, for which an empty disk is in the place of a folder.

    ``then`` is what is done with that disk, which is ``$0``, before.
    """
    return ["unshare", "-m", "bash", "-c", f'mount -t tmpfs none "$0" && {then} && exec "$@"', str(folder)]


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources, which one worker does not see."""
    folder = tmp_path_factory.mktemp("hidden")
    if subprocess.run([*disk_of_its_own(folder, "true"), "true"], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here for a process alone")
    fill(folder)
    (folder / "files").mkdir()
    for i in range(20):
        (folder / "files" / f"{i}.txt").write_text("t")
    (folder / "table.csv").write_text("".join(["file\n", *(f"files/{i}.txt\n" for i in range(20))]))
    return folder


def fill(folder: Path) -> None:
    """Write a dataset with sidecars, and one without."""
    written_dataset(
        folder, "in-@2.tar", [[{"key": f"{shard}-{i}", "txt": "t"} for i in range(9)] for shard in range(2)]
    )
    write_dataset(folder, 2, 9, name="bare")
    (folder / "same.py").write_text("def process_sample(record):\n    return record\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    root = tmp_path_factory.mktemp("root")
    fill(root)
    with nginx_server(root) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(hidden: Path) -> Iterator[DaskCluster]:
    """Two workers, of which one has a disk of its own, with a file of the same name as one of ours."""
    with dask_cluster(workers=1) as running:
        running.start_worker(inside=disk_of_its_own(hidden, 'echo other > "$0/bare-0.tar"'))
        yield running


CASES = {
    "a source of htmapper": ("htmapper", "-p", "{script}", "{hidden}/in-@2.tar", "{server}a-@2.tar"),
    "another source of htmapper": ("htmapper", "-p", "{script}", "{hidden}/bare-@2.tar", "{server}a-@2.tar"),
    "the destination of htmapper": ("htmapper", "-p", "{script}", "{server}in-@2.tar", "{hidden}/new/a-@2.tar"),
    "the source of htupload": ("htupload", "{hidden}/files", "{server}a-@2.tar"),
    "files of a table": ("htupload", "--file", "txt=file", "{hidden}/table.csv", "{server}a-@2.tar"),
    "the destination of htupload": ("htupload", "{folder}/files", "{hidden}/a-@2.tar"),
    "the source of htshuffle": ("htshuffle", "{hidden}/in-@2.tar", "{server}a-@2.tar"),
    "the destination of htshuffle": ("htshuffle", "{server}in-@2.tar", "{hidden}/a-@2.tar"),
    "the spill": ("htshuffle", "--spill", "{hidden}/spill", "{server}in-@2.tar", "{server}a-@2.tar"),
    "the spill of htsort": ("htsort", "--spill", "{hidden}/spill", "{server}in-@2.tar", "{server}a-@2.tar"),
    "the source of htindex": ("htindex", "{hidden}/bare-@2.tar"),
    "the source of htextract": ("htextract", "{hidden}/in-@2.tar", "-f", "txt", "-o", "{folder}/rows.tsv"),
    "statistics": ("htextract", "{hidden}/in-@2.tar", "--stats"),
}
SEES = {
    "a source of htmapper": "in-0.tar: a worker does not see this file, process ",
    "another source of htmapper": "bare-0.tar: a worker sees another file here, process ",
    "files of a table": "files/0.txt: a worker does not see this file, process ",
    "the destination of htmapper": "new: a worker does not see the same folder here, process ",
    "the spill": "spill: a worker does not see the same folder here, process ",
}


def program_of(name: str) -> str:
    return CASES[name][0]


def work(name: str, cluster: DaskCluster, hidden: Path, server: NginxServer, folder: Path) -> Outcome:
    program, *arguments = CASES[name]
    places = {"hidden": hidden, "server": server.url, "folder": folder, "script": hidden / "same.py"}
    given = [argument.format(**places) for argument in arguments]
    return run("-c", cluster.address, *given, cwd=folder, program=program)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_done(name: str, cluster: DaskCluster, hidden: Path, server: NginxServer, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/1.txt").write_text("1")
    (tmp_path / "files/2.txt").write_text("2")
    before = snapshot(hidden), snapshot(server.root), snapshot(tmp_path)
    outcome = work(name, cluster, hidden, server, tmp_path)
    lines = [line for line in outcome.err.splitlines() if "the spill is kept" not in line]
    assert outcome.status == 2 and outcome.out == "" and len(lines) == 1
    assert SEES.get(name, ": a worker ") in lines[0] and lines[0].endswith(FIX)
    left = snapshot(hidden), snapshot(server.root), snapshot(tmp_path)
    new = {file for now, then in zip(left, before, strict=True) for file in set(now) - set(then)}
    noted = {file for file in new if "spill" in file and file.endswith(("/", "/job.json"))}  # as of any job that failed
    assert new == noted and (not new or program_of(name) in ("htshuffle", "htsort"))


def test_where_all_see_the_same_it_works(hidden: Path, server: NginxServer, tmp_path: Path) -> None:
    """Sources are never written to, so that they may be read-only; no token is left."""
    before = snapshot(hidden)
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    with dask_cluster(workers=0) as cluster:
        cluster.start_worker(inside=["unshare", "-m", "bash", "-c", mount, str(hidden)])
        for name in ("a source of htmapper", "the source of htupload", "the source of htextract", "files of a table"):
            (server.root / "a-@2.tar.json").unlink(missing_ok=True)
            for path in server.root.glob("a-?.tar*"):
                path.unlink()
            outcome = work(name, cluster, hidden, server, tmp_path)
            assert (outcome.status, outcome.err) == (0, ""), name
        command = ("-p", hidden / "same.py", hidden / "in-@2.tar", tmp_path / "new/out-@2.tar")
        assert run("-c", cluster.address, *command, cwd=tmp_path).status == 0
        assert run("-c", cluster.address, server.url + "bare-@2.tar", cwd=tmp_path, program="htindex").status == 0
    assert snapshot(hidden) == before
    assert not list(tmp_path.rglob("*.token")) and len(list(tmp_path.glob("new/out-?.tar"))) == 2
