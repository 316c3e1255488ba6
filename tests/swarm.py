"""Dask workers that come and go: real processes, forked from one that has imported all, so that each starts fast."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from dask.utils import key_split
from distributed import Client, Worker, WorkerPlugin

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["distributed", "shardtools", "shardtools.engine.remote", "shardtools.jobs.run"])


def _work(address: str, threads: int, folder: str) -> None:
    """Be a worker until the scheduler is gone, or SIGTERM asks to leave, as `dask worker` does."""
    os.environ["TMPDIR"] = tempfile.tempdir = folder

    async def live() -> None:
        options: dict[str, Any] = {"nthreads": threads, "local_directory": folder, "memory_limit": 0}
        async with Worker(address, dashboard=False, host="127.0.0.1", **options) as worker:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, lambda: loop.create_task(worker.close(executor_wait=False)))
            await worker.finished()

    asyncio.run(live())
    os._exit(0)


class Swarm:
    """Workers of the scheduler at ``address`` with so many ``threads`` each. Those that end are replaced until `stop`.

    ``ended`` counts those that have.
    """

    def __init__(self, address: str, size: int, threads: int, folder: Path):
        self._address, self._threads, self._folder = address, threads, folder
        self._living: list[ForkServerProcess] = []
        self._changed = threading.Condition()
        self._size = size
        self._stopped = False
        self.ended = 0
        for _ in range(size):
            self._start()

    def _start(self) -> None:
        process = _context.Process(target=_work, args=(self._address, self._threads, str(self._folder)), daemon=True)
        with self._changed:
            process.start()
            self._living.append(process)
        threading.Thread(target=self._replace, args=(process,), daemon=True).start()

    def _replace(self, process: ForkServerProcess) -> None:
        process.join()
        with self._changed:
            self._living.remove(process)
            self.ended += 1
            self._changed.notify_all()
            if self._stopped or len(self._living) >= self._size:
                return
        self._start()

    def resize(self, size: int) -> None:
        """Have so many workers from now on; those that are too many are not ended, but not replaced either."""
        with self._changed:
            missing = size - len(self._living)
            self._size = size
        for _ in range(missing):
            self._start()

    def signal_one(self, number: int) -> None:
        """Send a signal to the worker that has lived longest."""
        with self._changed:
            process = next((one for one in self._living if one.pid is not None), None)
            if process is not None and process.pid is not None:
                os.kill(process.pid, number)

    def await_ended(self, count: int, seconds: float = 60) -> None:
        """Wait until so many workers have ended."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended >= count, seconds), f"{self.ended} of {count} ended"

    def stop(self) -> None:
        """End all workers."""
        with self._changed:
            self._stopped = True
            for process in self._living:
                process.kill()
        with self._changed:
            self._changed.wait_for(lambda: not self._living, 10)


@contextmanager
def swarm(address: str, size: int = 2, threads: int = 1) -> Iterator[Swarm]:
    """Workers of a scheduler; they end with this context."""
    with tempfile.TemporaryDirectory(prefix="shardtools-swarm-", ignore_cleanup_errors=True) as folder:
        workers = Swarm(address, size, threads, Path(folder))
        try:
            if size:
                with Client(address, set_as_default=False) as client:
                    client.wait_for_workers(size, timeout=60)
            yield workers
        finally:
            workers.stop()


class Killer(WorkerPlugin):  # type: ignore[misc]  # it has no types
    """Ends the process of a worker when it begins a task whose name begins in a certain way, at most ``most`` times."""

    def __init__(self, folder: Path, beginning: str, most: int = 1):
        self._folder, self._beginning, self._most = folder, beginning, most
        self.name = f"killer-{folder}-{beginning}"

    def transition(self, key: Any, start: str, finish: str, **more: Any) -> None:
        """Look whether a task begins."""
        if finish == "executing" and str(key).startswith(self._beginning) and claim(self._folder, self._most):
            os.kill(os.getpid(), signal.SIGKILL)


class EachKindKiller(WorkerPlugin):  # type: ignore[misc]  # it has no types
    """Ends the process of a worker when it begins a task of shardtools, once for each kind that Dask's dashboard shows.

    There is a subfolder for each of them.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.name = f"killer-{folder}"

    def transition(self, key: Any, start: str, finish: str, **more: Any) -> None:
        """Look whether a task begins."""
        kind = key_split(key)
        if finish == "executing" and not kind.startswith("shardtools"):
            (self._folder / kind).mkdir(exist_ok=True)
            if claim(self._folder / kind, 1):
                os.kill(os.getpid(), signal.SIGKILL)


def claim(folder: Path, most: int) -> bool:
    """Return True, in all processes together at most so many times."""
    for number in range(most):
        try:
            os.close(os.open(folder / f"claimed-{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return True
    return False


def claimed(folder: Path) -> int:
    """Return how often `claim` was True."""
    return len(list(folder.glob("claimed-*")))


@contextmanager
def every(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """A context in which a function is called again and again, in another thread."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            call()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
