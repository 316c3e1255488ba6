"""The results of tasks, as they come or in the order of the tasks; the first error is raised.

tasks -> engine -> results, in any order -> run_each
                                         -> run_in_order: early results wait for those before them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shardtools import engine


def run_each(
    tasks: Sequence[engine.Task],
    take: Callable[[int, Any], None],
    *,
    cluster: engine.ClusterLike = "threads",
    jobs: int | None = None,
    needs: Sequence[engine.Need] = (),
) -> None:
    """Run tasks, and call ``take`` with the index and the result of each as it comes.

    ``cluster``, ``jobs`` and ``needs`` are those of `shardtools.engine.run`.

    Raises:
        Exception: the first error of a task, after the tasks that were running have ended; or what ``take`` raises.
    """
    errors: list[Exception] = []

    def on_done(done: engine.Done) -> None:
        if done.error is not None:
            errors.append(done.error)
        else:
            take(done.index, done.result)

    engine.run(tasks, on_done, cluster=cluster, jobs=jobs, needs=needs)
    if errors:
        raise errors[0]


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
        Exception: as in `run_each`.
    """
    early: dict[int, Any] = {}
    following = 0

    def take_in_order(index: int, result: Any) -> None:
        nonlocal following
        if on_done is not None and result is not None:
            on_done(result)
        early[index] = result
        while following in early:
            following += 1
            take(early.pop(following - 1))

    run_each(tasks, take_in_order, cluster=cluster, jobs=jobs, needs=needs)
