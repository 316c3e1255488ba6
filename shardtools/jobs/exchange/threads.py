"""Calls that wait for a server, several at a time; each task of an exchange reads many runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from shardtools.engine import check_cancelled
from shardtools.jobs.exchange.chain import AnyRun
from shardtools.storage import together
from shardtools.urls import is_local

T = TypeVar("T")
R = TypeVar("R")

THREADS = 16
"""How many runs a task reads at a time from a server."""


def each(call: Callable[[T], R], items: Sequence[T], runs: Sequence[AnyRun], threads: int = THREADS) -> list[R]:
    """Return the results of calls that read ``runs``, in order: several at a time if they are on a server.

    Raises:
        Cancelled: the task is to end.
        Exception: the first error.
    """

    def guarded(item: T) -> R:
        check_cancelled()
        return call(item)

    if len(items) < 2 or is_local(runs[0].url):  # they are all in one spill
        return [guarded(item) for item in items]
    return list(together.each(guarded, items, min(threads, len(items))))
