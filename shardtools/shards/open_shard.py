"""A shard of which samples are read by their numbers, again and again.

rows -> members, or spans of whole samples -> one open file, or ranges -> records, or values of a field
"""

from __future__ import annotations

import os
import tempfile
import threading
from functools import cache, cached_property
from itertools import islice

import numpy as np

from shardtools.errors import StorageError
from shardtools.shards.columns import spread
from shardtools.shards.compression import crc32
from shardtools.shards.members import IndexedShard
from shardtools.shards.reader import ShardReader
from shardtools.shards.samples import Record
from shardtools.storage import ByteRange, StorageOptions, get_storage, using
from shardtools.storage.files import os_errors
from shardtools.types import Ints
from shardtools.urls import is_local

PIECE = 1 << 18
"""Bytes of a local file to read together: few enough to stay in the processor's cache until they are cut."""

REMOTE_PIECE = 1 << 24
"""Bytes of a shard on a server to ask for together: a long slice comes over several connections."""

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
        self._fd = -1
        self._lock = threading.Lock()
        if shard.is_plain and is_local(shard.url) and not shard.foreign:
            with os_errors(shard.url):
                self._fd = os.open(shard.url.removeprefix("file://"), os.O_RDONLY | os.O_CLOEXEC)

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

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _make_enterable(self) -> None:
        """Unpack a shard that cannot be entered."""
        if self._fd >= 0 or self.indexed.can_enter:
            return
        with self._lock:
            if self._fd >= 0:
                return
            with tempfile.TemporaryFile() as file, ShardReader(self.indexed.url) as reader:
                for block in reader:
                    with os_errors(self.indexed.url):
                        os.pwrite(file.fileno(), block.buffer, block.base)
                self._fd = os.dup(file.fileno())

    @property
    def _is_plain(self) -> bool:
        return self._fd >= 0 or self.indexed.is_plain

    def record(self, row: int) -> Record:
        """Return one sample."""
        if self._fd < 0:
            return self.records(np.array([row]))[0]
        starts, stops, first, offsets, sizes, fields, checksums = self._numbers
        start = starts[row]
        data = self._pread(start, stops[row])
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
        counts = (table.first[rows + 1] - table.first[rows]).tolist()
        members = spread(table.first[rows], np.array(counts))
        names = self._names[table.field[members]].tolist()
        if self._is_plain and not self.indexed.foreign:
            values = self._from_spans(rows, members)
            self.indexed.check(members, values)
        else:
            values = self.indexed.read(members)
        parts = iter(zip(names, values, strict=True))
        keys, url = self.keys, self.indexed.url
        found = []
        for row, count in zip(rows.tolist(), counts, strict=True):
            record = Record(key=keys[row])
            for name, data in islice(parts, count):
                record[name] = data
            record.url, record.index = url, row
            found.append(record)
        return found

    def _from_spans(self, rows: Ints, members: Ints) -> list[bytes]:
        """Return the data of all members of some samples of a plain shard: neighbours are read together."""
        table = self.table
        starts, stops = table.start[rows], table.stop[rows]
        if self._fd >= 0 and int((stops - starts).sum()) > LARGE * len(rows):
            return self._read(members)  # straight to where each is to be, which spares a copy
        parted = starts[1:] != stops[:-1]
        if self._fd >= 0:
            parted |= starts[1:] // PIECE != starts[:-1] // PIECE
        breaks = np.flatnonzero(parted) + 1
        first, last = np.concatenate(([0], breaks)), np.concatenate((breaks, [len(rows)])) - 1
        ranges = [ByteRange(a, b) for a, b in zip(starts[first].tolist(), stops[last].tolist(), strict=True)]
        if self._fd >= 0:
            bodies = [self._pread(part.start, part.stop) for part in ranges]
        else:
            bodies = get_storage(self.indexed.url).read_ranges(self.indexed.url, ranges)
        of_range = np.searchsorted(starts[first], table.offset[members], side="right") - 1
        at = table.offset[members] - starts[first][of_range]
        ends = (at + table.size[members]).tolist()
        return [bodies[n][a:b] for n, a, b in zip(of_range.tolist(), at.tolist(), ends, strict=True)]

    def _read(self, members: Ints) -> list[bytes]:
        """Return the data of members, each read by itself from the open file."""
        fd, table = self._fd, self.table
        wanted = zip(table.size[members].tolist(), table.offset[members].tolist(), strict=True)
        values = [os.pread(fd, size, at) for size, at in wanted]
        if sum(map(len, values)) != int(table.size[members].sum()):
            raise StorageError("the file was cut off", url=self.indexed.url, fix="open the dataset again")
        return values

    def _pread(self, start: int, stop: int) -> bytes:
        data = os.pread(self._fd, stop - start, start)
        if len(data) != stop - start:
            raise StorageError("the file was cut off", url=self.indexed.url, fix="open the dataset again")
        return data

    def values(self, rows: Ints, field: str) -> list[bytes | None]:
        """Return one field of some samples, None where a sample has none."""
        wanted = self._members(field)[rows]
        members = wanted[wanted >= 0]
        with using(self._options):
            self._make_enterable()
            if self._fd >= 0:
                found = self._read(members)
                self.indexed.check(members, found)
            else:
                found = self.indexed.read(members)
            data = iter(found)
        return [next(data) if member >= 0 else None for member in wanted.tolist()]

    def _members(self, field: str) -> Ints:
        """Return what the table gives for a field, which is kept."""
        if (known := self._members_of.get(field)) is None:
            known = self._members_of[field] = self.table.members_of(field)
        return known

    def pieces(self, rows: Ints, field: str | None) -> list[Ints]:
        """Return rows in parts that are worth a request each, given whether one field or all of a sample is wanted."""
        table = self.table
        if self._fd >= 0:
            return [rows]
        if field is None:
            sizes = table.stop[rows] - table.start[rows]
        else:
            members = self._members(field)[rows]
            sizes = np.where(members >= 0, table.size[members], 0) if len(table.size) else np.zeros(len(rows), np.int64)
        numbers = np.cumsum(sizes) // REMOTE_PIECE
        return np.split(rows, np.flatnonzero(numbers[1:] != numbers[:-1]) + 1)
