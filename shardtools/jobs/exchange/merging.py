"""The merge pass: groups of runs become chains of runs, so that each output is gathered from few of them.

    runs of a group, splits -> locate_group, a task for each group -> plan of the group
                            -> merge_range, a task for each group and range of orders -> run
    the runs of all ranges of a group -> Chain

A range is what lies between two splits; they are the same for all groups. So a task reads a part of each run of its
group, and an output, whose samples are nearly always within one range, reads a part of one run of each chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardtools.jobs.exchange.gather import OutputSamples, find_samples, read_spans
from shardtools.jobs.exchange.notes import Collected, GatherPlan, read_collected, read_plan, write_collected, write_plan
from shardtools.jobs.exchange.run import Run, write_run
from shardtools.jobs.exchange.splits import LocateTask, locate


@dataclass(frozen=True)
class LocateGroupTask:
    """What one task does: find where ranges of orders begin in the runs of a group, and write that to ``plan``."""

    plan: str
    where: LocateTask


def locate_group(task: LocateGroupTask) -> None:
    """Find where ranges begin, and write that down for `merge_range`.

    Raises:
        StorageError: a run cannot be read.
        CorruptError: it was damaged.
    """
    starts = np.vstack((locate(task.where).T, [run.count for run in task.where.runs]))
    write_plan(task.plan, GatherPlan(task.where.runs, starts, (), ()))


@dataclass(frozen=True)
class MergeTask:
    """What one task does: write the samples of the range at ``index`` of the group of ``plan`` as a run at ``url``.

    ``budget`` is how many bytes of spans all tasks of its process may hold, ``job`` the fingerprint of the merge pass.
    """

    plan: str
    index: int
    url: str
    budget: int
    job: str
    resume: bool = False


def merge_range(task: MergeTask) -> Run | None:
    """Write one range of a group as a run, and return it; None if it has no samples.

    Raises:
        StorageError: a run cannot be read or written.
        CorruptError: a run was damaged.
    """
    note, of = f"{task.url}.json", {"fingerprint": task.job}
    if task.resume and (done := read_collected(note, of)) is not None and done.runs:
        return done.runs[0]
    plan = read_plan(task.plan, task.job)
    output = find_samples(plan, plan.cuts[task.index], plan.cuts[task.index + 1])
    if not len(output):
        return None
    run = write_run(task.url, output.samples, _spans(task, plan, output))
    write_collected(note, Collected((run,), len(output), output.samples.size), of)
    return run


def _spans(task: MergeTask, plan: GatherPlan, output: OutputSamples) -> Iterator[Sequence[Any]]:
    return (batch.parts for batch in read_spans(task.budget, plan, output, together=True))
