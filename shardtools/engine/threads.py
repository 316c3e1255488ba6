"""A run on threads of this process."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue

from shardtools.engine.interrupt import sigint_held
from shardtools.engine.progress import HERE_SECONDS, TaskProgress
from shardtools.engine.task import Outcome, RunState, work


def run_threads(state: RunState, threads: int) -> None:
    """Run the tasks of a run on so many threads, in their order.

    A task starts when a thread is free and the task before it on that thread has been reported, so that results do not
    pile up. No thread is left when this function ends, in whatever way.
    """
    token = threading.Event()
    running: dict[Future[Outcome], int] = {}
    finished: SimpleQueue[Future[Outcome]] = SimpleQueue()
    waiting = enumerate(state.tasks)
    pool = ThreadPoolExecutor(threads, "shardtools")

    def start_next() -> None:
        if not state.stopped and (following := next(waiting, None)) is not None:
            index, task = following
            progress = None if state.watcher is None else TaskProgress(partial(state.tell, index), HERE_SECONDS)
            future = pool.submit(work, token, task, threads, progress)
            running[future] = index
            future.add_done_callback(finished.put)

    def report(future: Future[Outcome]) -> None:
        state.report(running.pop(future), future.result())
        if state.stopped:
            token.set()

    try:
        _start(pool, threads)
        for _ in range(threads):
            start_next()
        while running:
            report(finished.get())
            start_next()
    finally:
        token.set()
        pool.shutdown(cancel_futures=True)


def _start(pool: ThreadPoolExecutor, threads: int) -> None:
    """Start all threads of the pool, without Ctrl-C: a thread whose start is interrupted would never be awaited."""
    everyone = threading.Barrier(threads + 1)
    with sigint_held():
        try:
            for _ in range(threads):
                pool.submit(everyone.wait)
            everyone.wait()
        except BaseException:  # another thread of this process may have received Ctrl-C
            everyone.abort()
            raise
