"""What arrays by name and version do: the one place of the suite `array` that calls them.

Every function takes the benchmark's folder and the array's layout, and yields the work to be measured.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.array_data import Layout, in_one_call, layout, made_once, one_by_one, some_rows
from benchmarks.model import Done, Work
from benchmarks.server import serve

NO_MEMORY = 1
"""Bytes of chunks that a hub keeps in memory: none, so that what is read again is read again."""


def fill(url: str, what: Layout) -> int:
    """Write an array, as one commit, and return how many rows it has."""
    import shardtools

    hub = shardtools.hub(url)
    hub.array("x", what.shape, what.chunks, "uint8", **packing(what))
    with hub.transaction() as transaction:
        array = transaction["x"]
        for start, stop, values in what.blocks():
            array[start:stop] = values
    return what.rows


def packing(what: Layout) -> dict[str, Any]:
    return {} if what.packed else {"compressors": None}


def existing(root: str, what: Layout) -> str:
    """Return the folder, in that of the benchmark, of a hub with an array, which is made if it is not there."""
    made_once(root, f"{what.name}/shardtools", lambda path: fill(path, what) and None)
    return f"{what.name}/shardtools"


def opened(url: str) -> Any:
    """Return the array of a hub that keeps no chunks in memory."""
    import shardtools

    return shardtools.hub(url, memory=NO_MEMORY).load("x")


# --- reading


@contextmanager
def single(root: str, count: int, **what: Any) -> Iterator[Work]:
    """Read rows one by one, which were read before."""
    array = opened(os.path.join(root, existing(root, layout(what))))
    yield one_by_one(array, what["rows"], count)


@contextmanager
def scattered(root: str, count: int, rounds: int, **what: Any) -> Iterator[Work]:
    """Read many rows in one call, once for each round."""
    array = opened(os.path.join(root, existing(root, layout(what))))
    yield in_one_call(array.__getitem__, what["rows"], count, rounds)


@contextmanager
def scattered_http(root: str, count: int, requests: int, **what: Any) -> Iterator[Work]:
    """Read many rows in one call from nginx, whose log says how many requests it takes.

    The array is open, but of its segment no more is known than one row needs.
    """
    folder = existing(root, layout(what))
    log = Path(root, "output", "access.log")
    with serve(root, str(log)) as base:
        array = opened(f"{base}{folder}")
        array[0]
        before = len(log.read_text().splitlines())

        def work() -> Done:
            got = array[some_rows(what["rows"], count, 1)]
            return Done(len(got), note=f"{len(log.read_text().splitlines()) - before} requests")

        yield work
    if (made := len(log.read_text().splitlines()) - before) > requests:
        raise RuntimeError(f"{made} requests, not at most {requests}")


@contextmanager
def slice_http(root: str, count: int, **what: Any) -> Iterator[Work]:
    """Read neighbouring rows from nginx, for the second time: the first use of memory may take longer than the rest.

    A virtual machine gives back what nobody has used for a second, and curl does not need any.
    """
    folder = existing(root, layout(what))
    with serve(root) as base:
        array = opened(f"{base}{folder}")
        array[:count]
        yield lambda: len(array[:count]) * layout(what).row_bytes // 1_000_000


@contextmanager
def processes_http(root: str, count: int, processes: int, **what: Any) -> Iterator[Work]:
    """Read neighbouring rows from nginx, in each of some processes that start together."""
    context = multiprocessing.get_context("spawn")
    folder = existing(root, layout(what))
    with serve(root) as base:
        barrier = context.Barrier(processes + 1)
        jobs = (f"{base}{folder}", count, barrier)
        readers = [context.Process(target=read_slice, args=jobs) for _ in range(processes)]
        for reader in readers:
            reader.start()

        def work() -> int:
            barrier.wait()
            for reader in readers:
                reader.join()
            return processes * count * layout(what).row_bytes // 1_000_000

        barrier.wait()
        yield work
        if any(reader.exitcode for reader in readers):
            raise RuntimeError("a process failed")


def read_slice(url: str, count: int, barrier: Any) -> None:
    """Read the first rows, for the second time: what each process of `processes_http` does."""
    array = opened(url)
    array[:count]
    barrier.wait()
    barrier.wait()
    array[:count]


@contextmanager
def open_http(root: str, requests: int, **what: Any) -> Iterator[Work]:
    """Open an array by its name from nginx, and read one row: in a new process it costs some requests."""
    folder = existing(root, layout(what))
    log = Path(root, "output", "access.log")
    with serve(root, str(log)) as base:
        opened(f"{base}{existing(root, layout(what))}")
        before = len(log.read_text().splitlines())

        def work() -> Done:
            opened(f"{base}{folder}")[what["rows"] // 2]
            return Done(1, note=f"{len(log.read_text().splitlines()) - before} requests")

        yield work
    if (made := len(log.read_text().splitlines()) - before) > requests:
        raise RuntimeError(f"{made} requests, not at most {requests}")


# --- writing


@contextmanager
def write(root: str, **what: Any) -> Iterator[Work]:
    """Write an array, as one commit."""
    import shardtools

    blocks = layout(what)
    url = os.path.join(root, "output", "hub")
    fill(url + "-warm", Layout(1, blocks.chunk, blocks.packed, blocks.noise))
    hub = shardtools.hub(url)
    hub.array("x", blocks.shape, blocks.chunks, "uint8", **packing(blocks))

    def work() -> int:
        with hub.transaction() as transaction:
            array = transaction["x"]
            for start, stop, values in blocks.blocks():
                array[start:stop] = values
        return blocks.rows * blocks.row_bytes // 1_000_000

    yield work


# --- a very large array

FIRST = 10_000_000
"""The first chunk of the large array that is written: so the names of all are of one length, and in order."""


def make_large(url: str, count: int) -> None:
    """Make an array of ``count`` chunks, by a segment that says that they lie in a data shard, which there is not."""
    import numpy as np

    import shardtools
    from shardtools.log.committing import replace_segments
    from shardtools.log.segment import ROW, SegmentBlock
    from shardtools.log.segment_writer import stream_segment

    hub = shardtools.hub(url)
    array = hub.array("x", (FIRST + count, 16), (1, 16), "uint8", compressors=None)
    data = f"data/{32 * '0'}/0000.tar"

    def blocks() -> Iterator[SegmentBlock]:
        for start in range(0, count, 1 << 16):
            numbers = np.arange(start, min(start + (1 << 16), count))
            rows = np.zeros(len(numbers), ROW)
            rows["object"], rows["offset"], rows["size"], rows["crc32c"] = 1, 512 + 1024 * numbers, 16, 2**31
            yield SegmentBlock(np.array([b"x/c/%d/0" % (FIRST + i) for i in numbers.tolist()]), rows, (data,))

    place = stream_segment(hub.place, f"data/{32 * '1'}/segment", blocks())
    there = array.snapshot
    assert there.commit is not None
    replace_segments(there, lambda snapshot: [place, *(snapshot.commit.segments if snapshot.commit else ())])


def large(root: str, count: int) -> str:
    """Return the folder of a hub with a large array, which may be changed."""
    original = made_once(root, f"array-large-{count}", lambda path: make_large(path, count))
    copy = os.path.join(root, "output", "large")
    shutil.copytree(original, copy)
    return copy


@contextmanager
def commit(root: str, count: int, commits: int, each: int) -> Iterator[Work]:
    """Write a chunk of a large array, as one commit, again and again; all files that there are then are counted."""
    import numpy as np

    import shardtools

    folder = large(root, count)
    before = size_of(folder)
    array = shardtools.hub(folder).load("x")
    numbers = [FIRST + number for number in some_rows(count, commits, 1)]

    def work() -> Done:
        for number in numbers:
            array[number] = np.full(16, 7, np.uint8)
        written = (size_of(folder) - before) / commits
        if written > each:
            raise RuntimeError(f"{written:,.0f} bytes written for each commit, not at most {each:,}")
        return Done(commits, note=f"{written / 1000:.1f} kB for each")

    yield work


def size_of(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


@contextmanager
def open_large(root: str, count: int) -> Iterator[Work]:
    """Open a large array, and find one chunk."""
    import zarr  # noqa: F401

    import shardtools

    folder = large(root, count)

    def work() -> int:
        array = shardtools.hub(folder).load("x")
        if len(array.snapshot.find([f"x/c/{FIRST + count // 2}/0"])) != 1:
            raise RuntimeError("no such chunk")
        return 1

    yield work
