"""What htshuffle and htsort share as functions: the keywords of an exchange, and both of its passes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack, get_args

from shardtools.errors import JobError
from shardtools.jobs.choice import Choice
from shardtools.jobs.exchange.duplicates import DuplicatePolicy, OnDuplicate
from shardtools.jobs.exchange.keying import Keying
from shardtools.jobs.exchange.plan import DEFAULT_MEMORY, Exchange
from shardtools.programs.choosing import ChoiceKeywords
from shardtools.programs.keywords import WriteKeywords
from shardtools.programs.progress import Progress, python_progress
from shardtools.programs.running import Call, CallKeywords, Specs, at_least, called, choice, size_of

if TYPE_CHECKING:
    from shardtools.jobs.exchange.plan import ExchangePlan
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.report import JobResult


class ExchangeKeywords(WriteKeywords, ChoiceKeywords, total=False):
    """How a function runs that brings samples into another order: as one that writes shards, and these.

    ``memory``: about how many bytes of samples to hold in memory at a time, in all tasks of a process together
    (``"1GB"``).
    ``spill``: the URL of a folder for what lies between the two passes.
    ``shard_size``, ``shard_count``: with ``@auto``, about how many bytes of tar file, or how many samples at most, a
    shard has.
    ``on_duplicate``: when two samples of an output have one key: ``"error"`` (the default), ``"keep"`` both,
    ``"rename"`` the later one, or leave out all but the ``"first"`` or ``"last"``.
    """

    memory: int | str
    spill: str | None
    shard_size: int | str | None
    shard_count: int | None
    on_duplicate: OnDuplicate


@dataclass(frozen=True)
class ExchangeSettings:
    """The keywords of an exchange, checked: sizes are in bytes."""

    memory: int = DEFAULT_MEMORY
    spill: str | None = None
    shard_size: int | None = None
    shard_count: int | None = None
    on_duplicate: OnDuplicate = "error"


def exchange_settings(
    *,
    memory: int | str = "1GB",
    spill: str | None = None,
    shard_size: int | str | None = None,
    shard_count: int | None = None,
    on_duplicate: OnDuplicate = "error",
) -> ExchangeSettings:
    """Return the settings of an exchange.

    Raises:
        JobError: a size is not valid, or they cannot be used together.
    """
    if shard_size and shard_count:
        raise JobError("--shard-size and --shard-count cannot be used together", fix="give one of them")
    at_least("shard_count", shard_count, 1)
    choice("on_duplicate", on_duplicate, get_args(OnDuplicate))
    size = size_of("memory", memory) or DEFAULT_MEMORY
    return ExchangeSettings(size, spill, size_of("shard_size", shard_size), shard_count, on_duplicate)


@contextmanager
def exchange_called(
    function: Callable[..., Any],
    sources: Specs,
    destination: str | os.PathLike[str],
    *,
    memory: int | str = "1GB",
    spill: str | None = None,
    shard_size: int | str | None = None,
    shard_count: int | None = None,
    on_duplicate: OnDuplicate = "error",
    seed: int | None = None,
    **keywords: Unpack[CallKeywords],
) -> Iterator[tuple[Call, ExchangeSettings]]:
    """A context of a call of ``function``, as `called`, and with the settings of its exchange.

    Raises:
        JobError: they make no sense.
    """
    with called(function, sources, destination, spill, seed=seed, **keywords) as call:
        settings = exchange_settings(
            memory=memory, spill=spill, shard_size=shard_size, shard_count=shard_count, on_duplicate=on_duplicate
        )
        yield call, settings


def make_exchange(
    program: str,
    keying: Keying,
    policy: DuplicatePolicy,
    settings: ExchangeSettings,
    job: dict[str, Any],
    choice: Choice,
    *,
    combine: bool = False,
) -> Exchange:
    """Return what is to be done to what ``choice`` takes; ``job`` is what the manifest says of it."""
    return Exchange(
        program,
        keying,
        policy,
        memory=settings.memory,
        spill=settings.spill,
        shard_size=settings.shard_size,
        shard_count=settings.shard_count,
        combine=combine,
        job=job,
        choice=choice,
    )


def exchange(call: Call, what: Exchange, shows: bool) -> JobResult:
    """Plan an exchange and carry it out, with a bar if it ``shows`` any."""
    from shardtools.jobs.exchange.plan import fit_workers, plan_exchange

    plan = fit_workers(plan_exchange(call.sources, call.destination, what, call.options), call.options)
    with python_progress(steps(plan), shows) as progress:
        return carry_out(plan, call.options, progress)


def steps(plan: ExchangePlan) -> tuple[int, int]:
    """Return how many steps each pass of a plan has: groups of inputs, and outputs."""
    return len(plan.groups), plan.destination.count or len(plan.inputs)


def carry_out(plan: ExchangePlan, options: RunOptions, progress: Progress) -> JobResult:
    """Carry out a plan of `shardtools.jobs.exchange.plan.plan_exchange`."""
    from shardtools.jobs.exchange.exchange import Events, run_exchange

    events = Events(
        on_collected=lambda done: progress.advance(done.samples, done.size),
        on_output=lambda shard: progress.advance(0, shard.source_size, resumed=shard.resumed, at=1),
    )
    return run_exchange(plan, options, events)
