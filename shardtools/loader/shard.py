"""The members of chosen samples of one shard, for chosen fields, as fast as its storage gives them.

    rows -> offsets and sizes of their members -> plain local file: pread of each, or of neighbours together
                                               -> on a server, or packed: one read of ranges for all of them

A shard holds no more than what the chosen fields need: 24 bytes for each of its samples and fields.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import chain
from typing import Any

import numpy as np

from shardtools.dataset.sharded import ShardedDataset
from shardtools.errors import StorageError
from shardtools.loader.files import Files
from shardtools.loader.stats import Stats
from shardtools.shards.columns import Texts
from shardtools.shards.members import IndexedShard, Uncut, first_wrong, wrong_checksum
from shardtools.shards.names import is_special
from shardtools.shards.table import ShardTable
from shardtools.storage import StorageOptions, using
from shardtools.storage.files import os_errors
from shardtools.types import Ints
from shardtools.urls import is_local, name_of

TOGETHER = 1 << 13
"""Bytes between the ends of a sample up to which samples of a local file are read together with their neighbours. The
fields of larger ones are read when they are wanted: what is read long before would pass through memory twice."""

GAP = 1 << 12
"""Bytes between two samples of a local file that are read with them rather than seeked over."""

WANTED_GAP = 1 << 18
"""Bytes between two samples of a local file that the system is asked for with them."""

PIECE = 1 << 20
"""Bytes of a local file to read together."""

TABLE_BYTES = 1 << 29
"""Bytes of the tables of shards to keep."""

UNPACKED = 64
"""Shards to keep as unpacked copies, which those need that cannot be entered in the middle."""

SPECIAL = ("__key__", "__shard__", "__index__", "__pad__")
"""What may be asked for beside the data's own fields."""


Values = list[list[bytes | None]]
"""For each field, its bytes for each row, None where a sample has none."""


class FieldColumns:
    """Where the members of some fields lie: a row for each field, -1 and 0 for what a sample does not have."""

    def __init__(self, table: ShardTable, fields: Sequence[str]):
        self.offset = np.full((len(fields), len(table)), -1, np.int64)
        self.size = np.zeros((len(fields), len(table)), np.int64)
        self.member = np.full((len(fields), len(table)), -1, np.int64)
        for i, field in enumerate(fields):
            self.member[i] = members = table.members_of(field)
            there = members >= 0
            self.offset[i, there] = table.offset[members[there]]
            self.size[i, there] = table.size[members[there]]
        self.total = self.size.sum(axis=0)


def ends_of(offset: Ints, size: Ints) -> tuple[Ints, Ints]:
    """Return where the first byte of each sample's fields lies, and where the last one ends; the same for no bytes."""
    there = size > 0
    stop = np.where(there, offset + size, 0).max(axis=0, initial=0)
    return np.minimum(
        np.where(there, offset, np.iinfo(np.int64).max).min(axis=0, initial=stop.max(initial=0)), stop
    ), stop


class FieldShard:
    """One shard, of which some fields are read. It may be used by many threads."""

    url: str
    sizes: Ints
    """Bytes of the chosen fields of each sample."""
    weight: int
    """Bytes that it keeps in memory."""

    def __init__(self, url: str, keys: Texts, sizes: Ints):
        self.url, self.sizes = url, sizes
        self._keys: Texts | list[str] = keys
        self.weight = sizes.nbytes + keys.nbytes

    def keys(self, rows: Sequence[int]) -> list[str]:
        """Return the keys of some samples."""
        if isinstance(self._keys, Texts) and len(rows) * 8 > len(self._keys):
            self._keys = self._keys.decode()
        return [self._keys[row] for row in rows]

    def read(self, rows: Ints) -> Values:
        """Return the chosen fields of some samples, whose rows rise.

        Raises:
            StorageError: they cannot be read.
            ShardError: they are damaged.
        """
        raise NotImplementedError


