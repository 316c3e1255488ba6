"""A run on threads of this process, as a Dask graph."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from dask import threaded

from shardtools.engine.interrupt import sigint_held
from shardtools.engine.task import Ledger, Outcome, work


class _Stopped(Exception):
    """Leaves Dask's loop when a stopped run has no running task left."""


def run_threads(ledger: Ledger, threads: int) -> None:
    """Run the ledger's tasks on so many threads.

    The pool is the run's own: leaving this function, in whatever way, leaves no thread behind.
    """
    token = threading.Event()
    graph = {f"task-{i:09d}": (partial(work, token, task, threads),) for i, task in enumerate(ledger.tasks)}

    def order(_graph: object, state: dict[str, Any]) -> None:
        state["ready"].sort(reverse=True)  # Dask takes the last first

    def collect(key: str, outcome: Outcome, _graph: object, state: dict[str, Any], _worker: object) -> None:
        state["cache"][key] = None  # or Dask keeps every result until the end
        ledger.enter(int(key.rpartition("-")[2]), outcome)
        if ledger.stopped:
            token.set()
            state["ready"].clear()
            if not state["running"]:
                raise _Stopped

    pool = ThreadPoolExecutor(threads, "shardtools")
    try:
        _start(pool, threads)
        threaded.get(graph, list(graph), pool=pool, callbacks=[(None, order, None, collect, None)])
    except _Stopped:
        pass
    finally:
        token.set()
        pool.shutdown(cancel_futures=True)


def _start(pool: ThreadPoolExecutor, threads: int) -> None:
    """Start all threads of the pool: one whose start Ctrl-C cuts short would run on, and nobody would wait for it."""
    everyone = threading.Barrier(threads + 1)
    with sigint_held():
        for _ in range(threads):
            pool.submit(everyone.wait)
        everyone.wait()
