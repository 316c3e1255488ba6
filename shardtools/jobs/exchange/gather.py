"""Pass 2: one output takes its range of every run, in order.

plan -> columns of the ranges -> merged -> what becomes of samples with one key -> spans, some at a time -> shard
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shardtools.engine import check_cancelled
from shardtools.errors import CorruptError, ShardtoolsError
from shardtools.jobs.exchange.collect import SMALL, share_of, sorted_rows
from shardtools.jobs.exchange.columns import Columns, content_hash, join_columns, sums_of
from shardtools.jobs.exchange.contents import records_of
from shardtools.jobs.exchange.merge import Merger
from shardtools.jobs.exchange.notes import GatherPlan, read_plan
from shardtools.jobs.exchange.reduce import REDUCE, Reducer
from shardtools.jobs.exchange.same import Treatment, choose
from shardtools.jobs.target import Counts, ShardResult, Target, commit, is_own, read_mark, shard_result
from shardtools.shards.columns import spread
from shardtools.shards.samples import Composer
from shardtools.shards.sidecar import Sidecar
from shardtools.shards.spans import SpanBatch, SpanWriter, batch_of
from shardtools.shards.tar import BLOCK
from shardtools.shards.writer import ShardWriter
from shardtools.storage import Sink
from shardtools.types import Ints


@dataclass(frozen=True)
class GatherTask:
    """What one task does: write output ``number`` of the plan at ``plan`` to ``target``.

    ``budget`` is how many bytes of spans all tasks of its process may hold, ``job`` the fingerprint of the job,
    ``program`` its name.
    """

    plan: str
    number: int
    target: Target
    treatment: Treatment
    budget: int
    job: str
    fingerprint: str
    program: str


@dataclass(frozen=True)
class Located:
    """The samples of one output, in their order: their columns, and where the span of each is.

    Sample i is in run ``runs[i]``, from byte ``starts[i]`` of its spans on.
    """

    columns: Columns
    runs: Ints
    starts: Ints


def gather(task: GatherTask) -> ShardResult:
    """Write one output and return what became of it.

    Raises:
        DuplicateKeyError: two of its samples have one key, and nothing was said of such.
        OutputExistsError: resumed, but another job has written the target.
        StorageError: a run cannot be read, or the output not be written.
    """
    mark = read_mark(task.target)
    if mark is not None and is_own(mark, task.target, task.fingerprint):
        return shard_result("", 0, task.target.url, mark, resumed=True)
    plan = read_plan(task.plan, task.job)
    located = locate(plan, task.number)
    size = int(located.columns.sizes.sum())
    treatment = task.treatment
    write = _write_reduced if treatment.reduce else _write_merged if treatment.merge else _write
    sidecar = commit(task.target, lambda sink: write(task, plan, located, sink))
    return shard_result("", size, task.target.url, sidecar)


def locate(plan: GatherPlan, number: int) -> Located:
    """Return which samples an output has, in their order."""
    low, high = plan.cuts[number], plan.cuts[number + 1]
    chosen = [i for i in range(len(plan.runs)) if high[i] > low[i]]
    parts, runs, starts = [], [], []
    for i in chosen:
        check_cancelled()
        columns, start = plan.runs[i].read_columns(int(low[i]), int(high[i]))
        parts.append(columns)
        runs.append(np.full(len(columns), i, np.int64))
        starts.append(start + np.cumsum(columns.sizes) - columns.sizes)
    together = join_columns(parts)
    places = together.places
    base = np.lexsort((places["index"], places["ordinal"]))  # those with one order stay in the order of the input
    rows = base[sorted_rows(together.take(base))]
    empty = [np.empty(0, np.int64)]
    return Located(together.take(rows), np.concatenate(empty + runs)[rows], np.concatenate(empty + starts)[rows])


@dataclass(frozen=True)
class Chunk:
    """The samples of an output from row ``start`` on: the bytes of their spans, in order, in one piece or many."""

    start: int
    count: int
    parts: list[Any]

    @property
    def spans(self) -> list[memoryview]:
        """The span of each sample."""
        if len(self.parts) == self.count:
            return self.parts
        raise ValueError("the spans are in one piece")


def chunks_of(task: GatherTask, plan: GatherPlan, located: Located, *, together: bool = False) -> Iterator[Chunk]:
    """Yield the spans of samples in order, as many at a time as fit into the task's share of the budget.

    With ``together`` small ones may come in one piece.

    Raises:
        CorruptError: something has changed in the spill.
    """
    sizes, budget = located.columns.sizes, share_of(task.budget)
    ends = np.cumsum(sizes)
    together = together and bool(len(sizes)) and int(ends[-1]) < SMALL * len(sizes)
    start = 0
    while start < len(ends):
        check_cancelled()
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + budget, side="right")), start + 1)
        yield _read(task, plan, located, start, stop, together)
        start = stop


def _read(task: GatherTask, plan: GatherPlan, located: Located, start: int, stop: int, together: bool) -> Chunk:
    """Return the spans of rows ``start`` to ``stop``. Of each run they are one range, as runs are in order."""
    runs, starts = located.runs[start:stop], located.starts[start:stop]
    sizes, sums = located.columns.sizes[start:stop], located.columns.sums[start:stop]
    bodies: list[Any] = [None] * len(plan.runs)
    at = np.empty(len(runs), np.int64)
    out = np.empty((int(sizes.sum()) // BLOCK, BLOCK), np.uint8) if together else None
    places = np.cumsum(sizes) - sizes
    for number in np.unique(runs).tolist():
        rows = np.flatnonzero(runs == number)
        first, last = int(starts[rows].min()), int((starts[rows] + sizes[rows]).max())
        run = plan.runs[number]
        data = run.read_data(first, last)
        body = np.frombuffer(data, np.uint8)
        at[rows] = starts[rows] - first
        if not np.array_equal(sums_of(body, at[rows], sizes[rows]), sums[rows]):
            what = "samples were damaged in the spill"
            raise CorruptError(what, url=run.url, fix="delete it and run again; see whether the disk is sound")
        if out is not None:
            blocks = body.reshape(-1, BLOCK)
            source = spread(at[rows] // BLOCK, sizes[rows] // BLOCK)
            out[spread(places[rows] // BLOCK, sizes[rows] // BLOCK)] = blocks[source]
        else:
            bodies[number] = data
    if out is not None:
        return Chunk(start, stop - start, [out.reshape(-1).data])
    stops = (at + sizes).tolist()
    views = [bodies[n][a:b] for n, a, b in zip(runs.tolist(), at.tolist(), stops, strict=True)]
    return Chunk(start, stop - start, views)


def batch(columns: Columns, start: int, stop: int, spans: Sequence[Any]) -> SpanBatch:
    """Return the samples ``start`` to ``stop`` with their spans, as the writer of a shard takes them."""
    names = columns.names
    name_starts = names.starts
    members = columns.members[columns.first[start] : columns.first[stop]]
    return SpanBatch(
        spans,
        names.data[int(name_starts[start]) : int(names.ends[stop - 1])],
        (names.ends - name_starts)[start:stop],
        np.diff(columns.first[start : stop + 1]),
        members["head"].astype(np.int64),
        members["size"].astype(np.int64),
        members["field"].astype(np.int64),
        members["crc32"],
        columns.fields,
    )


def _write(task: GatherTask, plan: GatherPlan, located: Located, sink: Sink) -> Sidecar:
    """Write samples as they are, but for those that are left out or get another key."""
    read = len(located.columns)
    chosen = choose(located.columns, plan.shards, task.treatment)
    if chosen.rows is not None:
        rows = chosen.rows
        located = Located(located.columns.take(rows), located.runs[rows], located.starts[rows])
    columns = located.columns
    writer = SpanWriter(sink, task.target.url)
    together = not chosen.renamed and not writer.by_sample
    for chunk in chunks_of(task, plan, located, together=together):
        at, stop = chunk.start, chunk.start + chunk.count
        for row in sorted(row for row in chosen.renamed if at <= row < stop):
            spans = chunk.spans[at - chunk.start : row - chunk.start]
            if spans:
                writer.add(batch(columns, at, row, spans))
            writer.add(_renamed(columns, row, chunk.spans[row - chunk.start], plan, chosen.renamed[row]))
            at = row + 1
        if at < stop:
            writer.add(batch(columns, at, stop, chunk.parts[at - chunk.start :]))
    content = None if chosen.renamed or chosen.rows is not None else content_hash(columns)
    counts = Counts(read=read, dropped=read - writer.count, written=writer.count)
    return writer.finish(job_of(task, counts, content))


def _renamed(columns: Columns, row: int, span: memoryview, plan: GatherPlan, key: str) -> SpanBatch:
    [(_, record)] = records_of(columns, row, [span], plan.shards)
    return batch_of([Composer().compose({**record, "key": key})])


def _write_merged(task: GatherTask, plan: GatherPlan, located: Located, sink: Sink) -> Sidecar:
    writer = SpanWriter(sink, task.target.url)
    merger = Merger(located.columns, task.treatment, plan.sources, plan.shards)
    for some in merger.merge(_spans(task, plan, located)):
        writer.add(some)
    counts = Counts(read=len(located.columns), dropped=merger.dropped, written=writer.count)
    return writer.finish(job_of(task, counts, None))


def _spans(task: GatherTask, plan: GatherPlan, located: Located) -> Iterator[tuple[int, list[memoryview]]]:
    return ((chunk.start, chunk.spans) for chunk in chunks_of(task, plan, located))


def _write_reduced(task: GatherTask, plan: GatherPlan, located: Located, sink: Sink) -> Sidecar:
    treatment = task.treatment
    assert treatment.reduce is not None and treatment.keying is not None
    skipped: list[tuple[str, str]] = []

    def on_failure(key: str, error: ShardtoolsError) -> None:
        if treatment.on_error == "fail":
            raise error.at(url=task.target.url, member=key) from (error.__cause__ or error)
        skipped.append((key, error.what))

    writer = ShardWriter(sink, task.target.url)
    reducer = Reducer(treatment.reduce, REDUCE, treatment.keying, on_failure)
    spans = _spans(task, plan, located)
    records = (item for start, some in spans for item in records_of(located.columns, start, some, plan.shards))
    for _, _, samples in reducer.reduce(records):
        for sample in samples:
            writer.add(*sample)
    writer.flush()
    counts = Counts(read=len(located.columns), skipped=len(skipped), written=writer.count)
    return writer.finish({**job_of(task, counts, None), "skipped": [list(entry) for entry in skipped]})


def job_of(task: GatherTask, counts: Counts, content: int | None) -> dict[str, Any]:
    """Return what the sidecar of an output says of the job."""
    job: dict[str, Any] = {"program": task.program, "fingerprint": task.fingerprint}
    job |= {"counts": asdict(counts), "skipped": []}
    if content is not None:
        job["content"] = f"{content:016x}"
    return job
