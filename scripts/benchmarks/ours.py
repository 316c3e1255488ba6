"""What shardtools does: the one place of the benchmark that calls it.

Every function takes the benchmark's folder and yields the work to be measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.model import Work

BLOCK_BYTES = 32_000_000
IDENTITY = "def process_sample(record):\n    return record\n"


def write_script(root: str) -> str:
    path = os.path.join(root, "output", "identity.py")
    Path(path).write_text(IDENTITY, "utf-8")
    return path


@contextmanager
def serve(folder: str) -> Iterator[str]:
    """Serve ``folder`` with nginx, as scripts/serve does, and yield its URL."""
    program = Path(__file__).resolve().parent.parent / "serve"
    with subprocess.Popen([sys.executable, str(program), folder, "0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()  # "serving DIR at URL"
            if " at http" not in line:
                raise RuntimeError("scripts/serve did not start")
            yield line.rpartition(" at ")[2].strip()
        finally:
            server.terminate()


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
    from shardtools.jobs.map import map_shards

    with ExitStack() as stack:
        over = {"file": root + "/"}
        if "http" in (read_over, write_over):
            over["http"] = stack.enter_context(serve(root))
        cluster = stack.enter_context(dask_cluster(cluster_workers)) if cluster_workers else "threads"
        script = write_script(root)

        def work() -> int:
            result = map_shards(
                [over[read_over] + source for source in sources],
                over[write_over] + "output/" + destination,
                script,
                cluster=cluster,
                jobs=cluster_workers or jobs,
                overwrite=True,
            )
            return int(result.samples)

        yield work


@contextmanager
def dask_cluster(workers: int) -> Iterator[str]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        cluster.wait_for_workers(workers)
        yield cluster.scheduler_address


@contextmanager
def read(root: str, names: Sequence[str], ahead: bool = False) -> Iterator[Work]:
    """Read every record, in this thread, or with the next block scanned in a second one."""
    from shardtools.shards.reader import read_blocks
    from shardtools.shards.samples import records

    def work() -> int:
        samples = 0
        for name in names:
            for block in read_blocks(os.path.join(root, name), ahead=ahead):
                for _ in records(block):
                    samples += 1
        return samples

    yield work


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
