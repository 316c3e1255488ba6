"""What is known of the samples of a run besides their bytes: their table, and what an exchange adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.jobs.exchange.order import RANDOM_BYTES, prefixes, sort_texts
from shardtools.shards.columns import Texts, join, spread
from shardtools.shards.names import encode_name
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK, blocks_of
from shardtools.types import Bytes, Ints

PLACE = np.dtype([("ordinal", "<u4"), ("index", "<u4")])
"""Where a sample comes from: the index of its input shard, and its own index there."""


@dataclass(frozen=True)
class RunTable:
    """Samples: their ``table``, and a row for each with its order, its place in the input, and the sum of its span.

    Offsets in the table are those of the buffer or run that has the spans; ``sums`` are as `sums_of` takes them.
    """

    table: ShardTable
    orders: Texts
    places: npt.NDArray[Any]
    sums: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def size(self) -> int:
        """Bytes of all spans."""
        return int(self.table.spans.sum())

    def take(self, rows: Ints) -> RunTable:
        """Return some samples, in the order of ``rows``."""
        return RunTable(self.table.take(rows), self.orders.take(rows), self.places[rows], self.sums[rows])

    @classmethod
    def join(cls, parts: Sequence[RunTable]) -> RunTable:
        """Return the samples of all parts, in order."""
        return cls(
            ShardTable.join([part.table for part in parts]),
            Texts.join([part.orders for part in parts]),
            join([part.places for part in parts], PLACE),
            join([part.sums for part in parts], np.uint64),
        )

    def sorted_rows(self) -> Ints:
        """Return the rows of samples in sorted order; the sort is stable."""
        orders = self.orders
        if len(orders.data) == RANDOM_BYTES * len(orders) and (orders.sizes == RANDOM_BYTES).all():
            words = np.ascontiguousarray(orders.data).view(">u8").reshape(-1, 2).astype(np.uint64)
            return np.lexsort((words[:, 1], words[:, 0]))
        return sort_texts(orders.tolist())


def content_hash(table: ShardTable) -> int:
    """Return a hash of the samples, as a multiset: it depends on keys and contents, but not on the order.

    It is a sum of the hashes of samples, so that the hashes of parts can be added. (Bellare and Micciancio, A new
    paradigm for collision-free hashing: incrementality at reduced cost, 1997; with a mixing function in place of a
    cryptographic one: it detects mistakes, not forgery.)
    """
    assert table.crc32 is not None
    of_field = hash_texts(Texts.of(list(map(encode_name, table.fields))))
    of_member = _mix(table.crc32.astype(np.uint64) ^ _mix(table.size))
    of_member = _mix(of_member ^ of_field[table.field])
    of_sample = np.add.reduceat(of_member, table.first[:-1]) if len(table) else of_member
    return int(_mix(of_sample ^ hash_texts(table.keys)).sum(dtype=np.uint64))


def hash_texts(texts: Texts) -> npt.NDArray[np.uint64]:
    """Return a hash of each text, the same everywhere and always."""
    starts, sizes = texts.starts, texts.sizes
    found = _mix(sizes)
    for at in range(0, int(sizes.max()) if len(sizes) else 0, 8):
        longer = np.flatnonzero(sizes > at)
        found[longer] = _mix(found[longer] ^ prefixes(texts.data, starts[longer] + at, texts.ends[longer]))
    return found


def sums_of(data: Bytes, starts: Ints, sizes: Ints) -> npt.NDArray[np.uint64]:
    """Return for each span of whole tar blocks the sum of its 64-bit words: a checksum at the speed of memory.

    ``starts`` rise, and no two spans overlap.
    """
    if not len(starts):
        return np.empty(0, np.uint64)
    words = data[: len(data) // 8 * 8].view(np.uint64)
    bounds = np.stack((starts // 8, (starts + sizes) // 8), axis=1).reshape(-1)
    if bounds[-1] == len(words):
        bounds = bounds[:-1]
    return np.add.reduceat(words, bounds)[::2]


def assemble(data: Bytes, starts: Ints, sizes: Ints) -> Bytes:
    """Return spans of whole tar blocks end to end, in the order given."""
    return blocks_of(data)[spread(starts // BLOCK, sizes // BLOCK)].reshape(-1)


def _mix(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return numbers mixed so that each bit depends on all (the finalizer of SplitMix64; Steele and others, 2014)."""
    mixed = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
