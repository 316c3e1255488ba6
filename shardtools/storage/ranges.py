"""Many byte ranges of one object: joined into few spans before a request, and cut out of them after it. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shardtools.errors import RefusedError
from shardtools.storage import ByteRange
from shardtools.types import Ints


@dataclass(frozen=True)
class Spans:
    """Parts of an object that cover some ranges of it: each from ``start`` to ``stop``, and which range lies in which.

    ``span`` has the span of each range; that of an empty range is 0 and means nothing.
    """

    start: Ints
    stop: Ints
    span: Ints

    def __len__(self) -> int:
        return len(self.start)

    @property
    def ranges(self) -> list[ByteRange]:
        """The spans as storage takes them."""
        return [ByteRange(a, b) for a, b in zip(self.start.tolist(), self.stop.tolist(), strict=True)]


def coalesce(start: Ints, stop: Ints, gap: int = 0, block: int | None = None) -> Spans:
    """Return sorted spans that cover the ranges from each ``start`` to each ``stop``, without the empty ones.

    Ranges at most ``gap`` bytes apart are joined; with ``block`` only such as begin in the same block of so many bytes.
    Without it, spans are disjoint.

    >>> spans = coalesce(np.array([50, 0, 5, 22, 9]), np.array([60, 10, 20, 30, 9]), gap=2)
    >>> spans.ranges, spans.span.tolist()
    ([ByteRange(start=0, stop=30), ByteRange(start=50, stop=60)], [1, 0, 0, 0, 0])
    """
    filled = stop > start
    order = None
    if np.count_nonzero(filled) < len(start) or np.count_nonzero(start[1:] < stop[:-1]):
        order = np.argsort(start, kind="stable")
        order = order[filled[order]]
        start, stop = start[order], np.maximum.accumulate(stop[order])
    parted = start[1:] - stop[:-1] > gap
    if block is not None:
        blocks = start // block
        parted |= blocks[1:] != blocks[:-1]
    number = np.zeros(len(start), np.int64)
    parted.cumsum(out=number[1:])
    begin, end = np.concatenate((start[:1], start[1:][parted])), np.concatenate((stop[:-1][parted], stop[-1:]))
    if order is not None:
        span = np.zeros(len(filled), np.int64)
        span[order] = number
        number = span
    return Spans(begin, end, number)


def merge(ranges: Iterable[ByteRange], gap: int = 0) -> list[ByteRange]:
    """Return sorted, disjoint spans that cover ``ranges``, joining those at most ``gap`` bytes apart; see `coalesce`.

    >>> merge([ByteRange(50, 60), ByteRange(0, 10), ByteRange(5, 20), ByteRange(22, 30), ByteRange(9, 9)], gap=2)
    [ByteRange(start=0, stop=30), ByteRange(start=50, stop=60)]
    """
    bounds = np.array([(part.start, part.stop) for part in ranges], np.int64).reshape(-1, 2)
    return coalesce(bounds[:, 0], bounds[:, 1], gap).ranges


def cut(ranges: Sequence[ByteRange], spans: Sequence[ByteRange], bodies: Sequence[bytes]) -> list[bytes]:
    """Return the bytes of each of ``ranges``, given the ``bodies`` of sorted, disjoint ``spans``.

    Raises:
        LookupError: the spans do not cover a range.

    >>> cut([ByteRange(2, 4), ByteRange(0, 5), ByteRange(7, 7)], [ByteRange(0, 5)], [b"hello"])
    [b'll', b'hello', b'']
    """
    starts = [span.start for span in spans]
    parts = []
    for part in ranges:
        if part.start == part.stop:
            parts.append(b"")
            continue
        i = bisect_right(starts, part.start) - 1
        if i < 0 or part.stop > spans[i].stop:
            raise LookupError(f"bytes {part.start} to {part.stop} are missing")
        offset = part.start - spans[i].start
        whole = offset == 0 and part.stop == spans[i].stop
        parts.append(bodies[i] if whole else bodies[i][offset : offset + part.stop - part.start])
    return parts


def group(spans: Iterable[ByteRange], count: int, size: int) -> Iterator[list[ByteRange]]:
    """Yield ``spans`` in lists of at most ``count`` and, unless it is a single span, at most ``size`` bytes.

    >>> list(map(len, group([ByteRange(i, i + 1) for i in range(5)], count=2, size=100)))
    [2, 2, 1]
    """
    batch: list[ByteRange] = []
    total = 0
    for span in spans:
        length = span.stop - span.start
        if batch and (len(batch) == count or total + length > size):
            yield batch
            batch, total = [], 0
        batch.append(span)
        total += length
    if batch:
        yield batch


def past_end(part: ByteRange, size: int | None, url: str) -> RefusedError:
    """Return the error that every backend raises for a range that reaches past the end of an object."""
    length = "fewer" if size is None else f"{size}"
    return RefusedError(
        f"bytes {part.start} to {part.stop} were asked for and it has {length}",
        url=url,
        fix="the index that names them may belong to another version of the object",
    )
