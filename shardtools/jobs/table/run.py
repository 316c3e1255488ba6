"""htindex --table as a function: the table of a dataset that has all sidecars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shardtools import engine
from shardtools.engine import watching_tasks
from shardtools.engine.notes import notes
from shardtools.errors import CorruptError, JobError, NotFoundError, OutputExistsError, SpecError, redact
from shardtools.jobs.options import RunOptions
from shardtools.jobs.ordered import run_in_order
from shardtools.jobs.table.merge import plan_table, write_table
from shardtools.jobs.table.shard_rows import PartTask, ShardPart, write_part
from shardtools.query.key_file import KeyFile, digest_of, keys_url
from shardtools.query.names import DIMENSIONS, content_of, find_source
from shardtools.query.table_file import Asked, ShardState, TableFacts, read_facts, table_url
from shardtools.shards.fields import kind_of
from shardtools.shards.manifest import ShardEntry
from shardtools.shards.sidecar import find_sidecar
from shardtools.spec import Destination
from shardtools.storage import Stat, get_storage, using
from shardtools.storage.together import each
from shardtools.urls import beside, folder_of, name_of

SMALL = 1024
"""The mean bytes of a field up to which a table has its values by default."""


@dataclass(frozen=True)
class TableResult:
    """The files of a table, the number of its samples, whether it was ``made`` now, and notes about it."""

    files: tuple[str, ...]
    samples: int
    columns: tuple[str, ...]
    made: bool
    notes: tuple[str, ...] = ()


def check_spec(sources: Sequence[str]) -> Destination:
    """Return the dataset that a table is for.

    Raises:
        JobError: the sources are not one dataset with a manifest.
    """
    fix = "give one spec, such as train-@1000.tgz"
    if len(sources) != 1 or any(letter in sources[0] for letter in "*{") or "::" in sources[0] or sources[0] == "-":
        raise JobError("a table is for one dataset", fix=fix)
    try:
        return Destination(sources[0])
    except SpecError as error:
        raise JobError("a table is for one dataset", fix=fix) from error


def check_request(destination: Destination, options: RunOptions) -> None:
    """Raise if a job whose options ask for a table could not make it.

    Raises:
        JobError: it could not.
    """
    if options.table is not None:
        _check_pyarrow()
        if destination.spec == "-":
            raise JobError("what goes to standard output has no table", fix="leave out --table, or write to a file")


def table_of(destination: Destination, entries: Sequence[ShardEntry], options: RunOptions) -> TableResult | None:
    """Return the table of a dataset that a job has just completed; None if its options ask for none.

    Raises:
        JobError: a field does not exist. The dataset itself is complete.
        ShardtoolsError: the first error of a shard.
    """
    if (request := options.table) is None:
        return None
    notes.info("making the table of %s", redact(destination.spec))
    with watching_tasks(lambda task, samples, size: None):  # the bar is that of the shards
        return make_table(destination, entries, request.fields, options, dimensions=request.dimensions)


def make_table(
    destination: Destination,
    entries: Sequence[ShardEntry],
    asked: tuple[Asked, ...] | None,
    options: RunOptions,
    on_shard: Callable[[ShardPart], None] | None = None,
    *,
    dimensions: bool = False,
) -> TableResult:
    """Make the table of a dataset, whose shards have these ``entries``, unless it has one that fits.

    ``asked`` is what it has of fields; None for the fields that have few bytes. With ``dimensions`` it also has the
    widths and heights of images.

    Raises:
        JobError: a field does not exist, or pyarrow is not installed.
        ShardtoolsError: the first error of a shard.
    """
    _check_pyarrow()
    with using(options.storage):
        states = tuple(ShardState(name_of(one.url), one.filesize, one.checksum, one.nsamples) for one in entries)
        there = None if options.overwrite else _there(destination.spec)
        sides = _dimensions(entries) if dimensions else ()
        fits = there is not None and (there.shards, there.asked) == (states, asked)
        if there is not None and fits and _has(there, sides) and _has_keys(destination, states):
            urls = tuple(table_url(destination.spec, number) for number in range(len(there.files)))
            return TableResult(urls, there.samples, tuple(there.kinds), made=False)
        if there is not None and there.shards == states:
            _refuse_to_lose(there, asked, sides, table_url(destination.spec))
        _check_fields(asked, entries)
        chosen = _small_fields(entries) if asked is None else asked
        parts = _make_parts(destination, entries, (*chosen, *sides), options, on_shard)
        _check_columns(asked, parts)
        plan = plan_table(parts, asked)
        files = write_table(destination.spec, parts, plan)
        _delete([part.part for part in parts])
    notes = (*(f"{count:,} values left out: {what}" for what, count in plan.facts.wrong.items()), *plan.left_out)
    return TableResult(tuple(files), plan.facts.samples, tuple(plan.facts.kinds), made=True, notes=notes)


def _refuse_to_lose(there: TableFacts, asked: tuple[Asked, ...] | None, sides: tuple[Asked, ...], url: str) -> None:
    """Raise if a table that fits the shards would be replaced by one that lacks some of its fields.

    Raises:
        OutputExistsError: it would.
    """
    kept = {one.name for one in (*(asked or ()), *sides)}
    lost = [name for name in there.kinds if not any(name == one or name.startswith(one + ".") for one in kept)]
    if asked is not None and lost:
        what = f"the table that is there also has {', '.join(lost[:5])}{' and others' if len(lost) > 5 else ''}"
        raise OutputExistsError(what, url=url, fix="add these with -f, or replace the table with --overwrite")


def _check_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise JobError("a table needs pyarrow", fix="install it: pip install 'shardtools[parquet]'") from error


def _there(spec: str) -> TableFacts | None:
    try:
        return read_facts(table_url(spec))
    except (NotFoundError, CorruptError):
        return None


def _dimensions(entries: Sequence[ShardEntry]) -> tuple[Asked, ...]:
    """Return the widths and heights of all fields of images."""
    fields = sorted({field for entry in entries for field in entry.fields if kind_of(field) == "image"})
    return tuple(Asked(f"{field}.{what}") for field in fields for what in DIMENSIONS)


def _has(facts: TableFacts, asked: Sequence[Asked]) -> bool:
    return all(one.name in facts.kinds for one in asked)


def _has_keys(destination: Destination, states: Sequence[ShardState]) -> bool:
    try:
        return KeyFile(keys_url(destination.spec)).digest == digest_of(states)
    except (NotFoundError, CorruptError):
        return False


def _check_fields(asked: tuple[Asked, ...] | None, entries: Sequence[ShardEntry]) -> None:
    """Raise if a field was asked for that does not exist, or has no values for a table.

    Raises:
        JobError: it was.
    """
    fields = sorted({field for entry in entries for field in entry.fields})
    for one in asked or ():
        source = find_source(one.name, fields)
        if source is None or not source.needs_data:
            there = ", ".join(field for field in fields if content_of(field)) or "none"
            raise JobError(f"{one.name} is not a field with values", fix=f"there are these fields with values: {there}")


def _check_columns(asked: tuple[Asked, ...] | None, parts: Sequence[ShardPart]) -> None:
    """Raise if a path of JSON was asked for that no sample has.

    Raises:
        JobError: it was.
    """
    fields = sorted({field for part in parts for field in part.fields})
    for one in asked or ():
        source = find_source(one.name, fields)
        if (
            source
            and source.what == "path"
            and not any(f"{source.field}.{source.path}" in part.kinds for part in parts)
        ):
            raise JobError(f"no sample has {one.name}", fix=f"look at the field {source.field} with htextract")


def _small_fields(entries: Sequence[ShardEntry]) -> tuple[Asked, ...]:
    """Return the fields of text, numbers and JSON that are small in the first shard that has samples."""
    entry = next((entry for entry in entries if entry.nsamples), None)
    sidecar = None if entry is None else find_sidecar(entry.url, Stat(entry.filesize, None))
    if sidecar is None:
        return ()
    table = sidecar.table
    counts = np.bincount(table.field, minlength=len(table.fields))
    sizes = np.bincount(table.field, weights=table.size, minlength=len(table.fields))
    means = dict(zip(table.fields, sizes / np.maximum(counts, 1), strict=True))
    return tuple(
        Asked(field)
        for field in sorted(means)
        if kind_of(field) in ("text", "number", "JSON") and not field.endswith(".gz") and means[field] <= SMALL
    )


def _make_parts(
    destination: Destination,
    entries: Sequence[ShardEntry],
    asked: tuple[Asked, ...],
    options: RunOptions,
    on_shard: Callable[[ShardPart], None] | None,
) -> list[ShardPart]:
    parts: list[ShardPart] = []
    tasks = []
    for number, entry in enumerate(entries):
        url = beside(destination.spec, f".part-{number:06d}.arrow")
        task = PartTask(entry.url, number, url, asked, anew=options.overwrite)
        tasks.append(engine.Task(write_part, (task,), entry.url, options.storage))
    run_in_order(tasks, parts.append, options, on_shard, [folder_of(destination.spec)])
    return parts


def _delete(urls: Sequence[str]) -> None:
    for _ in each(lambda url: get_storage(url).delete(url), urls):
        pass
