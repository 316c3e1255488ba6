"""What code may take: so much time, so much more memory, and no exceptions but ours."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from shardtools.errors import ShardtoolsError

SECONDS = 20
MEMORY = 500 << 20


class HangError(Exception):
    """It took too long."""


@contextmanager
def bounds() -> Iterator[None]:
    """A context in which too much time is a `HangError`, and too much memory a MemoryError."""

    def hang(signum: int, frame: FrameType | None) -> None:
        raise HangError(f"it took more than {SECONDS} seconds")

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@contextmanager
def our_errors() -> Iterator[None]:
    """A context that ends with an error of ours, if with any."""
    try:
        yield
    except ShardtoolsError as error:
        assert str(error).isprintable(), f"it would reach a terminal as it is: {error!r}"
