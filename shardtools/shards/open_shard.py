"""A shard of which samples are read by their numbers, again and again.

rows -> members, or spans of whole samples -> one open file, or ranges -> records, or values of a field
"""

from __future__ import annotations

import os
import tempfile
import threading
from functools import cache, cached_property
from itertools import islice
from typing import cast

import numpy as np

from shardtools.shards.columns import PackedValues, spread
from shardtools.shards.compression import crc32
from shardtools.shards.members import IndexedShard
from shardtools.shards.reader import ShardReader
from shardtools.shards.samples import Record
from shardtools.storage import ByteRange, StorageOptions, get_storage, using
from shardtools.storage.files import FileSink
from shardtools.storage.local import LocalStorage
from shardtools.storage.open_files import OpenFile, open_file
from shardtools.storage.ranges import Spans, coalesce
from shardtools.types import Ints
from shardtools.urls import is_local

LARGE = 1 << 13
"""The mean size of samples from which on the members of a local file are read one by one."""


@cache
def keep_freed_memory() -> None:
    """Let the C library keep some of the memory that is given back to it, for what is read next.

    glibc gives all but 128 KB of it back to the system, which must then make new pages for the next samples: slices of
    1,000 samples of 20 kB took three times as long. When it frees a large block it keeps twice as much from then on
    (mallopt(3), M_MMAP_THRESHOLD), here 48 MB. Other C libraries do not care.
    """
    bytearray(24 << 20)  # never touched, hence no memory at all


