"""What keeps a log fast: its segments, which others go on adding to meanwhile, become one."""

from __future__ import annotations

from shardtools.log.commit import SegmentPlace
from shardtools.log.committing import replace_segments
from shardtools.log.log import Snapshot, places_of
from shardtools.log.merging import merge_segments
from shardtools.log.started import Started

_LEFT = 16


def compact_segments(base: Snapshot, *, message: str = "compact", author: str = "") -> Snapshot:
    """Merge all live segments of a branch into one, and return the snapshot after that; its keys are the same.

    It takes the memory of some blocks of each. Others may write meanwhile; what they add is not merged.

    Raises:
        JobError: ``base`` is a tag or a numbered commit.
    """
    tries, started = 0, Started()

    def rewrite(snapshot: Snapshot) -> list[SegmentPlace]:
        nonlocal tries
        tries += 1
        places = places_of(snapshot)
        many = len(places) if tries == 1 else settled(places)
        if many < 2:
            return places
        return [merge_segments(snapshot.log.place, places[:many], oldest=True), *places[many:]]

    return replace_segments(base, rewrite, message=message, author=author, started=started)


def settled(places: list[SegmentPlace]) -> int:
    """Return how many segments other writers will hardly merge soon: all but the newest, which are small."""
    total, left = sum(place.count for place in places), 0
    for number in range(len(places), 0, -1):
        left += places[number - 1].count
        if left * _LEFT > total:
            return number
    return 0
