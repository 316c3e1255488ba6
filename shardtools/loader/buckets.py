"""Batches of samples that are alike: of one bucket of widths, lengths, or whatever an expression in SQL says.

expression -> a number for each sample -> edges -> the bucket of each sample
order of an epoch -> the samples of each bucket, in that order -> global batches, each of one bucket
                  -> in the order in which they become full -> positions

A global batch is that of all ranks. So all ranks are in one bucket at any time, and have the same number of batches.
The batches are a function of the order and the size of the global batch. Samples that are read together for the order
are read together here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.dataset.numbers import numbers_of
from shardtools.dataset.sharded import ShardedDataset
from shardtools.errors import JobError
from shardtools.loader.order import Order
from shardtools.loader.split import Uneven
from shardtools.types import Ints

BLOCK = 1 << 16
"""Positions of an order that are looked at together, at most."""

MOST = 1000
"""Buckets, at most."""

BUCKETS = 8
"""Buckets, unless there is another number."""


@dataclass(frozen=True)
class Buckets:
    """The bucket of each sample: ``number[i]`` is that of sample i, by the expression ``by``.

    Bucket i has the samples from ``edges[i - 1]``, and before ``edges[i]``. The last bucket has those without a number.
    """

    by: str
    edges: tuple[float, ...]
    number: npt.NDArray[np.uint16]

    @property
    def counts(self) -> Ints:
        """How many samples each bucket has."""
        return np.bincount(self.number, minlength=len(self.edges) + 2)

    def batches(self, step: int, *, is_dropped: bool) -> int:
        """Return how many global batches of ``step`` samples there are, with or without those that are not full."""
        return int((self.counts // step if is_dropped else -(-self.counts // step)).sum())

    def describe(self) -> dict[str, Any]:
        """Return what identifies them, as JSON data."""
        made = blake2b(np.ascontiguousarray(self.number, "<u2").data, digest_size=16).hexdigest()
        return {"by": self.by, "edges": list(self.edges), "numbers": made}


def find_buckets(dataset: ShardedDataset, by: str, buckets: int | Sequence[float]) -> Buckets:
    """Return the bucket of each sample: so many of about the same size, or those between some edges.

    Raises:
        JobError: ``by`` does not fit the dataset.
        StorageError, ShardError: a shard cannot be read.
    """
    try:
        numbers = numbers_of(dataset, by)
    except JobError as error:
        raise JobError(f"bucket_by: {error.what}", url=error.url, fix=error.fix) from error
    there = ~np.isnan(numbers)
    edges = np.array(buckets, np.float64) if isinstance(buckets, Sequence) else _quantiles(numbers[there], buckets)
    number = np.where(there, np.searchsorted(edges, numbers, side="right"), len(edges) + 1)
    return Buckets(by, tuple(edges.tolist()), number.astype(np.uint16))


def check_buckets(by: str | None, buckets: int | Sequence[float]) -> None:
    """Raise if ``buckets`` are neither a number of buckets nor rising edges.

    Raises:
        JobError: they are not.
    """
    if isinstance(buckets, int):
        is_right = 1 <= buckets <= MOST
    else:
        edges = list(buckets)
        is_right = 1 <= len(edges) < MOST and all(a < b for a, b in pairwise([-np.inf, *edges, np.inf]))
    if not is_right:
        what = f"buckets={buckets!r} is neither a number from 1 to {MOST:,} nor a list of rising edges"
        raise JobError(what, fix="give such as buckets=8, or buckets=[0.5, 1, 2]")
    if by is None and not (isinstance(buckets, int) and buckets == BUCKETS):
        raise JobError(f"buckets={buckets!r} needs bucket_by", fix="give bucket_by, or leave out buckets")
    if by is not None and not by.strip():
        raise JobError("bucket_by is empty", fix='give an expression, such as bucket_by="json.width / json.height"')


def _quantiles(numbers: npt.NDArray[np.float64], buckets: int) -> npt.NDArray[np.float64]:
    """Return edges between about as many samples each; fewer, where many have the same number.

    >>> _quantiles(np.array([4.0, 1, 2, 3, 1, 1, 1, 1]), 4).tolist()
    [3.0]
    """
    if not len(numbers):
        return np.empty(0)
    ordered = np.sort(numbers)
    edges = np.unique(ordered[np.arange(1, buckets) * len(ordered) // buckets])
    above: npt.NDArray[np.float64] = edges[edges > ordered[0]]
    return above


class Bucketed(Order):
    """The samples of an order in global batches of ``step``, each of one bucket.

    Samples that fill no batch are dropped, or come last: a batch is then filled with repeats, which are the bucket's
    first samples ("pad"), or its own. It takes 8 bytes of memory for each sample.
    """

    def __init__(self, base: Order, buckets: Buckets, step: int, uneven: Uneven):
        indexes, bounds = _whole(base)
        number = buckets.number[indexes]
        by_bucket = np.split(np.argsort(number, kind="stable"), np.cumsum(buckets.counts)[:-1])
        full = [places[: len(places) // step * step].reshape(-1, step) for places in by_bucket]
        batches = np.concatenate(full)
        batches = batches[np.argsort(batches[:, -1], kind="stable")]
        self._windows = np.searchsorted(bounds, batches[:, -1], side="right")
        self._step, self._full = step, len(batches)
        rests = [] if uneven == "drop" else [(places, len(places) % step) for places in by_bucket if len(places) % step]
        self._real = np.array([rest for _, rest in rests], np.int64)
        again = [np.roll(places, rest) if uneven == "pad" else places[-rest:] for places, rest in rests]
        last = [np.resize(places, step) for places in again]
        self._samples = indexes[np.concatenate([batches, *(row[None] for row in last)]).reshape(-1)]
        self.total = len(self._samples)

    def at(self, positions: Ints) -> Ints:
        found: Ints = self._samples[positions]
        return found

    def repeats(self, positions: Ints) -> npt.NDArray[np.bool_]:
        batch, place = positions // self._step, positions % self._step
        real = np.full(len(positions), self._step)
        is_last = batch >= self._full
        real[is_last] = self._real[batch[is_last] - self._full]
        return place >= real

    def window_stop(self, position: int) -> int:
        batch = position // self._step
        if batch >= self._full:
            return self.total
        return int(np.searchsorted(self._windows, self._windows[batch], side="right")) * self._step


def _whole(order: Order) -> tuple[Ints, Ints]:
    """Return the samples of an order, and where each of its windows ends."""
    indexes, bounds, start = np.empty(order.total, np.int64), [], 0
    while start < order.total:
        stop = min(order.window_stop(start), start + BLOCK)
        indexes[start:stop] = order.at(np.arange(start, stop))
        bounds.append(stop)
        start = stop
    return indexes, np.array(bounds, np.int64)
