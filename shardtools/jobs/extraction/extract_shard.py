"""The task of htextract: the rows of one shard.

RowBatches, or records -> script -> RowBatch -> Encoder -> RowBuffer -> ExtractedRows
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from shardtools.engine import check_cancelled
from shardtools.errors import FieldError, JobError, SampleError, ShardtoolsError
from shardtools.jobs.choice import EVERYTHING, Choice, ShardChoice
from shardtools.jobs.choosing import ChosenBlocks
from shardtools.jobs.extraction.extracted import ExtractedRows, RowBuffer
from shardtools.jobs.extraction.formats import DEFAULT_FORMAT, Encoder, RowFormat, encoder, is_binary
from shardtools.jobs.extraction.row_batches import Needs, RowBatch, RowBatches
from shardtools.jobs.extraction.spill import Spill
from shardtools.jobs.options import OnError
from shardtools.jobs.script import Code, failure, function
from shardtools.query.condition import Seen
from shardtools.shards.names import names_of
from shardtools.shards.reader import ShardReader, refuse_repeated
from shardtools.shards.samples import Record, records

Missing = Literal["skip", "empty", "error"]

EXTRACT = "extract_sample"
"""What a script's function is called."""


@dataclass(frozen=True)
class ExtractOptions:
    """Which rows to extract: ``fields``, or what ``script`` returns, of the samples that ``choice`` takes.

    ``missing`` says what to do with a sample that lacks one of the fields. The limit of the choice is one of rows, and
    its new names are those of columns. A single field may be a text instead of a tuple.
    """

    fields: str | tuple[str, ...] = ()
    script: Code | None = None
    choice: Choice = EVERYTHING
    missing: Missing = "empty"
    format: RowFormat = DEFAULT_FORMAT

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return names_of(self.fields)

    @property
    def limit(self) -> int | None:
        """The most rows that are extracted."""
        return self.choice.limit


@dataclass(frozen=True)
class ExtractTask:
    """What one task does: extract the rows of the shard ``source``; ``spill`` is where they go if they are large.

    ``chosen`` is what it takes of the shard, without the limit of rows.
    """

    source: str
    what: ExtractOptions
    on_error: OnError
    spill: Spill | str | None
    chosen: ShardChoice = ShardChoice()  # noqa: RUF009 - it is frozen


def extract_shard(task: ExtractTask) -> ExtractedRows:
    """Return the rows of one shard.

    Raises:
        ShardtoolsError: the shard or a sample cannot be read.
    """
    try:
        return _Extractor(task).run()
    except ShardtoolsError as error:
        if task.on_error == "fail" or isinstance(error, JobError):
            raise
        return ExtractedRows(task.source, failure=str(error))


class LimitReached(Exception):
    """Ends the reading of a shard, or of all shards, at the limit of rows."""


