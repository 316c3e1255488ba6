"""htmapper killed, interrupted, or out of disk, anywhere: nothing half is ever visible, and --resume ends it well."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.command import HTMAPPER, Outcome, finish, run, start
from tests.dask_cluster import dask_cluster
from tests.datasets import UPLOADS, parts_of, sample_files, snapshot, write_dataset, write_shard
from tests.servers import nginx_server, wait_until

SHARDS, SAMPLES = 6, 25
SLOW = """
import os, time

def process_sample(record, seconds=0.002, marker="started"):
    if marker:
        open(marker, "a").close()
    time.sleep(seconds)
    return {"key": record["key"], "txt": record["txt"] * 50, "cls": record["cls"]}
"""


def has_unnamed_files(folder: Path) -> bool:
    """Return whether the file system has files without a name, of which not even SIGKILL leaves anything."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
    except (OSError, AttributeError):
        return False
    return True


@dataclass(frozen=True)
class Job:
    """A job whose sources and script lie in ``root``, where it works; ``prefix`` is what its URLs begin with."""

    root: Path
    prefix: str
    expected: dict[str, bytes]
    place: str = "threads"

    def command(self, *options: str) -> tuple[str, ...]:
        urls = (f"{self.prefix}in-@6.tgz", f"{self.prefix}out/out-@6.tgz")
        return ("-j", "2", "-p", "slow.py", "-a", f"marker={self.root}/started", *options, *urls)

    def begin(self, *options: str) -> subprocess.Popen[bytes]:
        """Start it and return when it has begun to work on a sample, or has ended."""
        (self.root / "started").unlink(missing_ok=True)
        (self.root / "tmp").mkdir(exist_ok=True)
        process = start(
            *self.command("-c", self.place, *options), cwd=self.root, env={"TMPDIR": str(self.root / "tmp")}
        )
        wait_until(lambda: (self.root / "started").exists() or process.poll() is not None, "the first sample")
        return process

    def check_left(self) -> None:
        """Nothing half is visible, nothing is left over, and what is there is what it will be in the end."""
        found = snapshot(self.root / "out")
        if not has_unnamed_files(self.root):
            found = {name: data for name, data in found.items() if not name.startswith(".")}
        assert set(found) <= set(self.expected)
        assert [name for name in found if found[name] != self.expected[name]] == []
        sidecars = [name for name in found if name.endswith(".npz")]
        assert all(name.removesuffix(".index.npz") in found for name in sidecars)
        assert "out-@6.tgz.json" not in found or len(found) == len(self.expected)
        left = [name for name in snapshot(self.root / "tmp") if not name.startswith("dask-scratch-space")]
        assert left == []

    def check_resumed(self) -> None:
        """On threads, wherever it ran before, it goes on to the bytes that it makes undisturbed."""
        outcome = run(*self.command("--resume"), cwd=self.root)
        assert (outcome.status, outcome.err) == (0, "")
        self.check_left()
        assert snapshot(self.root / "out") == self.expected
        shutil.rmtree(self.root / "out")


def undisturbed(root: Path, prefix: str) -> Job:
    """Make the dataset, run the job once to its end, and keep what it made as what is expected."""
    write_dataset(root, SHARDS, SAMPLES, ending="tgz")
    (root / "slow.py").write_text(SLOW)
    job = Job(root, prefix, {})
    outcome = run(*job.command(), cwd=root)
    assert (outcome.status, outcome.err) == (0, "")
    expected = snapshot(root / "out")
    assert set(expected) == parts_of("out", shards=SHARDS, ending="tgz")
    shutil.rmtree(root / "out")
    return Job(root, prefix, expected)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("local")
    return undisturbed(root, f"{root}/")


@pytest.fixture(scope="module")
def over_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    root = tmp_path_factory.mktemp("served")
    with nginx_server(root) as server:
        yield undisturbed(root, server.url)


def on_processes(job: Job) -> Job:
    return Job(job.root, job.prefix, job.expected, "processes")


def kill_and_resume(job: Job, seed: int, longest: float = 0.25) -> None:
    """Kill it twice, at moments that nobody chose, and then let it end."""
    chance = random.Random(seed)
    for options in ((), ("--resume",)):
        process = job.begin(*options)
        time.sleep(chance.uniform(0, longest))
        process.kill()
        assert finish(process).status in (-signal.SIGKILL, 0)
        wait_until(lambda: not uploads_under_way(job), "the end of the last uploads")
        job.check_left()
    job.check_resumed()


def uploads_under_way(job: Job) -> list[Path]:
    folder = job.root / UPLOADS
    return list(folder.iterdir()) if folder.exists() else []


class TestKilled:
    @pytest.mark.parametrize("seed", range(5))
    def test_local(self, seed: int, local: Job) -> None:
        kill_and_resume(local, seed)

    @pytest.mark.parametrize("seed", range(4))
    def test_over_http(self, seed: int, over_http: Job) -> None:
        kill_and_resume(over_http, seed)

    def test_processes(self, local: Job) -> None:
        """They end when their parent is gone; until then they may complete a shard, the right one."""
        kill_and_resume(on_processes(local), 7)


def check_interrupted(job: Job, outcome: Outcome) -> None:
    assert outcome.status == 130
    assert (outcome.out, outcome.err) == ("", "htmapper: interrupted; run it again with --resume to continue\n")
    job.check_left()


