"""The table of a shard: where every sample and every member lies, as numpy columns.

    buffer -> scan -> ShardTable (of one block) -> join -> ShardTable (of the shard) -> sidecar file

One structure for all: jobs use the scanned table, the sidecar file *is* that table, views look samples up in it, and an
exchange carries it from shards to runs to shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shardtools.shards.columns import Texts, join, join_shifted, spread, with_zero
from shardtools.shards.tar import padded
from shardtools.types import Ints


@dataclass(frozen=True)
class ShardTable:
    """Where samples lie, in bytes of the uncompressed tar file or buffer that has them.

    One row for each sample: ``keys``; ``start`` and ``stop``, its span of whole tar blocks, headers included; members
    ``first[i]`` to ``first[i + 1]`` are those of sample i, one at least (but see `only`). One row for each member:
    ``field``, an index into ``fields``; ``offset`` and ``size`` of its data; ``crc32`` of its data, None where these
    are not known. ``other`` counts the members that belong to no sample: folders, links, names without a dot.
    """

    keys: Texts
    start: Ints
    stop: Ints
    first: Ints
    fields: tuple[str, ...]
    field: Ints
    offset: Ints
    size: Ints
    other: int = 0
    crc32: npt.NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.start)

    @property
    def counts(self) -> Ints:
        """How many members each sample has."""
        return np.diff(self.first)

    @property
    def spans(self) -> Ints:
        """How many bytes the span of each sample has."""
        return self.stop - self.start

    @property
    def heads(self) -> Ints:
        """Bytes before each member's data, headers mostly, since the member before it or the start of its sample."""
        before = with_zero(self.offset + padded(self.size))[:-1]
        before[self.first[:-1]] = self.start
        return self.offset - before

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        columns = (self.keys, self.start, self.stop, self.first, self.field, self.offset, self.size, self.crc32)
        return sum(column.nbytes for column in columns if column is not None)

    def count_fields(self) -> dict[str, int]:
        """Return how many samples have each field, by name."""
        counts = np.bincount(self.field, minlength=len(self.fields))
        return {name: int(count) for name, count in sorted(zip(self.fields, counts, strict=True))}

    def members_of(self, field: str) -> Ints:
        """Return for each sample the row of its member that is ``field``, -1 where it has none."""
        found = np.full(len(self), -1, np.int64)
        if field in self.fields:
            members = np.flatnonzero(self.field == self.fields.index(field))
            found[np.searchsorted(self.first, members, side="right") - 1] = members
        return found

    def members_of_all(self, fields: Sequence[str]) -> Ints:
        """Return `members_of` each field, a row for each."""
        return np.array([self.members_of(field) for field in fields], np.int64).reshape(len(fields), len(self))

    def name(self, member: int) -> str:
        """Return the name of a member."""
        sample = int(np.searchsorted(self.first, member, side="right")) - 1
        return f"{self.keys[sample]}.{self.fields[self.field[member]]}"

    def shifted(self, distance: int) -> ShardTable:
        """Return the table with every offset moved by ``distance`` bytes."""
        return replace(self, start=self.start + distance, stop=self.stop + distance, offset=self.offset + distance)

    def take(self, rows: Ints) -> ShardTable:
        """Return some samples, in the order of ``rows``, with the offsets that they have."""
        counts = self.counts[rows]
        members = spread(self.first[rows], counts)
        return ShardTable(
            keys=self.keys.take(rows),
            start=self.start[rows],
            stop=self.stop[rows],
            first=with_zero(np.cumsum(counts)),
            fields=self.fields,
            field=self.field[members],
            offset=self.offset[members],
            size=self.size[members],
            crc32=None if self.crc32 is None else self.crc32[members],
        )

    def only(self, fields: Sequence[str]) -> ShardTable:
        """Return all samples with their members of some fields alone. A sample may have none, so `heads` means nothing.

        Where there are no others, it is this table.
        """
        codes = [code for code, name in enumerate(self.fields) if name in fields]
        if len(codes) == len(self.fields):
            return self
        wanted = np.isin(self.field, codes)
        return replace(
            self,
            first=with_zero(np.cumsum(wanted))[self.first],
            field=self.field[wanted],
            offset=self.offset[wanted],
            size=self.size[wanted],
            crc32=None if self.crc32 is None else self.crc32[wanted],
        )

    def slice(self, start: int, stop: int) -> ShardTable:
        """Return the samples from row ``start`` up to ``stop``; their columns are not copied."""
        low, high = int(self.first[start]), int(self.first[stop])
        return ShardTable(
            keys=self.keys.slice(start, stop),
            start=self.start[start:stop],
            stop=self.stop[start:stop],
            first=self.first[start : stop + 1] - low,
            fields=self.fields,
            field=self.field[low:high],
            offset=self.offset[low:high],
            size=self.size[low:high],
            crc32=None if self.crc32 is None else self.crc32[low:high],
        )

    @classmethod
    def join(cls, tables: Sequence[ShardTable]) -> ShardTable:
        """Return the samples of all tables, in order; CRC-32 are known where those of all are."""
        codes: dict[str, int] = {}
        checksums = [table.crc32 for table in tables if table.crc32 is not None]
        return cls(
            keys=Texts.join([table.keys for table in tables]),
            start=join([table.start for table in tables], np.int64),
            stop=join([table.stop for table in tables], np.int64),
            first=with_zero(
                join_shifted([table.first[1:] for table in tables], [len(table.field) for table in tables])
            ),
            field=join([renumber(table, codes) for table in tables], np.int64),
            fields=tuple(codes),
            offset=join([table.offset for table in tables], np.int64),
            size=join([table.size for table in tables], np.int64),
            other=sum(table.other for table in tables),
            crc32=join(checksums, np.uint32) if len(checksums) == len(tables) else None,
        )


def renumber(table: ShardTable, codes: dict[str, int]) -> Ints:
    """Return the column ``field`` with the numbers that ``codes`` has for the names; it grows by those it lacks."""
    numbers = np.array([codes.setdefault(name, len(codes)) for name in table.fields], np.int64)
    return numbers[table.field]


def lay_out(
    keys: Texts,
    counts: Ints,
    fields: tuple[str, ...],
    field: Ints,
    heads: Ints,
    size: Ints,
    *,
    lead: Ints | None = None,
    other: int = 0,
    crc32: npt.NDArray[np.uint32] | None = None,
) -> ShardTable:
    """Return the table of samples that lie end to end, given distances instead of offsets.

    ``counts`` says how many members each sample has, one at least; ``heads`` is as `ShardTable.heads`; ``lead`` has the
    bytes before each sample that belong to none, by default 0.
    """
    first = with_zero(np.cumsum(counts))
    begins, last = first[:-1], first[1:] - 1
    gaps = heads
    if lead is not None:
        gaps = heads.copy()
        gaps[begins] += lead
    data = padded(size)
    ends = np.cumsum(gaps + data)
    offset = ends - data
    return ShardTable(
        keys=keys,
        start=offset[begins] - heads[begins],
        stop=ends[last],
        first=first,
        fields=fields,
        field=field,
        offset=offset,
        size=size,
        other=other,
        crc32=crc32,
    )


def repeated_fields(counts: Ints, field: Ints, fields: int) -> Ints:
    """Return sample * ``fields`` + field of what samples of so many members have twice."""
    pairs = np.repeat(np.arange(len(counts)), counts) * fields + field
    if (pairs[1:] > pairs[:-1]).all():
        return np.empty(0, np.int64)
    pairs = np.sort(pairs)
    again: Ints = pairs[1:][pairs[1:] == pairs[:-1]]
    return again
