"""htcp as a function."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Unpack

from shardtools.programs.keywords import READ, ReadKeywords, spelled_out
from shardtools.programs.progress import Progress, python_progress
from shardtools.programs.running import called, run_options

if TYPE_CHECKING:
    from shardtools.jobs.copy import CopyPlan
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.report import JobResult
    from shardtools.jobs.target import ShardResult


class CopyKeywords(ReadKeywords, total=False):
    """How a function runs that copies shards: as one that reads, and this.

    ``resume``: keep the shards that an earlier copy has completed, and copy the others.
    """

    resume: bool


@spelled_out((*READ, CopyKeywords), run_options)
def copy(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    progress: bool = False,
    **keywords: Unpack[CopyKeywords],
) -> JobResult:
    """Copy the dataset ``source`` to ``destination``: shards byte for byte, and the files beside them that fit these.

    Those are sidecars, manifest, table, file of keys, and the summary and page of `shardtools.publish`. Both name as
    many shards. If names differ, those in the files are changed. What is read is
    compared with the checksums of sidecars or manifest, and what has arrived with what was sent. ``progress`` shows a
    bar. See `shardtools.programs.copy.CopyKeywords` for ``keywords``.

    Raises:
        SpecError: a spec is wrong.
        JobError: the destination has another number of shards, or another packing; or it is the source.
        OutputExistsError: an output exists, and may be neither replaced nor continued.
        CorruptError, StaleTableError: a shard is not what its sidecar or the manifest says.
        ShardtoolsError: the first error of a shard, if ``on_error`` is not ``"skip"``. Complete shards stay.

    >>> import shardtools as st
    >>> result = st.copy("train-@2.tar", "backup/texts-@2.tar")
    >>> result.counts.written, st.open("backup/texts-@2.tar")[0]["txt"]
    (4, b'a ape')
    """
    from shardtools.jobs.copy import plan_copy

    with called(copy, source, destination, **keywords) as call:
        plan = plan_copy(call.sources, call.destination, call.options)
        with python_progress(len(plan.shards), progress) as shown:
            return carry_out(plan, call.options, shown)


def carry_out(plan: CopyPlan, options: RunOptions, progress: Progress) -> JobResult:
    """Carry out a plan of `shardtools.jobs.copy.plan_copy`."""
    from shardtools.jobs.copy import run_copy

    def on_shard(shard: ShardResult) -> None:
        progress.advance(shard.counts.read, shard.source_size, resumed=shard.resumed)

    return run_copy(plan, options, on_shard)
