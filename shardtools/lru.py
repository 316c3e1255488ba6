"""The values used lately, by key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from shardtools.forks import PerProcess

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRU(Generic[K, V]):
    """Keeps values up to a ``limit`` and forgets the least recently used ones. Safe for threads; empty after a fork.

    ``weigh`` returns what a value counts for, by default 1. The value that was put in last is always kept.

    >>> squares = LRU(2)
    >>> for i in range(3):
    ...     _ = squares.put(i, i * i)
    >>> squares.get(0), squares.get(2)
    (None, 4)
    """

    def __init__(self, limit: int, weigh: Callable[[V], int] | None = None):
        self._limit, self._weigh = limit, weigh
        self._kept = PerProcess(_Kept[K, V])

    def get(self, key: K) -> V | None:
        """Return the value of ``key``, which is used hereby; None if there is none."""
        kept = self._kept.get()
        with kept.lock:
            if (value := kept.values.get(key)) is not None:
                kept.values.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> V:
        """Keep a value, unless another thread has put one there meanwhile; return the one that is kept."""
        kept, weight = self._kept.get(), 1 if self._weigh is None else self._weigh(value)
        forgotten = []
        with kept.lock:
            if (present := kept.values.get(key)) is not None:
                return present
            kept.values[key] = value
            kept.weights[key] = weight
            kept.weight += weight
            while len(kept.values) > 1 and kept.weight > self._limit:
                oldest, last = kept.values.popitem(last=False)
                kept.weight -= kept.weights.pop(oldest)
                forgotten.append(last)
        return value  # those forgotten may end only now: their destructors do not run under the lock

    def pop(self, key: K) -> V | None:
        """Forget the value of ``key`` and return it; None if there is none."""
        kept = self._kept.get()
        with kept.lock:
            kept.weight -= kept.weights.pop(key, 0)
            return kept.values.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        kept = self._kept.get()
        with kept.lock:
            values, kept.values, kept.weights, kept.weight = kept.values, OrderedDict(), {}, 0
        values.clear()

    def __len__(self) -> int:
        return len(self._kept.get().values)


class _Kept(Generic[K, V]):
    """What one process keeps."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: OrderedDict[K, V] = OrderedDict()
        self.weights: dict[K, int] = {}
        self.weight = 0
