"""The members of chosen samples of one shard, for chosen fields, as fast as its storage gives them.

    rows -> offsets and sizes of their members -> plain local file: pread of each, or of neighbours together
                                               -> on a server, or packed: one read of ranges for all of them

A shard keeps the part of its `ShardTable` that the chosen fields need, and which member each of them is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import numpy as np

from shardtools.dataset.sharded import ShardedDataset
from shardtools.loader.stats import Stats
from shardtools.lru import LRU
from shardtools.shards.columns import PackedValues, Texts, pick
from shardtools.shards.members import IndexedShard, first_wrong, wrong_checksum
from shardtools.shards.names import is_special
from shardtools.shards.table import ShardTable
from shardtools.storage import ByteRange, StorageOptions, using
from shardtools.storage.local import LocalStorage
from shardtools.storage.open_files import OpenFile, OpenFiles, read_each
from shardtools.storage.ranges import coalesce, past_end
from shardtools.types import Ints
from shardtools.urls import is_local, name_of

TOGETHER = 1 << 13
"""Bytes between the ends of a sample up to which samples of a local file are read together with their neighbours. The
fields of larger ones are read when they are wanted: what is read long before would pass through memory twice."""

TABLE_BYTES = 1 << 29
"""Bytes of the tables of shards to keep."""

UNPACKED = 64
"""Shards to keep as unpacked copies, which those need that cannot be entered in the middle."""

SPECIAL = ("__key__", "__shard__", "__index__", "__pad__")
"""What may be asked for beside the data's own fields."""


Values = list[list[bytes | None]]
"""For each field, its bytes for each row, None where a sample has none."""


def ends_of(offset: Ints, size: Ints) -> tuple[Ints, Ints]:
    """Return where the first byte of each sample's fields lies, and where the last one ends; the same for no bytes."""
    there = size > 0
    stop = np.where(there, offset + size, 0).max(axis=0, initial=0)
    return np.minimum(
        np.where(there, offset, np.iinfo(np.int64).max).min(axis=0, initial=stop.max(initial=0)), stop
    ), stop


class FieldShard:
    """One shard, of which some fields are read. It may be used by many threads."""

    first = 0
    """What is added to a row where its number is wanted."""

    is_lazy: bool | None = None
    """Whether samples are large, and read when they are wanted; None where `pieces` cannot say where they are."""

    def __init__(self, url: str, table: ShardTable, members: Ints):
        self.url = url
        self.sizes: Ints = pick(table.size, members, 0).sum(axis=0)
        """Bytes of the chosen fields of each sample."""
        self.weight = table.nbytes + members.nbytes + self.sizes.nbytes
        """Bytes that it keeps in memory."""
        self._keys: Texts | list[str] = table.keys
        self._members = members

    def keys(self, rows: Sequence[int]) -> list[str]:
        """Return the keys of some samples."""
        if isinstance(self._keys, Texts) and len(rows) * 8 > len(self._keys):
            self._keys = self._keys.decode()
        return [self._keys[row] for row in rows]

    def texts(self, rows: Ints) -> Texts | None:
        """Return the keys of some samples as they are in the table; None if that is no longer in memory."""
        return self._keys.take(rows) if isinstance(self._keys, Texts) else None

    def read(self, rows: Ints) -> Values:
        """Return the chosen fields of some samples, whose rows rise.

        Raises:
            StorageError: they cannot be read.
            ShardError: they are damaged.
        """
        raise NotImplementedError

    def pieces(self, rows: Ints) -> list[FilePiece]:
        """Return where the chosen fields of some samples are in files of this machine; of a shard that is lazy or not.

        Raises:
            StorageError, ShardError, SpecError: a shard cannot be opened.
        """
        raise NotImplementedError

    @classmethod
    def read_together(cls, parts: Sequence[ShardRows]) -> Values:
        """Return the chosen fields of samples of some shards of this class, whose rows rise in each.

        Raises:
            StorageError, ShardError: as `read` does.
        """
        each = [shard.read(rows) for shard, rows in parts]
        return [list(chain.from_iterable(values)) for values in zip(*each, strict=True)]


ShardRows = tuple[FieldShard, Ints]
"""Some rows of a shard."""


