"""What a process must make for itself: after a fork, locks may be held by threads that the child does not have."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast
from weakref import WeakSet

T = TypeVar("T")

_generation = 1
_making = threading.RLock()
_instances: WeakSet[PerProcess[Any]] = WeakSet()
_of_parents: list[Any] = []
"""Values of the processes before this one. They are kept for ever: to end one may wait for threads that are not here,
or use what they held (a DuckDB that is closed in a child crashes it)."""


def _begin_child() -> None:
    global _generation, _making
    _generation += 1
    _making = threading.RLock()
    _of_parents.extend(instance._value for instance in _instances)


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
        _instances.add(self)

    def get(self) -> T:
        """Return this process's value."""
        if self._generation != _generation:
            with _making:
                if self._generation != _generation:
                    self._value = self._make()
                    self._generation = _generation
        return cast(T, self._value)
