"""Tasks whose results are wanted in the order of the tasks, whoever finishes first.

tasks -> engine -> results, in any order -> InOrder -> take, one after the other
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shardtools import engine


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
    *,
    on_done: Callable[[Any], None] | None = None,
    cluster: engine.ClusterLike = "threads",
    jobs: int | None = None,
    needs: Sequence[engine.Need] = (),
) -> None:
    """Run tasks, and call ``take`` with the result of each, in their order; ``on_done`` with each as it comes.

    ``cluster``, ``jobs`` and ``needs`` are those of `shardtools.engine.run`.

    Raises:
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

    engine.run(tasks, land, cluster=cluster, jobs=jobs, needs=needs)
    if errors:
        raise errors[0]
