"""The order of an epoch: which sample stands at which position, as a function of seed, epoch and counts alone.

    counts of the shards -> shards in a seeded order -> groups of them -> ranges of their rows, permuted
                         -> windows of some ranges -> the samples of a window, permuted -> positions 0, 1, 2, …

Ranks, workers, threads and batch sizes do not change it: they only choose positions. Access to any position takes
constant time, since each group and each window is permuted by a generator of its own. Memory is that of one number for
each shard, of one group's ranges, and of two windows.

Only the raw bits of the generators are used, which stay the same in all versions of numpy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from shardtools.errors import JobError
from shardtools.shards.columns import spread
from shardtools.types import Ints


@dataclass(frozen=True)
class Window:
    """How ``shuffle=True`` shuffles: samples are shuffled within windows of ``ranges`` ranges of ``rows`` rows.

    The ranges of a window come from ``shards`` shards, which are different ones in each epoch. What is held in memory
    while a window is read from a server is at most the samples of it and of the next, or the loader's ``memory``,
    whichever is less; larger windows than that cost more requests.

    Raises:
        JobError: a number is not positive.
    """

    ranges: int = 64
    rows: int = 64
    shards: int = 128

    def __post_init__(self) -> None:
        if min(self.ranges, self.rows, self.shards) < 1:
            raise JobError(
                "ranges, rows and shards of a window must be positive", fix="correct the argument, or leave it out"
            )


Shuffle = bool | Literal["full"] | Window

LANES = 16
"""Positions that differ by a multiple of this draw from the same ranges of a window, so that of up to so many ranks,
each taking every so-many-th position, none reads what the others read."""

SMALL = 1 << 20
"""Up to so many samples, a full shuffle is a table in memory."""

_ROUNDS = 8


class Order(ABC):
    """A permutation of ``total`` samples."""

    total: int

    @abstractmethod
    def at(self, positions: Ints) -> Ints:
        """Return the indexes of the samples at some positions, in any order."""

    def repeats(self, positions: Ints) -> npt.NDArray[np.bool_]:
        """Return which of some positions only fill up a batch; those from ``total`` on begin again."""
        return positions >= self.total

    def window_stop(self, position: int) -> int:
        """Return where the window ends that a position is in: what is before may be read together."""
        return self.total


def make_order(counts: Sequence[int], shuffle: Shuffle, seed: int, epoch: int) -> Order:
    """Return the order of an epoch, given how many samples each shard has.

    >>> make_order([3, 2], False, seed=0, epoch=0).at(np.arange(5)).tolist()
    [0, 1, 2, 3, 4]
    >>> sorted(make_order([3, 2], True, seed=0, epoch=0).at(np.arange(5)).tolist())
    [0, 1, 2, 3, 4]
    """
    if shuffle is False:
        return Sequential(sum(counts))
    if shuffle == "full":
        return Full(sum(counts), seed, epoch)
    return Windowed(counts, seed, epoch, shuffle if isinstance(shuffle, Window) else Window())


def describe_shuffle(shuffle: Shuffle) -> Any:
    """Return ``shuffle`` as JSON data, the same for two that give the same order."""
    return (
        asdict(Window() if shuffle is True else shuffle) if isinstance(shuffle, bool | Window) and shuffle else shuffle
    )


class Sequential(Order):
    """The order of the shards themselves."""

    def __init__(self, total: int):
        self.total = total

    def at(self, positions: Ints) -> Ints:
        return positions


class Full(Order):
    """Any permutation of all samples; of many samples, one by a Feistel network, which takes no memory."""

    def __init__(self, total: int, seed: int, epoch: int):
        self.total = total
        self._table = permutation(total, seed, epoch, "full") if total <= SMALL else None
        bits = max(2, (total - 1).bit_length())
        self._low = bits // 2
        self._masks = np.uint64((1 << (bits - self._low)) - 1), np.uint64((1 << self._low) - 1)
        self._keys = generator(seed, epoch, "feistel").random_raw(_ROUNDS)

    def at(self, positions: Ints) -> Ints:
        if self._table is not None:
            return self._table[positions]
        numbers = self._encrypt(positions.astype(np.uint64))
        outside = np.flatnonzero(numbers >= self.total)
        while len(outside):  # "cycle walking": what leaves the samples goes on until it comes back
            numbers[outside] = self._encrypt(numbers[outside])
            outside = outside[numbers[outside] >= self.total]
        indexes: Ints = numbers.astype(np.int64)
        return indexes

    def _encrypt(self, numbers: Any) -> Any:
        """Return a permutation of all numbers of as many bits: each half in turn is mixed with the other's hash."""
        high_mask, low_mask = self._masks
        shift = np.uint64(self._low)
        high, low = numbers >> shift, numbers & low_mask
        for turn, key in enumerate(self._keys):
            if turn % 2:
                high = high ^ (_mixed(low ^ key) & high_mask)
            else:
                low = low ^ (_mixed(high ^ key) & low_mask)
        return (high << shift) | low


