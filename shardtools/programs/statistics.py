"""What htextract says of a dataset, as functions: its statistics, and how often values occur."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from shardtools.errors import JobError
from shardtools.programs.keywords import READ, ReadKeywords, spelled_out
from shardtools.programs.progress import Progress, python_progress
from shardtools.programs.running import Specs, called, named_by, run_options

if TYPE_CHECKING:
    from shardtools.jobs.choice import Choice
    from shardtools.jobs.extraction.statistics import Statistics, ValueCounts
    from shardtools.jobs.options import RunOptions
    from shardtools.storage.expansion import SourceSpecs


@spelled_out(READ, run_options)
def stats(
    sources: Specs, *, decode: bool = False, progress: bool = False, **keywords: Unpack[ReadKeywords]
) -> Statistics:
    """Return what ``sources`` consist of: samples, and fields with their sizes in bytes.

    Sizes come from sidecars where there are any; then no shard is read. ``decode`` looks at the widths and heights of
    images as well. ``progress`` shows a bar. See `shardtools.programs.keywords.ReadKeywords` for ``keywords``.

    Raises:
        SpecError: a spec is wrong.
        ShardtoolsError: the first error of a shard, if ``on_error`` is not ``"skip"``.

    >>> import shardtools as st
    >>> found = st.stats("train-@2.tar")
    >>> sum(found.samples), {name: field.total for name, field in found.fields.items()}
    (4, {'cls': 4, 'txt': 20})
    """
    with called(stats, sources, **keywords) as call:
        named = named_by(call.sources, call.options)
        with python_progress(len(named.urls), progress) as shown:
            return find_statistics(named, decode, call.options, shown)


def find_statistics(sources: SourceSpecs, decode: bool, options: RunOptions, progress: Progress) -> Statistics:
    """Return what a dataset consists of."""
    from shardtools.jobs.extraction.statistics import run_statistics

    def on_shard(part: Statistics) -> None:
        progress.advance(sum(part.samples), part.filesize)

    return run_statistics(sources, decode=decode, options=options, on_shard=on_shard)


@spelled_out(READ, run_options)
def count(
    sources: Specs,
    field: str,
    *,
    numbers: bool = False,
    where: str | None = None,
    limit: int | None = None,
    sample: float | None = None,
    seed: int = 0,
    progress: bool = False,
    **keywords: Unpack[ReadKeywords],
) -> ValueCounts:
    """Return how often each value of ``field`` occurs in ``sources``, as text or, for a histogram, as ``numbers``.

    ``field`` may also be a path of JSON, as ``"json.label"``.

    ``where`` is a condition on the samples to count, as ``"cls = 7"``, ``sample`` a share of them, chosen by ``seed``,
    and ``limit`` the most of them. ``progress`` shows a bar. See `shardtools.programs.keywords.ReadKeywords` for
    ``keywords``.

    Raises:
        SpecError: a spec is wrong.
        JobError: no sample has the field, or the condition makes no sense.
        ShardtoolsError: the first error of a shard or sample, if ``on_error`` is not ``"skip"``.

    >>> import shardtools as st
    >>> st.count("train-@2.tar", "cls").values.most_common()
    [('0', 2), ('1', 2)]
    """
    if not isinstance(field, str):
        raise JobError(f"field is of type {type(field).__name__}", fix="name one field; st.sql counts several together")
    with called(count, sources, where=where, limit=limit, sample=sample, seed=seed, **keywords) as call:
        named = named_by(call.sources, call.options)
        with python_progress(len(named.urls), progress) as shown:
            return count_values(named, field, call.choice, call.options, shown, numbers=numbers)


def count_values(
    sources: SourceSpecs,
    field: str,
    choice: Choice,
    options: RunOptions,
    progress: Progress,
    *,
    numbers: bool = False,
) -> ValueCounts:
    """Return how often each value of a field occurs in what is chosen."""
    from shardtools.jobs.extraction.statistics import run_counts

    def on_shard(part: ValueCounts) -> None:
        progress.advance(part.samples, 0)

    return run_counts(sources, field, numbers=numbers, choice=choice, options=options, on_shard=on_shard)
