"""htindex as a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Unpack, get_args

from shardtools.errors import JobError, redact
from shardtools.jobs.report import Skipped
from shardtools.programs.keywords import READ, ReadKeywords, spelled_out
from shardtools.programs.progress import python_progress
from shardtools.programs.running import Specs, called, choice, count_shards, run_options
from shardtools.units import format_count

if TYPE_CHECKING:
    from shardtools.jobs.index import Indexed
    from shardtools.jobs.options import RunOptions

Export = Literal["wids", "dali"]


@dataclass(frozen=True)
class IndexResult:
    """What was found of each shard, and the URLs of the ``files`` that were written for another program."""

    shards: Sequence[Indexed]
    files: Sequence[str] = ()

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
    progress: bool = False,
    **keywords: Unpack[ReadKeywords],
) -> IndexResult:
    """Write, beside the shards ``sources``, sidecars that say where their samples are, and the manifest.

    What is there is kept, but with ``overwrite``. ``check`` compares it with the shards instead, and writes nothing.
    ``export`` writes what the sidecars say as ``"wids"`` or ``"dali"`` reads it; ``output`` is the index for wids.
    ``progress`` shows a bar.

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
    """
    with called(index, sources, None, output, **keywords) as call:
        check_index(check=check, overwrite=call.options.overwrite, export=export, output=output)
        with python_progress(count_shards(call.sources, call.options), progress) as bar:
            return index_shards(call.sources, call.options, bar.advance, check=check, export=export, output=output)


def check_index(*, check: bool, overwrite: bool, export: Export | None, output: str | None) -> None:
    """Raise if the options make no sense together.

    Raises:
        JobError: they do not.
    """
    if export is not None:
        choice("export", export, get_args(Export))
    if check and (overwrite or export):
        other = "--overwrite" if overwrite else "--export"
        raise JobError(f"--check and {other} cannot be used together", fix="give one of them")
    if output is not None and export != "wids":
        raise JobError("--output needs --export wids", fix="add --export wids, or leave out --output")


def index_shards(
    sources: str | Sequence[str],
    options: RunOptions,
    advance: Callable[[int, int], None],
    *,
    check: bool,
    export: Export | None,
    output: str | None,
) -> IndexResult:
    """Do what `index` does; ``advance`` is told of each shard's samples and bytes."""
    from shardtools.jobs import index as job

    def on_shard(shard: Indexed) -> None:
        entry = shard.entry
        advance(entry.nsamples if entry else 0, entry.filesize if entry else 0)

    if export:
        return IndexResult(*job.export(sources, export, output=output, options=options, on_shard=on_shard))
    return IndexResult(job.index(sources, check=check, options=options, on_shard=on_shard))
