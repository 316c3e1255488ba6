"""What the copies of a loader in several processes have to agree on: a few numbers in an array that they share.

A DataLoader copies its dataset into each worker, once; epochs set and states loaded after that reach the copies here.
The first pass of a worker is as things stood when it was copied: whoever sets an epoch while workers start would else
have some of them in one epoch and some in the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shardtools.loader.stats import NAMES, Stats

MOST_WORKERS = 1024
"""Worker processes of a loader."""

_EPOCH, _START, _GENERATION, _WORKERS, _BEGUN = range(5)


class Control:
    """The epoch, where it starts, and how far the workers are. Arrays are of this process unless others are given.

    ``copied`` is what `copy` gave in the process that this object was copied from.
    """

    SHAPES = ((5 + MOST_WORKERS,), (1 + MOST_WORKERS, len(NAMES)))

    def __init__(self, numbers: Any = None, stats: Any = None, copied: Any = None):
        self._numbers = np.zeros(self.SHAPES[0], np.int64) if numbers is None else numbers
        self._stats = np.zeros(self.SHAPES[1], np.float64) if stats is None else stats
        self._finished = self._numbers[5:]
        self._copied = self._numbers[:5].copy() if copied is None else np.array(copied)
        self._seen = self._numbers
        self._has_entered = False

    def copy(self) -> list[int]:
        """Return what a copy in a new process begins with."""
        return [int(number) for number in self._copied]

    def enter(self, worker: int | None) -> bool:
        """Begin to look for the next pass; return whether it is as things stood when this worker was copied."""
        is_first = worker is not None and not self._has_entered
        self._has_entered = worker is not None
        self._seen = self._copied if is_first else self._numbers
        return is_first

    @property
    def epoch(self) -> int:
        """The epoch that is set."""
        return int(self._seen[_EPOCH])

    @property
    def start(self) -> int:
        """Where the next pass starts: where the state that was loaded stood, until one pass from there is complete."""
        return 0 if self.is_done else int(self._seen[_START])

    @property
    def is_done(self) -> bool:
        """Whether a pass from where the state stood is complete."""
        workers, generation = max(1, self.workers), int(self._seen[_GENERATION])
        return generation > 0 and bool((self._finished[:workers] == generation).all())

    @property
    def begun(self) -> int:
        """Where the latest pass started."""
        return int(self._numbers[_BEGUN])

    @property
    def workers(self) -> int:
        """How many worker processes made the latest pass, 0 if it was made by the loader's own."""
        return int(self._numbers[_WORKERS])

    def set(self, epoch: int, start: int) -> None:
        """Set where the next pass starts."""
        self._numbers[_EPOCH], self._numbers[_START], self._numbers[_BEGUN] = epoch, start, start
        self._numbers[_GENERATION] += 1
        self._copied[:] = self._numbers[:5]

    def begin(self, start: int, workers: int) -> int:
        """Note that a pass starts, made by so many worker processes; return what `finish` wants."""
        self._numbers[_BEGUN], self._numbers[_WORKERS] = start, workers
        return int(self._seen[_GENERATION])

    def finish(self, worker: int, generation: int) -> None:
        """Note that a worker has made all its batches of the pass."""
        self._finished[worker] = generation

    def stats(self, worker: int | None) -> Stats:
        """Return the counters of a worker process; None is the loader's own."""
        return Stats(self._stats[0 if worker is None else worker + 1])

    def totals(self) -> dict[str, float]:
        """Return the sums of all processes' counters; of the bytes held, the sum of each one's most."""
        return dict(zip(NAMES, self._stats.sum(axis=0).tolist(), strict=True))
