"""What is known of many samples besides their bytes, as numpy columns: cut, put in another order, put end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.jobs.exchange.order import prefixes
from shardtools.shards.columns import Texts, spread
from shardtools.shards.tar import BLOCK
from shardtools.types import Bytes, Ints

MEMBER = np.dtype([("head", "<u8"), ("size", "<u8"), ("field", "<u4"), ("crc32", "<u4")])
"""A member: bytes before its data since the one before in its sample, bytes of data, field, checksum of the data."""

PLACE = np.dtype([("ordinal", "<u4"), ("index", "<u4")])
"""Where a sample comes from: the number of its input shard, and its own number there."""


@dataclass(frozen=True)
class Columns:
    """Samples: their ``orders``, their ``names`` (keys as bytes), their ``places``, the ``sizes`` of their spans.

    ``sums`` are the checksums of the spans (see `sums_of`). Members ``first[i]`` to ``first[i + 1]`` are those of
    sample i; ``fields`` are the names that their numbers mean.
    """

    orders: Texts
    names: Texts
    places: npt.NDArray[Any]
    sizes: Ints
    sums: npt.NDArray[np.uint64]
    first: Ints
    members: npt.NDArray[Any]
    fields: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, rows: Ints) -> Columns:
        """Return some samples, in the order of ``rows``."""
        counts = np.diff(self.first)[rows]
        return Columns(
            self.orders.take(rows),
            self.names.take(rows),
            self.places[rows],
            self.sizes[rows],
            self.sums[rows],
            np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))),
            self.members[spread(self.first[rows], counts)],
            self.fields,
        )


def join_columns(parts: Sequence[Columns]) -> Columns:
    """Return samples end to end; the numbers of fields are made those of one list."""
    codes: dict[str, int] = {}
    members = []
    for part in parts:
        mapping = np.array([codes.setdefault(name, len(codes)) for name in part.fields], np.uint32)
        some = part.members.copy()
        if len(some):
            some["field"] = mapping[some["field"]]
        members.append(some)
    shifts = np.cumsum([0, *(len(part.members) for part in parts)]).tolist()
    first = [part.first[1:] + shift for part, shift in zip(parts, shifts[:-1], strict=True)]
    return Columns(
        Texts.join([part.orders for part in parts]),
        Texts.join([part.names for part in parts]),
        np.concatenate([np.empty(0, PLACE), *(part.places for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.sizes for part in parts)]),
        np.concatenate([np.empty(0, np.uint64), *(part.sums for part in parts)]),
        np.concatenate([np.zeros(1, np.int64), *first]),
        np.concatenate([np.empty(0, MEMBER), *members]),
        tuple(codes),
    )


def content_hash(columns: Columns) -> int:
    """Return a number that depends on which samples these are, how often, and what is in them, but not on their order.

    It is a sum, so that it can be taken of parts. (Bellare and Micciancio, A new paradigm for collision-free hashing:
    incrementality at reduced cost, 1997; with a mixing function in place of a cryptographic one: this is against
    mistakes, not against forgers.)
    """
    members = columns.members
    of_field = hash_texts(Texts.of([name.encode("utf-8", "surrogateescape") for name in columns.fields]))
    of_member = _mix(members["crc32"].astype(np.uint64) ^ _mix(members["size"]))
    of_member = _mix(of_member ^ of_field[members["field"]]) if len(members) else of_member
    ends = np.concatenate((np.zeros(1, np.uint64), np.cumsum(of_member, dtype=np.uint64)))
    of_sample = ends[columns.first[1:]] - ends[columns.first[:-1]]
    return int(_mix(of_sample ^ hash_texts(columns.names)).sum(dtype=np.uint64)) if len(columns) else 0


def hash_texts(texts: Texts) -> npt.NDArray[np.uint64]:
    """Return a hash of each text, the same everywhere and always."""
    starts, sizes = texts.starts, texts.ends - texts.starts
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
    blocks = data[: len(data) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return blocks[spread(starts // BLOCK, sizes // BLOCK)].reshape(-1)


def _mix(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return numbers mixed so that each bit depends on all (the finalizer of SplitMix64; Steele and others, 2014)."""
    mixed = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
