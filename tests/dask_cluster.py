"""A real Dask scheduler and real workers, each a process of its own on a free loopback port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

from tests.servers import wait_until

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class DaskCluster:
    """A running cluster: its ``address`` (HOST:PORT), its scheduler file, and its processes.

    ``start_worker`` starts one more, with variables added to its environment, and waits until it has joined. Its
    command may follow another one, ``inside``, that becomes it.
    """

    address: str
    scheduler_file: Path
    scheduler: subprocess.Popen[bytes]
    workers: tuple[subprocess.Popen[bytes], ...]
    start_worker: Callable[..., object]


@contextmanager
def dask_cluster(
    workers: int = 2,
    *,
    python: str = sys.executable,
    scheduler_env: Mapping[str, str] | None = None,
    worker_env: Mapping[str, str] | None = None,
    threads: int = 1,
    protocol: str = "tcp",
    port: int = 0,
) -> Iterator[DaskCluster]:
    """Run a scheduler and so many workers of ``threads`` each, without nannies; stop them by their process ids.

    The scheduler listens with the scheme ``protocol``, at any port that is free if ``port`` is 0. The tests can be
    imported there. ``scheduler_env`` and ``worker_env`` are added to their environments.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shardtools-dask-")))
        log = stack.enter_context(open(folder / "log", "wb"))

        def start(
            env: Mapping[str, str] | None, *arguments: str, before: Sequence[str] = ()
        ) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [*before, python, "-m", "dask", *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            stack.callback(_stop, process)
            return process

        file = folder / "scheduler.json"
        local = ("--host", "127.0.0.1", "--protocol", protocol, "--no-dashboard")
        scheduler = start(scheduler_env, "scheduler", *local, "--port", str(port), "--scheduler-file", str(file))
        wait_until(lambda: scheduler.poll() is not None or _read_address(file), "the Dask scheduler")
        address = _read_address(file)
        options = ("--nthreads", str(threads), "--no-nanny", "--memory-limit", "0", "--local-directory", str(folder))
        worker = ("worker", address, *local, *options)
        processes = tuple(start(worker_env, *worker) for _ in range(workers))
        _await_workers(address, workers)

        def start_worker(env: Mapping[str, str] | None = None, inside: Sequence[str] = ()) -> None:
            with Client(address, set_as_default=False) as client:
                there = len(client.scheduler_info(n_workers=-1)["workers"])
            start(env, *worker, before=inside)
            _await_workers(address, there + 1)

        yield DaskCluster(address.removeprefix("tcp://"), file, scheduler, processes, start_worker)


def _await_workers(address: str, count: int) -> None:
    if count:
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)


def _read_address(file: Path) -> str:
    """Return the address in a scheduler file, "" while it is not written in full."""
    try:
        return str(json.loads(file.read_text())["address"])
    except (FileNotFoundError, ValueError):
        return ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "shardtools":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""
"""What makes an interpreter that runs it at its start one without shardtools."""
