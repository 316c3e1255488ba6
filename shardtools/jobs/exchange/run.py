"""A run: sorted samples as one object of the spill, any range of which can be read.

    spans, end to end | orders | ends of orders | groups | directory | some of the orders | their ends
    a group: rows | members | orders | keys

What is known of `GROUP` samples is together, so that one request reads what an output needs to know of its samples, and
another one their spans. The directory, which is read once, says how much each group has, and has its CRC-32. All
orders together, and some of them, at equal distances, are for those who plan.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import CorruptError
from shardtools.jobs.exchange.run_table import PLACE, RunTable
from shardtools.lru import LRU
from shardtools.shards.columns import Texts, join, with_zero
from shardtools.shards.table import ShardTable, lay_out
from shardtools.shards.tar import BLOCK
from shardtools.storage import ByteRange, get_storage
from shardtools.storage.open_files import open_file
from shardtools.types import Ints
from shardtools.urls import is_local

MEMBER = np.dtype([("head", "<u8"), ("size", "<u8"), ("field", "<u4"), ("crc32", "<u4")])
"""A member: bytes before its data since the one before in its sample, bytes of data, field, checksum of the data."""

ROW = np.dtype([("order", "<u4"), ("key", "<u4"), ("members", "<u4"), ("sum", "<u8"), ("place", PLACE)])
"""A sample: bytes of its order and of its key, its number of members, the sum of its span, where it comes from."""

GROUP = 256
"""Samples in a group, except in the last one."""

_END = np.dtype("<u8")
_ENTRY = 5
_KEPT_BYTES = 1 << 26

SAMPLED = 1024
"""How many orders of a run are repeated at its end, at most."""


@dataclass(frozen=True)
class Run:
    """The object at ``url`` with ``count`` samples, the sizes of its parts, and the checksum of its directory."""

    url: str
    count: int
    data_bytes: int
    order_bytes: int
    key_bytes: int
    members: int
    sampled: int
    sampled_bytes: int
    checksum: int
    fields: tuple[str, ...]

    @property
    def _orders_at(self) -> int:
        return self.data_bytes

    @property
    def _order_ends_at(self) -> int:
        return self._orders_at + self.order_bytes

    @property
    def _groups_at(self) -> int:
        return self._order_ends_at + self.count * _END.itemsize

    @property
    def _directory_at(self) -> int:
        size = self.count * ROW.itemsize + self.members * MEMBER.itemsize + self.order_bytes + self.key_bytes
        return self._groups_at + size

    @property
    def _sampled_at(self) -> int:
        return self._directory_at + -(-self.count // GROUP) * _ENTRY * _END.itemsize

    @property
    def filesize(self) -> int:
        """Bytes of the object."""
        return self._sampled_at + self.sampled_bytes + self.sampled * _END.itemsize

    def read_orders(self, start: int = 0, stop: int | None = None) -> Texts:
        """Return the orders of all samples, or of samples ``start`` to ``stop``.

        Raises:
            StorageError: they cannot be read.
            CorruptError: they were damaged.
        """
        stop = self.count if stop is None else stop
        storage, before = get_storage(self.url), max(start - 1, 0)
        rows = ByteRange(self._order_ends_at + before * _END.itemsize, self._order_ends_at + stop * _END.itemsize)
        if (start, stop) == (0, self.count):
            data, part = storage.read_ranges(self.url, [ByteRange(self._orders_at, self._order_ends_at), rows])
            return self._texts(data, np.frombuffer(part, _END).astype(np.int64))
        [part] = storage.read_ranges(self.url, [rows])
        ends = _with_start(np.frombuffer(part, _END), start)
        self._check_ends(ends, self.order_bytes)
        wanted = ByteRange(self._orders_at + int(ends[0]), self._orders_at + int(ends[-1]))
        [data] = storage.read_ranges(self.url, [wanted])
        return self._texts(data, ends[1:] - ends[0])

    def read_sampled(self) -> Texts:
        """Return the orders of samples ``sampled_rows(count)``.

        Raises:
            StorageError: they cannot be read.
            CorruptError: they were damaged.
        """
        [body] = get_storage(self.url).read_ranges(self.url, [ByteRange(self._sampled_at, self.filesize)])
        data, ends = body[: self.sampled_bytes], np.frombuffer(body, _END, self.sampled, self.sampled_bytes)
        return self._texts(data, ends.astype(np.int64))

    def _texts(self, data: bytes, ends: Ints) -> Texts:
        """Return a column, after checking it."""
        if len(ends) and (ends[-1] != len(data) or ends[0] < 0 or (np.diff(ends) < 0).any()):
            raise self._damaged()
        return Texts(np.frombuffer(data, np.uint8), ends)

    def read_table(self, start: int, stop: int) -> RunTable:
        """Return what is known of samples ``start`` to ``stop``.

        Raises:
            StorageError: it cannot be read.
            CorruptError: it was damaged.
        """
        ends = _directories.get(self)
        if ends is None:
            ends = _directories.put(self, self._read_directory())
        first, last = start // GROUP, -(-stop // GROUP)
        if start == stop:
            first, last, start, stop = 0, 0, 0, 0
        rows = np.minimum(np.arange(first, last + 1) * GROUP, self.count)
        sizes = np.array([1, 1, MEMBER.itemsize, 0, 0])
        places = ends[first : last + 1] @ sizes + rows * ROW.itemsize + self._groups_at
        [body] = get_storage(self.url).read_ranges(self.url, [ByteRange(int(places[0]), int(places[-1]))])
        found = self._parse(body, np.diff(rows), ends[first : last + 1])
        low, high = start - first * GROUP, stop - first * GROUP
        table, orders = found.table.slice(low, high), found.orders.slice(low, high)
        return RunTable(table, orders, found.places[low:high], found.sums[low:high])

    def _read_directory(self) -> Ints:
        """Return where the orders, keys, members and spans of each group end, and its CRC-32, after a row of zeros."""
        [body] = get_storage(self.url).read_ranges(self.url, [ByteRange(self._directory_at, self._sampled_at)])
        ends = np.zeros((len(body) // (_ENTRY * _END.itemsize) + 1, _ENTRY), np.int64)
        ends[1:] = np.frombuffer(body, _END).reshape(-1, _ENTRY)
        whole = [self.order_bytes, self.key_bytes, self.members, self.data_bytes]
        rises = (np.diff(ends[:, :-1], axis=0) >= 0).all()
        if zlib.crc32(body) != self.checksum or not rises or ends[-1, :-1].tolist() != whole:
            raise self._damaged()
        return ends

    def _parse(self, body: bytes, counts: Ints, ends: Ints) -> RunTable:
        """Return the samples of consecutive groups with so many samples each; ``ends`` is their directory."""
        rows, members, orders, keys = [], [], [], []
        at = 0
        for count, (order_bytes, key_bytes, member_count, _), checksum in zip(
            counts.tolist(), np.diff(ends[:, :-1], axis=0).tolist(), ends[1:, -1].tolist(), strict=True
        ):
            begin = at
            rows.append(np.frombuffer(body, ROW, count, at))
            at += rows[-1].nbytes
            members.append(np.frombuffer(body, MEMBER, member_count, at))
            at += members[-1].nbytes
            orders.append(np.frombuffer(body, np.uint8, order_bytes, at))
            keys.append(np.frombuffer(body, np.uint8, key_bytes, at + order_bytes))
            at += order_bytes + key_bytes
            if zlib.crc32(memoryview(body)[begin:at]) != checksum:
                raise self._damaged()
        row = join(rows, ROW)
        key_ends, order_ends = np.cumsum(row["key"], dtype=np.int64), np.cumsum(row["order"], dtype=np.int64)
        in_group = np.cumsum(counts) - 1
        for column, total in ((order_ends, 0), (key_ends, 1), (np.cumsum(row["members"], dtype=np.int64), 2)):
            if not np.array_equal(column[in_group], ends[1:, total] - ends[0, total]):
                raise self._damaged()
        table = self._table(
            Texts(join(keys, np.uint8), key_ends),
            row["members"].astype(np.int64),
            join(members, MEMBER),
            int(ends[0, 3]),
        )
        if not np.array_equal(table.stop[in_group], ends[1:, 3]):
            raise self._damaged()
        orders_of = Texts(join(orders, np.uint8), order_ends)
        return RunTable(table, orders_of, row["place"], row["sum"].astype(np.uint64))

    def _table(self, keys: Texts, counts: Ints, members: npt.NDArray[Any], start: int) -> ShardTable:
        """Return the table of samples whose spans begin at ``start``, after checking it."""
        most = np.uint64(self.data_bytes)
        if (counts < 1).any() or (members["head"] > most).any() or (members["size"] > most).any():
            raise self._damaged()
        if len(members) and int(members["field"].max()) >= len(self.fields):
            raise self._damaged()
        head, size, field = (members[name].astype(np.int64) for name in ("head", "size", "field"))
        table = lay_out(keys, counts, self.fields, field, head, size, crc32=members["crc32"].astype(np.uint32))
        if (table.spans % BLOCK).any():
            raise self._damaged()
        return table.shifted(start)

    def read_data(self, start: int, stop: int) -> memoryview:
        """Return the bytes of spans from ``start`` to ``stop``; those of a local run are mapped, not copied."""
        if not is_local(self.url) or start == stop:
            [data] = get_storage(self.url).read_ranges(self.url, [ByteRange(start, stop)])
            return memoryview(data)
        with open_file(self.url) as file:
            if file.size != self.filesize:
                what = "the file of the spill has another size than before"
                raise CorruptError(what, url=self.url, fix="delete it and run again")
            return file.map(start, stop)

    def _check_ends(self, ends: Ints, size: int) -> None:
        """Raise unless these are ascending offsets from 0 to ``size``."""
        if ends[0] < 0 or ends[-1] > size or (np.diff(ends) < 0).any():
            raise self._damaged()

    def _damaged(self) -> CorruptError:
        return CorruptError("the spill was damaged", url=self.url, fix="delete it and run again")


_directories: LRU[Run, Ints] = LRU(_KEPT_BYTES, lambda ends: ends.nbytes)
"""The directories of runs that were read lately: tasks of one process read from the same runs."""


def _with_start(ends: npt.NDArray[Any], start: int) -> Ints:
    """Return the bounds of rows from ``start`` on; ``ends`` begins with the end of the row before, if there is one."""
    whole = ends.astype(np.int64)
    return whole if start else with_zero(whole)


def sampled_rows(count: int) -> Ints:
    """Return which of the orders of a run of so many samples are repeated at its end.

    >>> sampled_rows(3).tolist(), sampled_rows(4096)[:3].tolist()
    ([0, 1, 2], [0, 4, 8])
    """
    some = min(count, SAMPLED)
    return np.arange(some, dtype=np.int64) * count // max(some, 1)


def write_run(url: str, samples: RunTable, spans: Iterable[Sequence[Any]]) -> Run:
    """Write samples, which are in order, as a run; ``spans`` gives their bytes, some at a time."""
    table, orders = samples.table, samples.orders
    some_orders = orders.take(sampled_rows(len(samples)))
    groups, ends = _groups(samples)
    directory = ends[1:].astype(_END)
    sizes = (samples.size, len(orders.data), len(table.keys.data), len(table.field))
    checksum = zlib.crc32(directory.tobytes())
    run = Run(url, len(samples), *sizes, len(some_orders), len(some_orders.data), checksum, table.fields)
    tail: list[npt.NDArray[Any]] = [
        orders.data,
        orders.ends.astype(_END),
        *groups,
        directory,
        some_orders.data,
        some_orders.ends.astype(_END),
    ]
    with get_storage(url).create(url) as sink:
        for some in spans:
            sink.writelines(some)
        sink.writelines([_bytes_of(part) for part in tail if len(part)])
    return run


def _bytes_of(column: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(column).view(np.uint8).reshape(-1).data


def _groups(samples: RunTable) -> tuple[list[npt.NDArray[Any]], Ints]:
    """Return the parts of the groups of a run, in order, and the directory after a row of zeros; see `Run`."""
    table, orders, keys = samples.table, samples.orders, samples.table.keys
    assert table.crc32 is not None
    rows = np.empty(len(samples), ROW)
    rows["order"], rows["key"], rows["members"] = orders.sizes, keys.sizes, table.counts
    rows["sum"], rows["place"] = samples.sums, samples.places
    members = np.empty(len(table.field), MEMBER)
    members["head"], members["size"], members["field"], members["crc32"] = (
        table.heads,
        table.size,
        table.field,
        table.crc32,
    )
    bounds = np.append(np.arange(0, len(samples), GROUP), len(samples))
    columns = (with_zero(orders.ends), with_zero(keys.ends), table.first, with_zero(np.cumsum(table.spans)))
    ends = np.stack([column[bounds] for column in columns], axis=1)
    parts: list[npt.NDArray[Any]] = []
    checksums = [0]
    for i, (low, high) in enumerate(pairwise(bounds.tolist())):
        (a, b), (c, d), (e, f) = zip(ends[i, :3].tolist(), ends[i + 1, :3].tolist(), strict=True)
        group = [rows[low:high], members[e:f], orders.data[a:b], keys.data[c:d]]
        checksums.append(reduce(lambda crc, part: zlib.crc32(_bytes_of(part), crc), group, 0))
        parts += group
    return parts, np.column_stack((ends, np.array(checksums, np.int64)))
