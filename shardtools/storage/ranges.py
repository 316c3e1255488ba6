"""Many byte ranges of one object: joined into few spans before a request, and cut out of them after it. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from shardtools.errors import RefusedError
from shardtools.storage import ByteRange


def merge(ranges: Iterable[ByteRange], gap: int = 0) -> list[ByteRange]:
    """Return sorted, disjoint spans that cover ``ranges``, joining those at most ``gap`` bytes apart.

    Empty ranges are left out.

    >>> merge([ByteRange(50, 60), ByteRange(0, 10), ByteRange(5, 20), ByteRange(22, 30), ByteRange(9, 9)], gap=2)
    [ByteRange(start=0, stop=30), ByteRange(start=50, stop=60)]
    """
    bounds = sorted((part.start, part.stop) for part in ranges if part.start < part.stop)
    spans: list[ByteRange] = []
    if not bounds:
        return spans
    start, stop = bounds[0]
    for next_start, next_stop in bounds:
        if next_start > stop + gap:
            spans.append(ByteRange(start, stop))
            start = next_start
        stop = max(stop, next_stop)
    spans.append(ByteRange(start, stop))
    return spans


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
