"""Pass 2: one output takes its range of every run, in order.

plan -> tables of the ranges -> merged -> duplicate keys dealt with -> spans, some at a time -> shard
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shardtools.engine import check_cancelled
from shardtools.errors import CorruptError, ShardtoolsError
from shardtools.jobs.batches import batches
from shardtools.jobs.exchange.boundaries import read_bounds
from shardtools.jobs.exchange.collect import SMALL
from shardtools.jobs.exchange.contents import compose, records_of
from shardtools.jobs.exchange.duplicates import DuplicatePolicy, choose
from shardtools.jobs.exchange.merge import Merger
from shardtools.jobs.exchange.notes import GatherPlan, read_plan
from shardtools.jobs.exchange.reduce import REDUCE, Reducer
from shardtools.jobs.exchange.run_table import RunTable, content_hash, sums_of
from shardtools.jobs.exchange.threads import each
from shardtools.jobs.exchange.workers import share_of
from shardtools.jobs.target import Counts, ShardResult, Target, commit, earlier_sidecar, is_own, shard_result
from shardtools.shards.columns import join, spread
from shardtools.shards.output import SpanWriter
from shardtools.shards.samples import Composer
from shardtools.shards.sidecar import Sidecar
from shardtools.shards.tar import BLOCK, blocks_of
from shardtools.shards.writer import ShardWriter
from shardtools.storage import Sink
from shardtools.types import Ints


@dataclass(frozen=True)
class GatherTask:
    """What one task does: write the output at ``index`` of the plan at ``plan`` to ``target``.

    ``budget`` is how many bytes of spans all tasks of its process may hold, ``job`` the fingerprint of the job,
    ``program`` its name.
    """

    plan: str
    index: int
    target: Target
    policy: DuplicatePolicy
    budget: int
    job: str
    fingerprint: str
    program: str


@dataclass(frozen=True)
class OutputSamples:
    """The samples of one output, in their order: what is known of them, and the index of the run that each is in."""

    samples: RunTable
    runs: Ints

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, rows: Ints) -> OutputSamples:
        """Return some samples, in the order of ``rows``."""
        return OutputSamples(self.samples.take(rows), self.runs[rows])


def gather(task: GatherTask) -> ShardResult:
    """Write one output and return what became of it; one with skipped groups is complete only if they still may be.

    Raises:
        DuplicateKeyError: two of its samples have one key, and the policy does not allow that.
        OutputExistsError: the job is resumed, but another job has written the target.
        StorageError: a run cannot be read, or the output cannot be written.
    """
    sidecar = earlier_sidecar(task.target)
    if sidecar is not None and is_own(sidecar, task.target, task.fingerprint):
        done = shard_result("", 0, task.target.url, sidecar, resumed=True)
        if task.policy.on_error == "skip" or not done.counts.skipped:
            return done
    plan = read_plan(task.plan, task.job)
    output = find_samples(plan, *read_bounds(task.plan, plan, task.index))
    policy = task.policy
    write = _write_reduced if policy.reduce else _write_merged if policy.merge else _write
    sidecar = commit(task.target, lambda sink: write(task, plan, output, sink))
    return shard_result("", output.samples.size, task.target.url, sidecar)


def find_samples(plan: GatherPlan, low: Ints, high: Ints) -> OutputSamples:
    """Return the samples ``low`` to ``high`` of each run, in their order."""

    def read(i: int) -> RunTable:
        return plan.runs[i].read_table(int(low[i]), int(high[i]))

    filled = np.flatnonzero(high > low).tolist()
    parts = each(read, filled, plan.runs)
    runs = [np.full(len(part), i, np.int64) for i, part in zip(filled, parts, strict=True)]
    together = RunTable.join(parts)
    places = together.places
    base = np.lexsort((places["index"], places["ordinal"]))  # samples with equal order keep the order of the input
    rows = base[together.take(base).sorted_rows()]
    return OutputSamples(together.take(rows), join(runs, np.int64)[rows])


@dataclass(frozen=True)
class SpanBatch:
    """The spans of some samples of an output, from row ``start`` on, in order: a part for each, or all in one piece."""

    start: int
    count: int
    parts: list[Any]

    @property
    def spans(self) -> list[memoryview]:
        """The span of each sample."""
        if len(self.parts) == self.count:
            return self.parts
        raise ValueError("the spans are in one piece")


def read_spans(budget: int, plan: GatherPlan, output: OutputSamples, *, together: bool = False) -> Iterator[SpanBatch]:
    """Yield the spans of samples in order, as many at a time as fit into the task's share of the ``budget``.

    With ``together`` small ones may come in one piece.

    Raises:
        CorruptError: something has changed in the spill.
    """
    sizes = output.samples.table.spans
    together = together and bool(len(sizes)) and int(sizes.sum()) < SMALL * len(sizes)
    for start, stop in batches(sizes, share_of(budget)):
        check_cancelled()
        yield _read(plan, output, start, stop, together)


def _read(plan: GatherPlan, output: OutputSamples, start: int, stop: int, together: bool) -> SpanBatch:
    """Return the spans of rows ``start`` to ``stop``. In each run they are one range, since runs are sorted."""
    runs, sums, table = output.runs[start:stop], output.samples.sums[start:stop], output.samples.table
    begins, ends = table.start[start:stop], table.stop[start:stop]
    sizes = ends - begins
    bodies: dict[int, Any] = {}
    at = np.empty(len(runs), np.int64)
    out = np.empty((int(sizes.sum()) // BLOCK, BLOCK), np.uint8) if together else None
    places = np.cumsum(sizes) - sizes
    by_run = np.argsort(runs, kind="stable")
    parted = np.split(by_run, np.flatnonzero(np.diff(runs[by_run])) + 1)

    def take(rows: Ints) -> None:
        index = int(runs[rows[0]])
        first, last = int(begins[rows].min()), int(ends[rows].max())
        run = plan.runs[index]
        data = run.read_data(first, last)
        body = np.frombuffer(data, np.uint8)
        at[rows] = begins[rows] - first
        if not np.array_equal(sums_of(body, at[rows], sizes[rows]), sums[rows]):
            what = "samples were damaged in the spill"
            raise CorruptError(what, url=run.url, fix="delete it and run again; see whether the disk is sound")
        if out is not None:
            blocks = blocks_of(body)
            source = spread(at[rows] // BLOCK, sizes[rows] // BLOCK)
            out[spread(places[rows] // BLOCK, sizes[rows] // BLOCK)] = blocks[source]
        else:
            bodies[index] = data

    each(take, parted, plan.runs)
    if out is not None:
        return SpanBatch(start, stop - start, [out.reshape(-1).data])
    stops = (at + sizes).tolist()
    views = [bodies[i][a:b] for i, a, b in zip(runs.tolist(), at.tolist(), stops, strict=True)]
    return SpanBatch(start, stop - start, views)


def _write(task: GatherTask, plan: GatherPlan, output: OutputSamples, sink: Sink) -> Sidecar:
    """Write samples as they are, except those that are dropped, and those that get another key."""
    read = len(output)
    chosen = choose(output.samples, plan.shards, task.policy)
    if chosen.rows is not None:
        output = output.take(chosen.rows)
    table = output.samples.table
    writer = SpanWriter(sink, task.target.url)
    together = not chosen.renamed and not writer.by_sample
    for batch in read_spans(task.budget, plan, output, together=together):
        at, stop = batch.start, batch.start + batch.count
        for row in sorted(row for row in chosen.renamed if at <= row < stop):
            spans = batch.spans[at - batch.start : row - batch.start]
            if spans:
                writer.add(table.slice(at, row), spans)
            [(_, record)] = records_of(output.samples, row, [batch.spans[row - batch.start]], plan.shards)
            writer.add(*compose([Composer().compose({**record, "key": chosen.renamed[row]})]))
            at = row + 1
        if at < stop:
            writer.add(table.slice(at, stop), batch.parts[at - batch.start :])
    content = None if chosen.renamed or chosen.rows is not None else content_hash(table)
    counts = Counts(read=read, dropped=read - writer.count, written=writer.count)
    return writer.finish(job_of(task, counts, content))


def _write_merged(task: GatherTask, plan: GatherPlan, output: OutputSamples, sink: Sink) -> Sidecar:
    writer = SpanWriter(sink, task.target.url)
    merger = Merger(output.samples, task.policy, plan.sources, plan.shards)
    for table, spans in merger.merge(_spans(task, plan, output)):
        writer.add(table, spans)
    counts = Counts(read=len(output), dropped=merger.dropped, written=writer.count)
    return writer.finish(job_of(task, counts, None))


def _spans(task: GatherTask, plan: GatherPlan, output: OutputSamples) -> Iterator[tuple[int, list[memoryview]]]:
    return ((batch.start, batch.spans) for batch in read_spans(task.budget, plan, output))


def _write_reduced(task: GatherTask, plan: GatherPlan, output: OutputSamples, sink: Sink) -> Sidecar:
    policy = task.policy
    assert policy.reduce is not None and policy.keying is not None
    skipped: list[tuple[str, str]] = []

    def on_failure(key: str, error: ShardtoolsError) -> None:
        if policy.on_error == "fail":
            raise error.at(url=task.target.url, member=key) from (error.__cause__ or error)
        skipped.append((key, error.what))

    writer = ShardWriter(sink, task.target.url)
    reducer = Reducer(policy.reduce, REDUCE, policy.keying, on_failure)
    spans = _spans(task, plan, output)
    records = (item for start, some in spans for item in records_of(output.samples, start, some, plan.shards))
    for _, _, samples in reducer.reduce(records):
        for sample in samples:
            writer.add(*sample)
    writer.flush()
    counts = Counts(read=len(output), skipped=len(skipped), written=writer.count)
    return writer.finish({**job_of(task, counts, None), "skipped": [list(entry) for entry in skipped]})


def job_of(task: GatherTask, counts: Counts, content: int | None) -> dict[str, Any]:
    """Return what the sidecar of an output says of the job."""
    job: dict[str, Any] = {"program": task.program, "fingerprint": task.fingerprint}
    job |= {"counts": asdict(counts), "skipped": []}
    if content is not None:
        job["content"] = f"{content:016x}"
    return job