class OpenShard:
    """One shard: its table, and for plain local files an open file, which one ``pread`` gets a sample from.

    A packed shard that cannot be entered in the middle is unpacked, when it is needed first, to a temporary file that
    has no name, and takes its place.
    """

    def __init__(self, shard: IndexedShard, options: StorageOptions):
        table = shard.table
        self.indexed = shard
        self._options = options
        self.table = table
        self.fields = table.fields
        self.rows_of_keys: dict[str, int] | None = None
        self._members_of: dict[str, Ints] = {}
        self._names = np.array(table.fields, object)
        self._file: OpenFile | None = None
        self._lock = threading.Lock()
        if shard.is_plain and is_local(shard.url) and not shard.foreign:
            self._file = open_file(shard.url)

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the samples."""
        return self.table.keys.decode()

    @cached_property
    def _numbers(self) -> tuple[memoryview, ...]:
        """The columns of the table, as what gives single numbers several times as fast as numpy does."""
        table = self.table
        checksums = self.indexed.checksums
        unknown = np.full(len(table.size), -1) if checksums is None else checksums
        columns = (table.start, table.stop, table.first, table.offset, table.size, table.field, unknown)
        return tuple(np.ascontiguousarray(column).data for column in columns)

    def _make_enterable(self) -> None:
        """Unpack a shard that cannot be entered."""
        if self._file is not None or self.indexed.can_enter:
            return
        with self._lock:
            if self._file is not None:
                return
            with tempfile.TemporaryFile() as file, ShardReader(self.indexed.url) as reader:
                sink = FileSink(file.fileno(), self.indexed.url)
                for block in reader:
                    os.lseek(file.fileno(), block.base, os.SEEK_SET)  # between blocks may be some that have no samples
                    sink.write(block.buffer)
                self._file = OpenFile(os.dup(file.fileno()), self.indexed.url)

    def record(self, row: int) -> Record:
        """Return one sample."""
        if (file := self._file) is None:
            return self.records(np.array([row]))[0]
        starts, stops, first, offsets, sizes, fields, checksums = self._numbers
        start = starts[row]
        data = file.read(start, stops[row])
        record = Record(key=self.keys[row])
        for member in range(first[row], first[row + 1]):
            at = offsets[member] - start
            record[self.fields[fields[member]]] = value = data[at : at + sizes[member]]
            if crc32(value) != checksums[member] >= 0:
                raise self.indexed.damaged(member)
        record.url, record.index = self.indexed.url, row
        return record

    def records(self, rows: Ints) -> list[Record]:
        """Return some samples, whose rows rise."""
        with using(self._options):
            return self._records(rows)

    def _records(self, rows: Ints) -> list[Record]:
        self._make_enterable()
        table = self.table
        first = table.first[rows]
        counts = table.first[rows + 1] - first
        members = spread(first, counts)
        names = self._names[table.field[members]].tolist()
        if self._file is not None or (self.indexed.is_plain and not self.indexed.foreign):
            values = self._from_spans(rows, counts, members)
            self.indexed.check(members, values)
        else:
            values = self.indexed.read(members)
        parts = iter(zip(names, values, strict=True))
        keys, url = self.keys, self.indexed.url
        found = []
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            record = Record(key=keys[row])
            for name, data in islice(parts, count):
                record[name] = data
            record.url, record.index = url, row
            found.append(record)
        return found

    def _from_spans(self, rows: Ints, counts: Ints, members: Ints) -> list[bytes]:
        """Return the data of all members of some samples of a plain shard: neighbours are read together."""
        table, file = self.table, self._file
        start, stop = table.start[rows], table.stop[rows]
        if file is not None and int((stop - start).sum()) > LARGE * len(rows):
            return self._read(file, members)  # straight to where each is to be, which spares a copy
        if file is not None:
            rule = LocalStorage.coalescing
            spans = coalesce(start, stop, rule.gap, rule.largest)
            bodies = file.read_many(spans.start.tolist(), spans.stop.tolist())
        else:
            storage = get_storage(self.indexed.url)
            spans = coalesce(start, stop, storage.coalescing.gap)
            bodies = storage.read_ranges(self.indexed.url, spans.ranges)
        offset = table.offset[members]
        of_members = Spans(spans.start, spans.stop, np.repeat(spans.span, counts))
        packed = PackedValues.of_spans(bodies, of_members, offset, offset + table.size[members])
        return cast(list[bytes], packed.cut())

    def _read(self, file: OpenFile, members: Ints) -> list[bytes]:
        """Return the data of members, each read by itself from the open file."""
        start = self.table.offset[members]
        return file.read_many(start.tolist(), (start + self.table.size[members]).tolist())

    def values(self, rows: Ints, field: str) -> list[bytes | None]:
        """Return one field of some samples, None where a sample has none."""
        wanted = self._members(field)[rows]
        members = wanted[wanted >= 0]
        data = iter(self.read_members(members))
        return [next(data) if member >= 0 else None for member in wanted.tolist()]

    def read_members(self, members: Ints) -> list[bytes]:
        """Return the data of members, rows of the table, in that order; close ones are read together."""
        with using(self._options):
            self._make_enterable()
            if self._file is None:
                return self.indexed.read(members)
            found = self._read(self._file, members)
            self.indexed.check(members, found)
            return found

    def read_part(self, member: int, start: int, stop: int) -> bytes:
        """Return the bytes of a member from ``start`` to ``stop``. Of a plain shard no others are read, or checked."""
        size = int(self.table.size[member])
        is_plain = self._file is not None or (self.indexed.is_plain and not self.indexed.foreign)
        if (start, stop) == (0, size) or not is_plain:
            return self.read_members(np.array([member]))[0][start:stop]
        at = int(self.table.offset[member])
        if self._file is not None:
            return self._file.read(at + start, at + stop)
        with using(self._options):
            storage = get_storage(self.indexed.url)
            [data] = storage.read_ranges(self.indexed.url, [ByteRange(at + start, at + stop)])
            return data

    def _members(self, field: str) -> Ints:
        """Return what the table gives for a field, which is kept."""
        if (known := self._members_of.get(field)) is None:
            known = self._members_of[field] = self.table.members_of(field)
        return known

    def pieces(self, rows: Ints, field: str | None) -> list[Ints]:
        """Return rows in parts that are worth a request each, given whether one field or all of a sample is wanted."""
        table = self.table
        if self._file is not None:
            return [rows]
        if field is None:
            sizes = table.stop[rows] - table.start[rows]
        else:
            members = self._members(field)[rows]
            sizes = np.where(members >= 0, table.size[members], 0) if len(table.size) else np.zeros(len(rows), np.int64)
        numbers = np.cumsum(sizes) // get_storage(self.indexed.url).coalescing.largest
        return np.split(rows, np.flatnonzero(numbers[1:] != numbers[:-1]) + 1)
