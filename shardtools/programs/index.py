"""htindex as a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Unpack, get_args

from shardtools.engine.notes import notes
from shardtools.errors import JobError, PlaceRefusedError, redact
from shardtools.jobs.report import Skipped
from shardtools.programs.keywords import READ, ReadKeywords, spelled_out
from shardtools.programs.progress import python_progress
from shardtools.programs.running import Specs, asked_fields, called, choice, named_by, run_options
from shardtools.spec import Destination
from shardtools.storage import using
from shardtools.storage.index_place import home_of, local_place, writing_index
from shardtools.units import format_count
from shardtools.urls import name_of

if TYPE_CHECKING:
    from shardtools.jobs.index import Indexed
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.table.run import TableResult
    from shardtools.jobs.table.shard_rows import ShardPart
    from shardtools.query.table_file import Asked
    from shardtools.storage.expansion import Sources

Export = Literal["wids", "dali"]


@dataclass(frozen=True)
class IndexResult:
    """What was found of each shard, and the URLs of the ``files`` that were written for another program.

    ``table`` is what became of the dataset's table, None if none was asked for.
    """

    shards: Sequence[Indexed]
    files: Sequence[str] = ()
    table: TableResult | None = None

    def __repr__(self) -> str:
        """Return what a person wants to see of many shards: their sums."""
        parts = [
            format_count(len(self.shards), "shard"),
            format_count(self.samples, "sample"),
            f"{format_count(self.made, 'file')} made",
        ]
        return f"IndexResult({', '.join([*parts, *([f'{len(self.skipped):,} skipped'] if self.skipped else [])])})"

    @property
    def samples(self) -> int:
        """The number of samples in all shards that could be read."""
        return sum(shard.entry.nsamples for shard in self.shards if shard.entry)

    @property
    def made(self) -> int:
        """The number of files that were made: sidecars, or those for another program."""
        return len(self.files) or sum(shard.made for shard in self.shards)

    @property
    def skipped(self) -> list[Skipped]:
        """The shards that could not be read, and why; only with ``on_error="skip"``."""
        return [Skipped(redact(shard.url), None, shard.failure or "") for shard in self.shards if shard.entry is None]


@spelled_out(READ, run_options)
def index(
    sources: Specs,
    *,
    check: bool = False,
    export: Export | None = None,
    output: str | None = None,
    table: bool | str | Sequence[str] = False,
    dimensions: bool = False,
    progress: bool = False,
    **keywords: Unpack[ReadKeywords],
) -> IndexResult:
    """Write, beside the shards ``sources``, sidecars that say where their samples are, and the manifest.

    What is there is kept, but with ``overwrite``. ``check`` compares it with the shards instead, and writes nothing.
    ``export`` writes what the sidecars say as ``"wids"`` or ``"dali"`` reads it; ``output`` is the index for wids.
    ``table`` makes the dataset's table, a Parquet file beside the manifest with a row for each sample: with the values
    of its small fields, or of those that are listed, as ``["cls", "json", "txt:200"]``; with ``dimensions`` also with
    the widths and heights of images, as ``jpg.width``. ``progress`` shows a bar.

    See `shardtools.programs.keywords.ReadKeywords` for ``keywords``.

    Raises:
        SpecError: a spec is wrong.
        JobError: the options make no sense.
        StaleTableError: with ``check``, a sidecar is missing or says something else than its shard.
        ShardtoolsError: the first error of a shard, if ``on_error`` is not ``"skip"``.

    >>> import shardtools as st
    >>> result = st.index("train-@2.tar", overwrite=True)
    >>> len(result.shards), result.samples, result.made
    (2, 4, 2)
    >>> st.index("train-@2.tar", table=True).table.columns
    ('cls', 'txt')
    """
    with called(index, sources, None, output, **keywords) as call:
        check_index(
            check=check,
            overwrite=call.options.overwrite,
            export=export,
            output=output,
            table=table,
            dimensions=dimensions,
        )
        named = named_by(call.sources, call.options)
        with python_progress(count_steps(named, table), progress) as bar:
            return index_shards(
                named,
                call.options,
                bar.advance,
                check=check,
                export=export,
                output=output,
                table=table,
                dimensions=dimensions,
            )


def check_index(
    *,
    check: bool,
    overwrite: bool,
    export: Export | None,
    output: str | None,
    table: bool | str | Sequence[str] = False,
    dimensions: bool = False,
) -> None:
    """Raise if the options make no sense together.

    Raises:
        JobError: they do not.
    """
    if export is not None:
        choice("export", export, get_args(Export))
    if check and (overwrite or export):
        other = "--overwrite" if overwrite else "--export"
        raise JobError(f"--check and {other} cannot be used together", fix="give one of them")
    if dimensions and table is False:
        raise JobError("--dimensions needs --table", fix="add --table, or leave out --dimensions")
    if table is not False and (check or export):
        other = "--check" if check else "--export"
        raise JobError(f"--table and {other} cannot be used together", fix="give one of them")
    if output is not None and export != "wids":
        raise JobError("--output needs --export wids", fix="add --export wids, or leave out --output")


def count_steps(sources: Sources, table: bool | str | Sequence[str]) -> int:
    """Return how often `index_shards` calls ``advance``: for each shard, and once more for its part of a table."""
    return len(sources.urls) * (1 if table is False else 2)


def index_shards(
    sources: Sources,
    options: RunOptions,
    advance: Callable[[int, int], None],
    *,
    check: bool,
    export: Export | None,
    output: str | None,
    table: bool | str | Sequence[str] = False,
    dimensions: bool = False,
) -> IndexResult:
    """Do what `index` does; ``advance`` is told of each shard's samples and bytes."""
    from shardtools.jobs import index as job

    asked = _asked(sources.specs, table)

    def on_shard(shard: Indexed) -> None:
        entry = shard.entry
        advance(entry.nsamples if entry else 0, entry.filesize if entry else 0)

    if export:
        return IndexResult(*job.export(sources, export, output=output, options=options, on_shard=on_shard))
    try:
        result = IndexResult(job.index(sources, check=check, options=options, on_shard=on_shard))
    except PlaceRefusedError as error:
        options = _elsewhere(options, error)
        result = IndexResult(job.index(sources, check=check, options=options, on_shard=on_shard))
    if table is False:
        return result
    try:
        return _with_table(sources.specs, result, asked, dimensions, options, advance)
    except PlaceRefusedError as error:
        return _with_table(sources.specs, result, asked, dimensions, _elsewhere(options, error), advance)


