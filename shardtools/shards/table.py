"""The table of a shard: where every sample and every member lies, as numpy columns.

    buffer -> scan -> ShardTable (of one block) -> concatenate -> ShardTable (of the shard) -> sidecar file

One structure, three uses: jobs use the scanned table, the sidecar file *is* that table, views look samples up in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.shards.tar import Bytes, Ints


@dataclass(frozen=True)
class Keys:
    """The keys of samples as one column: their bytes, end to end, and where each one ends."""

    data: Bytes
    ends: Ints

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        """Return the key of one sample."""
        index = range(len(self.ends))[index]
        start = int(self.ends[index - 1]) if index else 0
        return decode_name(self.data[start : int(self.ends[index])].tobytes())

    def tolist(self) -> list[str]:
        """Return all keys."""
        ends = self.ends.tolist()
        starts = [0, *ends][: len(ends)]
        data = self.data.tobytes()
        if data.isascii():
            text = data.decode("ascii")
            return [text[a:b] for a, b in zip(starts, ends, strict=True)]
        return [decode_name(data[a:b]) for a, b in zip(starts, ends, strict=True)]


def decode_name(name: bytes) -> str:
    """Return a member's name as text; bytes that are not UTF-8 survive as surrogates, as everywhere in Python."""
    return name.decode("utf-8", "surrogateescape")


def encode_name(name: str) -> bytes:
    """Return the bytes of a name; the inverse of `decode_name`."""
    return name.encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class ShardTable:
    """Where the samples of a shard lie, in bytes of the uncompressed tar file.

    One row for each sample: ``keys``; ``start`` and ``stop``, its span of whole tar blocks, headers included; members
    ``first[i]`` to ``first[i + 1]`` are those of sample i. One row for each member: ``field``, an index into
    ``fields``; ``offset`` and ``size`` of its data. ``other`` counts the members that belong to no sample: folders,
    links, names without a dot.
    """

    keys: Keys
    start: Ints
    stop: Ints
    first: Ints
    fields: tuple[str, ...]
    field: Ints
    offset: Ints
    size: Ints
    other: int = 0

    def __len__(self) -> int:
        return len(self.start)

    def shifted(self, distance: int) -> ShardTable:
        """Return the table with every offset moved by ``distance`` bytes."""
        return replace(self, start=self.start + distance, stop=self.stop + distance, offset=self.offset + distance)

    def members_of(self, field: str) -> Ints:
        """Return for each sample the row of its member that is ``field``, -1 where it has none."""
        found = np.full(len(self), -1, np.int64)
        if field in self.fields:
            members = np.flatnonzero(self.field == self.fields.index(field))
            found[np.searchsorted(self.first, members, side="right") - 1] = members
        return found


def concatenate(tables: Sequence[ShardTable]) -> ShardTable:
    """Return the table of all samples of ``tables``, in order."""
    fields: dict[str, int] = {}
    codes = []
    for table in tables:
        mapping = np.array([fields.setdefault(name, len(fields)) for name in table.fields], np.int64)
        codes.append(mapping[table.field])
    key_bytes = np.cumsum([0] + [len(table.keys.data) for table in tables])
    members = np.cumsum([0] + [len(table.field) for table in tables])
    return ShardTable(
        keys=Keys(
            join([table.keys.data for table in tables], np.uint8),
            join([table.keys.ends + at for table, at in zip(tables, key_bytes[:-1], strict=True)], np.int64),
        ),
        start=join([table.start for table in tables], np.int64),
        stop=join([table.stop for table in tables], np.int64),
        first=join(
            [np.zeros(1, np.int64)] + [table.first[1:] + at for table, at in zip(tables, members[:-1], strict=True)],
            np.int64,
        ),
        fields=tuple(fields),
        field=join(codes, np.int64),
        offset=join([table.offset for table in tables], np.int64),
        size=join([table.size for table in tables], np.int64),
        other=sum(table.other for table in tables),
    )


def repeated_fields(counts: Ints, field: Ints, fields: int) -> Ints:
    """Return sample * ``fields`` + field of what samples of so many members have twice."""
    pairs = np.repeat(np.arange(len(counts)), counts) * fields + field
    if (pairs[1:] > pairs[:-1]).all():
        return np.empty(0, np.int64)
    pairs = np.sort(pairs)
    again: Ints = pairs[1:][pairs[1:] == pairs[:-1]]
    return again


def join(parts: Sequence[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Return the columns ``parts`` as one, empty if there are none."""
    return np.concatenate(parts, dtype=dtype) if parts else np.empty(0, dtype)


def spread(starts: Ints, sizes: Ints) -> Ints:
    """Return the numbers from each start on, as many as its size says, end to end.

    >>> spread(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    shifts = starts - (np.cumsum(sizes) - sizes)
    return np.repeat(shifts, sizes) + np.arange(int(sizes.sum()), dtype=np.int64)
