"""Which of several datasets gives each batch of a mixture: a function of seed, epoch, weights and counts.

uniform numbers -> one for each batch -> by the weights of those that have batches left -> blocks of choices
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from shardtools.loader.order import generator
from shardtools.types import Ints

Stop = Literal["first", "all", "never"]

BLOCK = 1 << 14
"""Batches whose choices are made together."""


@dataclass(frozen=True)
class Choices:
    """The batches ``first`` and following of a mixture: from which source, and which batch of it each one is."""

    first: int
    sources: Ints
    batches: Ints


def choose(
    counts: Sequence[int], weights: Sequence[float], stop: Stop, seed: int, epoch: int, first: int = 0
) -> Iterator[Choices]:
    """Yield the choices from batch ``first`` on, given how many batches each source has.

    It ends before the first batch of a source that has no more ("first"); where a source has no more, the others go on
    ("all"); or batches are counted on past the counts ("never").
    """
    taken = np.zeros(len(counts), np.int64)
    limits = np.array(counts, np.int64)
    at = 0
    while True:
        draws = _uniform(seed, epoch, at // BLOCK)
        done = 0
        sources, batches = [], []
        while done < BLOCK:
            alive = np.array(weights, np.float64) * (limits > taken if stop == "all" else 1)
            if not alive.any():
                break
            bounds = np.cumsum(alive / alive.sum())
            chosen = np.minimum(np.searchsorted(bounds, draws[done:], side="right"), np.flatnonzero(alive)[-1])
            batch = _counted(chosen, taken)
            over = np.flatnonzero(batch >= limits[chosen]) if stop != "never" else np.zeros(0, np.int64)
            count = int(over[0]) if len(over) else len(chosen)
            sources.append(chosen[:count])
            batches.append(batch[:count])
            taken += np.bincount(chosen[:count], minlength=len(counts))
            done += count
            if len(over) and stop == "first":
                break
        choices = Choices(at, np.concatenate(sources), np.concatenate(batches)) if sources else None
        if choices is not None and at + done > first:
            skip = max(0, first - at)
            yield Choices(at + skip, choices.sources[skip:], choices.batches[skip:])
        if done < BLOCK:
            return
        at += BLOCK


def _counted(chosen: Ints, taken: Ints) -> Ints:
    """Return which batch of its source each choice is, after those ``taken``."""
    batches = np.empty(len(chosen), np.int64)
    for source, before in enumerate(taken.tolist()):
        places = np.flatnonzero(chosen == source)
        batches[places] = before + np.arange(len(places))
    return batches


def _uniform(seed: int, epoch: int, block: int) -> npt.NDArray[np.float64]:
    """Return numbers from 0 to 1, 1 excluded, for the batches of a block."""
    return (generator(seed, epoch, "mix", block).random_raw(BLOCK) >> np.uint64(11)).astype(np.float64) * 2.0**-53
