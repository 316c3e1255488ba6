"""Which elements of a chunk were written in a transaction, and by whom: elements that two have written are an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.arrays.chunks import overlap
from shardtools.arrays.grid import Shape

_RECENT = 64
"""Parts of a chunk that are compared one by one; when there are more they become a mask of the chunk."""


class Writer:
    """Who writes elements of a transaction: a thread of its process."""

    def collides(self, other: Writer) -> bool:
        """Return whether it may not write elements that another one has written before."""
        return not isinstance(other, Owner)


@dataclass(frozen=True)
class Owner(Writer):
    """The thread that has begun the transaction, when arrays were sent to workers ``sent`` times."""

    sent: int

    def collides(self, other: Writer) -> bool:
        return False


@dataclass(frozen=True)
class Worker(Writer):
    """Another process, to which an array was sent as the one number ``sent``."""

    sent: int

    def collides(self, other: Writer) -> bool:
        return not isinstance(other, Owner) or other.sent >= self.sent


_ANY = Writer()


class Marks:
    """The parts of one chunk that were written."""

    def __init__(self, chunks: Shape):
        self._chunks = chunks
        self._recent: list[tuple[Sequence[Any], Writer]] = []
        self._masks: dict[Writer, npt.NDArray[np.bool_]] = {}

    def add(self, inner: Sequence[Any], writer: Writer) -> bool:
        """Note a part, and return whether the writer may write it; if not, it is not noted.

        >>> marks = Marks((4,))
        >>> [marks.add([part], Writer()) for part in (slice(0, 2), slice(2, 4), slice(1, 3))]
        [True, True, False]
        """
        if any(writer.collides(other) and mask[tuple(inner)].any() for other, mask in self._masks.items()):
            return False
        if any(writer.collides(other) and overlap(inner, part, self._chunks) for part, other in self._recent):
            return False
        self._recent.append((inner, writer))
        if len(self._recent) > _RECENT:
            self._fold()
        return True

    def _fold(self) -> None:
        for inner, writer in self._recent:  # all but owners collide with each other
            kind = writer if isinstance(writer, Owner) else _ANY
            if kind not in self._masks:
                self._masks[kind] = np.zeros(self._chunks, np.bool_)
            self._masks[kind][tuple(inner)] = True
        self._recent.clear()
