"""Tasks of a job whose results are wanted in the order of the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shardtools import engine
from shardtools.engine import ordered
from shardtools.errors import LostWorkersError
from shardtools.jobs.options import RunOptions
from shardtools.jobs.shared import shared


def run_in_order(
    tasks: Sequence[engine.Task],
    take: Callable[[Any], None],
    options: RunOptions,
    on_done: Callable[[Any], None] | None = None,
    written: Iterable[str] = (),
    *,
    hold: Callable[[Any], Any] | None = None,
    label: str = "",
    skipped: Callable[[str, str], Any] | None = None,
) -> None:
    """Run tasks, and call ``take`` with the result of each, in their order; ``on_done`` with each as it comes.

    ``hold`` is called with a result that has to wait, and returns what is held in its place. The tasks read the URLs
    that are their names, and write to the folders ``written``. ``label`` begins their names in Dask's dashboard.
    ``skipped`` makes the result of a shard whose workers did not survive it, of its URL and the reason, if the options
    say to skip such.

    Raises:
        JobError: a worker of a cluster does not see a file or folder of this machine.
        Exception: the first error.
    """

    def on_lost(index: int, error: LostWorkersError) -> Any:
        return None if skipped is None else skipped(tasks[index].name, str(error))

    with shared([task.name for task in tasks], written, options) as needs:
        ordered.run_in_order(
            tasks,
            take,
            on_done=on_done,
            hold=hold,
            cluster=options.cluster,
            jobs=options.jobs,
            needs=needs,
            label=label,
            on_lost=on_lost if skipped is not None and options.on_error == "skip" else None,
        )