def _mixed(numbers: Any) -> Any:
    """Return a hash of each 64-bit number (Stafford's variant 13 of the finalizer of MurmurHash3)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


@dataclass(frozen=True)
class _ShardGroup:
    """Some shards: the first samples and the sizes of their ranges, in order, and where windows begin among both."""

    firsts: Ints
    sizes: Ints
    windows: Ints
    positions: Ints


class Windowed(Order):
    """A permutation of the samples of each window of some ranges."""

    def __init__(self, counts: Sequence[int], seed: int, epoch: int, window: Window):
        self._seed, self._epoch, self._window = seed, epoch, window
        self._counts = np.array(counts, np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self._shards = permutation(len(counts), seed, epoch, "shards")
        ends = np.cumsum(self._counts[self._shards])
        last = np.minimum(np.arange(window.shards, len(counts) + window.shards, window.shards), len(counts)) - 1
        self._ends = ends[last] if len(counts) else np.zeros(0, np.int64)
        self.total = int(self._counts.sum())
        self._group = lru_cache(2)(self._make_group)
        self._samples = lru_cache(3)(self._make_samples)

    def at(self, positions: Ints) -> Ints:
        indexes = np.empty(len(positions), np.int64)
        for start, places in self._windows_of(positions):
            samples = self._samples(start)
            indexes[places] = samples[positions[places] - start]
        return indexes

    def window_stop(self, position: int) -> int:
        group, window = self._find(position)
        return int(self._group(group).positions[window + 1])

    def _windows_of(self, positions: Ints) -> list[tuple[int, Any]]:
        """Return the start of each window that some of ``positions`` are in, and which these are."""
        windows: list[tuple[int, Any]] = []
        left = np.argsort(positions, kind="stable")
        while len(left):
            first = int(positions[left[0]])
            group, window = self._find(first)
            start, stop = self._group(group).positions[window : window + 2].tolist()
            count = int(np.searchsorted(positions[left], stop))
            windows.append((start, left[:count]))
            left = left[count:]
        return windows

    def _find(self, position: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._ends, position, side="right"))
        return group, int(np.searchsorted(self._group(group).positions, position, side="right")) - 1

    def _make_group(self, number: int) -> _ShardGroup:
        size = self._window.shards
        shards = self._shards[number * size : (number + 1) * size]
        counts = self._counts[shards]
        pieces = -(-counts // self._window.rows)
        of_shard, piece = np.repeat(np.arange(len(shards)), pieces), spread(np.zeros(len(shards), np.int64), pieces)
        low = piece * counts[of_shard] // pieces[of_shard]  # as even as can be
        high = (piece + 1) * counts[of_shard] // pieces[of_shard]
        order = permutation(len(piece), self._seed, self._epoch, "ranges", number)
        firsts, sizes = (self._starts[shards[of_shard]] + low)[order], (high - low)[order]
        windows = max(1, -(-len(firsts) // self._window.ranges))
        bounds = np.arange(windows + 1) * len(firsts) // windows
        begin = int(self._ends[number - 1]) if number else 0
        return _ShardGroup(firsts, sizes, bounds, begin + np.concatenate(([0], np.cumsum(sizes)))[bounds])

    def _make_samples(self, start: int) -> Ints:
        """Return the samples of the window that begins at a position."""
        number, window = self._find(start)
        group = self._group(number)
        part = slice(*group.windows[window : window + 2].tolist())
        firsts, sizes = group.firsts[part], group.sizes[part]
        samples = spread(firsts, sizes)
        order = permutation(len(samples), self._seed, self._epoch, "window", start)
        lanes = LANES if len(firsts) >= LANES else 1
        lane_of_sample = np.repeat(np.arange(len(firsts)) % lanes, sizes)[order]
        lane_of_place = (start + np.arange(len(samples))) % lanes
        placed = np.empty_like(samples)
        by_lane = np.argsort(lane_of_sample, kind="stable")
        placed[np.argsort(lane_of_place, kind="stable")] = samples[order][by_lane]
        return placed


def permutation(size: int, seed: int, *labels: object) -> Ints:
    """Return a permutation that depends on nothing but the arguments, whatever the versions of Python and numpy."""
    return np.argsort(generator(seed, *labels).random_raw(size), kind="stable")


def generator(seed: int, *labels: object) -> np.random.Philox:
    """Return a generator of 64 random bits at a time, by ``random_raw``, for each combination of arguments."""
    text = " ".join(map(repr, (seed, *labels)))
    return np.random.Philox(key=int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "little"))
