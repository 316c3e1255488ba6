"""Splits: orders that cut all runs into batches of about as many samples each, so that no process needs all orders.

    some orders of each run -> splits -> locate, a task for some runs -> where each batch begins in each run

Every run is split at the same orders, and samples with one order are in one batch. Where the batches begin is exact,
however good the choice of the splits: it says how many samples come before each. (Sample sort; Frazer and McKellar,
1970.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from shardtools.engine import check_cancelled
from shardtools.jobs.exchange.run import Run
from shardtools.jobs.exchange.threads import each
from shardtools.shards.columns import Texts, with_zero
from shardtools.storage.together import REQUESTS
from shardtools.types import Ints

MOST_CHOSEN_FROM = 1 << 20
"""How many orders the splits are chosen from, at most: 60 bytes of memory each, and the orders themselves."""


@dataclass(frozen=True)
class SomeOrders:
    """Some of the sorted orders of a run: each stands for ``weight`` samples."""

    weight: float
    orders: list[bytes]


def read_some_orders(run: Run, runs: int) -> SomeOrders:
    """Return some of the orders of one of so many runs: fewer of each if there are many."""
    if not run.sampled:
        return SomeOrders(0, [])
    rows = np.arange(0, run.sampled, -(-runs * run.sampled // MOST_CHOSEN_FROM))
    return SomeOrders(run.count / len(rows), run.read_sampled().take(rows).tolist())


class Sampled:
    """Some of the orders of all ``runs``, read when splits are first chosen from them."""

    def __init__(self, runs: Sequence[Run]):
        self._runs = runs
        self._some: list[SomeOrders] | None = None

    def choose(self, batches: int) -> tuple[bytes, ...]:
        """Return splits into about so many batches; see `choose_splits`.

        Raises:
            StorageError: the orders cannot be read.
            CorruptError: they were damaged.
        """
        if self._some is None:
            self._some = each(lambda run: read_some_orders(run, len(self._runs)), self._runs, self._runs, REQUESTS)
        return tuple(choose_splits(self._some, batches))


def choose_splits(some: Sequence[SomeOrders], batches: int) -> list[bytes]:
    """Return ascending orders, the first sample of about so many batches each; the first batch begins with no order.

    An order that many samples have gets a batch of its own: see `is_single`.

    >>> choose_splits([SomeOrders(10, [b"a", b"c", b"e"]), SomeOrders(10, [b"b", b"d", b"f"])], 3)
    [b'', b'c', b'e']
    >>> choose_splits([SomeOrders(10, [b"a", b"b", b"b", b"b", b"c"])], 5)
    [b'', b'b', b'b\\x00', b'c']
    """
    weighted = sorted((order, part.weight) for part in some for order in part.orders)
    before = list(accumulate((weight for _, weight in weighted), initial=0.0))
    chosen = [
        weighted[min(bisect_left(before, before[-1] * batch / batches), len(weighted) - 1)][0]
        for batch in range(1, batches)
        if weighted
    ]
    heavy = {following(one) for one, other in pairwise(chosen) if one == other}
    return sorted({b"", *chosen, *heavy})


def following(order: bytes) -> bytes:
    """Return the order that comes next: none is between the two."""
    return order + b"\0"


def is_single(splits: Sequence[bytes], batch: int) -> bool:
    """Return whether all samples of a batch have the same order."""
    return batch + 1 < len(splits) and splits[batch + 1] == following(splits[batch])


@dataclass(frozen=True)
class LocateTask:
    """What one task does: find where batches, which begin with the orders ``splits``, begin in each of ``runs``."""

    runs: tuple[Run, ...]
    splits: tuple[bytes, ...]


def locate(task: LocateTask) -> Ints:
    """Return a row for each run, with how many of its samples come before each of the splits.

    Raises:
        StorageError: a run cannot be read.
        CorruptError: it was damaged.
    """
    found = np.zeros((len(task.runs), len(task.splits)), np.int64)
    for row, run in enumerate(task.runs):
        check_cancelled()
        found[row] = split_places(run.read_orders(), task.splits)
    return found


def split_places(orders: Texts, splits: Sequence[bytes]) -> list[int]:
    """Return how many of the sorted ``orders`` come before each of the ascending ``splits``.

    >>> split_places(Texts.of([b"a", b"b", b"b", b"d"]), [b"", b"b", b"c", b"e"])
    [0, 1, 3, 4]
    """
    data, bounds = orders.data.tobytes(), with_zero(orders.ends).data
    places, at = [], 0
    for split in splits:
        at = bisect_left(range(len(orders)), split, at, key=lambda row: data[bounds[row] : bounds[row + 1]])
        places.append(at)
    return places
