"""What a process must make for itself: after a fork, locks may be held by threads that the child does not have."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")

_generation = 1
_making = threading.RLock()


def _begin_child() -> None:
    global _generation, _making
    _generation += 1
    _making = threading.RLock()


os.register_at_fork(after_in_child=_begin_child)


class PerProcess(Generic[T]):
    """A value that ``make`` makes when it is asked for first, and anew in a child after a fork. Safe for threads.

    ``make`` must be quick, as all threads wait for it.

    >>> numbers = PerProcess(list)
    >>> numbers.get().append(1)
    >>> numbers.get()
    [1]
    """

    def __init__(self, make: Callable[[], T]):
        self._make = make
        self._value: T | None = None
        self._generation = 0

    def get(self) -> T:
        """Return this process's value."""
        if self._generation != _generation:
            with _making:
                if self._generation != _generation:
                    self._value = self._make()
                    self._generation = _generation
        return cast(T, self._value)
