"""Tasks of a job whose results are wanted in the order of the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shardtools import engine
from shardtools.engine import ordered
from shardtools.jobs.options import RunOptions
from shardtools.jobs.shared import shared


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
    with shared([task.name for task in tasks], written, options) as needs:
        ordered.run_in_order(tasks, take, on_done=on_done, cluster=options.cluster, jobs=options.jobs, needs=needs)
