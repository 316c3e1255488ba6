"""What shardtools' storage does: the one place of the suite `storage` that calls it.

Every function takes the benchmark's folder and yields the work to be measured.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.model import Work
from benchmarks.server import serve, use_as_s3

PIECE_BYTES = 1 << 20


@contextmanager
def served(root: str, scheme: str, log: str = "") -> Iterator[str]:
    """Serve the folder, and yield its URL in ``scheme``, "http" or "s3", to which names are added."""
    with serve(root, log) as url:
        yield use_as_s3(url) if scheme == "s3" else url


def drain(url: str) -> int:
    """Read an object to its end, into one buffer, and return its size."""
    from shardtools.storage import get_storage

    buffer = memoryview(bytearray(PIECE_BYTES))
    size = 0
    with get_storage(url).open(url) as stream:
        while count := stream.readinto(buffer):
            size += count
    return size


@contextmanager
def get(root: str, names: Sequence[str], scheme: str = "http", threads: int = 4) -> Iterator[Work]:
    """Read whole objects."""
    with served(root, scheme) as base, ThreadPoolExecutor(threads) as pool:
        list(pool.map(drain, [base + names[0]] * threads))
        yield lambda: len(list(pool.map(drain, [base + name for name in names])))


def scatter(root: str, name: str, size: int, count: int, seed: str) -> list[int]:
    """Return where ``count`` ranges of ``size`` bytes start in a shard."""
    chosen = random.Random(f"{name} {seed}")
    end = os.path.getsize(os.path.join(root, name)) - size
    return sorted(chosen.randrange(end) for _ in range(count))


@contextmanager
def ranges(
    root: str, names: Sequence[str], size: int, rounds: int, scheme: str = "http", threads: int = 1
) -> Iterator[Work]:
    """Read 1,000 ranges for each round, one call for each shard."""
    from shardtools.storage import ByteRange, get_storage

    def fetch(job: tuple[str, list[ByteRange]]) -> int:
        url, wanted = job
        parts = get_storage(url).read_ranges(url, wanted)
        if [len(part) for part in parts] != [size] * len(wanted):
            raise RuntimeError(f"{url}: not the ranges that were asked for")
        return len(parts)

    with served(root, scheme) as base, ThreadPoolExecutor(threads) as pool:
        jobs = [
            (base + name, [ByteRange(at, at + size) for at in scatter(root, name, size, 1000 // len(names), str(i))])
            for i in range(rounds + 1)
            for name in names
        ]
        list(pool.map(fetch, jobs[: len(names)]))
        yield lambda: sum(pool.map(fetch, jobs[len(names) :]))


@contextmanager
def upload(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Write objects, from files, in pieces of a megabyte."""
    from shardtools.storage import get_storage

    def send(name: str, url: str) -> None:
        buffer = memoryview(bytearray(PIECE_BYTES))
        with open(os.path.join(root, name), "rb", buffering=0) as file, get_storage(url).create(url) as sink:
            while count := file.readinto(buffer):
                sink.write(buffer[:count])

    def work() -> int:
        for name in names:
            send(name, f"{base}output/{os.path.basename(name)}")
        return len(names)

    with served(root, "http") as base:
        send(names[0], f"{base}output/first.tar")
        yield work


@contextmanager
def cache_hit(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Read objects that the cache has."""
    from shardtools.storage import StorageOptions, using

    def work() -> int:
        with using(StorageOptions(cache=os.path.join(root, "output", "cache:1T"))):
            return sum(drain(base + name) > 0 for name in names)

    with served(root, "http") as base:
        wait_until_settled(root, names)
        work()
        yield work


@contextmanager
def read_files(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Read the very files of such a cache, without any storage."""
    with cache_hit(root, names):
        folder = Path(root, "output", "cache", "objects")
        entries = [path for path in folder.rglob("*") if path.is_file()]
    if len(entries) != len(names):
        raise RuntimeError(f"{len(entries)} files in the cache for {len(names)} shards")

    def read(path: Path) -> int:
        size = 0
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                size += count
        return size

    buffer = memoryview(bytearray(PIECE_BYTES))
    yield lambda: sum(read(path) > 0 for path in entries)


@contextmanager
def cache_cold(root: str, names: Sequence[str], processes: int) -> Iterator[Work]:
    """Read all shards from each of some processes that start together, through one cache that is empty."""
    context = multiprocessing.get_context("spawn")
    log = os.path.join(root, "output", "access.log")
    with served(root, "http", log) as base:
        wait_until_settled(root, names)
        barrier = context.Barrier(processes + 1)
        jobs = (os.path.join(root, "output", "cache"), [base + name for name in names], barrier)
        readers = [context.Process(target=read_all, args=jobs) for _ in range(processes)]
        for reader in readers:
            reader.start()

        def work() -> int:
            barrier.wait()
            for reader in readers:
                reader.join()
            return processes * len(names)

        barrier.wait()  # all have imported what they need
        yield work
        if any(reader.exitcode for reader in readers):
            raise RuntimeError("a process failed")
    sent = re.findall(r'"GET (\S+) HTTP', Path(log).read_text())
    if len(sent) != len(names) or len(set(sent)) != len(names):
        raise RuntimeError(f"{len(sent)} GETs for {len(names)} shards")


def read_all(cache: str, urls: Sequence[str], barrier: object) -> None:
    """Read all of ``urls`` through the cache: what each process of `cache_cold` does."""
    from shardtools.storage import StorageOptions, get_storage, using

    with using(StorageOptions(cache=f"{cache}:1T")):
        get_storage(urls[0])
        barrier.wait()  # type: ignore[attr-defined]
        barrier.wait()  # type: ignore[attr-defined]
        for url in urls:
            drain(url)


def wait_until_settled(root: str, names: Sequence[str]) -> None:
    """Wait until the last write is so long ago that nginx's ETags, in whole seconds, can tell the next one."""
    written = max(os.path.getmtime(os.path.join(root, name)) for name in names)
    time.sleep(max(0, written + 3 - time.time()))
