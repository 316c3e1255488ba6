"""The results of tasks, as they come or in the order of the tasks; the first error is raised.

tasks -> engine -> results, in any order -> run_each
                                         -> run_in_order: early results wait for those before them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shardtools import engine
from shardtools.errors import LostWorkersError


def run_each(
    tasks: Sequence[engine.Task],
    take: Callable[[int, Any], None],
    *,
    cluster: engine.ClusterLike = "threads",
    jobs: int | None = None,
    needs: Sequence[engine.Need] = (),
    label: str = "",
    on_lost: Callable[[int, LostWorkersError], Any] | None = None,
) -> None:
    """Run tasks, and call ``take`` with the index and the result of each as it comes.

    ``cluster``, ``jobs``, ``needs`` and ``label`` are those of `shardtools.engine.run`. If ``on_lost`` is there, the
    run goes on after a task that its workers did not survive, with what this returns of its index as its result.

    Raises:
        Exception: the first error of a task, after the tasks that were running have ended; or what ``take`` raises.
    """
    errors: list[Exception] = []

    def on_done(done: engine.Done) -> None:
        if on_lost is not None and isinstance(done.error, LostWorkersError):
            take(done.index, on_lost(done.index, done.error))
        elif done.error is not None:
            errors.append(done.error)
        else:
            take(done.index, done.result)

    def stops(error: Exception) -> bool:
        return on_lost is None or not isinstance(error, LostWorkersError)

    engine.run(tasks, on_done, cluster=cluster, jobs=jobs, stop_on_error=stops, needs=needs, label=label)
    if errors:
        raise errors[0]


def run_in_order(
    tasks: Sequence[engine.Task],
    take: Callable[[Any], None],
    *,
    on_done: Callable[[Any], None] | None = None,
    hold: Callable[[Any], Any] | None = None,
    cluster: engine.ClusterLike = "threads",
    jobs: int | None = None,
    needs: Sequence[engine.Need] = (),
    label: str = "",
    on_lost: Callable[[int, LostWorkersError], Any] | None = None,
) -> None:
    """Run tasks, and call ``take`` with the result of each, in their order; ``on_done`` with each as it comes.

    A result that has to wait for those before it is held; ``hold`` returns what is held in its place. The other
    arguments are those of `run_each`.

    Raises:
        Exception: as in `run_each`.
    """
    early: dict[int, Any] = {}
    following = 0

    def take_in_order(index: int, result: Any) -> None:
        nonlocal following
        if on_done is not None and result is not None:
            on_done(result)
        early[index] = result if hold is None or index == following else hold(result)
        while following in early:
            following += 1
            take(early.pop(following - 1))

    run_each(tasks, take_in_order, cluster=cluster, jobs=jobs, needs=needs, label=label, on_lost=on_lost)
