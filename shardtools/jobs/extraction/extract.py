"""htextract as a function: fields of samples become rows, in the order of shards and samples.

sources -> one ExtractTask for each shard -> engine -> ExtractedRows, in order -> RowCollector -> Output -> file
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from shardtools import engine
from shardtools.errors import JobError, OutputExistsError, redact
from shardtools.jobs.choice import ChosenShards
from shardtools.jobs.choosing import choose
from shardtools.jobs.extraction.ahead import PARTS, ReadAhead
from shardtools.jobs.extraction.extract_shard import EXTRACT, ExtractOptions, ExtractTask, LimitReached, extract_shard
from shardtools.jobs.extraction.extracted import ExtractedRows, Waiting
from shardtools.jobs.extraction.formats import RowFormat
from shardtools.jobs.extraction.lacking import query_hint
from shardtools.jobs.extraction.outputs import Output, open_output
from shardtools.jobs.extraction.shared_spill import SharedSpill, shared_spill
from shardtools.jobs.extraction.spill import Spill, sweep
from shardtools.jobs.extraction.terminal import for_terminal
from shardtools.jobs.functions import check_sendable
from shardtools.jobs.options import RunOptions
from shardtools.jobs.ordered import run_in_order
from shardtools.jobs.report import Skipped
from shardtools.jobs.script import function
from shardtools.query.condition import Seen
from shardtools.shards.names import name_hint
from shardtools.storage import get_storage, using
from shardtools.storage.expansion import SourceSpecs, look_up

TEXT_FORMATS = ("tsv", "csv", "jsonl")


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction did: ``rows`` from ``samples`` samples of ``shards`` shards; and what was ``skipped``."""

    shards: int
    samples: int
    rows: int
    skipped: tuple[Skipped, ...]


class RowCollector:
    """Puts the rows of shards, which come in order, into one file, and keeps count."""

    def __init__(self, out: Output, what: ExtractOptions, ahead: ReadAhead, waiting: Waiting):
        self._out = out
        self._ahead = ahead
        self._waiting = waiting
        self._what = what
        self._unseen = {*what.names, *what.choice.named_fields()} - {"key"}
        self._where = set(what.choice.where.columns if what.choice.where else ())
        self._seen = Seen()
        self._held: deque[ExtractedRows] = deque()
        self._schema: tuple[tuple[Any, ...], str] | None = None
        self._fields: set[str] = set()
        self.shards = self.samples = self.rows = 0
        self.skipped: list[Skipped] = []

    def take(self, part: ExtractedRows) -> None:
        """Add the rows of the next shard. Until a shard has each field, rows wait: a field's name may be misspelt.

        So do columns of a condition.
        """
        self.shards += 1
        self.samples += part.samples
        self._fields |= part.fields
        self._unseen -= part.fields
        self._seen |= part.seen
        self._where -= part.seen.columns
        if part.failure is not None:
            self.skipped.append(Skipped(redact(part.url), None, part.failure))
        self.skipped += [Skipped(redact(part.url), key, reason) for key, reason in part.skipped]
        self._held.append(self._waiting.hold(part))
        if not self._unseen and not self._where:  # rows in storage are read ahead, unless there may soon be enough
            self._release(PARTS if part.is_object and self._what.limit is None else 0)

    def count(self, chosen: ChosenShards) -> None:
        """Count the shards that are not read, since the dataset's table says that no sample of them is picked."""
        self.shards += sum(part.is_nothing for part in chosen.shards)
        self.samples += chosen.unpicked
        self._fields |= chosen.seen.fields
        self._unseen -= chosen.seen.fields
        self._seen |= chosen.seen
        self._where -= chosen.seen.columns

    def finish(self) -> None:
        """Write what is left.

        Raises:
            JobError: a field that was asked for exists nowhere, or a column of the condition.
        """
        self._seen.note()
        if self._unseen and self.samples:
            there = f"there are {', '.join(sorted(self._fields))}" if self._fields else "there are none"
            whose = "no sample" if self._what.limit is None else "no sample that was read"
            name = min(self._unseen)
            fix = name_hint(name, self._fields) or query_hint(name, self._fields) or there
            raise JobError(f"{whose} has the field {name}", fix=fix)
        if self._what.choice.where is not None and self.samples:
            self._seen.check(self._what.choice.where)
        with suppress(LimitReached):
            self._release()
        self._out.finish()

    def end(self) -> None:
        """Write what is left when there are enough rows."""
        self._seen.note()
        self._out.finish()

    def _release(self, keep: int = 0) -> None:
        """Write the rows of all shards but the last ``keep``."""
        while len(self._held) > keep:
            self._ahead.begin(islice(self._held, PARTS))
            part = self._held.popleft()
            try:
                self._write(part)
            finally:
                self._waiting.release(part)
                self._ahead.drop(part)

    def _write(self, part: ExtractedRows) -> None:
        left = None if self._what.limit is None else self._what.limit - self.rows
        rows = part.rows if left is None else min(part.rows, left)
        if rows:
            self._check(part)
            size = part.size if rows == part.rows else part.ends[rows - 1]
            with self._ahead.open(part) as content:
                self._out.add(part.schema, content, size)
            self.rows += rows
        if self.rows == self._what.limit:
            raise LimitReached

    def _check(self, part: ExtractedRows) -> None:
        if part.schema is None:
            return
        if self._schema is None:
            self._schema = part.schema, part.url
        if part.schema != self._schema[0]:
            what = f"its rows have {_describe(part.schema)}, and {_describe(self._schema[0])} in {self._schema[1]}"
            raise JobError(what, url=part.url, fix="use --format jsonl")


