"""Which segments are merged when, so that there are few of them and each entry is written again only a few times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shardtools.log.commit import SegmentPlace
from shardtools.log.log import new_id
from shardtools.log.place import Place
from shardtools.log.reading import Segment, merged
from shardtools.log.segment import SegmentBlock
from shardtools.log.segment_writer import stream_segment

MERGED_INLINE = 1 << 20
"""Segments of so many entries together are merged by the commit that follows them; larger ones stay apart."""


def merge_tail(
    place: Place,
    segments: Sequence[SegmentPlace],
    known: dict[tuple[str, ...], SegmentPlace],
    limit: int = MERGED_INLINE,
) -> list[SegmentPlace]:
    """Return segments of which the last ones, as long as they are of like size, are merged into one.

    So their sizes grow from the newest to the oldest, there are few of them, and each entry is written again a few
    times: a log-structured merge tree (O'Neil et al., Acta Informatica 1996). ``known`` are the merges that were made.
    """
    kept = list(segments)
    count, total = 1, kept[-1].count if kept else 0
    while count < len(kept) and kept[-count - 1].count <= 2 * total and kept[-count - 1].count + total <= limit:
        total += kept[-count - 1].count
        count += 1
    if count < 2:
        return kept
    some = kept[-count:]
    names = tuple(segment.name for segment in some)
    if names not in known:
        known[names] = merge_segments(place, some, oldest=count == len(kept))
    return [*kept[:-count], known[names]]


def merge_segments(place: Place, segments: Sequence[SegmentPlace], *, oldest: bool) -> SegmentPlace:
    """Merge neighbouring segments, given from the oldest to the newest, into a new one, block by block.

    If the ``oldest`` of all is among them, nothing lies below, so that what removes keys is left out.
    """
    parts = [Segment(place.root, segment) for segment in segments]
    removed = [] if oldest else [prefix for part in parts for prefix in part.index().removed]
    blocks = merged(parts, keep=False)
    return stream_segment(place, f"data/{new_id()}/merged", _present(blocks) if oldest else blocks, removed)


def _present(blocks: Iterator[SegmentBlock]) -> Iterator[SegmentBlock]:
    for block in blocks:
        yield block[block.rows["object"] > 0]
