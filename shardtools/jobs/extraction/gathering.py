"""htextract as a function: fields of samples come out as rows, in the order of shards and samples.

sources -> one RowsTask for each shard -> engine -> Found, in order -> Gathering -> Output -> file or standard output
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

from shardtools import engine
from shardtools.errors import JobError, OutputExistsError
from shardtools.jobs.extraction.outputs import Output, output
from shardtools.jobs.extraction.pieces import Found
from shardtools.jobs.extraction.rows import EXTRACT, Enough, Extraction, RowsTask, extract_rows
from shardtools.jobs.extraction.spill import Spill, sweep
from shardtools.jobs.extraction.terminal import for_terminal
from shardtools.jobs.options import RunOptions
from shardtools.jobs.ordered import run_in_order
from shardtools.jobs.script import function
from shardtools.storage import get_storage, using
from shardtools.storage.expansion import expand_sources

TEXT_FORMATS = ("tsv", "csv", "jsonl")


@dataclass(frozen=True)
class Summary:
    """What an extraction did: ``rows`` from ``samples`` samples of ``shards`` shards; and what it left out.

    ``skipped`` has a shard, a key (None for the whole shard) and the reason of each.
    """

    shards: int
    samples: int
    rows: int
    skipped: tuple[tuple[str, str | None, str], ...]


class Gathering:
    """Puts the rows of shards, which come in order, into one file, and keeps count."""

    def __init__(self, out: Output, what: Extraction):
        self._out = out
        self._what = what
        asked = {*what.names, *({what.where.field} if what.where and not what.script else ())}
        self._unseen = asked - {"key"}
        self._held: list[Found] = []
        self._schema: tuple[tuple[Any, ...], str] | None = None
        self._fields: set[str] = set()
        self.shards = self.samples = self.rows = 0
        self.skipped: list[tuple[str, str | None, str]] = []

    def take(self, found: Found) -> None:
        """Add the rows of the next shard. As long as no shard has had a field, its rows wait: it may be misspelt."""
        self.shards += 1
        self.samples += found.samples
        self._fields |= found.fields
        self._unseen -= found.fields
        if found.failure is not None:
            self.skipped.append((found.url, None, found.failure))
        self.skipped += [(found.url, key, reason) for key, reason in found.skipped]
        self._held.append(found)
        if not self._unseen:
            self._release()

    def finish(self) -> None:
        """Write what is left.

        Raises:
            JobError: a field that was asked for exists nowhere.
        """
        if self._unseen and self.samples:
            there = f"there are {', '.join(sorted(self._fields))}" if self._fields else "there are none"
            raise JobError(f"no sample has the field {min(self._unseen)}", fix=there)
        with suppress(Enough):
            self._release()
        self._out.finish()

    def end(self) -> None:
        """Write what is left when there are enough rows."""
        self._out.finish()

    def _release(self) -> None:
        for found in self._held:
            try:
                self._write(found)
            finally:
                found.drop()
        self._held.clear()

    def _write(self, found: Found) -> None:
        left = None if self._what.limit is None else self._what.limit - self.rows
        rows = found.rows if left is None else min(found.rows, left)
        if rows:
            self._check(found)
            size = found.size if rows == found.rows else found.ends[rows - 1]
            with found.open() as content:
                self._out.add(found.schema, content, size)
            self.rows += rows
        if self.rows == self._what.limit:
            raise Enough

    def _check(self, found: Found) -> None:
        if found.schema is None:
            return
        if self._schema is None:
            self._schema = found.schema, found.url
        if found.schema != self._schema[0]:
            what = f"its rows have {_told(found.schema)}, and {_told(self._schema[0])} in {self._schema[1]}"
            raise JobError(what, url=found.url, fix="use --format jsonl")


def _told(schema: tuple[Any, ...]) -> str:
    return ", ".join(map(str, schema)) or "no columns"


def run_rows(
    sources: str | Sequence[str],
    what: Extraction,
    destination: str = "-",
    options: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    on_shard: Callable[[Found], None] | None = None,
) -> Summary:
    """Bring rows out of ``sources`` into the file ``destination``, which appears whole or not at all.

    ``on_shard`` is called with what each task has found as it comes. Return what was done.

    Raises:
        JobError: a field exists nowhere, rows do not fit together, or the options make no sense.
        OutputExistsError: the destination exists, and may not be replaced.
        ShardtoolsError: the first error of a shard or sample, if the options do not say to leave such out.
    """
    if what.script is not None:
        function(what.script, EXTRACT)
    with using(options.storage), ExitStack() as stack:
        urls = expand_sources(sources)
        refuse(destination, options)
        spill = None
        if options.on_this_machine:
            sweep()
            spill = stack.enter_context(closing(Spill()))
        tasks = [
            engine.Task(extract_rows, (RowsTask(url, what, options.on_error, spill),), url, options.storage)
            for url in urls
        ]
        sink = stack.enter_context(get_storage(destination).create(destination))
        if what.layout.format in TEXT_FORMATS and what.layout.binary != "raw":
            sink = for_terminal(sink, destination)
        gathering = Gathering(output(sink, what.layout), what)
        try:
            run_in_order(tasks, gathering.take, options, on_shard)
            gathering.finish()
        except Enough:
            gathering.end()
    return Summary(gathering.shards, gathering.samples, gathering.rows, tuple(gathering.skipped))


def refuse(destination: str, options: RunOptions) -> None:
    """Raise if there is something at ``destination`` that may not be replaced."""
    if destination != "-" and not options.overwrite and get_storage(destination).exists(destination):
        raise OutputExistsError("the output exists", url=destination, fix="use --overwrite to replace it")
