"""The table of a shard: where every sample and every member lies, as numpy columns.

    buffer -> scan -> ShardTable (of one block) -> concatenate -> ShardTable (of the shard) -> sidecar file

One structure, three uses: jobs use the scanned table, the sidecar file *is* that table, views look samples up in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shardtools.shards.columns import Texts, join, join_shifted
from shardtools.types import Ints


@dataclass(frozen=True)
class ShardTable:
    """Where the samples of a shard lie, in bytes of the uncompressed tar file.

    One row for each sample: ``keys``; ``start`` and ``stop``, its span of whole tar blocks, headers included; members
    ``first[i]`` to ``first[i + 1]`` are those of sample i. One row for each member: ``field``, an index into
    ``fields``; ``offset`` and ``size`` of its data. ``other`` counts the members that belong to no sample: folders,
    links, names without a dot.
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
    members = [len(table.field) for table in tables]
    return ShardTable(
        keys=Texts.join([table.keys for table in tables]),
        start=join([table.start for table in tables], np.int64),
        stop=join([table.stop for table in tables], np.int64),
        first=np.append(0, join_shifted([table.first[1:] for table in tables], members)),
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
