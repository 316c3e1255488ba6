"""Some samples in order, read by threads, and cut into batches by whoever takes them.

places of samples -> columns, read by one reader or many -> cut: what a few samples in a row have, by name
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import ShardError, ShardtoolsError, StorageError
from shardtools.loader.shard import (
    SPECIAL,
    FilePiece,
    ShardRows,
    data_fields,
    ends_of,
    read_columns,
    special_columns,
)
from shardtools.loader.stats import Stats
from shardtools.shards.members import first_wrong, wrong_checksum
from shardtools.storage.open_files import OpenFile, read_each
from shardtools.storage.ranges import coalesce
from shardtools.types import Ints

AHEAD_GAP = 1 << 18
"""Bytes between two samples of a file up to which the system is asked for both, and what lies between, at once."""


@dataclass(frozen=True)
class Addresses:
    """Where some samples are: indexes in the dataset, shards and rows; and which of them are repeats."""

    indexes: Ints
    shards: Ints
    rows: Ints
    repeats: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.indexes)

    def first(self, count: int) -> Addresses:
        """Return those of the first samples."""
        return Addresses(self.indexes[:count], self.shards[:count], self.rows[:count], self.repeats[:count])


class ReadWindow:
    """Some samples, in order: where they are, what was read of them, and what went wrong, by place.

    ``columns`` has a list for each of ``names``; ``nbytes`` is what they take in memory.
    """

    def __init__(self, addresses: Addresses, names: Sequence[str], nbytes: int):
        self.addresses = addresses
        self.names, self.nbytes = names, nbytes
        self.columns: list[list[Any]] = [[None] * len(addresses) for _ in names]
        self.errors: dict[int, ShardtoolsError] = {}
        self.pieces: list[Future[None]] = []

    def __len__(self) -> int:
        return len(self.addresses)

    def read(self, places: Ints, parts: Sequence[ShardRows]) -> None:
        """Read the samples at some places, which are rows of some shards. It may be called by many threads.

        Raises:
            StorageError: they cannot be read.
            ShardError: they are damaged.
        """
        self._add(places, self.names, read_columns(self.names, parts, self.addresses.repeats[places]))

    def _add(self, places: Ints, names: Sequence[str], columns: Sequence[list[Any]]) -> None:
        where = places.tolist()
        for name, values in zip(names, columns, strict=True):
            column = self.columns[self.names.index(name)]
            for place, value in zip(where, values, strict=True):
                column[place] = value

    def cut(self, start: int, stop: int) -> list[list[Any]]:
        """Return some of the samples: a list for each of the names."""
        return [column[start:stop] for column in self.columns]

    def close(self) -> None:
        """Close what it has open."""


class LazyWindow(ReadWindow):
    """Samples of large files of this machine, for which the system is asked and which are read when they are cut.

    The files are open until then. ``name`` returns the URL and the key of a sample by its index, for errors.
    """

    def __init__(
        self,
        addresses: Addresses,
        names: Sequence[str],
        nbytes: int,
        stats: Stats,
        name: Callable[[int], tuple[str, str]],
    ):
        super().__init__(addresses, names, nbytes)
        shape = len(data_fields(names)), len(self)
        self._files: list[OpenFile] = []
        self._file, self._checksum = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        self._start, self._stop = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._stats, self._name = stats, name

    def read(self, places: Ints, parts: Sequence[ShardRows]) -> None:
        special = [name for name in self.names if name in SPECIAL]
        self._add(places, special, special_columns(special, parts, self.addresses.repeats[places]))
        at = 0
        for shard, rows in parts:
            some, at = places[at : at + len(rows)], at + len(rows)
            for piece in shard.pieces(rows):
                self._find(piece, some[piece.places])

    def _find(self, piece: FilePiece, places: Ints) -> None:
        local = piece.shard
        file, (offset, size) = local.open(), local.offsets_and_sizes(piece.rows)
        ahead = coalesce(*ends_of(offset, size), AHEAD_GAP)
        file.advise(ahead.start.tolist(), ahead.stop.tolist())
        where = np.ix_(piece.fields, places)
        self._file[where] = np.where(offset >= 0, len(self._files), -1)
        self._start[where], self._stop[where] = offset, offset + size
        self._checksum[where] = local.checksums(piece.rows)
        self._files.append(file)

    def cut(self, start: int, stop: int) -> list[list[Any]]:
        begin = time.perf_counter()
        samples = slice(start, stop)
        columns = zip(self._file, self._start, self._stop, self._checksum, strict=True)
        data = iter([self._read(start, *(column[samples] for column in field)) for field in columns])
        self._stats.add(waited=time.perf_counter() - begin)
        return [
            column[samples] if name in SPECIAL else next(data)
            for name, column in zip(self.names, self.columns, strict=True)
        ]

    def _read(self, first: int, file: Ints, start: Ints, stop: Ints, checksum: Ints) -> list[bytes | None]:
        """Return the values of a field, from place ``first`` on; note what cannot be read, or is not what it was."""
        there, expected = file >= 0, checksum.tolist()
        files = [self._files[i] for i in file[there].tolist()]
        values: list[bytes | None]
        with suppress(StorageError):  # of which sample it is, each by itself shows
            values = list(read_each(files, start[there].tolist(), stop[there].tolist()))
            if len(values) < len(file):
                found = iter(values)
                values = [next(found) if is_there else None for is_there in there.tolist()]
            if first_wrong(values, expected) is None:
                return values
        places = zip(file.tolist(), start.tolist(), stop.tolist(), expected, strict=True)
        return [self._read_one(first + at, *place) for at, place in enumerate(places)]

    def _read_one(self, place: int, file: int, start: int, stop: int, checksum: int) -> bytes | None:
        if file < 0:
            return None
        _, key = self._name(int(self.addresses.indexes[place]))
        try:
            value = self._files[file].read(start, stop)
            if first_wrong([value], [checksum]) is not None:
                raise wrong_checksum(self._files[file].url, key)
        except (StorageError, ShardError) as error:
            self.errors[place] = error.at(member=key)
            return None
        return value

    def close(self) -> None:
        self._files.clear()