@dataclass(frozen=True)
class FilePiece:
    """Some fields, by their numbers, of samples at some places, which are rows of a shard on this machine."""

    shard: LocalShard
    fields: Ints
    places: Ints
    rows: Ints


class LocalShard(FieldShard):
    """A tar file on this machine, not packed."""

    def __init__(self, shard: IndexedShard, fields: Sequence[str], files: OpenFiles):
        self._table = table = shard.table.only(fields)
        super().__init__(shard.url, table, table.members_of_all(fields))
        start, stop = ends_of(*self.offsets_and_sizes(slice(None)))
        self.is_lazy = int((stop - start).sum()) > TOGETHER * len(start)
        self._filesize, self._files = shard.sidecar.filesize, files

    def read(self, rows: Ints) -> Values:
        return read_local([(self, rows)])

    def pieces(self, rows: Ints) -> list[FilePiece]:
        return [FilePiece(self, np.arange(len(self._members)), np.arange(len(rows)), rows)]

    @classmethod
    def read_together(cls, parts: Sequence[ShardRows]) -> Values:
        return read_local([(cast(LocalShard, shard), rows) for shard, rows in parts])

    def offsets_and_sizes(self, rows: Ints | slice) -> tuple[Ints, Ints]:
        """Return offsets, -1 for what is not there, and sizes: a row for each field."""
        members = self._members[:, rows]
        return pick(self._table.offset, members, -1), pick(self._table.size, members, 0)

    def checksums(self, rows: Ints) -> Ints:
        """Return the CRC-32 that each value must have, -1 where that is not known: a row for each field."""
        members = self._members[:, rows]
        known = self._table.crc32
        return np.full(members.shape, -1, np.int64) if known is None else pick(known, members, -1)

    def open(self) -> OpenFile:
        """Return the file. Raises as `open_file` does."""
        return self._files.get(self.url, self._filesize)


