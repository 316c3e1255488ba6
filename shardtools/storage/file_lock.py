"""Locks that processes and threads share, as files: free again the moment that their holder dies, in whatever way.

flock(2) belongs to an open file, so that threads exclude each other as processes do. A child process shares the open
files of its parent, hence its locks, and would keep them when the parent is gone: children therefore close them.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PAUSES = (0.002, 0.05)

_guard = threading.Lock()
_open: set[int] = set()


def open_lock(path: str, flags: int = os.O_CREAT) -> int:
    """Return a descriptor, for reading and writing, of the file whose lock is wanted. Only `close_lock` closes it."""
    with _guard:  # or a fork might come between the two
        fd = os.open(path, flags | os.O_RDWR | os.O_CLOEXEC, 0o666)
        _open.add(fd)
    return fd


def close_lock(fd: int) -> None:
    """Close a descriptor of `open_lock`, which gives its lock back."""
    try:
        # Closing alone does not give it back as long as a child that was just forked has not closed it too.
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        with _guard:
            _open.discard(fd)
            os.close(fd)


def release(fd: int) -> None:
    """Give the lock back and let the descriptor live on as that of any file."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    with _guard:
        _open.discard(fd)


def try_lock(fd: int) -> bool:
    """Return whether the lock was got at once."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: str) -> Iterator[int]:
    """A context that holds the lock of a file, which is made if need be; it gives out its descriptor.

    It is for short work: whoever waits for it does nothing else, except that a signal's handler may end the waiting.
    """
    fd = open_lock(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        close_lock(fd)


def wait_for_lock(fd: int, patience: float, check: Callable[[], object]) -> bool:
    """Return whether the lock was got; not if its file has not been written to for ``patience`` seconds.

    ``check`` is called often meanwhile, and may raise.
    """
    pause, longest = _PAUSES
    written, since = -1, 0.0
    while not try_lock(fd):
        check()
        if (last := os.fstat(fd).st_mtime_ns) != written:
            written, since = last, time.monotonic()
        elif time.monotonic() - since > patience:
            return False
        time.sleep(pause)
        pause = min(1.5 * pause, longest)
    return True


def _forget() -> None:
    for fd in _open:
        os.close(fd)
    _open.clear()
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_forget)
