"""Columns of numpy arrays: texts as one column, and how columns are cut, put end to end, and spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.shards.names import decode_name
from shardtools.storage.ranges import Spans
from shardtools.types import Bytes, Ints


@dataclass(frozen=True)
class Texts:
    """Texts of bytes as one column: their bytes, end to end, in ``data``, and where each one ends.

    >>> texts = Texts.of([b"a", b"bc"])
    >>> texts.tolist(), texts.decode(), texts[1]
    ([b'a', b'bc'], ['a', 'bc'], 'bc')
    """

    data: Bytes
    ends: Ints

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        """Return one of them as text; see `decode_name`."""
        row = range(len(self.ends))[row]
        start = int(self.ends[row - 1]) if row else 0
        return decode_name(self.data[start : int(self.ends[row])].tobytes())

    @property
    def starts(self) -> Ints:
        """Where each one begins."""
        return with_zero(self.ends)[:-1]

    @property
    def sizes(self) -> Ints:
        """How many bytes each one has."""
        return np.diff(self.ends, prepend=0)

    @property
    def nbytes(self) -> int:
        """Bytes that they take in memory."""
        return self.data.nbytes + self.ends.nbytes

    def tolist(self) -> list[bytes]:
        """Return all of them as bytes."""
        data, ends = self.data.tobytes(), self.ends.tolist()
        return [data[a:b] for a, b in zip([0, *ends][: len(ends)], ends, strict=True)]

    def decode(self) -> list[str]:
        """Return all of them as text; see `decode_name`."""
        data = self.data.tobytes()
        if not data.isascii():
            return list(map(decode_name, self.tolist()))
        text, ends = data.decode("ascii"), self.ends.tolist()
        return [text[a:b] for a, b in zip([0, *ends][: len(ends)], ends, strict=True)]

    def take(self, rows: Ints) -> Texts:
        """Return some of them, in the order of ``rows``."""
        starts, sizes = self.starts[rows], self.sizes[rows]
        return Texts(self.data[spread(starts, sizes)], np.cumsum(sizes))

    def slice(self, start: int, stop: int) -> Texts:
        """Return the texts from row ``start`` up to ``stop``; their bytes are not copied."""
        low = int(self.ends[start - 1]) if start else 0
        high = int(self.ends[stop - 1]) if stop > start else low
        return Texts(self.data[low:high], self.ends[start:stop] - low)

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Texts:
        """Return texts as a column."""
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        return cls(np.frombuffer(b"".join(texts), np.uint8), ends)

    @classmethod
    def join(cls, parts: Sequence[Texts]) -> Texts:
        """Return columns end to end."""
        return cls(
            join([part.data for part in parts], np.uint8),
            join_shifted([part.ends for part in parts], [len(part.data) for part in parts]),
        )


@dataclass(frozen=True)
class PackedValues:
    """Values as parts of longer byte strings: value i is ``bodies[body[i]][low[i]:high[i]]``, or None for body -1.

    The columns may have any shape.
    """

    bodies: list[bytes]
    body: Ints
    low: Ints
    high: Ints

    def cut(self) -> list[bytes | None]:
        """Return the values, of columns of one dimension."""
        bodies = self.bodies
        places = zip(self.body.tolist(), self.low.tolist(), self.high.tolist(), strict=True)
        if len(self.body) and self.body.min() < 0:
            return [bodies[i][a:b] if i >= 0 else None for i, a, b in places]
        return [bodies[i][a:b] for i, a, b in places]

    def join(self) -> Texts:
        """Return the values, of columns of one dimension and none of them None, end to end.

        >>> PackedValues([b"abc", b"de"], np.array([1, 0]), np.array([0, 1]), np.array([1, 3])).join().tolist()
        [b'd', b'bc']
        """
        first = with_zero(np.cumsum([len(body) for body in self.bodies]))
        data = np.frombuffer(self.bodies[0] if len(self.bodies) == 1 else b"".join(self.bodies), np.uint8)
        sizes = self.high - self.low
        return Texts(data[spread(first[self.body] + self.low, sizes)], np.cumsum(sizes))

    def spread(self, there: npt.NDArray[np.bool_]) -> PackedValues:
        """Return these values, in order, where ``there`` is true, and None where it is not."""
        columns = []
        for values, nothing in ((self.body, -1), (self.low, 0), (self.high, 0)):
            column = np.full(there.shape, nothing, np.int64)
            column[there] = values
            columns.append(column)
        return PackedValues(self.bodies, *columns)

    @classmethod
    def of(cls, values: Sequence[bytes]) -> PackedValues:
        """Return values that are byte strings of their own."""
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        return cls(list(values), np.arange(len(values)), np.zeros(len(values), np.int64), sizes)

    @classmethod
    def of_spans(cls, bodies: Sequence[bytes], spans: Spans, start: Ints, stop: Ints) -> PackedValues:
        """Return the values from each ``start`` to each ``stop``, whose ``bodies`` were read as ``spans``.

        There may be several for each range of the spans, as rows; a negative start is that of None.
        """
        body, size = spans.span, stop - start
        low: Ints = start - (spans.start[body] if len(spans) else 0)
        if body.shape != start.shape or np.count_nonzero(size > 0) < size.size:  # seldom, and slow
            body, low = np.where(start >= 0, body, -1), np.where(size > 0, low, 0)
        return cls(list(bodies) or [b""], body, low, low + size)


def join(parts: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return the columns ``parts`` as one, empty if there are none."""
    return np.concatenate(parts, dtype=dtype) if parts else np.empty(0, dtype)


def join_shifted(parts: Sequence[Ints], lengths: Sequence[int]) -> Ints:
    """Return columns of offsets as one, as if what they lie in, of these ``lengths``, was put end to end.

    >>> join_shifted([np.array([1, 3]), np.array([2])], [3, 2]).tolist()
    [1, 3, 5]
    """
    shifts = np.cumsum([0, *lengths]).tolist()
    return join([part + shift for part, shift in zip(parts, shifts[:-1], strict=True)], np.int64)


def with_zero(ends: Ints) -> Ints:
    """Return where the first begins, which is 0, and where each one ends.

    >>> with_zero(np.array([2, 5])).tolist()
    [0, 2, 5]
    """
    bounds = np.empty(len(ends) + 1, np.int64)
    bounds[0] = 0
    bounds[1:] = ends
    return bounds


def pick(column: npt.NDArray[Any], rows: Ints, absent: int) -> Ints:
    """Return the numbers of ``column`` at ``rows``, which may have any shape, and ``absent`` where a row is negative.

    >>> pick(np.array([7, 8], np.uint8), np.array([1, -1, 0]), -1).tolist()
    [8, -1, 7]
    """
    there = rows >= 0
    if there.all():
        return column[rows].astype(np.int64, copy=False)
    found = np.full(rows.shape, absent, np.int64)
    found[there] = column[rows[there]]
    return found


def spread(starts: Ints, sizes: Ints) -> Ints:
    """Return the numbers from each start on, as many as its size says, end to end.

    >>> spread(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    shifts = starts - (np.cumsum(sizes) - sizes)
    return np.repeat(shifts, sizes) + np.arange(int(sizes.sum()), dtype=np.int64)
