"""Many processes and one cache: killed, stopped, out of disk, or without a right to it, they read what is right."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shardtools.errors import JobError
from shardtools.storage import ByteRange
from shardtools.storage.cache import CachedStorage
from shardtools.storage.cache_account import ENTRY, charge, held
from shardtools.storage.cache_folder import CacheFolder
from shardtools.storage.cache_sums import stored_size
from shardtools.storage.file_lock import close_lock, open_lock, try_lock
from shardtools.storage.http import HttpStorage
from shardtools.storage.retry import RetryPolicy
from tests.cli.command import finish, run, start
from tests.contract.faults import Fault, FaultyProxy
from tests.contract.suite import pattern
from tests.datasets import snapshot, write_dataset
from tests.servers import NginxServer, nginx_server, wait_until

pytestmark = pytest.mark.slow

SIZE = 3_000_000
SHARDS = 6
QUICK = RetryPolicy(attempts=4, base=0.01, cap=0.05)
OLD = 1_000_000_000

READ = """
import hashlib, json, random, sys
from shardtools.storage import ByteRange, StorageOptions, get_storage, using

option, rounds, *urls = sys.argv[1:]
found = []
with using(StorageOptions(cache=option)):
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(rounds)):
        random.shuffle(urls)
        for url in urls:
            with get_storage(url).open(url) as stream:
                found.append([url, 0, stream.stat.size, hashlib.sha256(stream.readall()).hexdigest()])
            spans = [ByteRange(start, start + 3000) for start in random.sample(range(0, 2_900_000), 5)]
            for span, part in zip(spans, get_storage(url).read_ranges(url, spans)):
                found.append([url, span.start, span.stop, hashlib.sha256(part).hexdigest()])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class World:
    """A server with shards that were written long ago, and a folder for a cache."""

    server: NginxServer
    kept: Path

    @property
    def urls(self) -> list[str]:
        return [f"{self.server.url}{i}.tar" for i in range(SHARDS)]

    def begin(self, option: str, rounds: int = 1, **more: object) -> subprocess.Popen[bytes]:
        """Start a process that reads all shards, once it is let go."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", READ, option, str(rounds), *self.urls], **pipes, **more)  # type: ignore[call-overload]
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        return process  # type: ignore[no-any-return]

    def go(self, *processes: subprocess.Popen[bytes]) -> None:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()

    def end(self, process: subprocess.Popen[bytes], err: bytes = b"") -> None:
        """Wait for a process and check what it has read."""
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert err in errors if err else not errors, errors
        found = json.loads(out)
        assert len(found) >= 6 * SHARDS
        for url, first, last, digest in found:
            data = DATA[int(url.split("/")[-1][0])]
            assert digest == hashlib.sha256(data[first:last]).hexdigest(), url

    def gets(self) -> Counter[str]:
        """Return how often each shard was asked for whole."""
        lines = [line.split('"') for line in self.server.log_path.read_text().splitlines()]
        return Counter(line[1].split()[1] for line in lines if line[1].startswith("GET ") and line[3] == "-")

    def check_entries(self) -> int:
        """Return how many entries there are, all whole and right."""
        count = 0
        for path in (self.kept / "objects").rglob("*"):
            if match := ENTRY.fullmatch(path.name):
                first, last = int(match[2]), int(match[3])
                data = path.read_bytes()
                assert len(data) == stored_size(last - first)
                assert any(data[: last - first] == shard[first:last] for shard in DATA), path
                count += 1
        return count

    def held_bytes(self, limit: int) -> tuple[int, int]:
        """Return the bytes of all entries and drafts, and what the account says of them."""
        with held(str(self.kept), limit):
            sizes = [
                path.stat().st_size for name in ("objects", "drafts") for path in (self.kept / name).rglob("*-*-*")
            ]
            drafts = [path.stat().st_size for path in (self.kept / "drafts").iterdir() if "-" not in path.name]
            there = sum(map(charge, sizes)) + sum(map(charge, filter(None, drafts)))
            return there, int((self.kept / "account").read_text())


DATA = [pattern(SIZE, seed) for seed in range(SHARDS)]


@pytest.fixture
def world(nginx: NginxServer, tmp_path: Path) -> World:
    for i, data in enumerate(DATA):
        (nginx.root / f"{i}.tar").write_bytes(data)
        os.utime(nginx.root / f"{i}.tar", (OLD, OLD))
    return World(nginx, tmp_path / "cache")


def cached(kept: Path, size: str = "1G", patience: float = 60) -> CachedStorage:
    return CachedStorage(HttpStorage(QUICK), f"{kept}:{size}", patience)


@contextmanager
def killed_at_the_end(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_eight_processes_download_each_shard_once(world: World) -> None:
    processes = [world.begin(str(world.kept), rounds=2) for _ in range(8)]
    with killed_at_the_end(*processes):
        world.go(*processes)
        for process in processes:
            world.end(process)
    heads = 8 * 2 * SHARDS * 2
    wait_until(lambda: world.server.log_path.read_text().count('"HEAD ') == heads, "the log")
    assert world.gets() == {f"/{i}.tar": 1 for i in range(SHARDS)}
    assert world.check_entries() == SHARDS
    assert world.held_bytes(10**9) == (SHARDS * charge(stored_size(SIZE)),) * 2


@pytest.mark.parametrize("limit", [4 * SIZE, 10**9])
def test_killed_at_any_moment(world: World, limit: int) -> None:
    """Two at a time, one of which is killed: what is there is whole, and the other reads on."""
    dice = random.Random(limit)
    option = f"{world.kept}:{limit}"
    for _ in range(10):
        victim, other = world.begin(option, rounds=50), world.begin(option)
        with killed_at_the_end(victim, other):
            world.go(victim, other)
            try:
                victim.wait(dice.uniform(0, 0.6))
            except subprocess.TimeoutExpired:
                victim.send_signal(signal.SIGKILL)
            world.end(other)
            assert victim.wait(60) == -signal.SIGKILL
        world.check_entries()
        there, account = world.held_bytes(limit)
        assert there <= account, "what is taken must not be forgotten"
        assert there <= limit
        if limit > 10 * SIZE:  # or there would be nothing left to download
            shutil.rmtree(world.kept / "objects")
            (world.kept / "objects").mkdir()
    process = world.begin(option)
    with killed_at_the_end(process):
        world.go(process)
        world.end(process)
    assert os.listdir(world.kept / "drafts") == []


def test_many_processes_never_hold_more_than_the_limit(world: World) -> None:
    limit = 3 * charge(stored_size(SIZE)) + 50_000
    processes = [world.begin(f"{world.kept}:{limit}", rounds=6) for _ in range(4)]
    most = 0
    with killed_at_the_end(*processes):
        world.go(*processes)
        while any(process.poll() is None for process in processes):
            if (world.kept / "account").exists() and (world.kept / "account").stat().st_size:
                there, account = world.held_bytes(limit)
                assert there <= account <= limit
                most = max(most, there)
        for process in processes:
            world.end(process)
    assert most > limit // 2


def test_processes_with_different_limits(world: World) -> None:
    processes = [world.begin(f"{world.kept}:{size}", rounds=4) for size in ("100M", "7M", "5k", "1")]
    with killed_at_the_end(*processes):
        world.go(*processes)
        for process in processes:
            world.end(process)
    world.check_entries()


def hold(server: NginxServer, kept: Path, url: str) -> int:
    """Hold the draft of an object, as a process does that downloads it; the server's log is empty afterwards."""
    folder = CacheFolder(str(kept), 10**9)
    folder.prepare()
    fd = open_lock(f"{kept}/drafts/{folder.version(url, HttpStorage(QUICK).stat(url)).key}")
    assert try_lock(fd)
    wait_until(lambda: server.log_path.read_text().count("HEAD ") == 1, "the log")
    server.log_path.write_text("")
    return fd


