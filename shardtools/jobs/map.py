"""htmapper as a function: run a script over every sample of a dataset.

sources, destination -> one MapTask for each shard -> engine -> ShardResults -> manifest
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from shardtools import engine
from shardtools.errors import JobError, ShardtoolsError, redact
from shardtools.jobs.map_shard import MapTask, OldManifest, ShardResult, map_shard
from shardtools.jobs.options import RunOptions, check_outputs, expand_sources, refuse_existing
from shardtools.jobs.report import JobResult, write_report
from shardtools.jobs.script import Script, function
from shardtools.shards.manifest import ShardEntry, build_manifest, write_manifest
from shardtools.shards.sidecar import sidecar_url
from shardtools.spec import Destination


@dataclass(frozen=True)
class MapPlan:
    """What a map would do: its ``tasks``, one for each shard, and the outputs that ``existing`` already."""

    destination: Destination
    tasks: Sequence[MapTask]
    existing: Sequence[str]
    job: dict[str, Any]


def plan_map(sources: str | Sequence[str], destination: str, script: Script, options: RunOptions) -> MapPlan:
    """Return what `run_map` would do, after every check that can be made before any work.

    Raises:
        SpecError: a spec is wrong.
        JobError: there are not as many outputs as inputs, an output is an input, or the options make no sense.
        OutputExistsError: an output exists, and the options say neither to replace nor to continue.
        ScriptError: the script cannot be used.
    """
    function(script, "process_sample", "process_samples")
    urls = expand_sources(sources)
    target = Destination(destination).resolve(len(urls))
    if target.count != len(urls):
        raise JobError(
            f"{len(urls)} input shards cannot be mapped to {target.count} output shards",
            url=target.spec,
            fix=f"ask for {len(urls)}, or use htshuffle to change the number of shards",
        )
    if "-" in (*urls, target.spec) and options.cluster != "threads":
        raise JobError("standard input and output are not on the cluster", fix="leave out -c, or use URLs")
    check_outputs(urls, target, options.report)
    existing = refuse_existing(target, options)
    tasks = _tasks(urls, target, script, options, set(existing))
    job = {
        "program": "htmapper",
        "sources": [redact(spec) for spec in ([sources] if isinstance(sources, str) else sources)],
        "script": os.path.basename(script.name),
        "params": {name: repr(value) for name, value in dict(script.params).items()},
    }
    return MapPlan(target, tasks, existing, job)


def _tasks(
    sources: Sequence[str], destination: Destination, script: Script, options: RunOptions, existing: Container[str]
) -> list[MapTask]:
    """Return the task of each shard."""
    old = OldManifest(destination.manifest, uuid4().hex) if destination.manifest in existing else None
    ahead = len(sources) < (options.jobs or os.cpu_count() or 1)
    return [
        MapTask(
            source,
            target,
            script,
            on_error=options.on_error,
            resume=options.resume,
            overwrite=options.overwrite,
            ahead=ahead,
            marked=sidecar_url(target) in existing,
            manifest=old,
        )
        for source, target in zip(sources, destination.urls(), strict=True)
    ]


def run_map(plan: MapPlan, options: RunOptions, on_shard: Callable[[ShardResult], None] | None = None) -> JobResult:
    """Carry out a plan; ``on_shard`` is called with each shard's result as it is there.

    The manifest is written last, if every shard could be read. With ``options.report`` the report is written whether
    the job succeeds or fails.

    Raises:
        ShardtoolsError: the first error, after the tasks that were running have ended. Complete shards stay, for
            ``resume``.
    """
    results: dict[int, ShardResult] = {}
    try:
        _run(plan, options, results, on_shard)
    except BaseException as error:
        if options.report:
            _report_failure(options.report, plan, _result(plan, results), error)
        raise
    result = _result(plan, results)
    if not result.failures and plan.destination.spec != "-":
        entries = [ShardEntry(s.target, s.counts.written, s.filesize, s.checksum, s.fields) for s in result.shards]
        write_manifest(plan.destination, build_manifest(plan.destination, entries, plan.job))
    if options.report:
        write_report(options.report, plan.job, result, None)
    return result


def _report_failure(url: str, plan: MapPlan, result: JobResult, error: BaseException) -> None:
    """Write the report of a job that failed; failing at that too must not hide why."""
    try:
        write_report(url, plan.job, result, error)
    except ShardtoolsError as second:
        error.add_note(f"the report was not written: {second}")


def _result(plan: MapPlan, results: dict[int, ShardResult]) -> JobResult:
    return JobResult(plan.destination.spec, [results[i] for i in sorted(results)])


def _run(
    plan: MapPlan,
    options: RunOptions,
    results: dict[int, ShardResult],
    on_shard: Callable[[ShardResult], None] | None,
) -> None:
    errors: list[Exception] = []

    def on_done(done: engine.Done) -> None:
        if done.error is not None:
            errors.append(done.error)
            return
        result: ShardResult = done.result  # type: ignore[assignment]
        results[done.index] = result
        if on_shard is not None:
            on_shard(result)

    tasks = [engine.Task(map_shard, (task,), task.source, options.storage) for task in plan.tasks]
    engine.run(tasks, on_done, cluster=options.cluster, jobs=options.jobs)
    if errors:
        raise errors[0]


def map_shards(
    sources: str | Sequence[str],
    destination: str,
    script: Script,
    options: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    on_shard: Callable[[ShardResult], None] | None = None,
) -> JobResult:
    """Run ``script`` over every sample of ``sources`` and write what it returns to ``destination``.

    One output shard is written for each input shard. See `plan_map` and `run_map`, which this calls, for the errors.
    """
    return run_map(plan_map(sources, destination, script, options), options, on_shard)