class _Extractor:
    def __init__(self, task: ExtractTask):
        self._task = task
        self._what = task.what
        self._encoder: Encoder = encoder(task.what.format)
        self._buffer = RowBuffer(task.spill)
        self._rows = self._samples = 0
        self._fields: set[str] = set()
        self._seen = Seen()
        self._ends: list[int] = []
        self._skipped: list[tuple[str, str]] = []

    def run(self) -> ExtractedRows:
        with self._buffer:
            return self._run()

    def _run(self) -> ExtractedRows:
        try:
            for rows in self._from_script() if self._what.script else self._from_fields():
                check_cancelled()
                self._add(rows)
        except LimitReached:
            pass
        return ExtractedRows(
            self._task.source,
            self._rows,
            self._samples,
            self._buffer.tell(),
            self._buffer.take(),
            self._encoder.schema,
            tuple(self._ends),
            frozenset(self._fields),
            tuple(self._skipped),
            seen=self._seen,
        )

    def _add(self, rows: RowBatch) -> None:
        """Encode rows: one by one if there is a limit, or if encoding them together fails and errors are skipped."""
        if self._what.limit is None:
            try:
                self._write(rows)
                return
            except (FieldError, SampleError) as error:
                if self._task.on_error == "fail":
                    raise error.at(url=self._task.source) from (error.__cause__ or error)
        for row in _one_by_one(rows):
            try:
                self._write(row)
            except (FieldError, SampleError) as error:
                if self._task.on_error == "fail":
                    raise error.at(url=self._task.source) from (error.__cause__ or error)
                self._skipped.append((row.keys[0], error.what))
            if self._rows == self._what.limit:
                raise LimitReached

    def _write(self, rows: RowBatch) -> None:
        self._buffer.write(self._encoder.encode(rows))
        self._rows += len(rows.keys)
        if self._what.limit is not None:
            self._ends.append(self._buffer.tell())

    # --- fields

    def _from_fields(self) -> Iterator[RowBatch]:
        what = self._what
        shown = what.format.binary != "describe" or what.format.name in ("npy", "parquet")
        described = tuple(name for name in what.names if is_binary(name) and not shown)
        fields = tuple(name for name in what.names if name not in described)
        chosen = self._task.chosen
        batches = RowBatches(self._task.source, Needs(fields, described, chosen.where), chosen.number)
        for batch in batches:
            self._note(batches)  # before the rows, which may be the last ones that are wanted
            yield self._complete(batch)
        self._note(batches)

    def _note(self, batches: RowBatches) -> None:
        self._samples, self._fields, self._seen = batches.samples, batches.fields, batches.seen

    def _complete(self, batch: RowBatch) -> RowBatch:
        """Return the rows of a batch, without those that lack a field unless ``missing`` is ``"empty"``."""
        columns: Mapping[str, Sequence[Any]] = {name: batch.columns[name] for name in self._what.names}
        keys: Sequence[str] = batch.keys
        if self._what.missing != "empty" and any(None in column for column in columns.values()):
            complete = [None not in row for row in zip(*columns.values(), strict=True)]
            if self._what.missing == "error":
                self._lacking(keys, columns, complete)
            keys = [key for key, whole in zip(keys, complete, strict=True) if whole]
            columns = {
                name: [value for value, whole in zip(column, complete, strict=True) if whole]
                for name, column in columns.items()
            }
        names = dict(self._what.choice.rename)
        return RowBatch(batch.url, keys, {names.get(name, name): column for name, column in columns.items()})

    def _lacking(self, keys: Sequence[str], columns: Mapping[str, Sequence[Any]], complete: Sequence[bool]) -> None:
        """Raise for the first sample that lacks a field, or skip all that do."""
        for row, whole in enumerate(complete):
            if whole:
                continue
            lacks = next(name for name, column in columns.items() if column[row] is None)
            if self._task.on_error == "fail":
                fix = "use --missing empty or --missing skip"
                raise SampleError(f"the sample has no {lacks}", url=self._task.source, member=keys[row], fix=fix)
            self._skipped.append((keys[row], f"the sample has no {lacks}"))

    # --- a script

    def _from_script(self) -> Iterator[RowBatch]:
        assert self._what.script is not None
        call = function(self._what.script, EXTRACT).call
        with ShardReader(self._task.source) as reader:
            blocks = ChosenBlocks(self._task.chosen, reader)
            for block in blocks:
                refuse_repeated(block)
                self._fields, self._seen = set(blocks.seen.fields), blocks.seen
                rows = list(self._call_each(call, records(block)))
                self._samples = blocks.samples
                for names, some in groupby(rows, lambda row: tuple(row[1])):
                    yield _together(block.url, names, list(some))

    def _call_each(self, call: Callable[[Any], Any], source: Iterable[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the key and the columns that the script returns for each sample, unless it returns None."""
        assert self._what.script is not None
        for record in source:
            check_cancelled()
            key = record["key"]
            try:
                returned = call(record)
            except (Exception, SystemExit) as error:
                failed = failure(error, self._what.script, EXTRACT)
                if self._task.on_error == "skip":
                    self._skipped.append((key, failed.what))
                    continue
                raise failed.at(url=self._task.source, member=key) from error
            if returned is not None:
                yield key, returned if isinstance(returned, dict) else {"value": returned}


def _together(url: str, names: tuple[Any, ...], rows: Sequence[tuple[str, dict[str, Any]]]) -> RowBatch:
    """Return rows with the same columns as one; a column called key is the sample's key, which stands first anyway."""
    columns = {str(name): [row[name] for _, row in rows] for name in names if name != "key"}
    return RowBatch(url, [str(row.get("key", key)) for key, row in rows], columns)


def _one_by_one(rows: RowBatch) -> Iterator[RowBatch]:
    for i, key in enumerate(rows.keys):
        yield RowBatch(rows.url, [key], {name: [column[i]] for name, column in rows.columns.items()})
