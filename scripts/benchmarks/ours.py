"""What shardtools does: the one place of the benchmark that calls it.

Every function takes the benchmark's folder and yields the work to be measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.model import Work
from benchmarks.server import serve

BLOCK_BYTES = 32_000_000
IDENTITY = "def process_sample(record):\n    return record\n"


def write_script(root: str) -> str:
    path = os.path.join(root, "output", "identity.py")
    Path(path).write_text(IDENTITY, "utf-8")
    return path


def write_shard(root: str) -> str:
    """Write a shard of one sample; return its name in the folder.

    Working on it first imports what is imported on first use: for the peers, importing is not counted either.
    """
    name = "output/one.tar"
    with tarfile.open(os.path.join(root, name), "w") as archive:
        archive.addfile(tarfile.TarInfo("key.txt"))
    return name


@contextmanager
def map_identity(
    root: str,
    sources: Sequence[str],
    destination: str,
    read_over: str = "file",
    write_over: str = "file",
    cluster_workers: int = 0,
    jobs: int = 1,
) -> Iterator[Work]:
    """Map with a script that returns every sample as it is; sources and destination are relative to the folder.

    ``read_over`` and ``write_over`` are "file" or "http"; with ``cluster_workers`` the tasks run on a Dask cluster of
    so many processes of one thread each, otherwise in ``jobs`` threads of this process.
    """
    import shardtools as st

    script = write_script(root)
    with ExitStack() as stack:
        over = {"file": root + "/"}
        if "http" in (read_over, write_over):
            over["http"] = stack.enter_context(serve(root))
        cluster = stack.enter_context(dask_cluster(cluster_workers)) if cluster_workers else "threads"
        threads = None if cluster_workers else jobs
        reading, writing = over[read_over], over[write_over] + "output/"
        if not cluster_workers:
            st.map([reading + write_shard(root)], writing + "warm.tar", script, jobs=jobs)
        inputs = [reading + source for source in sources]
        yield lambda: st.map(inputs, writing + destination, script, cluster=cluster, jobs=threads).counts.written


@contextmanager
def dask_cluster(workers: int) -> Iterator[str]:
    """Yield the HOST:PORT of a cluster on this machine, of ``workers`` processes with one thread each."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        cluster.wait_for_workers(workers)
        yield cluster.scheduler_address.removeprefix("tcp://")


@contextmanager
def read(root: str, names: Sequence[str], ahead: bool = False) -> Iterator[Work]:
    """Read every record, in this thread, or with the next block scanned in a second one."""
    from shardtools.shards.reader import read_blocks
    from shardtools.shards.samples import records

    def count(name: str) -> int:
        return sum(1 for block in read_blocks(os.path.join(root, name), ahead=ahead) for _ in records(block))

    count(write_shard(root))
    yield lambda: sum(map(count, names))


@contextmanager
def scan(root: str, names: Sequence[str], threads: int = 1) -> Iterator[Work]:
    """Scan blocks, which are in memory already, into tables: checksums verified, members grouped; counts members."""
    import numpy as np

    from shardtools.shards.scan import scan as scan_block

    blocks = [np.fromfile(os.path.join(root, name), np.uint8, BLOCK_BYTES) for name in names]

    def members_of(block: np.ndarray) -> int:
        return len(scan_block(block, final=False).table.offset)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(members_of, blocks[:threads]))
        yield lambda: sum(pool.map(members_of, blocks * 4))


@contextmanager
def command(root: str, arguments: Sequence[str]) -> Iterator[Work]:
    """A whole command, from its start to its end; ``{root}`` and ``{script}`` in its arguments are filled in."""
    script = write_script(root)
    program = os.path.join(os.path.dirname(sys.executable), arguments[0])
    if not os.path.exists(program):
        raise ImportError(f"{arguments[0]} is not installed", name=arguments[0])
    filled = [program, *(text.format(root=root, script=script) for text in arguments[1:])]

    def work() -> int:
        subprocess.run(filled, check=True, stdout=subprocess.DEVNULL)
        return 1

    yield work
