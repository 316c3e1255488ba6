"""Who gets which positions: batches, ranks and workers, from where an epoch stands to its end.

    positions from ``start`` on -> global batch k: the next ``batch_size * world_size`` -> rank r: every world_size-th
                                -> worker j of n: the batches k with k % n == j

A position belongs to one rank and one worker, and every rank gets the same number of batches.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shardtools.types import Ints

Uneven = Literal["drop", "pad", "uneven"]


@dataclass(frozen=True)
class Split:
    """What one rank gets of an epoch of ``total`` samples that begins at position ``start``.

    What is left over when the samples do not make whole global batches is left out ("drop"); or filled up with samples
    from the beginning of the epoch ("pad"); or dealt to the ranks as a smaller batch ("uneven"). If that would leave
    ranks without a sample, as there are fewer samples left than ranks, these few samples go into the batch before,
    which then has one more on some ranks; and if there is none, ranks without a sample repeat one.
    """

    total: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    uneven: Uneven = "drop"
    start: int = 0

    @property
    def step(self) -> int:
        """The samples of a global batch."""
        return self.batch_size * self.world_size

    @property
    def left(self) -> int:
        """The samples from ``start`` on."""
        return max(0, self.total - self.start)

    @property
    def _rest(self) -> int:
        return self.left % self.step

    @property
    def full(self) -> int:
        """How many batches have exactly ``batch_size`` samples, which are the first ones."""
        return self.left // self.step - self._joins

    @property
    def _joins(self) -> bool:
        """Whether the rest goes into the batch before."""
        return self.uneven == "uneven" and 0 < self._rest < self.world_size and self.left > self.step

    @property
    def count(self) -> int:
        """How many batches every rank gets."""
        return self.full + (self._rest > 0 and self.uneven != "drop")

    def tail(self) -> Ints:
        """Return the positions of the rank's last batch, where that is not a full one; from ``total`` on, repeats."""
        first = self.start + self.full * self.step
        least = first + self.world_size  # where there are fewer samples than ranks, each gets one nevertheless
        stop = first + self.step if self.uneven == "pad" else max(self.total, least)
        return np.arange(first + self.rank, stop, self.world_size)

    def delivered(self, batches: int) -> int:
        """Return up to which position all ranks together have come, after so many batches each."""
        if 0 < self.count <= batches:
            return self.total
        return self.start + batches * self.step


@dataclass(frozen=True)
class Share:
    """The positions that one worker delivers, one after the other: those of ``batches``, some of the rank's."""

    split: Split
    batches: range | Ints

    @property
    def full(self) -> int:
        """How many full batches this worker makes, which come first."""
        return bisect_left(self.batches, self.split.full)

    @property
    def count(self) -> int:
        """How many batches this worker makes."""
        return len(self.batches)

    def sizes(self, batch: int) -> int:
        """Return how many samples its batch number ``batch`` has."""
        return self.split.batch_size if batch < self.full else len(self.split.tail())

    @property
    def length(self) -> int:
        """How many positions there are."""
        full = self.full
        return full * self.split.batch_size + (len(self.split.tail()) if self.count > full else 0)

    def positions(self, start: int, stop: int) -> Ints:
        """Return the positions number ``start`` to ``stop`` of this worker; those from ``total`` on are repeats."""
        split = self.split
        end = self.full * split.batch_size
        steps = np.arange(start, min(stop, end))
        batches = self._chosen(steps // split.batch_size)
        found = split.start + batches * split.step + split.rank + steps % split.batch_size * split.world_size
        if stop > end:
            found = np.concatenate((found, split.tail()[max(0, start - end) : stop - end]))
        return found

    def _chosen(self, batches: Ints) -> Ints:
        if isinstance(self.batches, range):
            return self.batches.start + batches * self.batches.step
        return self.batches[batches]

    def number(self, batch: int) -> int:
        """Return which of the rank's batches the worker's batch number ``batch`` is; behind its last one, their count.

        >>> worker_share(Split(total=100, batch_size=10), worker=1, workers=3).number(2)
        7
        """
        return int(self.batches[batch]) if batch < len(self.batches) else self.split.count


def worker_share(split: Split, worker: int = 0, workers: int = 1) -> Share:
    """Return the positions of one of the workers of a rank: of every so-many-th batch."""
    return Share(split, range(worker, max(worker, split.count), workers))