def _describe(schema: tuple[Any, ...]) -> str:
    return ", ".join(map(str, schema)) or "no columns"


def _skipped(url: str, reason: str) -> ExtractedRows:
    return ExtractedRows(url, failure=reason)


def run_extract(
    sources: SourceSpecs,
    what: ExtractOptions,
    destination: str = "-",
    options: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    on_shard: Callable[[ExtractedRows], None] | None = None,
) -> ExtractResult:
    """Extract rows from ``sources`` into the file ``destination``, which appears whole or not at all.

    ``on_shard`` is called with the rows of each shard, as they come.

    Raises:
        JobError: no sample has a field, rows have different columns, or the options make no sense.
        OutputExistsError: the destination exists, and may not be replaced.
        ShardtoolsError: the first error of a shard or sample, unless the options say to skip errors.
    """
    if what.script is not None:
        function(what.script, EXTRACT)
        check_sendable(options, what.script)
    with using(options.storage), ExitStack() as stack:
        named = look_up(sources)
        urls = named.urls
        refuse(destination, options)
        chosen = choose(replace(what.choice, limit=None), named, options)
        sweep()
        local = stack.enter_context(closing(Spill()))
        shared = None if options.on_this_machine else stack.enter_context(shared_spill(destination, urls))
        tasks = _tasks(urls, chosen, what, options, local if options.on_this_machine else shared)
        out = _open_output(destination, what.format, stack)
        ahead, waiting = stack.enter_context(closing(ReadAhead())), Waiting(local)
        collector = RowCollector(out, what, ahead, waiting)
        collector.count(chosen)
        written = [shared.before] if shared is not None else []
        try:
            run_in_order(
                tasks,
                collector.take,
                options,
                on_shard,
                written,
                hold=waiting.hold,
                label="htextract",
                skipped=_skipped,
            )
            collector.finish()
        except LimitReached:
            collector.end()
    return ExtractResult(collector.shards, collector.samples, collector.rows, tuple(collector.skipped))


def _tasks(
    urls: Sequence[str],
    chosen: ChosenShards,
    what: ExtractOptions,
    options: RunOptions,
    spill: Spill | SharedSpill | None,
) -> list[engine.Task]:
    """Return a task for each shard of which anything is wanted; ``spill`` is for rows that are many."""
    tasks = []
    for number, (url, part) in enumerate(zip(urls, chosen.shards, strict=True)):
        if not part.is_nothing:
            place = spill.url_of(number) if isinstance(spill, SharedSpill) else spill
            task = ExtractTask(url, what, options.on_error, place, part)
            tasks.append(engine.Task(extract_shard, (task,), url, options.storage))
    return tasks


def _open_output(destination: str, format: RowFormat, stack: ExitStack) -> Output:
    """Return the output, which is closed at the end of ``stack``, and after it its file."""
    sink = stack.enter_context(get_storage(destination).create(destination))
    if format.name in TEXT_FORMATS and format.binary != "raw":
        sink = for_terminal(sink, destination)
    return stack.enter_context(closing(open_output(sink, format)))


def refuse(destination: str, options: RunOptions) -> None:
    """Raise if there is something at ``destination`` that may not be replaced."""
    if destination != "-" and not options.overwrite and get_storage(destination).exists(destination):
        raise OutputExistsError("the output exists", url=destination, fix="use --overwrite to replace it")