def _elsewhere(options: RunOptions, error: PlaceRefusedError) -> RunOptions:
    """Return options whose index files go to a folder of this machine, which the user is told.

    Raises:
        PlaceRefusedError: tasks run on other machines, which cannot write there.
    """
    if not options.on_this_machine:
        raise error
    place = local_place()
    notes.info("%s: %s; the index files go to %s, where all programs of this user look", error.url, error.what, place)
    return replace(options, storage=replace(options.storage, index=place))


def _asked(specs: Sequence[str], table: bool | str | Sequence[str]) -> tuple[Asked, ...] | None:
    """Return what is to be in a table, None for the small fields.

    Raises:
        JobError: it is not written as it must be, or the sources are not one dataset.
    """
    if isinstance(table, bool) and not table:
        return None
    from shardtools.jobs.table.run import check_spec

    check_spec(specs)
    return asked_fields(table)


def _with_table(
    specs: Sequence[str],
    result: IndexResult,
    asked: tuple[Asked, ...] | None,
    dimensions: bool,
    options: RunOptions,
    advance: Callable[[int, int], None],
) -> IndexResult:
    """Make the table of shards that have sidecars now; there is none if a shard has failed."""
    from shardtools.jobs.table.run import check_spec, make_table

    if result.skipped:
        return result

    def on_part(part: ShardPart) -> None:
        advance(part.state.samples, part.state.filesize)

    entries = [shard.entry for shard in result.shards if shard.entry is not None]
    spec = check_spec(specs).spec
    # The files of the table are named after the spec; an error of a shard is another one.
    with using(options.storage), writing_index(name_of(spec) + "."):
        destination = Destination(home_of(spec))
        made = make_table(destination, entries, asked, options, on_part, dimensions=dimensions)
    return replace(result, table=made)
