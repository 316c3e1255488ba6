"""Between the passes: where the outputs begin in the runs, and the merge of runs if they are many.

    runs, and a few of their orders -> splits -> tasks: where batches begin -> tasks: where the outputs of each begin

Nothing here grows with the samples, nor with runs times outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shardtools import engine
from shardtools.jobs.batches import batches
from shardtools.jobs.exchange.boundaries import CutTask, boundaries_url, cut_batch, find_boundaries
from shardtools.jobs.exchange.chain import AnyRun, Chain, runs_of
from shardtools.jobs.exchange.cost import Merge
from shardtools.jobs.exchange.cuts import ranks
from shardtools.jobs.exchange.merging import LocateGroupTask, MergeTask, locate_group, merge_range
from shardtools.jobs.exchange.notes import GatherPlan
from shardtools.jobs.exchange.plan import ExchangePlan
from shardtools.jobs.exchange.run import Run
from shardtools.jobs.exchange.splits import LocateTask, Sampled, is_single, locate
from shardtools.jobs.exchange.terms import Terms, run_all, run_each
from shardtools.jobs.target import digest
from shardtools.types import Ints

ORDER_BYTES = 128
"""What a sample takes in the memory of who finds where outputs begin."""

LEAST_BATCH, MOST_BATCH = 1 << 14, 1 << 20
"""Between these is how many samples have their orders held at a time: by a task, or by the client for a small job."""

MOST_BATCHES = 1 << 12

MOST_CUTS = 1 << 22
"""Up to so many runs times outputs are planned by the client."""


def cut_runs(plan: ExchangePlan, runs: tuple[AnyRun, ...], sampled: Sampled, terms: Terms) -> GatherPlan:
    """Return which samples of each run go to which output, or to which batch of samples if they are too many to plan.

    Then tasks have found where each batch begins.
    """
    outputs = plan.destination.count or 1
    counts = np.array([run.count for run in runs], np.int64)
    samples, nothing = int(counts.sum()), np.zeros(len(runs), np.int64)
    shards, sources = tuple(entry.url for entry in plan.inputs), tuple(entry.source for entry in plan.inputs)
    most = min(max(plan.share // ORDER_BYTES, LEAST_BATCH), MOST_BATCH)
    if samples <= most and len(runs) * outputs <= MOST_CUTS:
        rows = find_boundaries(runs, nothing, counts, ranks(samples, outputs))
        return GatherPlan(runs, rows, shards, sources)
    splits = sampled.choose(min(-(-samples // most), MOST_BATCHES))
    places = _locate(runs, splits, most, terms)
    single = tuple(batch for batch in range(len(splits)) if is_single(splits, batch))
    return GatherPlan(runs, np.vstack((places.T, counts)), shards, sources, outputs, single)


def _locate(runs: Sequence[AnyRun], splits: tuple[bytes, ...], most: int, terms: Terms) -> Ints:
    """Let tasks find where batches begin in each run; return a row for each of the runs."""
    parts = runs_of(runs)
    row_of = np.repeat(np.arange(len(runs)), [len(run.runs) if isinstance(run, Chain) else 1 for run in runs])
    bounds = list(batches(np.array([run.count for run in parts], np.int64), most))
    places = np.zeros((len(runs), len(splits)), np.int64)
    tasks = [
        engine.Task(locate, (LocateTask(tuple(parts[at:stop]), splits),), parts[at].url, terms.options.storage)
        for at, stop in bounds
    ]

    def add(index: int, rows: Ints) -> None:
        np.add.at(places, row_of[slice(*bounds[index])], rows)

    run_each(tasks, terms, add)
    return places


def write_boundaries(url: str, plan: GatherPlan, job: str, terms: Terms) -> None:
    """Let tasks find where the outputs of each batch begin, if there are batches."""
    tasks = [
        engine.Task(cut_batch, (CutTask(url, job, batch),), boundaries_url(url, batch), terms.options.storage)
        for batch in range(len(plan.cuts) - 1)
        if plan.outputs and plan.ranks_of(batch)
    ]
    run_all(tasks, terms, lambda _: None)


def merge_runs(
    plan: ExchangePlan, runs: Sequence[Run], sampled: Sampled, merge: Merge, terms: Terms
) -> tuple[Chain, ...]:
    """Let tasks merge groups of runs into chains of runs, and return these."""
    options, splits = terms.options, sampled.choose(merge.ranges)
    groups = [tuple(runs[at : at + merge.fan_in]) for at in range(0, len(runs), merge.fan_in)]
    names = [f"{plan.spill}merge-{number:06d}" for number in range(len(groups))]
    facts = [[run.url, run.count, run.checksum] for run in runs]
    job = digest({"job": plan.collected, "runs": facts, "splits": [split.hex() for split in splits], "n": merge.fan_in})
    tasks = [
        engine.Task(locate_group, (LocateGroupTask(f"{name}.npz", LocateTask(group, splits)),), name, options.storage)
        for name, group in zip(names, groups, strict=True)
    ]
    run_all(tasks, terms, lambda _: None)
    asked = [
        MergeTask(f"{name}.npz", index, f"{name}-{index:06d}", plan.budget // 2, job, options.resume)
        for name in names
        for index in range(len(splits))
    ]
    tasks = [engine.Task(merge_range, (task,), task.url, options.storage) for task in asked]
    made = run_all(tasks, terms, lambda _: None)
    parts = [[run for run in made[at : at + len(splits)] if run] for at in range(0, len(made), len(splits))]
    return tuple(Chain(tuple(part)) for part in parts if part)
