"""The tar shards of a version, in an order in which extracting them gives a Zarr directory.

live segments -> the shards that they name -> sorted by the commits that brought them
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from shardtools.errors import JobError
from shardtools.log.commit import SegmentPlace, Write
from shardtools.log.log import Snapshot
from shardtools.log.reading import Segment, merged


def list_shards(snapshot: Snapshot) -> list[str]:
    """Return the URLs of the shards of a snapshot; see `Hub.shards`.

    A shard that no write has brought was made by a compaction. It has what was there before all other shards.

    Raises:
        JobError: something in them was removed or moved later.
    """
    root = snapshot.log.place.root
    with snapshot.log.place.using():
        names = {
            block.objects[number - 1]
            for block in merged(snapshot.segments, keep=False)
            for number in np.unique(block.rows["object"]).tolist()
            if number
        }
        numbers = _numbers(snapshot, set(map(_id, names)))
    return [root + name for name in sorted(names, key=lambda name: (numbers[_id(name)], name))]


def _numbers(snapshot: Snapshot, ids: set[str]) -> dict[str, int]:
    """Return a number for the id of each object, which grows from commit to commit."""
    numbers: dict[str, int] = {}
    removed: list[str] = []
    history = snapshot.history()
    commit = next(history, None)
    while commit is not None and len(numbers) < len(ids):
        before = next(history, None)
        for write in reversed(commit.writes):
            if write.id in ids:
                _check_kept(snapshot, removed, _touched(snapshot, write))
                numbers[write.id] = -len(numbers)
            elif _is_upkeep(write):
                old = () if before is None else before.segments
                there = set(map(_id, _objects(snapshot.log.place.root, old)))
                for id in ids - there - numbers.keys():
                    keys = (
                        key
                        for prefix in removed
                        for key, _ in Snapshot(snapshot.log, snapshot.branch, commit).scan(prefix)
                    )
                    _check_kept(snapshot, removed, keys)
                    numbers[id] = -len(ids) - len(numbers)
            removed += write.removed
        commit = before
    return numbers


def _is_upkeep(write: Write) -> bool:
    return write.changes is None and not write.touched


def _touched(snapshot: Snapshot, write: Write) -> Iterable[str]:
    if write.touched is not None or write.changes is None:
        return write.touched or ()
    segment = Segment(snapshot.log.place.root, write.changes)
    return (key for block in segment.scan(keep=False) for key in block.names())


def _check_kept(snapshot: Snapshot, removed: Sequence[str], keys: Iterable[str]) -> None:
    """Raise if one of the keys of some shards was removed later: extracting them would bring it back."""
    if not removed:
        return
    for key in keys:
        if key.startswith(tuple(removed)):
            array = max((prefix for prefix in removed if key.startswith(prefix)), key=len).removesuffix("/")
            what = f"{array} was removed or moved, and its old shards have other data, too"
            raise JobError(what, url=snapshot.log.place.root, fix="hub.compact() writes shards without it")


def _objects(root: str, places: Iterable[SegmentPlace]) -> set[str]:
    return {name for place in places for name in Segment(root, place).index().objects}


def _id(name: str) -> str:
    return name.split("/")[1]
