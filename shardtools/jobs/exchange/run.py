"""A run: samples in order, as one object of the spill, any range of which can be read.

    spans, end to end | orders | ends of orders | rows | members | names

Everything but the spans, the orders and the names has a fixed width, so that the place of each part follows from the
few numbers of a `Run`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import CorruptError
from shardtools.jobs.exchange.columns import MEMBER, PLACE, Columns
from shardtools.shards.columns import Texts
from shardtools.shards.tar import BLOCK
from shardtools.spec import is_local
from shardtools.storage import ByteRange, get_storage
from shardtools.storage.files import os_errors
from shardtools.types import Bytes, Ints

ROW = np.dtype([("name_end", "<u8"), ("member_end", "<u8"), ("data_end", "<u8"), ("sum", "<u8"), ("place", PLACE)])
_END = np.dtype("<u8")


@dataclass(frozen=True)
class Run:
    """The object at ``url`` with ``count`` samples, and the sizes of its parts."""

    url: str
    count: int
    data_bytes: int
    order_bytes: int
    name_bytes: int
    members: int
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
    def _names_at(self) -> int:
        return self._members_at + self.members * MEMBER.itemsize

    @property
    def filesize(self) -> int:
        """Bytes of the object."""
        return self._names_at + self.name_bytes

    def read_orders(self) -> Texts:
        """Return the orders of all samples."""
        parts = [ByteRange(self._orders_at, self._order_ends_at), ByteRange(self._order_ends_at, self._rows_at)]
        data, ends = get_storage(self.url).read_ranges(self.url, parts)
        return Texts(np.frombuffer(data, np.uint8), np.frombuffer(ends, _END).astype(np.int64))

    def read_columns(self, start: int, stop: int) -> tuple[Columns, int]:
        """Return what is known of samples ``start`` to ``stop``, and where their spans begin in the object.

        Raises:
            StorageError: it cannot be read.
            CorruptError: it is not what was written.
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
        name_ends, member_ends, data_ends = (
            _with_start(rows[name], start) for name in ("name_end", "member_end", "data_end")
        )
        self._check_ends(order_ends, self.order_bytes)
        self._check_ends(name_ends, self.name_bytes)
        self._check_ends(member_ends, self.members)
        self._check_ends(data_ends, self.data_bytes)
        orders, members, names = storage.read_ranges(
            self.url,
            [
                ByteRange(self._orders_at + int(order_ends[0]), self._orders_at + int(order_ends[-1])),
                ByteRange(
                    self._members_at + int(member_ends[0]) * MEMBER.itemsize,
                    self._members_at + int(member_ends[-1]) * MEMBER.itemsize,
                ),
                ByteRange(self._names_at + int(name_ends[0]), self._names_at + int(name_ends[-1])),
            ],
        )
        columns = Columns(
            Texts(np.frombuffer(orders, np.uint8), order_ends[1:] - order_ends[0]),
            Texts(np.frombuffer(names, np.uint8), name_ends[1:] - name_ends[0]),
            rows["place"][start - before :],
            np.diff(data_ends),
            rows["sum"][start - before :].astype(np.uint64),
            member_ends - member_ends[0],
            np.frombuffer(members, MEMBER),
            self.fields,
        )
        self._check(columns)
        return columns, int(data_ends[0])

    def read_data(self, start: int, stop: int) -> memoryview:
        """Return the bytes of spans from ``start`` to ``stop``; of a local run they are mapped, not copied."""
        if not is_local(self.url) or start == stop:
            [data] = get_storage(self.url).read_ranges(self.url, [ByteRange(start, stop)])
            return memoryview(data)
        before = start % mmap.ALLOCATIONGRANULARITY
        with os_errors(self.url):
            fd = os.open(self.url.removeprefix("file://"), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_size != self.filesize:
                    raise CorruptError("the spill was cut off", url=self.url, fix="delete it and run again")
                flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
                mapped = mmap.mmap(fd, stop - start + before, flags, mmap.PROT_READ, offset=start - before)
            finally:
                os.close(fd)
        return memoryview(mapped)[before:]

    def _check_ends(self, ends: Ints, size: int) -> None:
        """Raise if these are not where parts of something of this ``size`` end, one after the other."""
        if ends[0] < 0 or ends[-1] > size or (np.diff(ends) < 0).any():
            raise self._damaged()

    def _check(self, columns: Columns) -> None:
        """Raise if columns that were read cannot be what was written: members must fill the spans of their samples."""
        members = columns.members
        if len(members) and int(members["field"].max()) >= len(self.fields):
            raise self._damaged()
        most = np.uint64(self.data_bytes)
        if (members["head"] > most).any() or (members["size"] > most).any():
            raise self._damaged()
        sizes = members["head"].astype(np.int64) + -(-members["size"].astype(np.int64) // BLOCK) * BLOCK
        ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))[columns.first]
        if not np.array_equal(np.diff(ends), columns.sizes) or (columns.sizes % BLOCK).any():
            raise self._damaged()

    def _damaged(self) -> CorruptError:
        return CorruptError("the spill was damaged", url=self.url, fix="delete it and run again")


def _with_start(ends: npt.NDArray[Any], start: int) -> Ints:
    """Return where the first begins, and where each one ends; ``ends`` begins with the one before, if there is one."""
    whole = ends.astype(np.int64)
    return whole if start else np.concatenate((np.zeros(1, np.int64), whole))


def write_run(url: str, columns: Columns, spans: Iterable[Sequence[Any]]) -> Run:
    """Write samples, which are in order, as a run; ``spans`` gives their bytes, some at a time."""
    run = Run(
        url,
        len(columns),
        int(columns.sizes.sum()),
        len(columns.orders.data),
        len(columns.names.data),
        len(columns.members),
        columns.fields,
    )
    rows = np.empty(len(columns), ROW)
    rows["name_end"] = columns.names.ends
    rows["member_end"] = columns.first[1:]
    rows["data_end"] = np.cumsum(columns.sizes)
    rows["sum"] = columns.sums
    rows["place"] = columns.places
    ends = columns.orders.ends.astype(_END)
    members = np.ascontiguousarray(columns.members, MEMBER)
    with get_storage(url).create(url) as sink:
        for some in spans:
            sink.writelines(some)
        tail: list[Bytes] = [np.ascontiguousarray(columns.orders.data)]
        tail += [part.view(np.uint8).reshape(-1) for part in (ends, rows, members) if len(part)]
        tail.append(np.ascontiguousarray(columns.names.data))
        sink.writelines([part.data for part in tail if len(part)])
    return run
