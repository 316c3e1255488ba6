"""htupload as a function: a source becomes a sharded dataset.

source -> order -> split -> cut into shards -> one UploadTask for each -> engine -> ShardResults -> manifest, report
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import isclose
from typing import Any

import numpy as np

from shardtools import engine
from shardtools.errors import JobError, SpecError, redact
from shardtools.jobs.options import RunOptions
from shardtools.jobs.replaced import look_at_outputs
from shardtools.jobs.report import JobResult, report_failure, write_report
from shardtools.jobs.run import Plan, run_plan
from shardtools.jobs.target import ShardResult, targets
from shardtools.jobs.upload_shard import UploadTask, upload_shard
from shardtools.processors import processors
from shardtools.shards.columns import with_zero
from shardtools.shards.packers import packer_for
from shardtools.shards.tar import RECORD
from shardtools.sources import Source
from shardtools.spec import MAX_SHARDS, Destination
from shardtools.storage import using
from shardtools.types import Ints
from shardtools.urls import absolute, is_local

SPLIT = "{split}"
"""The placeholder in a destination for the name of each split."""


@dataclass(frozen=True)
class UploadOptions:
    """How samples are laid out.

    ``shuffle`` puts them in a random order that depends on ``seed``. ``split`` has names and shares, which add up to 1;
    the split of a sample depends on its key and the seed only. With ``@auto``, a shard has at most ``shard_size`` bytes
    of tar file, or ``shard_count`` samples.
    """

    shuffle: bool = False
    seed: int = 0
    split: tuple[tuple[str, float], ...] = ()
    shard_size: int | None = None
    shard_count: int | None = None


def plan_upload(source: Source, destination: str, layout: UploadOptions, options: RunOptions) -> list[Plan]:
    """Return what `run_upload` is to do, one plan for each split, after every check that can be made before any work.

    Raises:
        SpecError: the destination does not fit the options.
        JobError: the options make no sense together, or with this source.
        OutputExistsError: an output exists, and the options allow neither to replace nor to resume; or there are shards
            that belong to no known dataset (see `look_at_outputs`).
    """
    _check(source, destination, layout, options)
    with using(options.storage):
        return [
            _plan(source, rows, Destination(spec), layout, options)
            for spec, rows in _split(source, _order(len(source), layout), destination, layout)
        ]


def check_layout(destination: str, layout: UploadOptions) -> None:
    """Check what can be checked before the source is listed; `plan_upload` does it as well.

    Raises:
        SpecError: the destination does not fit the layout.
        JobError: the layout makes no sense.
    """
    _check_split(destination, layout)
    if layout.shard_size and layout.shard_count:
        raise JobError("a shard can be limited by --shard-size or --shard-count, not both", fix="give one of them")
    target = Destination(destination.replace(SPLIT, "x"))
    packer_for(target.resolve(1).urls()[0])
    is_auto = target.is_auto
    if is_auto != bool(layout.shard_size or layout.shard_count):
        raise SpecError(
            "@auto needs a size of the shards" if is_auto else "the number of shards is given twice",
            url=destination,
            fix="use @auto with --shard-size or --shard-count, or @N without",
        )
    if not 0 <= layout.seed < 2**63:
        raise JobError(f"{layout.seed} cannot be a seed", fix="give a number from 0 to 2**63 - 1")


def _check(source: Source, destination: str, layout: UploadOptions, options: RunOptions) -> None:
    check_layout(destination, layout)
    if not source.portable and not options.on_this_machine:
        raise JobError(
            "the archive is unpacked on this machine, where a cluster cannot read it",
            url=source.name,
            fix="leave out -c, or unpack it and upload the folder",
        )
    if layout.shuffle and not source.random_access:
        raise JobError(
            "this source can only be read in its own order",
            url=source.name,
            fix="leave out --shuffle, and use htshuffle on the shards",
        )
    _refuse_output_in_source(source, destination)


def _check_split(destination: str, layout: UploadOptions) -> None:
    if bool(layout.split) != (SPLIT in destination):
        fix = f"write {SPLIT} in the destination where the name of the split goes, and give --split name=share,…"
        raise SpecError(f"{SPLIT} and --split go together", url=destination, fix=fix)
    names = [name for name, _ in layout.split]
    for name, share in layout.split:
        if not re.fullmatch(r"[\w.-]+", name) or names.count(name) > 1 or not 0 < share <= 1:
            raise JobError(
                f"the split {name}={share:g} makes no sense",
                fix="give each split a name of its own, of letters and digits, and a share between 0 and 1",
            )
    total = sum(share for _, share in layout.split)
    if layout.split and not isclose(total, 1, abs_tol=1e-6):
        raise JobError(f"the shares of the splits add up to {total:g}, not 1", fix="as in --split train=0.9,val=0.1")


def _refuse_output_in_source(source: Source, destination: str) -> None:
    """Refuse to write into the folder that is uploaded: when resumed, the job would upload its own output."""
    if not is_local(destination):
        return
    output = os.path.realpath(absolute(destination))
    for name in source.names():
        folder = os.path.realpath(name)
        if os.path.isdir(folder) and output.startswith(os.path.join(folder, "")):
            raise JobError(
                "the output would lie in the folder that is uploaded", url=destination, fix="write it beside the folder"
            )


def _order(count: int, layout: UploadOptions) -> Ints:
    """Return the rows of all samples in the order of the output."""
    if not layout.shuffle:
        return np.arange(count)
    draws = np.random.Philox(layout.seed).random_raw(count)  # the same in every version of numpy
    return np.argsort(draws, kind="stable")


def _split(source: Source, order: Ints, destination: str, layout: UploadOptions) -> list[tuple[str, Ints]]:
    """Return the destination of each split and its rows, in their order."""
    if not layout.split:
        return [(destination, order)]
    bounds = np.cumsum([share for _, share in layout.split])
    seed = layout.seed.to_bytes(8, "little")
    draws = np.fromiter((_draw(source.key(row), seed) for row in range(len(source))), np.float64, len(source))
    of_row = np.minimum(np.searchsorted(bounds, draws, side="right"), len(bounds) - 1)[order]
    splits = [(name, order[of_row == index]) for index, (name, _) in enumerate(layout.split)]
    for name, rows in splits:
        if not len(rows):
            raise JobError(f"the split {name} gets no samples", url=source.name, fix="give it a larger share")
    return [(destination.replace(SPLIT, name), rows) for name, rows in splits]


def _draw(key: str, seed: bytes) -> float:
    """Return a number from 0 to 1 that is random, and always the same for a key and a seed."""
    return int.from_bytes(blake2b(os.fsencode(key), key=seed, digest_size=8).digest(), "little") / 2**64


def _plan(source: Source, rows: Ints, destination: Destination, layout: UploadOptions, options: RunOptions) -> Plan:
    bounds = _bounds(source, rows, destination, layout)
    target = destination.resolve(len(bounds) - 1)
    if target.spec == "-" and options.cluster != "threads":
        raise JobError("standard output is not on the cluster", fix="leave out -c, or use URLs")
    existing, replaced = look_at_outputs(target, source.names(), options)
    ahead = len(bounds) - 1 < (options.jobs or processors())
    tasks = [
        engine.Task(
            upload_shard,
            (UploadTask(source.name, source.part(rows[start:stop]), shard, options.on_error, ahead),),
            shard.url,
            options.storage,
        )
        for start, stop, shard in zip(
            bounds[:-1], bounds[1:], targets(target, options, set(existing), replaced), strict=True
        )
    ]
    job: dict[str, Any] = {"program": "htupload", "sources": [redact(name) for name in source.names()]}
    if layout.shuffle or layout.split:
        job["seed"] = layout.seed
    if source.chosen:
        job["choice"] = dict(source.chosen)
    return Plan(target, tasks, existing, job, replaced, source.read_by_tasks(), source.notes())


def _bounds(source: Source, rows: Ints, destination: Destination, layout: UploadOptions) -> list[int]:
    """Return where the shards begin among ``rows``, and the number of rows."""
    count = len(rows)
    if layout.shard_size:
        bounds = _bounds_by_size(source.sizes()[rows], layout.shard_size)
    else:
        shards = -(-count // layout.shard_count) if layout.shard_count else destination.count or 1
        if shards > count:
            raise JobError(
                f"{count:,} samples do not fill {shards:,} shards",
                url=destination.spec,
                fix="make fewer shards, or use @auto with --shard-count",
            )
        bounds = [count * i // shards for i in range(shards + 1)]
    if len(bounds) - 1 > MAX_SHARDS:
        raise SpecError("there would be too many shards", url=destination.spec, fix="make the shards larger")
    return bounds


def _bounds_by_size(sizes: Ints, limit: int) -> list[int]:
    """Return bounds of as few shards as possible, about equal in size, with at most ``limit`` bytes each.

    >>> _bounds_by_size(np.full(10, 2048), 10240 + 3 * 2048)
    [0, 2, 5, 7, 10]
    """
    room = limit - RECORD  # for the end of the archive
    if sizes.max() > room:
        what = f"a sample of {int(sizes.max()):,} bytes does not fit into a shard of {limit:,} bytes"
        raise JobError(what, fix="raise --shard-size")
    ends = with_zero(np.cumsum(sizes))
    shards = max(-(-int(ends[-1]) // room), 1)
    while shards < len(sizes):
        goals = ends[-1] * np.arange(1, shards) / shards
        cuts = np.searchsorted(ends, goals, side="right") - 1
        bounds = np.unique(np.concatenate(([0], cuts, [len(sizes)])))
        if np.diff(ends[bounds]).max() <= room:
            return [int(bound) for bound in bounds]
        shards += max(shards // 64, 1)
    return list(range(len(sizes) + 1))


def run_upload(
    plans: Sequence[Plan],
    source: Source,
    options: RunOptions,
    on_shard: Callable[[ShardResult], None] | None = None,
) -> list[JobResult]:
    """Carry out the plans of `plan_upload`; return what became of each. The report is one for all.

    See `run_plan` for the errors.
    """
    shards: list[ShardResult] = []

    def collect(shard: ShardResult) -> None:
        shards.append(shard)
        if on_shard is not None:
            on_shard(shard)

    def result() -> JobResult:
        return JobResult(source.name, sorted(shards, key=lambda shard: shard.target))

    job = plans[0].job
    with using(options.storage):
        try:
            results = [run_plan(plan, replace(options, report=None), collect) for plan in plans]
        except BaseException as error:
            if options.report:
                report_failure(options.report, job, result(), error, source.left_out())
            raise
        if options.report:
            write_report(options.report, job, result(), None, source.left_out())
    return results
