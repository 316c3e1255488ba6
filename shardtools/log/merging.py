"""Which segments are merged when, so that there are few of them and each entry is written again only a few times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shardtools.log.commit import SegmentPlace
from shardtools.log.log import new_id
from shardtools.log.place import Place
from shardtools.log.reading import MemorySegment, Part, Segment, merged
from shardtools.log.segment import SegmentBlock
from shardtools.log.segment_writer import stream_segment

MERGED_INLINE = 1 << 20
"""Segments of so many entries together are merged by the commit that follows them; larger ones stay apart."""


@dataclass(frozen=True)
class Fresh:
    """The changes of some writes that are about to be committed: ``ids`` are those of the writes.

    ``place`` is the segment that has just these changes, if it was written.
    """

    ids: tuple[str, ...]
    changes: MemorySegment
    place: SegmentPlace | None


def merge_tail(
    place: Place,
    segments: Sequence[SegmentPlace],
    known: dict[tuple[str, ...], SegmentPlace],
    fresh: Fresh | None = None,
    limit: int = MERGED_INLINE,
) -> list[SegmentPlace]:
    """Return segments, and after them ``fresh``; the last ones, as long as they are of like size, become one.

    So their sizes grow from the newest to the oldest, there are few of them, and each entry is written again a few
    times: a log-structured merge tree (O'Neil et al., Acta Informatica 1996). ``known`` are the merges that were made.
    """
    counts = [segment.count for segment in segments] + ([] if fresh is None else [fresh.changes.count])
    many = _alike(counts, limit)
    if many < 2 and (fresh is None or fresh.place is not None):
        return [*segments, *([] if fresh is None or fresh.place is None else [fresh.place])]
    kept, some = segments[: len(counts) - many], segments[len(counts) - many :]
    names = (*(segment.name for segment in some), *(() if fresh is None else fresh.ids))
    if names not in known:
        parts: list[Part] = [Segment(place.root, segment) for segment in some]
        known[names] = _merge(place, parts if fresh is None else [*parts, fresh.changes], oldest=not kept)
    return [*kept, known[names]]


def _alike(counts: Sequence[int], limit: int) -> int:
    """Return how many segments at the end of a list are of like size, and have no more than ``limit`` entries."""
    if not counts:
        return 0
    number, total = 1, counts[-1]
    while number < len(counts) and counts[-number - 1] <= 2 * total and counts[-number - 1] + total <= limit:
        total += counts[-number - 1]
        number += 1
    return number


def merge_segments(place: Place, segments: Sequence[SegmentPlace], *, oldest: bool) -> SegmentPlace:
    """Merge neighbouring segments, given from the oldest to the newest, into a new one, block by block.

    If the ``oldest`` of all is among them, nothing lies below, so that what removes keys is left out.
    """
    return _merge(place, [Segment(place.root, segment) for segment in segments], oldest=oldest)


def _merge(place: Place, parts: Sequence[Part], *, oldest: bool) -> SegmentPlace:
    removed = [] if oldest else [prefix for part in parts for prefix in part.removed]
    blocks = merged(parts, keep=False)
    return stream_segment(place, f"data/{new_id()}/merged", _present(blocks) if oldest else blocks, removed)


def _present(blocks: Iterator[SegmentBlock]) -> Iterator[SegmentBlock]:
    for block in blocks:
        yield block[block.rows["object"] > 0]