class TestWaiting:
    @contextmanager
    def holding(self, world: World) -> Iterator[int]:
        """Hold the draft of the first shard, as a process does that downloads it."""
        fd = hold(world.server, world.kept, world.urls[0])
        try:
            yield fd
        finally:
            close_lock(fd)

    def asked(self, world: World) -> bool:
        return '"HEAD /0.tar' in world.server.log_path.read_text()

    def test_interrupted(self, world: World) -> None:
        with self.holding(world):
            code = READ.replace("random.shuffle(urls)", "pass")
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(world.kept), "1", *world.urls],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            with killed_at_the_end(process):
                wait_until(lambda: self.asked(world), "the process to begin")
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=60)
            assert errors.endswith(b"KeyboardInterrupt\n") and process.returncode == -signal.SIGINT
        assert world.check_entries() == 0

    def test_interrupted_as_a_job(self, nginx: NginxServer, tmp_path: Path) -> None:
        write_dataset(nginx.root, 2, 3)
        (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")
        for path in nginx.root.iterdir():
            os.utime(path, (OLD, OLD)) if path.is_file() else None
        kept = tmp_path / "cache"
        fds = [hold(nginx, kept, f"{nginx.url}in-{i}.tar") for i in range(2)]
        process = start(*("-p", "same.py", "--cache", "cache", f"{nginx.url}in-@2.tar", "out-@2.tar"), cwd=tmp_path)
        with killed_at_the_end(process):
            asked = [f'"HEAD /in-{i}.tar HTTP' for i in range(2)]
            wait_until(lambda: all(line in nginx.log_path.read_text() for line in asked), "both tasks to begin")
            process.send_signal(signal.SIGINT)
            outcome = finish(process)
        for fd in fds:
            close_lock(fd)
        assert outcome.status == 130 and outcome.err.startswith("htmapper: interrupted; ")
        assert [name for name in os.listdir(tmp_path) if "out" in name] == []

    def test_for_one_that_does_not_go_on(self, world: World) -> None:
        with self.holding(world):
            assert cached(world.kept, patience=0.3).read(world.urls[0]) == DATA[0]
            assert world.check_entries() == 0
        assert cached(world.kept).read(world.urls[0]) == DATA[0]
        assert world.check_entries() == 1

    def test_for_one_that_gives_up(self, world: World) -> None:
        with self.holding(world) as fd:
            os.ftruncate(fd, SIZE)
            reader = threading.Thread(target=cached(world.kept).read, args=[world.urls[0]])
            reader.start()
            wait_until(lambda: self.asked(world), "the reader to begin")
            assert world.check_entries() == 0
        reader.join(60)
        assert world.check_entries() == 1


# --- a full disk


@contextmanager
def tmpfs(path: Path, options: str) -> Iterator[Path]:
    """Mount a small disk, where that is allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this needs the right to mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.parametrize("folder", ["", "/there/already"])
@pytest.mark.parametrize("options", ["size=1m", "size=4m", "size=64m,nr_inodes=9"])
def test_a_small_disk(world: World, tmp_path: Path, options: str, folder: str) -> None:
    with tmpfs(tmp_path / "disk", options) as disk:
        kept = World(world.server, Path(f"{disk}{folder}"))
        process = kept.begin(f"{kept.kept}:1G", rounds=2)
        with killed_at_the_end(process):
            kept.go(process)
            out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert errors.count(b"\n") <= 2 and b"Traceback" not in errors  # at most a warning for each kind of shortage
        for url, first, last, digest in json.loads(out):
            assert digest == hashlib.sha256(DATA[int(url.split("/")[-1][0])][first:last]).hexdigest()
        kept.check_entries()


def test_a_disk_that_fills_up_meanwhile(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tmpfs(tmp_path / "disk", "size=8m") as disk:
        filler = disk / "filler"

        def fill() -> None:
            with filler.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(65536)):
                        pass
                except OSError:
                    pass

        cache = cached(disk / "cache")
        with FaultyProxy(world.server.url, [Fault(after=1_000_000, then=fill)]) as proxy:
            assert cache.read(f"{proxy.url}0.tar") == DATA[0]
            assert not proxy.faults
            assert cache.read(f"{proxy.url}0.tar") == DATA[0]
            assert cache.read_ranges(f"{proxy.url}0.tar", [ByteRange(0, 100_000)]) == [DATA[0][:100_000]]
            assert [record.message for record in caplog.records] == [
                f"{disk}/cache: read past the cache: no space left on the disk"
            ]
            assert os.listdir(disk / "cache" / "drafts") == []
            filler.unlink()
            assert cache.read(f"{proxy.url}0.tar") == DATA[0]
            assert len(list((disk / "cache" / "objects").rglob("*-*-*"))) == 1


def test_a_limit_on_the_size_of_files(world: World) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    process = world.begin(str(world.kept), preexec_fn=limit)
    with killed_at_the_end(process):
        world.go(process)
        world.end(process, err=b"read past the cache: the file grew past the limit on its size\n")
    assert world.check_entries() > 0  # small ranges could be kept
    assert os.listdir(world.kept / "drafts") == []


def test_a_folder_that_may_not_be_written(world: World, tmp_path: Path) -> None:
    world.kept.mkdir()
    world.kept.chmod(0o500)
    for path in (*tmp_path.parents, tmp_path):
        if path.stat().st_uid == os.geteuid() and path.is_relative_to(tmp_path.parent.parent):
            path.chmod(0o755)

    def check() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)  # root may do everything
        for folder in (world.kept, world.kept / "deeper", Path("/proc/cache")):
            for action in (
                lambda cache: cache.open(world.urls[0]),
                lambda cache: cache.read_ranges(world.urls[0], [ByteRange(0, 1)]),
            ):
                with pytest.raises(JobError, match=f"^{folder}: the cache cannot be kept here: .*; name a folder"):
                    action(cached(folder))

    child = multiprocessing.get_context("fork").Process(target=check)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_a_disk_that_is_read_only(world: World, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=8m") as disk:
        assert cached(disk / "cache").read(world.urls[0]) == DATA[0]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(JobError, match="cache: the cache cannot be kept here: the file system is read-only; name"):
            cached(disk / "cache").read(world.urls[0])


def test_a_disk_that_becomes_read_only(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What has begun goes on: with what there is, and past the cache."""
    with tmpfs(tmp_path / "disk", "size=8m") as disk:
        cache = cached(disk / "cache")
        assert cache.read(world.urls[0]) == DATA[0]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert cache.read(world.urls[0]) == DATA[0]
        assert cache.read(world.urls[1]) == DATA[1]
        assert "the file system is read-only" in caplog.text


# --- a whole job


@pytest.mark.parametrize("place", ["threads", "processes"])
def test_a_job_reads_each_shard_once_in_its_life(tmp_path: Path, place: str) -> None:
    (tmp_path / "data").mkdir()
    spec = write_dataset(tmp_path / "data", 4, 30, ending="tgz")
    for path in (tmp_path / "data").iterdir():
        os.utime(path, (OLD, OLD))
    (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")
    common = ("-q", "-c", place, "-j", "2", "-p", "same.py")
    assert run(*common, f"data/{Path(spec).name}", "a/out-@4.tar", cwd=tmp_path).status == 0
    with nginx_server(tmp_path / "data") as server:
        for name in "bc":
            outcome = run(
                *common, "--cache", "cache:1G", server.url + Path(spec).name, f"{name}/out-@4.tar", cwd=tmp_path
            )
            assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
            found = snapshot(tmp_path / name)
            expected = snapshot(tmp_path / "a")
            assert {n: d for n, d in found.items() if n.endswith(".tar")} == {
                n: d for n, d in expected.items() if n.endswith(".tar")
            }
        shards = [f"/in-{i}.tgz " for i in range(4)]
        wait_until(lambda: server.log_path.read_text().count('"HEAD /in-3.tgz ') >= 2, "the log")
        log = server.log_path.read_text()
        assert [log.count(f'"GET {shard}') for shard in shards] == [1] * 4
