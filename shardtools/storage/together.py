"""Many requests at a time: for what is asked of each of many objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from itertools import islice
from typing import TypeVar

from shardtools.storage import check_stop

A = TypeVar("A")
R = TypeVar("R")

REQUESTS = 128
"""Requests at a time to servers. They mostly wait: 100,000 of 20 ms each take 16 s."""

_AHEAD = 4
"""How many calls for each thread are begun before the first result is taken."""


def each(call: Callable[[A], R], items: Iterable[A], threads: int = REQUESTS, ahead: int = _AHEAD) -> Iterator[R]:
    """Yield what ``call`` returns for each item, in order. The calls run in threads, in this context.

    No more than ``ahead`` results for each thread wait to be taken. The first error is raised when its turn comes; then
    no further call begins.

    >>> list(each(abs, [-3, 2], threads=2))
    [3, 2]
    """
    left = iter(items)
    begun: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, "shardtools-look")
    try:
        while True:
            for item in islice(left, ahead * threads - len(begun)):
                begun.append(pool.submit(copy_context().run, call, item))
            if not begun:
                return
            check_stop()
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
