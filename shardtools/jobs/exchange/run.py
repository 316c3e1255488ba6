"""A run: sorted samples as one object of the spill, any range of which can be read.

    spans, end to end | orders | ends of orders | rows | members | keys | some of the orders | their ends

All but the spans, the orders and the keys have a fixed width, so that the offset of each part follows from the few
numbers of a `Run`. Some of the orders are repeated at the end, at equal distances: who plans reads these only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import CorruptError
from shardtools.jobs.exchange.run_table import PLACE, RunTable
from shardtools.shards.columns import Texts, with_zero
from shardtools.shards.table import ShardTable, lay_out
from shardtools.shards.tar import BLOCK
from shardtools.storage import ByteRange, get_storage
from shardtools.storage.open_files import open_file
from shardtools.types import Bytes, Ints
from shardtools.urls import is_local

MEMBER = np.dtype([("head", "<u8"), ("size", "<u8"), ("field", "<u4"), ("crc32", "<u4")])
"""A member: bytes before its data since the one before in its sample, bytes of data, field, checksum of the data."""

ROW = np.dtype([("key_end", "<u8"), ("member_end", "<u8"), ("data_end", "<u8"), ("sum", "<u8"), ("place", PLACE)])
_END = np.dtype("<u8")

SAMPLED = 1024
"""How many orders of a run are repeated at its end, at most."""


@dataclass(frozen=True)
class Run:
    """The object at ``url`` with ``count`` samples, and the sizes of its parts."""

    url: str
    count: int
    data_bytes: int
    order_bytes: int
    key_bytes: int
    members: int
    sampled: int
    sampled_bytes: int
    fields: tuple[str, ...]

    @property
    def _orders_at(self) -> int:
        return self.data_bytes

    @property
    def _order_ends_at(self) -> int:
        return self._orders_at + self.order_bytes

    @property
    def _rows_at(self) -> int:
        return self._order_ends_at + self.count * _END.itemsize

    @property
    def _members_at(self) -> int:
        return self._rows_at + self.count * ROW.itemsize

    @property
    def _keys_at(self) -> int:
        return self._members_at + self.members * MEMBER.itemsize

    @property
    def _sampled_at(self) -> int:
        return self._keys_at + self.key_bytes

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
        storage = get_storage(self.url)
        before = max(start - 1, 0)
        ends_part, rows_part = storage.read_ranges(
            self.url,
            [
                ByteRange(self._order_ends_at + before * _END.itemsize, self._order_ends_at + stop * _END.itemsize),
                ByteRange(self._rows_at + before * ROW.itemsize, self._rows_at + stop * ROW.itemsize),
            ],
        )
        order_ends = _with_start(np.frombuffer(ends_part, _END), start)
        rows = np.frombuffer(rows_part, ROW)
        key_ends, member_ends, data_ends = (
            _with_start(rows[name], start) for name in ("key_end", "member_end", "data_end")
        )
        self._check_ends(order_ends, self.order_bytes)
        self._check_ends(key_ends, self.key_bytes)
        self._check_ends(member_ends, self.members)
        self._check_ends(data_ends, self.data_bytes)
        orders, members, keys = storage.read_ranges(
            self.url,
            [
                ByteRange(self._orders_at + int(order_ends[0]), self._orders_at + int(order_ends[-1])),
                ByteRange(
                    self._members_at + int(member_ends[0]) * MEMBER.itemsize,
                    self._members_at + int(member_ends[-1]) * MEMBER.itemsize,
                ),
                ByteRange(self._keys_at + int(key_ends[0]), self._keys_at + int(key_ends[-1])),
            ],
        )
        samples = RunTable(
            self._table(
                Texts(np.frombuffer(keys, np.uint8), key_ends[1:] - key_ends[0]),
                np.diff(member_ends),
                np.frombuffer(members, MEMBER),
                int(data_ends[0]),
            ),
            Texts(np.frombuffer(orders, np.uint8), order_ends[1:] - order_ends[0]),
            rows["place"][start - before :],
            rows["sum"][start - before :].astype(np.uint64),
        )
        if not np.array_equal(samples.table.stop, data_ends[1:]):
            raise self._damaged()
        return samples

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
    assert table.crc32 is not None
    some_orders = orders.take(sampled_rows(len(samples)))
    sizes = (samples.size, len(orders.data), len(table.keys.data), len(table.field))
    run = Run(url, len(samples), *sizes, len(some_orders), len(some_orders.data), table.fields)
    rows = np.empty(len(samples), ROW)
    rows["key_end"] = table.keys.ends
    rows["member_end"] = table.first[1:]
    rows["data_end"] = np.cumsum(table.spans)
    rows["sum"] = samples.sums
    rows["place"] = samples.places
    members = np.empty(len(table.field), MEMBER)
    members["head"] = table.heads
    members["size"] = table.size
    members["field"] = table.field
    members["crc32"] = table.crc32
    ends = orders.ends.astype(_END)
    with get_storage(url).create(url) as sink:
        for some in spans:
            sink.writelines(some)
        tail: list[Bytes] = [np.ascontiguousarray(orders.data)]
        tail += [part.view(np.uint8).reshape(-1) for part in (ends, rows, members) if len(part)]
        tail += [np.ascontiguousarray(table.keys.data), some_orders.data]
        tail.append(some_orders.ends.astype(_END).view(np.uint8))
        sink.writelines([part.data for part in tail if len(part)])
    return run