class LocalShard(FieldShard):
    """A tar file on this machine, not packed. ``is_small`` says whether its samples are."""

    def __init__(self, shard: IndexedShard, fields: Sequence[str], files: Files):
        columns = FieldColumns(shard.table, fields)
        start, stop = ends_of(columns.offset, columns.size)
        self.is_small = int((stop - start).sum()) <= TOGETHER * len(start)
        super().__init__(shard.url, shard.table.keys, columns.total)
        self._filesize = shard.sidecar.filesize
        self._offset, self._size, self._files = columns.offset, columns.size, files
        self._checksum = np.full(columns.member.shape, -1, np.int64)
        if shard.checksums is not None:
            there = columns.member >= 0
            self._checksum[there] = shard.checksums[columns.member[there]]
        self.weight += columns.offset.nbytes + columns.size.nbytes + self._checksum.nbytes

    def read(self, rows: Ints) -> Values:
        return read_local([(self, rows)])

    def offsets_and_sizes(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return offsets, -1 for what is not there, and sizes: a row for each field."""
        return self._offset[:, rows], self._size[:, rows]

    def checksums(self, rows: Ints) -> Ints:
        """Return the CRC-32 that each value must have, -1 where that is not known: a row for each field."""
        return self._checksum[:, rows]

    def opened(self) -> AbstractContextManager[int]:
        """A context that gives a descriptor of the file."""
        return self._files.opened(self.url, self._filesize)

    def advise(self, rows: Ints, descriptor: int) -> tuple[Ints, Ints]:
        """Let the system read ahead what is around some samples, whose rows rise, in the open file.

        Return their `offsets_and_sizes`.
        """
        offset, size = self.offsets_and_sizes(rows)
        if hasattr(os, "posix_fadvise"):
            start, stop = ends_of(offset, size)
            first = np.concatenate(([0], np.flatnonzero(start[1:] > stop[:-1] + WANTED_GAP) + 1))
            for a, b in zip(start[first].tolist(), np.maximum.reduceat(stop, first).tolist(), strict=True):
                os.posix_fadvise(descriptor, a, b - a, os.POSIX_FADV_WILLNEED)
        return offset, size


def read_local(parts: Sequence[tuple[LocalShard, Ints]]) -> Values:
    """Return the chosen fields of samples of some shards, whose rows rise in each; neighbours are read together.

    Raises:
        StorageError: they cannot be read.
        CorruptError: they do not have the checksums that their sidecars have.
    """
    with ExitStack() as files, os_errors(parts[0][0].url):
        fds = [files.enter_context(shard.opened()) for shard, _ in parts]
        fd = np.repeat(fds, [len(rows) for _, rows in parts])
        lying = [shard.offsets_and_sizes(rows) for shard, rows in parts]
        offset, size = (np.concatenate(columns, axis=1) for columns in zip(*lying, strict=True))
        start, stop = ends_of(offset, size)
        parted = (start[1:] > stop[:-1] + GAP) | (start[1:] < stop[:-1])
        parted |= (start[1:] // PIECE != start[:-1] // PIECE) | (fd[1:] != fd[:-1])
        first = np.concatenate(([0], np.flatnonzero(parted) + 1))
        begin, end = start[first], np.maximum.reduceat(stop, first)
        wanted = zip(fd[first].tolist(), (end - begin).tolist(), begin.tolist(), strict=True)
        bodies = [os.pread(number, count, at) for number, count, at in wanted]
    if sum(map(len, bodies)) != int((end - begin).sum()):
        raise StorageError("the file was cut off", url=parts[0][0].url, fix="start again")
    of_run = np.repeat(np.arange(len(first)), np.diff(first, append=len(start)))
    low = np.where(size > 0, offset - begin[of_run], 0)
    found = cut_fields(Uncut(bodies, np.where(offset >= 0, of_run, -1), low, low + size))
    _check_local(parts, found)
    return found


def _check_local(parts: Sequence[tuple[LocalShard, Ints]], found: Values) -> None:
    """Raise if a value does not have the checksum that its shard's sidecar has."""
    checksums = np.concatenate([shard.checksums(rows) for shard, rows in parts], axis=1)
    for values, expected in zip(found, checksums.tolist(), strict=True):
        if (wrong := first_wrong(values, expected)) is not None:
            ends = np.cumsum([len(rows) for _, rows in parts])
            part = int(np.searchsorted(ends, wrong, side="right"))
            shard, rows = parts[part]
            row = int(rows[wrong - (ends[part - 1] if part else 0)])
            raise wrong_checksum(shard.url, shard.keys([row])[0])


def cut_fields(found: Uncut) -> Values:
    """Return a list for each row of the columns."""
    columns = zip(found.body, found.low, found.high, strict=True)
    return [Uncut(found.bodies, *column).cut() for column in columns]


def data_fields(names: Sequence[str]) -> tuple[str, ...]:
    """Return those of ``names`` that are fields of the data, and none of `SPECIAL`."""
    return tuple(name for name in names if not is_special(name))


ShardRows = tuple[FieldShard, Ints]
"""Some rows of a shard."""


def special_columns(names: Sequence[str], parts: Sequence[ShardRows], pads: Any) -> list[list[Any]]:
    """Return a list for each of ``names`` that is one of `SPECIAL`; ``pads`` says which samples are repeats."""
    known: dict[str, Callable[[], list[Any]]] = {
        "__key__": lambda: [key for shard, rows in parts for key in shard.keys(rows.tolist())],
        "__shard__": lambda: [name for shard, rows in parts for name in [name_of(shard.url)] * len(rows)],
        "__index__": lambda: [row for _, rows in parts for row in rows.tolist()],
        "__pad__": pads.tolist,
    }
    return [known[name]() for name in names if name in known]


def read_columns(names: Sequence[str], parts: Sequence[ShardRows], pads: Any = None) -> list[list[Any]]:
    """Return a list for each of ``names`` of what samples of some shards have, whose rows rise in each.

    ``pads`` says which samples are repeats; by default none.

    Raises:
        StorageError: they cannot be read.
        ShardError: they are damaged.
    """
    local = [(shard, rows) for shard, rows in parts if isinstance(shard, LocalShard)]
    if len(local) == len(parts):
        data = iter(read_local(local))
    else:
        each = [shard.read(rows) for shard, rows in parts]
        data = iter(list(chain.from_iterable(values)) for values in zip(*each, strict=True))
    if pads is None:
        pads = np.zeros(sum(len(rows) for _, rows in parts), bool)
    special = iter(special_columns(names, parts, pads))
    return [next(special) if name in SPECIAL else next(data) for name in names]


class RangedShard(FieldShard):
    """A shard on a server, or one that is packed."""

    def __init__(self, shard: Any, fields: Sequence[str], options: StorageOptions):
        table = shard.indexed.table
        columns = FieldColumns(table, fields)
        super().__init__(shard.indexed.url, table.keys, columns.total)
        self.weight += columns.member.nbytes + shard.indexed.nbytes
        if not shard.indexed.can_enter:
            self.weight += TABLE_BYTES // UNPACKED
        self._shard, self._fields, self._member, self._options = shard, fields, columns.member, options

    def read(self, rows: Ints) -> Values:
        if not self._shard.indexed.can_enter:  # its samples are cut out of a file that it was unpacked to
            records = self._shard.records(rows)
            return [[record.get(field) for record in records] for field in self._fields]
        wanted = self._member[:, rows]
        there = wanted >= 0
        members = np.sort(wanted[there])
        with using(self._options):
            found = self._shard.indexed.read_uncut(members)
        columns = []
        for values, nothing in ((found.body, -1), (found.low, 0), (found.high, 0)):
            column = np.full(wanted.shape, nothing, np.int64)
            column[there] = values[np.searchsorted(members, wanted[there])]
            columns.append(column)
        return cut_fields(Uncut(found.bodies, *columns))


class Shards:
    """The shards of a dataset, opened when they are needed; those not used for long are forgotten."""

    def __init__(self, dataset: ShardedDataset, fields: Sequence[str], options: StorageOptions, stats: Stats):
        self._dataset, self._fields, self._options, self._stats = dataset, fields, options, stats
        self._urls = dataset.urls
        self._files = Files()
        self._lock = threading.Lock()
        self._opening: dict[int, threading.Lock] = {}
        self._open: OrderedDict[int, FieldShard] = OrderedDict()
        self._weight = 0

    def url(self, number: int) -> str:
        """Return the URL of a shard."""
        return self._urls[number]

    def name(self, number: int, row: int) -> tuple[str, str]:
        """Return a shard's URL and the key of one of its samples; if the shard is not open, what number it has."""
        known = self.known(number)
        return self._urls[number], known.keys([row])[0] if known else f"sample {row:,}"

    def is_near(self, number: int) -> bool:
        """Whether a shard is a file of this machine that its name says is not packed."""
        return is_local(self._urls[number]) and name_of(self._urls[number]).endswith(".tar")

    def known(self, number: int) -> FieldShard | None:
        """Return a shard if it is open."""
        with self._lock:
            if (shard := self._open.get(number)) is not None:
                self._open.move_to_end(number)
            return shard

    def get(self, number: int) -> FieldShard:
        """Return a shard, which is opened by one thread where many ask.

        Raises:
            StorageError: it cannot be read.
            ShardError: it is damaged.
            SpecError: the manifest is about another one.
        """
        with self._lock:
            mine = self._opening.setdefault(number, threading.Lock())
        with mine:
            if (shard := self.known(number)) is not None:
                return shard
            shard = self._make(number)
            self._stats.add(shards=1)
            with self._lock:
                self._open[number] = shard
                self._weight += shard.weight
                while len(self._open) > 1 and self._weight > TABLE_BYTES:
                    self._weight -= self._open.popitem(last=False)[1].weight
                self._opening.pop(number, None)
            return shard

    def _make(self, number: int) -> FieldShard:
        shard = self._dataset.indexed(number)
        if is_local(shard.url) and shard.is_plain and not shard.foreign:
            return LocalShard(shard, self._fields, self._files)
        return RangedShard(self._dataset.shard(number), self._fields, self._options)

    def close(self) -> None:
        """Close all files."""
        self._files.close()
        with self._lock:
            self._open.clear()
            self._weight = 0
