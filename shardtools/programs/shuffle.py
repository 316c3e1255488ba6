"""htshuffle as a function."""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from shardtools.errors import JobError
from shardtools.programs.choosing import ChoiceKeywords, choice_of
from shardtools.programs.exchanging import (
    ExchangeKeywords,
    ExchangeSettings,
    exchange,
    exchange_called,
    exchange_settings,
    make_exchange,
)
from shardtools.programs.keywords import WRITE, spelled_out
from shardtools.programs.running import Specs, at_least, run_options

if TYPE_CHECKING:
    from shardtools.jobs.choice import Choice
    from shardtools.jobs.exchange.plan import Exchange
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.report import JobResult


@spelled_out((*WRITE, ChoiceKeywords, ExchangeKeywords), exchange_settings, choice_of, run_options)
def shuffle(
    sources: Specs,
    destination: str | os.PathLike[str],
    *,
    seed: int | None = None,
    no_shuffle: bool = False,
    progress: bool = False,
    **keywords: Unpack[ExchangeKeywords],
) -> JobResult:
    """Write the samples of ``sources`` to ``destination`` in a random order.

    Every order of all samples is equally likely. Shards differ by one sample at most. The same ``seed`` gives the same
    bytes; without one it is drawn, and is ``result.job["seed"]``. It also chooses the samples of ``sample``.
    ``no_shuffle`` keeps the order, and changes the number of shards only. ``progress`` shows a bar.

    See `shardtools.programs.exchanging.ExchangeKeywords` for ``keywords``.

    Raises:
        SpecError: a spec is wrong.
        JobError: the options make no sense.
        OutputExistsError: an output exists, and may be neither replaced nor continued.
        ShardtoolsError: the first error of a shard, if ``on_error`` is not ``"skip"``. The spill stays, for ``resume``.

    >>> import shardtools as st
    >>> result = st.shuffle("train-@2.tar", "shuffled-@1.tar", seed=7)
    >>> sorted(record["key"] for record in st.open("shuffled-@1.tar"))
    ['ape', 'bee', 'cat', 'dog']
    """
    with exchange_called(shuffle, sources, destination, **keywords) as (call, settings):
        what = shuffle_exchange(call.destination, settings, call.options, call.choice, seed=seed, no_shuffle=no_shuffle)
        return exchange(call, what, progress)


def shuffle_exchange(
    destination: str,
    settings: ExchangeSettings,
    options: RunOptions,
    choice: Choice,
    *,
    seed: int | None,
    no_shuffle: bool,
) -> Exchange:
    """Return the exchange that shuffles; without a seed, with that of the job that it continues, or a new one.

    Raises:
        JobError: the options make no sense together.
    """
    from shardtools.jobs.exchange.duplicates import DuplicatePolicy
    from shardtools.jobs.exchange.keying import Keying
    from shardtools.jobs.exchange.plan import earlier_seed

    at_least("seed", seed, 0)
    if no_shuffle and seed is not None and choice.sample is None:
        raise JobError("--seed and --no-shuffle cannot be used together", fix="give one of them")
    policy = DuplicatePolicy(on_duplicate=settings.on_duplicate, on_error=options.on_error)
    if no_shuffle:
        return make_exchange("htshuffle", Keying("input"), policy, settings, {}, replace(choice, seed=seed or 0))
    if seed is None and options.resume:
        seed = earlier_seed(destination, settings.spill, options)
    if seed is None:
        seed = secrets.randbits(32)
    return make_exchange(
        "htshuffle", Keying("random", seed), policy, settings, {"seed": seed}, replace(choice, seed=seed)
    )
