"""Read the data of chosen members of a shard by ranges.

    members -> their spans in the tar file -> read_ranges -> PackedValues -> data
               (of a packed shard: from entry point to entry point)

The sidecar says where they are. If most of a shard is needed, ``reader.py`` reads it from its start instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from shardtools.errors import CorruptError, redact
from shardtools.forks import PerProcess
from shardtools.shards.checksums import crc32_of_each
from shardtools.shards.columns import PackedValues, Texts
from shardtools.shards.compression import Packing, crc32, find_packing, inflate
from shardtools.shards.member_header import check_headers
from shardtools.shards.sidecar import Sidecar
from shardtools.shards.table import ShardTable
from shardtools.storage import ByteRange, current_options, get_storage
from shardtools.storage.ranges import coalesce
from shardtools.types import Ints
from shardtools.urls import is_local

_NEAR_PIECE, _FAR_PIECE = 1 << 22, 1 << 26
"""The part of a shard, in bytes, of which the values of a column are read together: from a disk, and from a server."""

_checking = PerProcess(threading.Lock)
"""One thread at a time checks members. Computing a checksum releases the interpreter's lock; with many threads each
would wait for all others after every member. With 32 threads, reading samples of 20 kB took half as long again."""


def first_wrong(values: Sequence[Any], expected: Sequence[int]) -> int | None:
    """Return the index of the first of ``values`` that does not have the expected CRC-32; None if all have it.

    A value of None, and an expected checksum below 0, match anything.
    """
    with _checking.get():
        try:
            found = list(map(crc32, values))
        except TypeError:
            found = [-1 if value is None else crc32(value) for value in values]
    if found == expected:
        return None
    wrong = (i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1] and min(pair) >= 0)
    return next(wrong, None)


def wrong_checksum(url: str, member: str) -> CorruptError:
    """Return the error for a member whose data do not have the checksum that the sidecar has."""
    return CorruptError(
        "its checksum is not the one in the sidecar",
        url=url,
        member=member,
        fix="if the shard was replaced on purpose, delete the sidecar; else make or fetch the shard again",
    )


@dataclass(frozen=True)
class IndexedShard:
    """The shard at ``url`` and its ``sidecar``, which must describe the shard as it is now.

    It is ``foreign`` if the sidecar was made from another program's index. That has no checksums, so the header before
    each member is read, too, and compared.
    """

    url: str
    sidecar: Sidecar
    foreign: bool = False

    def __repr__(self) -> str:
        return f"<IndexedShard {redact(self.url)!r}: {len(self.table):,} samples>"

    @property
    def table(self) -> ShardTable:
        """The table of the shard."""
        return self.sidecar.table

    @property
    def nbytes(self) -> int:
        """Bytes that its table takes in memory."""
        return self.table.nbytes

    @cached_property
    def packing(self) -> Packing:
        """How the shard is packed; its first bytes are read where the sidecar does not say it."""
        return self.sidecar.packing or find_packing(self.url, self.sidecar.filesize)

    @property
    def is_plain(self) -> bool:
        """Whether the shard is not packed, so that its bytes are those of the tar file."""
        return self.packing == "tar"

    @cached_property
    def checksums(self) -> Ints | None:
        """The CRC-32 of each member's data; None where they are not known."""
        known = self.table.crc32
        return None if known is None else known.astype(np.int64)

    @cached_property
    def _heads(self) -> Ints:
        return self.table.heads

    @property
    def can_enter(self) -> bool:
        """Whether parts of the shard can be read without the bytes before them."""
        return self.is_plain or len(self.sidecar.entries) > 0

    def cost(self, members: Ints) -> int:
        """Return how many bytes of the shard `read` would request, without the gaps between close ranges."""
        if self.is_plain:
            return int(self.table.size[members].sum())
        return sum(part.stop - part.start for part in self._segments(members)[1])

    def read(self, members: Ints) -> list[bytes]:
        """Return the data of ``members``, rows of the table, in that order.

        Raises:
            CorruptError: the shard does not match its sidecar.
            StorageError: the shard cannot be read.
        """
        return cast(list[bytes], self.read_packed(members).cut())

    def read_packed(self, members: Ints) -> PackedValues:
        """Return what `read` does, still in the spans that were read.

        Raises:
            CorruptError, StorageError: as `read` does.
        """
        found = self._read_packed(members)
        if self.checksums is not None and not self.foreign:
            views = [memoryview(body) for body in found.bodies]
            places = zip(found.body.tolist(), found.low.tolist(), found.high.tolist(), strict=True)
            self.check(members, [views[i][a:b] for i, a, b in places])
        return found

    def _read_packed(self, members: Ints) -> PackedValues:
        """Return data whose checksums are not compared."""
        current_options().limits.check("sample", int(self.table.size[members].max(initial=0)), url=self.url)
        if self.foreign:
            return self._read_with_headers(members)
        if self.is_plain:
            start = self.table.offset[members]
            return self._read_spans(start, start + self.table.size[members])
        return PackedValues.of(self._inflate(members))

    def read_texts(self, members: Ints) -> Texts:
        """Return what `read` does, as one column, of members that rise; little else is in memory at a time.

        Raises:
            CorruptError, StorageError: as `read` does.
        """
        pieces = self.table.offset[members] // (_NEAR_PIECE if is_local(self.url) else _FAR_PIECE)
        parts = np.split(members, np.flatnonzero(np.diff(pieces)) + 1)
        texts = Texts.join([self._read_packed(part).join() for part in parts])
        if self.checksums is not None:
            expected = self.checksums[members]
            wrong = np.flatnonzero((crc32_of_each(texts) != expected) & (expected >= 0))
            if len(wrong):
                raise self.damaged(int(members[wrong[0]]))
        return texts

    def check(self, members: Ints, values: Sequence[Any]) -> None:
        """Raise if data of ``members`` that were read do not have the checksums that the sidecar has.

        Raises:
            CorruptError: they do not; it names the first wrong member.
        """
        if self.checksums is None:
            return
        wrong = first_wrong(values, self.checksums[members].tolist())
        if wrong is not None:
            raise self.damaged(int(members[wrong]))

    def damaged(self, member: int) -> CorruptError:
        """Return the error for a member whose data do not have the checksum that the sidecar has."""
        return wrong_checksum(self.url, self.table.name(member))

    def _read_with_headers(self, members: Ints) -> PackedValues:
        """Return the data of members of a plain shard, after checking the header before each.

        The header after the last member of a sample is checked, too: the index may lack a member.
        """
        last = members[np.isin(members, self.table.first[1:-1] - 1)]
        looked_at = np.concatenate((members, last + 1))
        offset, size = self.table.offset[looked_at], self.table.size[looked_at]
        size[len(members) :] = 0
        heads = self._heads[looked_at]
        found = self._read_spans(offset - heads, offset + size)
        headers = PackedValues(found.bodies, found.body, found.low, found.low + heads).cut()
        check_headers(self.url, self.table, looked_at, cast(list[bytes], headers))
        some = slice(len(members))
        return PackedValues(found.bodies, found.body[some], (found.low + heads)[some], found.high[some])

    def _read_spans(self, start: Ints, stop: Ints) -> PackedValues:
        """Return the bytes of a plain shard from each ``start`` to each ``stop``; close ones are read together."""
        storage = get_storage(self.url)
        spans = coalesce(start, stop, storage.coalescing.gap)
        return PackedValues.of_spans(storage.read_ranges(self.url, spans.ranges), spans, start, stop)

    def _segments(self, members: Ints) -> tuple[list[ByteRange], list[ByteRange]]:
        """Return the parts of the tar file that hold ``members``, and the ranges of the packed file that hold these.

        Parts go from entry point to entry point. They do not overlap, and each is unpacked by itself. Members without
        data need none.
        """
        members = members[self.table.size[members] > 0]
        entries = self.sidecar.entries
        ends = np.append(entries[1:, 0], self.table.stop[-1] if len(self.table) else 0)
        packed_ends = np.append(entries[1:, 1], self.sidecar.filesize)
        wanted = np.sort(members)
        first = np.searchsorted(entries[:, 0], self.table.offset[wanted], side="right") - 1
        last = np.searchsorted(ends, self.table.offset[wanted] + self.table.size[wanted], side="left")
        widest = int((ends - entries[:, 0])[np.concatenate((first, last))].max(initial=0))
        current_options().limits.check("sample", widest, url=self.url)
        spans = coalesce(first, last + 1).ranges
        tar = [ByteRange(int(entries[span.start, 0]), int(ends[span.stop - 1])) for span in spans]
        packed = [ByteRange(int(entries[span.start, 1]), int(packed_ends[span.stop - 1])) for span in spans]
        return tar, packed

    def _inflate(self, members: Ints) -> list[bytes]:
        """Return the data of members of a packed shard; little more is held in memory at a time."""
        start = self.table.offset[members]
        starts, stops = start.tolist(), (start + self.table.size[members]).tolist()
        tar, packed = self._segments(members)
        found: dict[int, bytes] = {}
        rows = [row for row in np.argsort(start, kind="stable").tolist() if stops[row] > starts[row]]
        at = 0
        for span, part in _each(self.url, tar, packed):
            data = inflate(part, span.stop - span.start, self.packing, self.url)
            while at < len(rows) and stops[rows[at]] <= span.stop:
                row = rows[at]
                found[row] = data[starts[row] - span.start : stops[row] - span.start]
                at += 1
        return [found.get(row, b"") for row in range(len(starts))]


def _each(url: str, spans: Sequence[ByteRange], packed: Sequence[ByteRange]) -> Iterator[tuple[ByteRange, bytes]]:
    """Yield each span with its packed bytes, which are read some megabytes at a time."""
    storage = get_storage(url)
    most = storage.coalescing.largest
    at = 0
    while at < len(spans):
        stop, size = at, 0
        while stop < len(spans) and (stop == at or size + packed[stop].stop - packed[stop].start <= most):
            size += packed[stop].stop - packed[stop].start
            stop += 1
        yield from zip(spans[at:stop], storage.read_ranges(url, packed[at:stop]), strict=True)
        at = stop
