"""Many processes that write to one array at the same time, on each kind of storage.

The servers for S3 and Google Cloud Storage are those of the tests. They are slow, so that ratios count.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.model import Done, Work
from benchmarks.server import serve


@contextmanager
def local(root: str) -> Iterator[str]:
    yield os.path.join(root, "output", "hub")


@contextmanager
def nginx(root: str) -> Iterator[str]:
    with serve(root) as base:
        yield f"{base}output/hub"


def use_tests() -> None:
    """Let the servers of the tests be imported."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


@contextmanager
def s3(root: str) -> Iterator[str]:
    use_tests()
    from tests.moto_server import moto_server

    with moto_server() as server:
        os.environ.update(server.environment())
        server.client().create_bucket(Bucket="hub")
        yield "s3://hub/place"


@contextmanager
def gs(root: str) -> Iterator[str]:
    use_tests()
    from tests.gcs_servers import strict_gcs

    with strict_gcs("hub") as server:
        os.environ.update(STORAGE_EMULATOR_HOST=server.url.rstrip("/"), CLOUDSDK_CONFIG=os.devnull, NO_GCE_CHECK="true")
        yield "gs://hub/place"


BACKENDS = {"local": local, "nginx": nginx, "s3": s3, "gs": gs}


@contextmanager
def writers(root: str, backend: str, processes: int, commits: int) -> Iterator[Work]:
    """Write chunks from some processes, each of its own as a commit of its own; all that is told is then there."""
    import numpy as np

    import shardtools

    context = multiprocessing.get_context("spawn")
    with BACKENDS[backend](root) as url:
        hub = shardtools.hub(url)
        hub.array("x", (processes * commits, 16), (1, 16), "uint8", compressors=None)
        barrier, queue = context.Barrier(processes + 1), context.SimpleQueue()
        jobs = [(url, who * commits, commits, barrier, queue) for who in range(processes)]
        running = [context.Process(target=write_some, args=job) for job in jobs]
        for process in running:
            process.start()
        barrier.wait()

        def work() -> Done:
            barrier.wait()
            times = sorted(seconds for _ in running for seconds in queue.get())
            for process in running:
                process.join()
            median, slow = times[len(times) // 2], times[len(times) * 99 // 100]
            there = np.count_nonzero(shardtools.hub(url).load("x")[:, 0])
            note = f"{processes} x {commits}: p50 {1000 * median:.0f} ms, p99 {1000 * slow:.0f} ms, "
            note += f"ratio {slow / median:.1f}; {len(times)} acknowledged, {there} there"
            return Done(len(times), tail=slow / median, note=note)

        yield work
        if any(process.exitcode for process in running):
            raise RuntimeError("a process failed")
        there = hub.load("x")[:, 0]
        if not np.array_equal(there, np.arange(processes * commits) % 255 + 1):
            raise RuntimeError(f"{np.count_nonzero(there):,} of {processes * commits:,} commits are there")


def write_some(url: str, first: int, commits: int, barrier: Any, queue: Any) -> None:
    """Make commits, and tell how many seconds each took: what each process of `writers` does."""
    import numpy as np

    import shardtools

    array = shardtools.hub(url).load("x")
    barrier.wait()
    barrier.wait()
    times = []
    for number in range(first, first + commits):
        start = time.perf_counter()
        array[number] = np.full(16, number % 255 + 1, np.uint8)
        times.append(time.perf_counter() - start)
    queue.put(times)
