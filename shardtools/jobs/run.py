"""Carrying out the plan of a job: its tasks on the engine, then the manifest and the report.

plan -> engine -> ShardResults -> manifest, report
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shardtools import engine
from shardtools.engine.ordered import run_each
from shardtools.errors import LostWorkersError, redact
from shardtools.jobs.choice import ChosenShards
from shardtools.jobs.options import RunOptions
from shardtools.jobs.replaced import NOTHING_REPLACED, Replaced, remove
from shardtools.jobs.report import JobResult, report_failure, write_report
from shardtools.jobs.shared import shared
from shardtools.jobs.table.run import check_request, table_of
from shardtools.jobs.target import ShardResult
from shardtools.query.condition import Seen
from shardtools.shards.manifest import build_manifest, write_manifest
from shardtools.spec import Destination
from shardtools.storage import using
from shardtools.urls import folder_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a job will do: its ``tasks``, one for each shard of ``destination``. The ``existing`` outputs are there.

    ``replaced`` is removed when the dataset is complete. ``sources`` are URLs that the tasks read. ``job`` describes
    the job in the manifest and the report; ``facts`` are what the manifest says of the samples. ``chosen`` is what the
    tasks take of their sources, None if they take all. A task's function returns a `ShardResult`.
    """

    destination: Destination
    tasks: Sequence[engine.Task]
    existing: Sequence[str]
    job: dict[str, Any]
    replaced: Replaced = NOTHING_REPLACED
    sources: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    chosen: ChosenShards | None = None


def run_plan(plan: Plan, options: RunOptions, on_shard: Callable[[ShardResult], None] | None = None) -> JobResult:
    """Carry out a plan; ``on_shard`` is called with the result of each shard as it comes.

    The manifest is written last, if every shard could be read; then what it replaces is removed, and the table made if
    ``options`` ask for one. With
    ``options.report`` the report is written whether the job succeeds or fails.

    Raises:
        JobError: a worker of a cluster does not see a file or folder of this machine, or no sample has a field or
            column that is named.
        ShardtoolsError: the first error, after the tasks that were running have ended. Complete shards stay, for
            ``resume``.
    """
    results: dict[int, ShardResult] = {}
    with using(options.storage):
        try:
            check_request(plan.destination, options)
            _run(plan, options, results, on_shard)
            _check_chosen(plan, results.values())
            result = _complete(plan, options, _result(plan, results))
        except BaseException as error:
            if options.report:
                report_failure(options.report, plan.job, _result(plan, results), error)
            raise
        if options.report:
            write_report(options.report, plan.job, result, None)
    return result


def _check_chosen(plan: Plan, results: Iterable[ShardResult]) -> None:
    """Raise if no sample of all shards has a field or column that is named."""
    if plan.chosen is not None:
        seen, taken = Seen(), 0
        for shard in results:
            seen |= shard.seen
            taken += shard.counts.read
        plan.chosen.check(seen, taken)


def _complete(plan: Plan, options: RunOptions, result: JobResult) -> JobResult:
    """Make the shards that were written a dataset, if none has failed; return the result with its table."""
    if result.failures or plan.destination.spec == "-":
        return result
    entries = [shard.entry for shard in result.shards]
    write_manifest(plan.destination, build_manifest(plan.destination, entries, plan.job, _facts(plan, result)))
    remove(plan.replaced)
    table = table_of(plan.destination, entries, options)
    return result if table is None else replace(result, tables=(table,))


def _facts(plan: Plan, result: JobResult) -> dict[str, Any]:
    """Return the facts that are true of the outputs, without the names of classes if their numbers were changed."""
    facts = dict(plan.facts)
    if facts.get("classes") and any(shard.relabelled for shard in result.shards):
        del facts["classes"]
        logger.warning(
            "%s: the numbers of classes were changed, so their names are left out; write them into %s",
            redact(plan.destination.spec), redact(plan.destination.manifest),
        )  # fmt: skip
    return facts


def _result(plan: Plan, results: dict[int, ShardResult]) -> JobResult:
    return JobResult(plan.destination.spec, [results[i] for i in sorted(results)], job=plan.job)


def _run(
    plan: Plan,
    options: RunOptions,
    results: dict[int, ShardResult],
    on_shard: Callable[[ShardResult], None] | None,
) -> None:
    def take(index: int, result: ShardResult) -> None:
        results[index] = result
        if on_shard is not None:
            on_shard(result)

    outputs = plan.destination.urls()

    def on_lost(index: int, error: LostWorkersError) -> ShardResult:
        return ShardResult(plan.tasks[index].name, outputs[index], failure=str(error))

    with shared(plan.sources, map(folder_of, outputs), options) as needs:
        run_each(
            plan.tasks,
            take,
            cluster=options.cluster,
            jobs=options.jobs,
            needs=needs,
            label=plan.job.get("program", ""),
            on_lost=on_lost if options.on_error == "skip" else None,
        )
