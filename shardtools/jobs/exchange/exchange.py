"""The job of an exchange: both passes, locks, resuming, the manifest, and the end of the spill.

plan -> groups -> collect -> runs -> splits -> cuts -> gather -> outputs -> comparison of contents -> manifest
     -> spill removed
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from shardtools import engine
from shardtools.errors import CorruptError, JobError, LostWorkersError, SampleError, redact
from shardtools.jobs.exchange.boundaries import boundaries_url
from shardtools.jobs.exchange.chain import runs_of
from shardtools.jobs.exchange.collect import CollectTask, collect
from shardtools.jobs.exchange.cost import choose_merge
from shardtools.jobs.exchange.gather import GatherTask, gather
from shardtools.jobs.exchange.notes import Collected, GatherPlan, write_plan
from shardtools.jobs.exchange.plan import ExchangePlan, count_outputs, look_at_destination
from shardtools.jobs.exchange.planning import cut_runs, merge_runs, write_boundaries
from shardtools.jobs.exchange.spill import GROUP, JOB, has_groups, is_private, make_private, remove_spill
from shardtools.jobs.exchange.splits import Sampled
from shardtools.jobs.exchange.terms import Terms, run_all
from shardtools.jobs.lock import locked
from shardtools.jobs.options import RunOptions
from shardtools.jobs.replaced import remove
from shardtools.jobs.report import JobResult, Skipped, report_failure, write_report
from shardtools.jobs.shared import shared
from shardtools.jobs.table.run import check_request, table_of
from shardtools.jobs.target import ShardResult, digest, earlier_sidecar, shard_result, targets
from shardtools.processors import processors
from shardtools.query.condition import Seen
from shardtools.shards.manifest import build_manifest, write_manifest
from shardtools.spec import Destination
from shardtools.storage import get_storage, together, using
from shardtools.storage.stats import threads_for
from shardtools.urls import beside, folder_of, identity


@dataclass(frozen=True)
class Events:
    """What is called as the job advances: with each group that was collected, and with each output."""

    on_collected: Callable[[Collected], None] = lambda collected: None
    on_output: Callable[[ShardResult], None] = lambda result: None


def run_exchange(
    plan: ExchangePlan,
    options: RunOptions,
    events: Events = Events(),
) -> JobResult:
    """Carry out a plan. The manifest is written last; then the spill is removed. A failed job keeps it, for resuming.

    Raises:
        ShardtoolsError: the first error, after the tasks that were running have ended.
        CorruptError: what came out is not what went in.
        OutputBusyError: another job writes to the same destination, or spill (see `shardtools.jobs.lock`).
    """
    with using(options.storage):
        try:
            check_request(plan.destination, options)
            result = _with_table(_run(plan, options, events), options)
        except BaseException as error:
            if options.report:
                report_failure(options.report, _job(plan), None, error)
            raise
        if options.report:
            write_report(options.report, _job(plan), result, None)
    return result


def _with_table(result: JobResult, options: RunOptions) -> JobResult:
    """Return the result of a job whose dataset is complete with its table, if there is to be one."""
    table = table_of(Destination(result.destination), [shard.entry for shard in result.shards], options)
    return result if table is None else replace(result, tables=(table,))


def _job(plan: ExchangePlan) -> dict[str, Any]:
    choice = {} if plan.chosen is None else {"choice": plan.exchange.choice.facts()}
    return {"program": plan.exchange.program, "sources": list(plan.sources), **plan.exchange.job, **choice}


def _run(plan: ExchangePlan, options: RunOptions, events: Events) -> JobResult:
    if options.resume and (done := _completed(plan, options)) is not None:
        return done
    read = [entry.url for entry in plan.inputs]
    with ExitStack() as stack:
        take_over = options.resume or options.overwrite
        locks = [stack.enter_context(locked(url, take_over=take_over)) for url in _lock_files(plan)]
        needs = stack.enter_context(shared(read, [folder_of(plan.destination.spec), plan.spill], options))
        held = [lock for lock in locks if lock is not None]
        return _run_alone(plan, Terms(options, needs, held, plan.exchange.program), events)


def _lock_files(plan: ExchangePlan) -> list[str]:
    """Return the URLs of the lock files: one for the destination, and one for a spill that the user names."""
    urls = [beside(plan.destination.spec, ".lock")]
    return urls if plan.exchange.spill is None else [*urls, f"{plan.spill}job.lock"]


def _run_alone(plan: ExchangePlan, terms: Terms, events: Events) -> JobResult:
    """Run both passes."""
    options = terms.options
    plan = _look_again(plan, plan.destination, options)  # another job may have ended since the plan was made
    if is_private(plan.exchange.spill, options):
        make_private(plan.spill)
    _note_job(plan)
    collected = _first_pass(plan, terms, events.on_collected)
    plan = _as_collected(plan, collected)
    runs = tuple(run for part in collected for run in part.runs)
    if plan.destination.is_auto:
        samples, size = sum(part.samples for part in collected), sum(part.size for part in collected)
        plan = _look_again(plan, plan.destination.resolve(count_outputs(plan.exchange, samples, size)), options)
    merge = choose_merge(plan.shape(runs), plan.services())
    sampled = Sampled(runs)
    chains = runs if merge is None else merge_runs(plan, runs, sampled, merge, terms)
    gather_plan = cut_runs(plan, chains, sampled, terms)
    results = _gather(plan, gather_plan, terms, events.on_output)
    _compare(plan, collected, results)
    job = _job(plan)
    if plan.exchange.policy.keeps_all:
        job["content"] = f"{_content(collected):016x}"
    terms.check()
    entries = [result.entry for result in results]
    write_manifest(plan.destination, build_manifest(plan.destination, entries, job, plan.facts))
    remove(plan.replaced)
    noted = _noted(plan, collected)
    noted += [boundaries_url(plan.spill, batch) for batch in range(len(gather_plan.cuts)) if gather_plan.outputs]
    if merge is not None:
        noted += [f"{run.url}{end}" for run in runs_of(chains) for end in ("", ".json")]
        noted += [f"{plan.spill}merge-{group:06d}.npz" for group in range(-(-len(runs) // merge.fan_in))]
    remove_spill(plan.spill, noted)
    before = [Skipped(redact(url), key, reason) for part in collected for url, key, reason in part.skipped]
    return JobResult(plan.destination.spec, results, before, sum(part.others for part in collected), job)


def _first_pass(plan: ExchangePlan, terms: Terms, on_done: Callable[[Collected], None]) -> list[Collected]:
    """Collect the samples of all groups. A spill that would be of no use to a later run is removed.

    Raises:
        ShardtoolsError: a shard or sample cannot be read, or has no order.
        JobError: no sample has what the choice names.
    """
    try:
        collected = _collect(plan, terms, on_done)
    except SampleError:
        if not has_groups(plan.spill):
            remove_spill(plan.spill, [])
        raise
    try:
        _check_chosen(plan, collected)
    except JobError:
        remove_spill(plan.spill, _noted(plan, collected))
        raise
    return collected


def _noted(plan: ExchangePlan, collected: Sequence[Collected]) -> list[str]:
    """Return the URLs of what the first pass has written."""
    notes = [f"{plan.spill}{GROUP}{index:06d}.json" for index in range(len(plan.groups))]
    return [*(run.url for part in collected for run in part.runs), *notes]


def _check_chosen(plan: ExchangePlan, collected: Sequence[Collected]) -> None:
    """Raise if no sample of all inputs has a field or column that the choice names."""
    if plan.chosen is not None:
        seen = Seen()
        for part in collected:
            seen |= part.seen
        plan.chosen.check(seen, sum(part.samples for part in collected))


def _as_collected(plan: ExchangePlan, collected: Sequence[Collected]) -> ExchangePlan:
    """Return the plan with the fingerprint of what was really collected.

    That is without what was skipped, and with what is in inputs of which the storage tells no version. So a job that
    has such does not know before it has read its inputs that its outputs are complete.
    """
    found: dict[str, Any] = {}
    if skipped := [[identity(url), key] for part in collected for url, key, _ in part.skipped]:
        found["skipped"] = skipped
    if not all(entry.validator for entry in plan.inputs):
        found["content"] = _content(collected)
    return replace(plan, fingerprint=digest({"job": plan.fingerprint, **found})) if found else plan


def _content(collected: Sequence[Collected]) -> int:
    """Return the hash of all samples."""
    return sum(part.content for part in collected) % 2**64


def _look_again(plan: ExchangePlan, destination: Destination, options: RunOptions) -> ExchangePlan:
    existing, replaced = look_at_destination(destination, plan.inputs, options)
    return replace(plan, destination=destination, existing=existing, replaced=replaced)


def _completed(plan: ExchangePlan, options: RunOptions) -> JobResult | None:
    """Return the result of an earlier run that was complete, None if there was none."""
    if plan.destination.is_auto or plan.destination.manifest not in plan.existing:
        return None
    results = []
    wanted = targets(plan.destination, options, set(plan.existing), plan.replaced)
    found = together.each(earlier_sidecar, wanted, threads_for([target.url for target in wanted]), ahead=1)
    for index, (target, sidecar) in enumerate(zip(wanted, found, strict=True)):
        if sidecar is None or sidecar.job.get("fingerprint") != _fingerprint(plan, index, plan.destination):
            return None
        done = shard_result("", 0, target.url, sidecar, resumed=True)
        if done.counts.skipped and options.on_error == "fail":
            return None
        results.append(done)
    remove(plan.replaced)
    return JobResult(plan.destination.spec, results, job=_job(plan))


def _note_job(plan: ExchangePlan) -> None:
    """Write into the spill what the job is, for a later run that resumes it."""
    url = f"{plan.spill}{JOB}"
    with get_storage(url).create(url) as sink:
        sink.write(json.dumps({**_job(plan), "group_size": plan.group_size}).encode())


def _collect(plan: ExchangePlan, terms: Terms, on_done: Callable[[Collected], None]) -> list[Collected]:
    """Collect the samples of all groups. If errors are skipped, the shards of a group that kills workers go one by one.

    Then only those that do so alone are skipped.
    """
    named = [(f"{GROUP}{index:06d}", group) for index, group in enumerate(plan.groups)]
    lost: dict[int, list[Collected]] = {}
    tasks = [_collect_task(plan, terms.options, name, group) for name, group in named]
    if terms.options.on_error == "fail":
        return run_all(tasks, terms, on_done)
    found = run_all(tasks, terms, on_done, lambda index, _: lost.update({index: []}))
    singles = [
        (index, f"{named[index][0]}-shard-{shard:06d}", shard) for index in sorted(lost) for shard in named[index][1]
    ]

    def skip(at: int, error: LostWorkersError) -> Collected:
        return Collected((), 0, 0, 0, 0, ((plan.inputs[singles[at][2]].url, None, str(error)),))

    tasks = [_collect_task(plan, terms.options, name, (shard,)) for _, name, shard in singles]
    for (index, _, _), part in zip(singles, run_all(tasks, terms, on_done, skip), strict=True):
        lost[index].append(part)
    return [part for index, whole in enumerate(found) for part in lost.get(index, [whole])]


def _collect_task(plan: ExchangePlan, options: RunOptions, name: str, group: Sequence[int]) -> engine.Task:
    what = CollectTask(
        f"{plan.spill}{name}",
        tuple((i, plan.inputs[i].url) for i in group),
        plan.exchange.keying,
        plan.budget,
        plan.collected,
        options.on_error,
        bool(plan.exchange.policy.merge) or plan.exchange.policy.on_duplicate != "error",
        options.resume and all(plan.inputs[i].validator for i in group),
        len(plan.groups) < (options.jobs or processors()),
        plan.exchange.policy.reduce if plan.exchange.combine else None,
        () if plan.chosen is None else tuple(plan.chosen.shards[i] for i in group),
    )
    return engine.Task(collect, (what,), plan.inputs[group[0]].url, options.storage)


def _fingerprint(plan: ExchangePlan, index: int, destination: Destination) -> str:
    return digest({"job": plan.fingerprint, "output": [index, destination.count]})


def _gather(
    plan: ExchangePlan, gather_plan: GatherPlan, terms: Terms, on_done: Callable[[ShardResult], None]
) -> list[ShardResult]:
    options = terms.options
    url = f"{plan.spill}plan.npz"
    runs = [[run.url, run.count, run.checksum] for run in runs_of(gather_plan.runs)]
    job = digest({"job": plan.fingerprint, "outputs": plan.destination.count, "runs": runs})
    write_plan(url, gather_plan)
    write_boundaries(url, gather_plan, job, terms)
    tasks = [
        engine.Task(
            gather,
            (
                GatherTask(
                    url,
                    index,
                    target,
                    plan.exchange.policy,
                    plan.budget // 2,
                    job,
                    _fingerprint(plan, index, plan.destination),
                    plan.exchange.program,
                ),
            ),
            target.url,
            options.storage,
        )
        for index, target in enumerate(targets(plan.destination, options, set(plan.existing), plan.replaced))
    ]
    return run_all(tasks, terms, on_done)


def _compare(plan: ExchangePlan, collected: Sequence[Collected], results: Sequence[ShardResult]) -> None:
    """Raise if samples were lost, repeated or changed on the way.

    Raises:
        CorruptError: they were.
    """
    samples = sum(part.samples for part in collected)
    if sum(result.counts.read for result in results) != samples:
        raise CorruptError(
            "the outputs do not have as many samples as the inputs", url=plan.destination.spec, fix="run again"
        )
    if not plan.exchange.policy.keeps_all:
        return
    content = sum(int(result.content or "0", 16) for result in results) % 2**64
    if content != _content(collected):
        what = "the samples that came out are not those that went in"
        raise CorruptError(
            what, url=plan.destination.spec, fix="run again with --overwrite; see whether the disk is sound"
        )
