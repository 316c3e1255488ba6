"""What went wrong while tasks ran, and was mended: counted, so that a user sees what a job has been through."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from shardtools.units import format_count

KINDS = ("retries", "slow_requests", "lost_workers", "repeated_tasks")
"""Requests to storage that were tried again or took long, workers that left, and tasks that were given out again."""


class Incidents:
    """Counts of each of `KINDS`; any thread may add to them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: str, count: int = 1) -> None:
        """Count some more; what is not of a kind is ignored."""
        if kind in KINDS:
            with self._lock:
                self._counts[kind] += count

    def counts(self) -> dict[str, int]:
        """Return how many there were of each kind."""
        with self._lock:
            return {kind: self._counts[kind] for kind in KINDS}


def describe(counts: Mapping[str, int]) -> list[str]:
    """Return the counts that are not 0 in words.

    >>> describe({"retries": 1200, "lost_workers": 1})
    ['1,200 requests tried again', '1 worker lost']
    """
    words = {
        "retries": ("request", "tried again"),
        "slow_requests": ("slow request", ""),
        "lost_workers": ("worker", "lost"),
        "repeated_tasks": ("task", "given out again"),
    }
    return [
        f"{format_count(count, words[kind][0])} {words[kind][1]}".rstrip()
        for kind in KINDS
        if (count := counts.get(kind, 0))
    ]


_current: ContextVar[Incidents | None] = ContextVar("shardtools_incidents", default=None)


@contextmanager
def counting_incidents() -> Iterator[Incidents]:
    """A context in which runs count incidents, and what counts them. One within another is the same."""
    incidents = _current.get() or Incidents()
    before = _current.set(incidents)
    try:
        yield incidents
    finally:
        _current.reset(before)


def current_incidents() -> Incidents:
    """Return what counts incidents here: that of the context, or else a new one."""
    return _current.get() or Incidents()
