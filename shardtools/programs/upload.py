"""htupload as a function: files, tables, arrays and archives become shards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Unpack

from shardtools.errors import JobError
from shardtools.programs.choosing import ChoiceKeywords
from shardtools.programs.keywords import WRITE, WriteKeywords, spelled_out
from shardtools.programs.progress import Progress, python_progress
from shardtools.programs.running import Specs, at_least, called, pairs_of, run_options, size_of
from shardtools.shards.names import names_of

if TYPE_CHECKING:
    from shardtools.jobs.choice import Choice
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.report import JobResult
    from shardtools.jobs.run import Plan
    from shardtools.jobs.target import ShardResult
    from shardtools.jobs.upload import UploadOptions
    from shardtools.sources import Source
    from shardtools.sources.opening import SourceRules


@spelled_out(WRITE, run_options)
def upload(
    sources: Specs,
    destination: str | os.PathLike[str],
    *,
    key: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    class_from_folder: bool = False,
    follow_links: bool = False,
    files: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
    arrays: Mapping[str, str] | None = None,
    rename: Mapping[str, str] | None = None,
    shuffle: bool = False,
    seed: int = 0,
    split: Mapping[str, float] | None = None,
    shard_size: int | str | None = None,
    shard_count: int | None = None,
    where: str | None = None,
    limit: int | None = None,
    sample: float | None = None,
    class_from: str | None = None,
    progress: bool = False,
    **keywords: Unpack[WriteKeywords],
) -> JobResult:
    """Turn the folders, tables, arrays or archives ``sources`` into the shards ``destination``.

    ``key`` is what keys are made of: of files their path (the default), ``"name"``, ``"number"`` or ``"hash"``; of a
    table the column of this name. ``include`` and ``exclude`` are patterns of files. ``class_from_folder`` adds the
    field cls, the number of the folder that a file lies in; ``follow_links`` takes what links lead to outside, too.
    ``files`` and ``values`` map fields to columns of a table that name the field's file or hold its value, ``arrays``
    fields to arrays of an npz; ``rename`` maps names of fields to others. ``split`` has the share of each split, whose
    name stands for ``{split}`` in ``destination``; it and ``shuffle`` depend on ``seed``. With ``@auto``, a shard has
    ``shard_size`` bytes of tar file (``"500MB"``), or ``shard_count`` samples. ``where`` is a condition on the samples
    to take, as ``"cls = 7"``, ``sample`` a share of them, chosen by ``seed``, and ``limit`` takes the first so many of
    these. ``class_from`` is a field, a path of JSON or a column of a table, the texts of which become class
    numbers, as the field cls. ``progress`` shows a bar.

    Return what was written; of several splits, the shards of all of them. See
    `shardtools.programs.keywords.WriteKeywords` for ``keywords``.

    Raises:
        SpecError: the destination does not fit the options.
        JobError: the options make no sense, or do not fit the sources.
        OutputExistsError: an output exists, and may be neither replaced nor continued.
        ShardtoolsError: the first error of a sample, if ``on_error`` is not ``"skip"``.

    >>> import shardtools as st
    >>> result = st.upload("texts", "all-@auto.tar", shard_count=3)
    >>> result.counts.written, [shard.target.rpartition("/")[2] for shard in result.shards]
    (4, ['all-000000.tar', 'all-000001.tar'])
    """
    from shardtools.jobs.upload import UploadOptions, plan_upload
    from shardtools.sources.opening import SourceRules

    for name in ("index", "verify"):
        if keywords.get(name):
            raise JobError(f"{name} is about sidecars that are read, and upload reads none", fix="leave it out")
    picks: ChoiceKeywords = {"where": where, "limit": limit, "sample": sample, "class_from": class_from}
    with called(upload, sources, destination, seed=seed, **picks, **keywords) as call:
        at_least("shard_count", shard_count, 1)
        at_least("seed", seed, 0)
        size = size_of("shard_size", shard_size)
        layout = UploadOptions(shuffle, seed, pairs_of("split", split), size, shard_count)
        rules = SourceRules(
            key=key,
            include=names_of(include),
            exclude=names_of(exclude),
            rename=pairs_of("rename", rename),
            classes=class_from_folder,
            follow_links=follow_links,
            files=pairs_of("files", files),
            values=pairs_of("values", values),
            arrays=pairs_of("arrays", arrays),
            class_from=class_from,
        )
        with closing(open_source(call.sources, call.destination, rules, layout, call.choice, call.options)) as source:
            plans = plan_upload(source, call.destination, layout, call.options)
            shards = sum(len(plan.tasks) for plan in plans)
            with python_progress(shards, progress, samples=len(source)) as shown:
                return _joined(carry_out(plans, source, call.options, shown), call.destination)


def open_source(
    sources: str | Sequence[str],
    destination: str,
    rules: SourceRules,
    layout: UploadOptions,
    choice: Choice,
    options: RunOptions,
) -> Source:
    """Return the chosen samples of ``sources`` as one source, after a look at what needs none; close it at the end."""
    from shardtools.jobs.upload import check_layout
    from shardtools.jobs.upload_choice import choose_samples
    from shardtools.sources.opening import open_sources
    from shardtools.storage import using

    check_layout(destination, layout)
    if rules.classes and rules.class_from:
        raise JobError("--class-from and --class-from-folder cannot be used together", fix="give one of them")
    with using(options.storage):
        source = open_sources(sources, rules)
        try:
            return choose_samples(source, choice, options.on_error)
        except BaseException:
            source.close()
            raise


def carry_out(plans: Sequence[Plan], source: Source, options: RunOptions, progress: Progress) -> list[JobResult]:
    """Carry out plans; return what became of each split."""
    from shardtools.jobs.upload import run_upload

    def on_shard(shard: ShardResult) -> None:
        progress.advance(shard.counts.read, shard.source_size, resumed=shard.resumed)

    return run_upload(plans, source, options, on_shard)


def _joined(results: Sequence[JobResult], destination: str) -> JobResult:
    """Return the results of several splits as one."""
    from shardtools.jobs.report import JobResult

    if len(results) == 1:
        return results[0]
    shards = [shard for result in results for shard in result.shards]
    tables = tuple(table for result in results for table in result.tables)
    return JobResult(destination, shards, job=results[0].job, tables=tables)