class TestInterrupted:
    @pytest.mark.parametrize("place", ["threads", "processes"])
    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
    def test_in_the_middle(self, name: str, place: str, local: Job) -> None:
        """Ctrl-C goes to all processes of the terminal's group, SIGTERM to the one that was started."""
        job = on_processes(local) if place == "processes" else local
        process = job.begin()
        if name == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        check_interrupted(job, finish(process))
        assert "out-@6.tgz.json" not in snapshot(job.root / "out")
        job.check_resumed()

    def test_over_http(self, over_http: Job) -> None:
        process = over_http.begin()
        os.killpg(process.pid, signal.SIGINT)
        check_interrupted(over_http, finish(process))
        over_http.check_resumed()

    def test_when_the_terminal_closes(self, local: Job) -> None:
        process = local.begin()
        process.send_signal(signal.SIGHUP)
        check_interrupted(local, finish(process))
        local.check_resumed()

    def test_on_a_cluster_which_goes_on_living(self, local: Job) -> None:
        with dask_cluster(workers=2) as cluster:
            job = Job(local.root, local.prefix, local.expected, cluster.address)
            process = job.begin()
            os.killpg(process.pid, signal.SIGINT)
            check_interrupted(job, finish(process))
            job.check_resumed()

    @pytest.mark.parametrize("place", ["threads", "processes"])
    def test_twice_does_not_wait(self, place: str, local: Job) -> None:
        """The second Ctrl-C ends it at once, though the script sleeps for a minute."""
        job = on_processes(local) if place == "processes" else local
        process = job.begin("-a", "seconds=60")
        before = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)  # nobody presses a key twice in no time, and two signals at once are one
        os.killpg(process.pid, signal.SIGINT)
        outcome = finish(process)
        assert time.monotonic() - before < 20
        assert outcome.status == 130
        # Python's resource tracker may add that it had to clean up after the processes.
        assert outcome.err.startswith("htmapper: interrupted; run it again with --resume to continue\n")
        job.check_left()
        shutil.rmtree(job.root / "out", ignore_errors=True)

    def test_report_says_so(self, local: Job) -> None:
        process = local.begin("--report", "r.json")
        os.killpg(process.pid, signal.SIGINT)
        assert finish(process).status == 130
        assert '"error": "interrupted"' in (local.root / "r.json").read_text()
        shutil.rmtree(local.root / "out")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system in memory, which only root can do; skip the test otherwise."""
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "none", folder], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder with a dataset of 4 shards of 300 kB each that cannot be made smaller."""
    noise = random.Random(0)
    for i in range(4):
        write_shard(tmp_path / f"in-{i}.tar", [(name, noise.randbytes(6000)) for name, _ in sample_files(i, 25)])
    (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")
    return tmp_path


class TestFull:
    def test_disk(self, large: Path) -> None:
        with small_disk(large / "disk", "800k") as disk:
            command = ("-j", "1", "-p", "same.py", "in-@4.tar", "disk/out/out-@4.tar")
            outcome = run(*command, cwd=large)
            error = f"{disk}/out/out-2.tar: no space left on the disk; free some space, or write elsewhere"
            assert outcome.error() == error
            kept = snapshot(disk / "out")
            assert set(kept) == {f"out-{i}.tar{end}" for i in (0, 1) for end in ("", ".index.npz")}
            outcome = run("-v", "--resume", *command, cwd=large)
            assert "Traceback" in outcome.err and outcome.err.splitlines()[-1] == f"htmapper: error: {error}"
            assert snapshot(disk / "out") == kept
            subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
            assert run("-q", "--resume", *command, cwd=large).status == 0
            resumed = snapshot(disk / "out")
            assert {name: resumed[name] for name in kept} == kept
            assert run("-q", *command[:-1], "whole/out-@4.tar", cwd=large).status == 0
            assert snapshot(large / "whole") == resumed

    def test_disk_of_the_server(self, large: Path) -> None:
        with small_disk(large / "disk", "800k") as disk, nginx_server(disk) as server:
            outcome = run("-j", "1", "-p", "same.py", "in-@4.tar", f"{server.url}out/out-@4.tar", cwd=large)
            assert re.match(rf"{server.url}out/out-\d.tar: .*\b(500|507)\b.*; .*(disk|space)", outcome.error())
            left = snapshot(disk / "out")
            assert left and all(f"{name}.index.npz" in left for name in left if name.endswith(".tar"))
            assert not uploads_under_way(Job(disk, "", {}))

    def test_limit_on_the_size_of_a_file(self, large: Path) -> None:
        """What ulimit -f does; no test needs to be root for it."""
        write_shard(large / "in-0.tar", sample_files(0, 5))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))

        command = [HTMAPPER, "-j", "1", "-p", "same.py", "in-@4.tar", "out/out-@4.tar"]
        done = subprocess.run(command, cwd=large, preexec_fn=limit, capture_output=True, check=False, timeout=60)
        error = Outcome(done.returncode, done.stdout.decode(), done.stderr.decode()).error()
        assert error.startswith(f"{large}/out/out-1.tar: the file grew past the limit on its size; ")
        assert set(snapshot(large / "out")) == {"out-0.tar", "out-0.tar.index.npz"}
