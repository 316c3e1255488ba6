"""Tasks whose results are wanted in the order of the tasks, whoever finishes first.

tasks -> engine -> results, in any order -> InOrder -> take, one after the other
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shardtools import engine
from shardtools.jobs.options import RunOptions
from shardtools.jobs.shared import shared


class InOrder:
    """Gives on what comes in any order in the order of its numbers, from 0 up."""

    def __init__(self, give: Callable[[Any], None]):
        self._give = give
        self._waiting: dict[int, Any] = {}
        self._next = 0

    def add(self, number: int, result: Any) -> None:
        """Take what has this number, and give on all that is next."""
        self._waiting[number] = result
        while self._next in self._waiting:
            following = self._waiting.pop(self._next)
            self._next += 1
            self._give(following)


def run_in_order(
    tasks: Sequence[engine.Task],
    take: Callable[[Any], None],
    options: RunOptions,
    on_done: Callable[[Any], None] | None = None,
    written: Iterable[str] = (),
) -> None:
    """Run tasks, and call ``take`` with the result of each, in their order; ``on_done`` with each as it comes.

    The tasks read the URLs that are their names, and write to the folders ``written``.

    Raises:
        JobError: a worker of a cluster does not see a file or folder of this machine.
        Exception: the first error.
    """
    errors: list[Exception] = []
    ordered = InOrder(take)

    def land(done: engine.Done) -> None:
        if done.error is not None:
            errors.append(done.error)
            return
        if on_done is not None and done.result is not None:
            on_done(done.result)
        ordered.add(done.index, done.result)

    with shared([task.name for task in tasks], written, options) as needs:
        engine.run(tasks, land, cluster=options.cluster, jobs=options.jobs, needs=needs)
    if errors:
        raise errors[0]
