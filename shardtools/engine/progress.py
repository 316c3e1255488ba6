"""How far tasks have come while they run, for whoever watches.

    storage and shards -> `shardtools.storage.count` -> TaskProgress, now and then -> the watcher

On a cluster it comes as an event of Dask, at most every two seconds from each task.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HERE_SECONDS = 0.2
"""How often a task in this process tells how far it is."""

REMOTE_SECONDS = 2.0
"""The same for a task in another process."""

Watcher = Callable[[Hashable, int, int], object]
"""Called in any thread with a task, and the samples and bytes that it has read so far; with 0 and 0 when it ends."""

Told = Callable[[int, int], object]
"""Called with samples and bytes."""

_watcher: ContextVar[Watcher | None] = ContextVar("shardtools_watcher", default=None)


@contextmanager
def watching_tasks(watcher: Watcher) -> Iterator[None]:
    """A context in which ``watcher`` is called as tasks of runs advance."""
    before = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(before)


def current_watcher() -> Watcher | None:
    """Return who watches runs that begin here, if somebody does."""
    return _watcher.get()


class TaskProgress:
    """What a task has read, or if it reads no shard, written; ``told`` is called every ``seconds`` or less often."""

    def __init__(self, told: Told, seconds: float):
        self._told = told
        self._seconds = seconds
        self._counts: Counter[str] = Counter()
        self._next = time.monotonic() + seconds
        self._lock = threading.Lock()

    def add(self, kind: str, amount: int) -> None:
        """Take what `shardtools.storage.count` reports; any thread may call this."""
        if not kind.endswith(("_read", "_written")):
            return
        with self._lock:
            self._counts[kind] += amount
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + self._seconds
            samples, size = self._counts["samples_read"], self._counts["bytes_read"] or self._counts["bytes_written"]
        if samples or size:
            self._told(samples, size)
