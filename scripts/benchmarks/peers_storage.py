"""What others do with the same objects. Nothing of shardtools is used here.

Every function takes the benchmark's folder and the shards' names in it, and yields the work to be measured.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.model import Work
from benchmarks.ours_storage import scatter
from benchmarks.server import serve, use_as_s3


@contextmanager
def curl_get(root: str, names: Sequence[str], processes: int = 4) -> Iterator[Work]:
    """curl: some processes at once, each with its share of the objects, which go to /dev/null."""
    with serve(root) as base:

        def work() -> int:
            shares = [[base + name for name in names[i::processes]] for i in range(processes)]
            parts = [[part for url in share for part in ("-o", "/dev/null", url)] for share in shares if share]
            running = [subprocess.Popen(["curl", "-sf", *some]) for some in parts]
            if sum(process.wait() for process in running):
                raise RuntimeError("curl failed")
            return len(names)

        yield work


@contextmanager
def curl_upload(root: str, names: Sequence[str]) -> Iterator[Work]:
    """curl -T: all objects in one process, on one connection."""
    with serve(root) as base:

        def work() -> int:
            parts = [part for name in names for part in ("-T", os.path.join(root, name), f"{base}output/")]
            subprocess.run(["curl", "-sf", *parts], check=True, stdout=subprocess.DEVNULL)
            return len(names)

        yield work


@contextmanager
def requests_ranges(root: str, names: Sequence[str], size: int, rounds: int) -> Iterator[Work]:
    """requests: one GET for each range, on one connection."""
    import requests

    with serve(root) as base, requests.Session() as session:
        jobs = scattered(root, names, size, rounds)

        def work() -> int:
            for name, start in jobs:
                answer = session.get(base + name, headers={"Range": f"bytes={start}-{start + size - 1}"})
                if len(answer.content) != size:
                    raise RuntimeError(f"{answer.status_code} {answer.reason}")
            return len(jobs)

        yield work


@contextmanager
def boto3_ranges(root: str, names: Sequence[str], size: int, rounds: int, threads: int) -> Iterator[Work]:
    """boto3's get_object, one client for all threads, with a connection for each."""
    import boto3
    from botocore.config import Config

    with serve(root) as base, ThreadPoolExecutor(threads) as pool:
        use_as_s3(base)
        client = boto3.client("s3", config=Config(max_pool_connections=threads, s3={"addressing_style": "path"}))

        def fetch(job: tuple[str, int]) -> int:
            name, start = job
            bucket, _, key = name.partition("/")
            answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + size - 1}")
            if len(answer["Body"].read()) != size:
                raise RuntimeError(f"{name}: not the range that was asked for")
            return 1

        jobs = scattered(root, names, size, rounds)
        list(pool.map(fetch, jobs[:100]))
        yield lambda: sum(pool.map(fetch, jobs))


def scattered(root: str, names: Sequence[str], size: int, rounds: int) -> list[tuple[str, int]]:
    """Return the same ranges that shardtools is to read."""
    count = 1000 // len(names)
    return [(name, at) for i in range(rounds) for name in names for at in scatter(root, name, size, count, str(i + 1))]
