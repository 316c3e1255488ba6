"""htmapper as a function."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack

from shardtools.errors import redact
from shardtools.programs.choosing import ChoiceKeywords, choice_of
from shardtools.programs.keywords import WRITE, WriteKeywords, spelled_out
from shardtools.programs.progress import Progress, python_progress
from shardtools.programs.running import Specs, UserCode, called, read_code, run_options

if TYPE_CHECKING:
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.report import JobResult
    from shardtools.jobs.run import Plan
    from shardtools.jobs.target import ShardResult


logger = logging.getLogger(__name__)


class MapKeywords(WriteKeywords, ChoiceKeywords, total=False):
    """What `map` takes of its sources, and how it runs."""


@spelled_out((*WRITE, ChoiceKeywords, MapKeywords), choice_of, run_options)
def map(
    sources: Specs,
    destination: str | os.PathLike[str],
    function: UserCode,
    *,
    params: Mapping[str, object] | None = None,
    version: str | None = None,
    seed: int = 0,
    progress: bool = False,
    **keywords: Unpack[MapKeywords],
) -> JobResult:
    """Call ``function(record, **params)`` for every sample of ``sources``; write what it returns to ``destination``.

    A record is a dict: the sample's ``"key"``, and the bytes of each field. The function returns None, which drops the
    sample, a record, or several. A function called ``process_samples`` gets an iterator over all records of a shard,
    and returns or yields records. ``function`` may also be the name of a script that defines one of the two.

    One output shard is written for each input shard, and appears whole or not at all. With ``resume`` the shards that
    the same function, with the same ``params``, has made before are kept: one with the same code, defaults, closure and
    globals that it uses, or with the same ``version`` if there is one. ``seed`` is for ``sample``. ``progress`` shows a
    bar.

    See `shardtools.programs.map.MapKeywords` for ``keywords``.

    Raises:
        SpecError: a spec is wrong.
        JobError: the options make no sense.
        OutputExistsError: an output exists, and may be neither replaced nor continued.
        ScriptError: the function cannot be used.
        ShardtoolsError: the first error of a shard or sample, if ``on_error`` is not ``"skip"``. Complete shards stay.

    >>> import shardtools as st
    >>> def shout(record, end):
    ...     return {"key": record["key"], "txt": record["txt"].decode().upper() + end}
    >>> result = st.map("train-@2.tar", "loud-@2.tar", shout, params={"end": "!"})
    >>> result.counts.written, st.open("loud-@2.tar")[0]["txt"]
    (4, b'A APE!')
    """
    from shardtools.jobs.map import plan_map

    with called(map, sources, destination, seed=seed, **keywords) as call:
        code = read_code(function, ("process_sample", "process_samples"), params, version, resumes=call.options.resume)
        plan = plan_map(call.sources, call.destination, code, call.options, call.choice)
        with python_progress(len(plan.tasks), progress) as shown:
            return carry_out(plan, call.options, shown)


def carry_out(plan: Plan, options: RunOptions, progress: Progress) -> JobResult:
    """Carry out a plan of `shardtools.jobs.map.plan_map`."""
    from shardtools.jobs.run import run_plan

    def on_shard(shard: ShardResult) -> None:
        progress.advance(shard.counts.read, shard.source_size, resumed=shard.resumed)

    result = run_plan(plan, options, on_shard)
    if result.counts.read and result.counts.dropped == result.counts.read:
        what = "%s: the function returned None for each of the %d samples, so that all were dropped"
        logger.warning(what, redact(plan.destination.spec), result.counts.read)
    return result
