"""The data of chosen members of a shard, by ranges of it, without the rest.

    members -> their spans in the tar file -> (packed: from entry point to entry point) -> read_ranges -> their data

The sidecar says where they are. Whoever needs most of a shard reads it from its start instead (``reader.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardtools.errors import CorruptError
from shardtools.shards.compression import crc32, inflate, is_plain
from shardtools.shards.sidecar import Sidecar
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import Ints
from shardtools.storage import ByteRange, get_storage
from shardtools.storage.ranges import merge


@dataclass(frozen=True)
class IndexedShard:
    """The shard at ``url`` and its ``sidecar``, which must be about the shard as it is now."""

    url: str
    sidecar: Sidecar

    @cached_property
    def table(self) -> ShardTable:
        """The table of the shard."""
        return self.sidecar.table()

    @cached_property
    def is_plain(self) -> bool:
        """Whether the shard is not packed, so that its bytes are those of the tar file."""
        return is_plain(self.url)

    @property
    def can_enter(self) -> bool:
        """Whether parts of the shard can be read without what stands before them."""
        return self.is_plain or len(self.sidecar.entries) > 0

    def cost(self, members: Ints) -> int:
        """Return how many bytes of the shard `read` would ask for, without what lies between close ranges."""
        if self.is_plain:
            return int(self.table.size[members].sum())
        return sum(part.stop - part.start for part in self._segments(members)[1])

    def read(self, members: Ints) -> list[bytes]:
        """Return the data of ``members``, rows of the table, in that order.

        Raises:
            CorruptError: it is not what the sidecar is about.
            StorageError: the shard cannot be read.
        """
        offset, size = self.table.offset[members], self.table.size[members]
        starts, stops = offset.tolist(), (offset + size).tolist()
        if self.is_plain:
            ranges = [ByteRange(start, stop) for start, stop in zip(starts, stops, strict=True)]
            parts = get_storage(self.url).read_ranges(self.url, ranges)
        else:
            parts = self._inflate(members, starts, stops)
        self._check(members, parts)
        return parts

    def _check(self, members: Ints, parts: Sequence[bytes]) -> None:
        checksums = self.sidecar.columns.get("crc32")
        if checksums is None:
            return
        for row, expected, data in zip(members.tolist(), checksums[members].tolist(), parts, strict=True):
            if crc32(data) != expected:
                sample = int(np.searchsorted(self.table.first, row, side="right")) - 1
                raise CorruptError(
                    "its checksum is another one in the sidecar",
                    url=self.url,
                    member=f"{self.table.keys[sample]}.{self.table.fields[self.table.field[row]]}",
                    fix="if the shard was replaced on purpose, delete the sidecar; else make or fetch the shard again",
                )

    def _segments(self, members: Ints) -> tuple[list[ByteRange], list[ByteRange]]:
        """Return the parts of the tar file that hold ``members``, from entry point to entry point, and where they lie.

        They do not overlap, and each is unpacked by itself. Members without data need none.
        """
        members = members[self.table.size[members] > 0]
        entries = self.sidecar.entries
        ends = np.append(entries[1:, 0], self.table.stop[-1] if len(self.table) else 0)
        packed_ends = np.append(entries[1:, 1], self.sidecar.filesize)
        wanted = np.sort(members)
        first = np.searchsorted(entries[:, 0], self.table.offset[wanted], side="right") - 1
        last = np.searchsorted(ends, self.table.offset[wanted] + self.table.size[wanted], side="left")
        spans = merge(ByteRange(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True))
        tar = [ByteRange(int(entries[span.start, 0]), int(ends[span.stop - 1])) for span in spans]
        packed = [ByteRange(int(entries[span.start, 1]), int(packed_ends[span.stop - 1])) for span in spans]
        return tar, packed

    def _inflate(self, members: Ints, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
        tar, packed = self._segments(members)
        found: dict[int, bytes] = {}
        rows = [row for row in np.argsort(np.array(starts), kind="stable").tolist() if stops[row] > starts[row]]
        at = 0
        for span, part in _each(self.url, tar, packed):
            data = inflate(part, span.stop - span.start, self.url)
            while at < len(rows) and stops[rows[at]] <= span.stop:
                row = rows[at]
                found[row] = data[starts[row] - span.start : stops[row] - span.start]
                at += 1
        return [
            found[row] if stop > start else b"" for row, (start, stop) in enumerate(zip(starts, stops, strict=True))
        ]


_TOGETHER = 16 << 20


def _each(url: str, spans: Sequence[ByteRange], packed: Sequence[ByteRange]) -> Iterator[tuple[ByteRange, bytes]]:
    """Yield each span with its packed bytes, which are read some megabytes at a time."""
    storage = get_storage(url)
    at = 0
    while at < len(spans):
        stop, size = at, 0
        while stop < len(spans) and (stop == at or size + packed[stop].stop - packed[stop].start <= _TOGETHER):
            size += packed[stop].stop - packed[stop].start
            stop += 1
        yield from zip(spans[at:stop], storage.read_ranges(url, packed[at:stop]), strict=True)
        at = stop
