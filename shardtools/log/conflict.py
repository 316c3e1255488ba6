"""Whether two writes collide: whether one depends on what the other has changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shardtools.log.commit import Write
from shardtools.log.reading import Segment


@dataclass(frozen=True)
class Footprint:
    """What a write has changed, and what it depends on: keys, and prefixes that it has removed whole."""

    keys: frozenset[str]
    removed: tuple[str, ...]
    reads: frozenset[str]


NOTHING = Footprint(frozenset(), (), frozenset())


def footprint(write: Write) -> Footprint | None:
    """Return what a write has touched, None if its keys are too many to be listed in the commit."""
    if write.touched is None:
        return None
    return Footprint(frozenset(write.touched), write.removed, frozenset(write.reads))


def collisions(mine: Footprint, theirs: Write, root: str) -> list[str]:
    """Return what ``mine`` collides with in a write that was committed before it and after its base, sorted.

    It collides in keys that both have changed, or that ``mine`` depends on and they have changed or removed.
    """
    depends = mine.keys | mine.reads
    found = {key for key in depends if key.startswith(theirs.removed)} if theirs.removed else set()
    found.update(_common_prefixes(mine.removed, theirs.removed))
    if theirs.touched is not None:
        found.update(depends.intersection(theirs.touched))
        if mine.removed:
            found.update(key for key in theirs.touched if key.startswith(mine.removed))
    elif theirs.changes is not None:
        segment = Segment(root, theirs.changes)
        found.update(segment.find(depends))
        found.update(key for prefix in mine.removed for block in segment.scan(prefix) for key in block.names())
    return sorted(found)


def _common_prefixes(mine: Iterable[str], theirs: Iterable[str]) -> set[str]:
    return {max(a, b, key=len) for a in mine for b in theirs if a.startswith(b) or b.startswith(a)}