def read_local(parts: Sequence[tuple[LocalShard, Ints]]) -> Values:
    """Return the chosen fields of samples of some shards, whose rows rise in each; neighbours are read together.

    Raises:
        StorageError: they cannot be read, or are not inside their files.
        CorruptError: they do not have the checksums that their sidecars have.
    """
    rule = LocalStorage.coalescing
    files = [shard.open() for shard, _ in parts]
    # As if the files were put end to end, far enough from each other that their ranges are not joined.
    rooms = [(file.size + rule.gap) // rule.largest * rule.largest + rule.largest for file in files]
    begin = np.cumsum([0, *rooms[:-1]])
    of_file = np.repeat(np.arange(len(files)), [len(rows) for _, rows in parts])
    columns = zip(*(shard.offsets_and_sizes(rows) for shard, rows in parts), strict=True)
    offset, size = (np.concatenate(column, axis=1) for column in columns)
    start, stop = ends_of(offset, size)
    limit = np.array([file.size for file in files])[of_file]
    if (stop > limit).any():  # or it would be looked for in the next file
        wrong = int((stop > limit).argmax())
        raise past_end(ByteRange(int(start[wrong]), int(stop[wrong])), int(limit[wrong]), files[of_file[wrong]].url)
    spans = coalesce(start + begin[of_file], stop + begin[of_file], rule.gap, rule.largest)
    source = np.searchsorted(begin, spans.start, side="right") - 1
    at = spans.start - begin[source]
    bodies = read_each([files[i] for i in source.tolist()], at.tolist(), (spans.stop - begin[source]).tolist())
    offset = np.where(offset >= 0, offset + begin[of_file], -1)
    values = cut_fields(PackedValues.of_spans(bodies, spans, offset, offset + size))
    _check_local(parts, values)
    return values


def _check_local(parts: Sequence[tuple[LocalShard, Ints]], fields: Values) -> None:
    """Raise if a value does not have the checksum that its shard's sidecar has."""
    checksums = np.concatenate([shard.checksums(rows) for shard, rows in parts], axis=1)
    for values, expected in zip(fields, checksums.tolist(), strict=True):
        if (wrong := first_wrong(values, expected)) is not None:
            ends = np.cumsum([len(rows) for _, rows in parts])
            part = int(np.searchsorted(ends, wrong, side="right"))
            shard, rows = parts[part]
            row = int(rows[wrong - (ends[part - 1] if part else 0)])
            raise wrong_checksum(shard.url, shard.keys([row])[0])


def cut_fields(packed: PackedValues) -> Values:
    """Return a list for each row of the columns."""
    columns = zip(packed.body, packed.low, packed.high, strict=True)
    return [PackedValues(packed.bodies, *column).cut() for column in columns]


def data_fields(names: Sequence[str]) -> tuple[str, ...]:
    """Return those of ``names`` that are fields of the data, and none of `SPECIAL`."""
    return tuple(name for name in names if not is_special(name))


def special_columns(names: Sequence[str], parts: Sequence[ShardRows], pads: Any) -> list[list[Any]]:
    """Return a list for each of ``names`` that is one of `SPECIAL`; ``pads`` says which samples are repeats."""
    known: dict[str, Callable[[], list[Any]]] = {
        "__key__": lambda: [key for shard, rows in parts for key in shard.keys(rows.tolist())],
        "__shard__": lambda: [name for shard, rows in parts for name in [name_of(shard.url)] * len(rows)],
        "__index__": lambda: [shard.first + row for shard, rows in parts for row in rows.tolist()],
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
    kinds = {type(shard) for shard, _ in parts}
    kind = kinds.pop() if len(kinds) == 1 else FieldShard
    data = iter(kind.read_together(parts))
    if pads is None:
        pads = np.zeros(sum(len(rows) for _, rows in parts), bool)
    special = iter(special_columns(names, parts, pads))
    return [next(special) if name in SPECIAL else next(data) for name in names]


class RangedShard(FieldShard):
    """A shard on a server, or one that is packed."""

    def __init__(self, shard: Any, fields: Sequence[str], options: StorageOptions):
        table = shard.indexed.table
        super().__init__(shard.indexed.url, table, table.members_of_all(fields))
        if not shard.indexed.can_enter:
            self.weight += TABLE_BYTES // UNPACKED
        self._shard, self._fields, self._options = shard, fields, options

    def read(self, rows: Ints) -> Values:
        if not self._shard.indexed.can_enter:  # its samples are cut out of a file that it was unpacked to
            records = self._shard.records(rows)
            return [[record.get(field) for record in records] for field in self._fields]
        members = self._members[:, rows]
        there = members >= 0
        with using(self._options):
            packed = self._shard.indexed.read_packed(members[there])
        return cut_fields(packed.spread(there))


class Shards:
    """The shards of a dataset, opened when they are needed; those not used for long are forgotten."""

    def __init__(self, dataset: ShardedDataset, fields: Sequence[str], options: StorageOptions, stats: Stats):
        self._dataset, self._fields, self._options, self._stats = dataset, fields, options, stats
        self._urls = dataset.urls
        self._files = OpenFiles()
        self._lock = threading.Lock()
        self._opening: dict[int, threading.Lock] = {}
        self._open: LRU[int, FieldShard] = LRU(TABLE_BYTES, lambda shard: shard.weight)

    def url(self, number: int) -> str:
        """Return the URL of a shard."""
        return self._urls[number]

    def name(self, number: int, row: int) -> tuple[str, str]:
        """Return a shard's URL and the key of one of its samples, or the sample's row if the shard is not open."""
        known = self.known(number)
        return self._urls[number], known.keys([row])[0] if known else f"sample {row:,}"

    def is_near(self, number: int) -> bool:
        """Whether a shard is a file of this machine that its name says is not packed."""
        return is_local(self._urls[number]) and name_of(self._urls[number]).endswith(".tar")

    def known(self, number: int) -> FieldShard | None:
        """Return a shard if it is open."""
        return self._open.get(number)

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
            self._open.put(number, shard)
            with self._lock:
                self._opening.pop(number, None)
            return shard

    def _make(self, number: int) -> FieldShard:
        shard = self._dataset.indexed(number)
        if is_local(shard.url) and shard.is_plain and not shard.foreign:
            return LocalShard(shard, self._fields, self._files)
        return RangedShard(self._dataset.shard(number), self._fields, self._options)

    def close(self) -> None:
        """Forget all shards, and close their files."""
        self._files.clear()
        self._open.clear()
