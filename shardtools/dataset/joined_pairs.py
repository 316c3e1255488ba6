"""Which samples of two datasets have the same keys.

    keys -> hashes of 64 bits, in the order of samples -> shards with equal runs of hashes: a shift, and no table
                                                       -> others: sorted, bucket by bucket -> a table of pairs

A pair takes 8 bytes (16 from 2**32 samples on), and a shard in which the samples of the other dataset stand in the same
order takes one number, however they are sharded. While pairs are looked for, a sample takes 8 bytes for its hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from shardtools.dataset.shard_set import ShardSet
from shardtools.errors import DuplicateKeyError, JobError
from shardtools.query.key_file import Hashes, hashes_in
from shardtools.shards.members import IndexedShard
from shardtools.types import Ints
from shardtools.urls import name_of

_BUCKET = 1 << 20
"""Samples of a bucket, about."""


@dataclass(frozen=True)
class HashedKeys:
    """The keys of the samples of a dataset as ``hashes``, in the order of the samples.

    ``indexes`` are those of the samples among all of the shards, None if these are all. ``ends`` are those of shards.
    """

    hashes: Hashes
    indexes: Ints | None
    ends: Ints

    def __len__(self) -> int:
        return len(self.hashes)

    def index(self, positions: Ints) -> Ints:
        """Return indexes among all samples of the shards."""
        return positions if self.indexes is None else self.indexes[positions]

    def bounds(self) -> Ints:
        """Return where the samples of each shard begin, and the last ones end."""
        ends = np.concatenate(([0], self.ends))
        return ends if self.indexes is None else np.searchsorted(self.indexes, ends)


@dataclass(frozen=True)
class Pairs:
    """For each sample of the first of two datasets, by its index, the index of the one with the same key in the other.

    In shard i, which ends at ``ends[i]``, that is the index plus ``shifts[i]`` where ``is_shifted[i]``. Elsewhere it is
    in the table: of the sample ``firsts[j]``, which rise, it is ``others[j]``.
    """

    ends: Ints
    is_shifted: npt.NDArray[np.bool_]
    shifts: Ints
    firsts: Ints
    others: Ints

    @property
    def nbytes(self) -> int:
        """Bytes that the table takes in memory."""
        return self.firsts.nbytes + self.others.nbytes

    @property
    def is_identity(self) -> bool:
        """Whether each sample has the index of the other."""
        return bool(self.is_shifted.all()) and not self.shifts.any()

    @property
    def digest(self) -> bytes:
        """What tells these pairs apart from others."""
        columns = (self.is_shifted, self.shifts, self.firsts, self.others)
        return blake2b(b"".join(column.tobytes() for column in columns), digest_size=16).digest()

    def partner(self, shard: int, index: int) -> int:
        """Return the index in the other dataset of one sample, which is in a shard, -1 if there is none."""
        if self.is_shifted[shard]:
            return index + int(self.shifts[shard])
        at = int(self.firsts.searchsorted(self.firsts.dtype.type(index)))
        return int(self.others[at]) if at < len(self.firsts) and self.firsts[at] == index else -1

    def of(self, indexes: Ints) -> Ints:
        """Return the indexes in the other dataset, -1 for those that have no sample there."""
        shards = np.searchsorted(self.ends, indexes, side="right")
        found: Ints = indexes + self.shifts[shards]
        listed = np.flatnonzero(~self.is_shifted[shards])
        if len(listed):
            wanted = indexes[listed]
            if not len(self.firsts):
                found[listed] = -1
                return found
            # With another type, all of the table would be converted.
            at = np.searchsorted(self.firsts, wanted.astype(self.firsts.dtype))
            at = np.minimum(at, len(self.firsts) - 1)
            found[listed] = np.where(self.firsts[at] == wanted, self.others[at].astype(np.int64), -1)
        return found


def keys_of(shards: ShardSet, chosen: Ints | None) -> HashedKeys:
    """Return the keys of the samples of some shards, or of those that are ``chosen``.

    Raises:
        DuplicateKeyError: two of them have one key.
        StorageError, ShardError: they cannot be read.
    """
    ends = np.array(shards.known_ends(), np.int64)
    bounds = np.concatenate(([0], ends)) if chosen is None else np.searchsorted(chosen, np.concatenate(([0], ends)))

    def hashes_of(number: int, shard: IndexedShard) -> Hashes:
        hashes = hashes_in(shard.table)
        if chosen is None:
            return hashes
        some: Hashes = hashes[chosen[bounds[number] : bounds[number + 1]] - (ends[number] - len(hashes))]
        return some

    hashes = shards.of_some(hashes_of, np.flatnonzero(np.diff(bounds)).tolist())
    keys = HashedKeys(np.concatenate([np.empty(0, np.uint64), *hashes]), chosen, ends)
    _check_unique(shards, keys)
    return keys


def _check_unique(shards: ShardSet, keys: HashedKeys) -> None:
    """Raise if two samples have one key.

    Raises:
        DuplicateKeyError: they have.
        JobError: two keys have one hash.
    """
    ordered = np.sort(keys.hashes)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(twice):
        return
    same = keys.index(np.flatnonzero(keys.hashes == ordered[twice[0]])[:2])
    numbers = np.searchsorted(keys.ends, same, side="right").tolist()
    rows = same - np.concatenate(([0], keys.ends))[numbers]
    one, other = (shards.indexed(number).table.keys[row] for number, row in zip(numbers, rows.tolist(), strict=True))
    if one != other:
        raise JobError(f"the keys {one} and {other} have one hash", fix="rename one of them")
    fix = "a join needs keys that occur once: leave one of the samples out"
    if numbers[0] != numbers[1]:
        fix = f"the other one is in {name_of(shards.urls[numbers[1]])}; {fix}"
    raise DuplicateKeyError("two samples have this key", url=shards.urls[numbers[0]], member=one, fix=fix)


def find_pairs(first: HashedKeys, other: HashedKeys) -> Pairs:
    """Return which samples of two datasets have the same keys."""
    if len(first) == len(other) and np.array_equal(first.hashes, other.hashes):
        positions = None
    else:
        positions = match(first.hashes, other.hashes)
    bounds = list(pairwise(first.bounds().tolist()))
    shifts = np.zeros(len(first.ends), np.int64)
    is_shifted = np.zeros(len(first.ends), bool)
    sizes = np.zeros(len(first.ends), np.int64)
    for shard, (start, stop) in enumerate(bounds):
        mine, theirs = _pairs_of(first, other, positions, start, stop)
        if len(mine) == stop - start and (not len(mine) or (theirs - mine == theirs[0] - mine[0]).all()):
            is_shifted[shard] = True
            shifts[shard] = theirs[0] - mine[0] if len(mine) else 0
        else:
            sizes[shard] = len(mine)
    ends = np.cumsum(sizes)
    firsts, others = (np.empty(int(sizes.sum()), _type_of(keys)) for keys in (first, other))
    for shard in np.flatnonzero(sizes).tolist():
        part = slice(int(ends[shard] - sizes[shard]), int(ends[shard]))
        firsts[part], others[part] = _pairs_of(first, other, positions, *bounds[shard])
    return Pairs(first.ends, is_shifted, shifts, firsts, others)


def _pairs_of(first: HashedKeys, other: HashedKeys, positions: Ints | None, start: int, stop: int) -> tuple[Ints, Ints]:
    """Return the indexes of some samples that have a partner, and those of the partners."""
    at = np.arange(start, stop)
    found = at if positions is None else positions[start:stop].astype(np.int64)
    there = found >= 0
    return first.index(at[there]), other.index(found[there])


def _type_of(keys: HashedKeys) -> npt.DTypeLike:
    """Return the type of a table of indexes: four bytes, if they fit."""
    return np.uint32 if not len(keys.ends) or keys.ends[-1] < 1 << 32 else np.int64


def match(first: Hashes, other: Hashes) -> Ints:
    """Return for each of the hashes ``first`` where it stands in ``other``, -1 if nowhere; none occurs twice.

    >>> match(np.array([5, 9, 1 << 63], np.uint64), np.array([1 << 63, 5], np.uint64)).tolist()
    [1, -1, 0]
    """
    found: Ints = np.full(len(first), -1, np.int32 if len(other) < 1 << 31 else np.int64)
    bits = min(8, max(0, (max(len(first), len(other)) // _BUCKET).bit_length()))
    buckets = [_buckets(hashes, bits) for hashes in (first, other)]
    for bucket in range(1 << bits):
        mine, theirs = (np.flatnonzero(of == bucket) for of in buckets)
        if not len(theirs) or not len(mine):
            continue
        mine, theirs = mine[np.argsort(first[mine])], theirs[np.argsort(other[theirs])]
        at = np.minimum(np.searchsorted(other[theirs], first[mine]), len(theirs) - 1)
        there = other[theirs[at]] == first[mine]
        found[mine[there]] = theirs[at[there]]
    return found


def _buckets(hashes: Hashes, bits: int) -> npt.NDArray[np.uint8]:
    """Return the first bits of each hash."""
    found = np.zeros(len(hashes), np.uint8)
    for start in range(0, len(hashes) if bits else 0, _BUCKET):
        part = slice(start, start + _BUCKET)
        found[part] = hashes[part] >> np.uint64(64 - bits)
    return found
