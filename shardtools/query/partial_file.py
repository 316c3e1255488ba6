"""A Parquet file on a server as a file of the local disk that has only those columns that were asked for.

    url -> its size and its end, which says where the columns are -> a sparse file as long as the one on the server
    columns -> where each of their chunks is -> ranges, close ones together -> the same places of the local file

DuckDB reads the local file as it reads any other. Where a column was not fetched there are zeros, which begin no page
of Parquet: reading it is an error.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection

import numpy as np

from shardtools.errors import AccessError, ChangedError, CorruptError, RefusedError
from shardtools.forks import PerProcess
from shardtools.query.duck import connect, literal
from shardtools.storage import ByteRange, Stat, get_storage
from shardtools.storage.files import os_errors
from shardtools.storage.ranges import coalesce, group
from shardtools.types import Ints

_MAGIC = b"PAR1"
_END = 1 << 18
"""The bytes at the end that are read first: all of a small table, and the footer of most."""

_PIECE = 1 << 26
_RANGES = 1 << 12
_COPIED = 1 << 22


class PartialFile:
    """The Parquet file at ``url`` as a new local file at ``path``; it is copied whole if the server says no size.

    It may be used by many threads, and after a fork.

    Raises:
        NotFoundError: there is none.
        CorruptError: it does not end as a Parquet file.
        StorageError: it cannot be read.
    """

    def __init__(self, url: str, path: str):
        self.url, self.path = url, path
        self._lock = PerProcess(threading.Lock)
        self._fetched: set[str] = set()
        self._chunks: dict[str, tuple[Ints, Ints]] | None = None
        self.stat = self._ask()
        size = self.stat.size or 0
        self._whole = size <= _END
        if size:
            self._fetch_end(size)
        else:
            self._copy()

    def _ask(self) -> Stat:
        try:
            return get_storage(self.url).stat(self.url)
        except (AccessError, RefusedError):  # a URL that is signed for GET alone, say
            return Stat(None, None)

    def _copy(self) -> None:
        with get_storage(self.url).open(self.url) as stream, open(self.path, "wb") as file:
            while piece := stream.read(_COPIED):
                with os_errors(self.path):
                    file.write(piece)

    def _fetch_end(self, size: int) -> None:
        start = max(size - _END, 0)
        [data] = get_storage(self.url).read_ranges(self.url, [ByteRange(start, size)])
        length = int.from_bytes(data[-8:-4], "little") + 8
        if not data.endswith(_MAGIC) or length > size:
            raise CorruptError("it is not a Parquet file", url=self.url, fix="delete it")
        if length > len(data):
            [more] = get_storage(self.url).read_ranges(self.url, [ByteRange(size - length, start)])
            data = more + data
        with os_errors(self.path), open(self.path, "wb") as file:
            file.truncate(size)
            os.pwrite(file.fileno(), data, size - len(data))

    def fetch(self, columns: Collection[str]) -> None:
        """Fetch those of ``columns`` that are not there.

        Raises:
            ChangedError: the file on the server is another one now.
            StorageError: it cannot be read.
        """
        with self._lock.get():
            wanted = set() if self._whole else set(columns) - self._fetched
            if not wanted:
                return
            if self._chunks is None:
                self._chunks = self._find_chunks()
            places = [self._chunks[name] for name in sorted(wanted) if name in self._chunks]
            if places:
                self._fetch(*(np.concatenate(side) for side in zip(*places, strict=True)))
            self._fetched |= wanted

    def _find_chunks(self) -> dict[str, tuple[Ints, Ints]]:
        """Return where the chunks of each column begin and end.

        Raises:
            CorruptError: the file does not say it.
        """
        import duckdb

        start = "least(data_page_offset, coalesce(nullif(dictionary_page_offset, 0), data_page_offset))"
        query = f"SELECT path_in_schema, {start}, total_compressed_size FROM parquet_metadata({literal(self.path)})"
        try:
            rows = connect([self.path]).execute(query).fetchall()
        except duckdb.Error as error:
            raise CorruptError("it is not a Parquet file", url=self.url, fix="delete it") from error
        places: dict[str, tuple[list[int], list[int]]] = {}
        for name, at, length in rows:
            starts, stops = places.setdefault(name, ([], []))
            starts.append(at)
            stops.append(at + length)
        return {name: (np.array(low, np.int64), np.array(high, np.int64)) for name, (low, high) in places.items()}

    def _fetch(self, start: Ints, stop: Ints) -> None:
        storage = get_storage(self.url)
        if len(start) and (start.min() < 0 or stop.max() > (self.stat.size or 0)):
            raise CorruptError("its columns are not within the file", url=self.url, fix="delete it")
        spans = coalesce(start, stop, storage.coalescing.gap)
        with os_errors(self.path), open(self.path, "r+b") as file:
            for some in group(spans.ranges, _RANGES, _PIECE):
                for span, data in zip(some, storage.read_ranges(self.url, some), strict=True):
                    os.pwrite(file.fileno(), data, span.start)
        if self._ask() != self.stat:
            raise ChangedError("the table was replaced while it was read", url=self.url, fix="open the dataset again")
