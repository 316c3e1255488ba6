"""Which tasks have lost their workers, which of them are to blame, and when one is given up.

Dask counts a worker's death against each task that the worker had, also those that were waiting there. So when Dask
gives a task up, this only makes it a suspect. A suspect is given out again, to run alone in its worker, and announces
its start before. Only the deaths of workers that ran it alone count against it: what never started, or ran beside
others, is never blamed.
"""

from __future__ import annotations

from collections import Counter

from distributed.scheduler import KilledWorker

from shardtools.errors import LostWorkersError, SchedulerError

DEATHS = 8
"""How many workers of a cluster may die while they run a task alone, before it is given up."""

LOCAL_DEATHS = 3
"""The same for processes of this machine, which nobody preempts."""

BARREN_ROUNDS = 50
"""How often in a row tasks may be lost that never started, while none finishes, before the run is given up."""


class Losses:
    """The suspects among the tasks of a run; ``deaths`` is how many each of them is granted."""

    def __init__(self, deaths: int):
        self._deaths = deaths
        self._suspects: set[int] = set()
        self._started: Counter[int] = Counter()
        self._died: Counter[int] = Counter()
        self._killed: Counter[int] = Counter()
        self._barren = 0

    def is_suspect(self, index: int) -> bool:
        """Return whether a task must run alone."""
        return index in self._suspects

    def note_start(self, index: int) -> None:
        """Note that a suspect starts, alone in its worker."""
        self._started[index] += 1

    def note_end(self, index: int) -> None:
        """Note that a task has ended by itself."""
        self._barren = 0
        self.forget_starts(index)

    def forget_starts(self, index: int) -> None:
        """Note that a task will be given out again for a reason that says nothing of it."""
        del self._started[index]

    def judge(self, index: int, name: str, error: KilledWorker, where: str) -> LostWorkersError | None:
        """Return the error of a task that Dask has given up, None if it is to be given out again.

        Raises:
            SchedulerError: workers die all the time before they run anything.
        """
        self._killed[index] += error.allowed_failures + 1
        starts = self._started.pop(index, 0)
        self._died[index] += starts
        self._barren = 0 if starts else self._barren + 1
        if self._died[index] >= self._deaths:
            had, alone = self._killed[index], self._died[index]
            lost = LostWorkersError(
                f"{had} workers died that had this, {alone} of them while they ran only this",
                url=name,
                fix="see their logs; if memory ran out, give workers more, or skip such shards with --on-error skip",
            )
            lost.__cause__ = error
            return lost
        if self._barren > BARREN_ROUNDS:
            raise SchedulerError(
                f"the workers of {where} die before they run anything", fix="see their logs, and go on with --resume"
            ) from error
        self._suspects.add(index)
        return None
