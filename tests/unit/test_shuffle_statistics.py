"""Is a shuffle one? Statistics that any order of equal likelihood passes, and three that are none fail."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise, permutations

import numpy as np
import pytest

from shardtools.jobs.exchange.cuts import cuts, ranks
from shardtools.jobs.exchange.order import RANDOM_BYTES, RandomOrder
from shardtools.shards.columns import Texts

INPUTS, SAMPLES, OUTPUTS = 8, 24, 6
TOTAL = INPUTS * SAMPLES

Shuffle = Callable[[int], Sequence[Sequence[int]]]
"""From a seed to outputs; sample i is number i % SAMPLES of input i // SAMPLES."""


def ours(seed: int) -> list[list[int]]:
    """Shuffle as htshuffle does: a run for each input, cut by the plan."""
    runs = []
    for shard in range(INPUTS):
        orders = Texts(RandomOrder(seed, shard).take(SAMPLES), RANDOM_BYTES * np.arange(1, SAMPLES + 1)).tolist()
        runs.append(sorted((order, shard * SAMPLES + i) for i, order in enumerate(orders)))
    found = cuts([Texts.of([order for order, _ in run]) for run in runs], ranks(TOTAL, OUTPUTS)).tolist()
    return [
        [sample for _, sample in sorted(item for run, a, b in zip(runs, low, high, strict=True) for item in run[a:b])]
        for low, high in pairwise(found)
    ]


def buckets(seed: int) -> list[list[int]]:
    """Send each sample to a random output, and leave them there as they come."""
    choose = random.Random(seed)
    outputs: list[list[int]] = [[] for _ in range(OUTPUTS)]
    for sample in range(TOTAL):
        choose.choice(outputs).append(sample)
    return outputs


def buffer(seed: int) -> list[list[int]]:
    """Shuffle the inputs, then samples through a buffer, as streaming loaders do."""
    choose = random.Random(seed)
    shards = list(range(INPUTS))
    choose.shuffle(shards)
    stream = [shard * SAMPLES + i for shard in shards for i in range(SAMPLES)]
    held, out = [], []
    for sample in stream:
        held.append(sample)
        if len(held) == 40:
            out.append(held.pop(choose.randrange(len(held))))
    choose.shuffle(held)
    out += held
    size = TOTAL // OUTPUTS
    return [out[i * size : (i + 1) * size] for i in range(OUTPUTS)]


def deal(seed: int) -> list[list[int]]:
    """Deal the samples of each input out in turn, and shuffle each output."""
    choose = random.Random(seed)
    outputs: list[list[int]] = [[] for _ in range(OUTPUTS)]
    for sample in range(TOTAL):
        outputs[sample % OUTPUTS].append(sample)
    for output in outputs:
        choose.shuffle(output)
    return outputs


def normal(chi_square: float, degrees: int) -> float:
    """Return how many standard deviations a chi-square is from what is expected (Wilson and Hilferty, 1931)."""
    spread = 2 / (9 * degrees)
    return ((chi_square / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def source_by_output(shuffle: Shuffle, seeds: range) -> float:
    """Return how far the counts of samples by input and output are from those of independence, seed by seed.

    The margins are fixed, so that the statistic has (inputs - 1)(outputs - 1) degrees, shrunk by n / (n - 1).
    """
    total = 0.0
    for seed in seeds:
        counts = np.zeros((INPUTS, OUTPUTS))
        for number, output in enumerate(shuffle(seed)):
            for sample in output:
                counts[sample // SAMPLES, number] += 1
        expected = np.outer(counts.sum(1), counts.sum(0)) / TOTAL
        total += float(((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum()) * (TOTAL - 1) / TOTAL
    return normal(total, len(seeds) * (INPUTS - 1) * (OUTPUTS - 1))


def neighbours(shuffle: Shuffle, seeds: range) -> float:
    """Return how far the distances between neighbours of an output are from those of a random order.

    Where a sample comes from is one of 8 inputs, and so is where the next one comes from: counts by difference.
    """
    counts = np.zeros((2, INPUTS))
    for seed in seeds:
        for output in shuffle(seed):
            for a, b in pairwise(output):
                counts[int(b > a), (b // SAMPLES - a // SAMPLES) % INPUTS] += 1
    pairs = [(a, b) for a in range(TOTAL) for b in range(TOTAL) if a != b]
    likely = np.zeros((2, INPUTS))
    for a, b in pairs:
        likely[int(b > a), (b // SAMPLES - a // SAMPLES) % INPUTS] += 1 / len(pairs)
    expected = likely * counts.sum()
    return normal(float(((counts - expected) ** 2 / expected).sum()), 2 * INPUTS - 1)


def places(shuffle: Shuffle, seeds: range) -> float:
    """Return how far the counts of samples by input and place, over all seeds, are from equal ones."""
    counts = np.zeros((INPUTS, 12))
    for seed in seeds:
        order = [sample for output in shuffle(seed) for sample in output]
        for at, sample in enumerate(order):
            counts[sample // SAMPLES, at * 12 // len(order)] += 1
    expected = counts.sum() / counts.size
    return normal(float(((counts - expected) ** 2 / expected).sum()) * (TOTAL - 1) / TOTAL, (INPUTS - 1) * 11)


SEEDS = range(400)
LIMIT = 4.5
"""Standard deviations: a fair shuffle is further off once in 150,000 tests."""


@pytest.mark.parametrize("statistic", [source_by_output, neighbours, places])
def test_ours_is_one(statistic: Callable[[Shuffle, range], float]) -> None:
    assert abs(statistic(ours, SEEDS)) < LIMIT


@pytest.mark.parametrize("other", [buckets, buffer, deal])
def test_others_are_found_out(other: Shuffle) -> None:
    assert max(abs(statistic(other, SEEDS)) for statistic in (source_by_output, neighbours, places)) > 2 * LIMIT


def test_all_sizes_are_equal_to_within_one() -> None:
    for seed in range(50):
        assert {len(output) for output in ours(seed)} == {TOTAL // OUTPUTS}


def test_every_permutation_of_four_is_as_likely() -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(12_000):
        orders = [
            (RandomOrder(seed, shard).take(2).tobytes()[i * 16 :][:16], 2 * shard + i)
            for shard in (0, 1)
            for i in (0, 1)
        ]
        counts[tuple(sample for _, sample in sorted(orders))] += 1
    assert set(counts) == set(permutations(range(4)))
    expected = counts.total() / 24
    assert abs(normal(sum((count - expected) ** 2 / expected for count in counts.values()), 23)) < LIMIT
