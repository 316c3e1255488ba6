"""What the copies of a loader in several processes have to agree on: a few numbers in an array that they share.

A DataLoader copies its dataset into each worker, once; epochs set and states loaded after that reach the copies here.
The first pass of a worker uses the values at the time of the copy. Otherwise, if an epoch is set while workers start,
some of them would be in one epoch and some in the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shardtools.loader.stats import NAMES, Stats
from shardtools.types import Ints

MOST_WORKERS = 1024
"""Worker processes of a loader."""

Origin = tuple[int, int]
"""Of a source of a mixture: in which pass over it the mixture begins, and at which position of that pass."""

_EPOCH, _START, _GENERATION, _WORKERS, _BEGUN = range(5)
_ORIGINS = 5


class Control:
    """The epoch, where it starts, and how far the workers are; for a mixture, also the origin of each of its sources.

    ``numbers`` and ``stats`` are arrays of the `shapes`, of this process alone unless they are given.
    """

    def __init__(self, sources: int = 0, numbers: Ints | None = None, stats: npt.NDArray[np.float64] | None = None):
        shapes = self.shapes(sources)
        self._numbers: Ints = np.zeros(shapes[0], np.int64) if numbers is None else numbers
        self._stats: npt.NDArray[np.float64] = np.zeros(shapes[1]) if stats is None else stats
        stop = _ORIGINS + 2 * sources
        self._finished = self._numbers[stop:]
        self._copied = self._numbers[:stop].copy()
        self._seen = self._numbers[:stop]
        self._has_entered = False

    @staticmethod
    def shapes(sources: int) -> tuple[int, tuple[int, int]]:
        """Return the shapes of the array of numbers and of that of the counters."""
        return _ORIGINS + 2 * sources + MOST_WORKERS, (1 + MOST_WORKERS, len(NAMES))

    def enter(self, worker: int | None) -> None:
        """Choose the values for the next pass: for the first one of a worker, those at the time of the copy."""
        is_first = worker is not None and not self._has_entered
        self._has_entered = worker is not None
        self._seen = self._copied if is_first else self._numbers[: len(self._copied)]

    @property
    def epoch(self) -> int:
        """The epoch that is set."""
        return int(self._seen[_EPOCH])

    @property
    def start(self) -> int:
        """Where the next pass starts: where the state that was loaded stood, until one pass from there is complete."""
        return 0 if self.is_done else int(self._seen[_START])

    @property
    def origins(self) -> list[Origin]:
        """Where each source of a mixture begins; its own start when a pass from where the state stood is complete."""
        numbers = [0] * (len(self._seen) - _ORIGINS) if self.is_done else self._seen[_ORIGINS:].tolist()
        return list(zip(numbers[::2], numbers[1::2], strict=True))

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

    def set(self, epoch: int, start: int, origins: Sequence[Sequence[int]] = ()) -> None:
        """Set where the next pass starts; without ``origins`` all sources start at their beginning."""
        self._numbers[_EPOCH], self._numbers[_START], self._numbers[_BEGUN] = epoch, start, start
        self._numbers[_GENERATION] += 1
        self._numbers[_ORIGINS : len(self._copied)] = np.ravel(origins) if origins else 0
        self._copied[:] = self._numbers[: len(self._copied)]

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
