"""How the tasks of an exchange are run, pass after pass: by which options, and as long as no other job takes over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shardtools import engine
from shardtools.engine.ordered import run_each as engine_run_each
from shardtools.errors import LostWorkersError
from shardtools.jobs.lock import JobLock
from shardtools.jobs.options import RunOptions


@dataclass(frozen=True)
class Terms:
    """How tasks of ``program`` run: by the ``options``, where the ``needs`` are met, and as long as no lock is lost."""

    options: RunOptions
    needs: Sequence[engine.Need]
    locks: Sequence[JobLock]
    program: str

    def check(self) -> None:
        """Raise if another job has taken over.

        Raises:
            OutputBusyError: one has.
        """
        for lock in self.locks:
            lock.check()


def run_all(
    tasks: Sequence[engine.Task],
    terms: Terms,
    on_done: Callable[[Any], None],
    on_lost: Callable[[int, LostWorkersError], Any] | None = None,
) -> list[Any]:
    """Run tasks and return their results, in order; of those that workers did not survive, what ``on_lost`` returns."""
    results: dict[int, Any] = {}

    def take(index: int, result: Any) -> None:
        results[index] = result
        if result is not None:  # else its group is collected again
            on_done(result)

    run_each(tasks, terms, take, on_lost)
    return [results[index] for index in range(len(tasks))]


def run_each(
    tasks: Sequence[engine.Task],
    terms: Terms,
    take: Callable[[int, Any], None],
    on_lost: Callable[[int, LostWorkersError], Any] | None = None,
) -> None:
    """Run tasks, and call ``take`` with the index and the result of each as it comes.

    Raises:
        OutputBusyError: another job has taken over.
        JobError: a worker of a cluster does not see a file or folder of this machine.
        Exception: the first error.
    """

    def checked(index: int, result: Any) -> None:
        terms.check()
        take(index, result)

    engine_run_each(
        tasks,
        checked,
        cluster=terms.options.cluster,
        jobs=terms.options.jobs,
        needs=terms.needs,
        label=f"{terms.program}-{tasks[0].function.__name__}" if tasks else "",
        on_lost=on_lost,
    )
