"""Compaction: live chunks are copied into few shards, in the order of the grid, and take the place of the old ones.

    arrays -> coordinates of their chunks, sorted -> batches of chunks -> shards ``data/ID/chunks-0000.tar`` …
           -> segments, a run at a time -> one segment -> a commit that touches no key

Others may write meanwhile: what they have written since the copy began stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from shardtools.arrays.chunk_order import batches_by_size, in_grid_order
from shardtools.arrays.chunk_reader import read_entries
from shardtools.arrays.data_writer import DataWriter
from shardtools.arrays.metadata import ArrayMetadata
from shardtools.log.commit import SegmentPlace
from shardtools.log.committing import replace_segments
from shardtools.log.log import Snapshot, new_id, places_of
from shardtools.log.merging import merge_segments
from shardtools.log.place import Place
from shardtools.log.reading import Segment, find, merged
from shardtools.log.segment import Change, SegmentBlock
from shardtools.log.segment_writer import blocks_of, stream_segment, write_segment
from shardtools.log.started import Started
from shardtools.log.upkeep import settled

SHARD_SIZE = 1 << 30
"""Bytes after which the next shard is begun."""

_RUN = 1 << 18
"""Entries that are held in memory, and become a segment when there are more."""

_PREFIX = "chunks-"

Advance = Callable[[int, int], object]
"""Called with the chunks and bytes that were done since it was last called."""


@dataclass(frozen=True)
class CompactResult:
    """What a compaction has done: ``snapshot`` is the one after it, ``members`` are chunks and documents.

    Nothing was copied if it was compact already.
    """

    snapshot: Snapshot
    members: int
    nbytes: int
    shards: int


def compact(
    base: Snapshot,
    arrays: Iterable[tuple[str, ArrayMetadata]],
    *,
    shard_size: int = SHARD_SIZE,
    advance: Advance | None = None,
    author: str = "",
) -> CompactResult:
    """Copy what is live in a branch into few shards, and commit that; see `Hub.compact`.

    ``arrays`` are those of the snapshot. It takes memory for a batch of chunks, for a run of entries, and for the
    coordinates of the chunks of one array: up to 8 bytes of each for each axis.

    Raises:
        CorruptError: a chunk is gone, too short, or damaged. Nothing is changed.
        JobError: ``base`` is a tag or a numbered commit.
    """
    place, old = base.log.place, places_of(base)
    if _is_compact(base):
        return CompactResult(base, 0, 0, 0)
    id, started = new_id(), Started()
    with place.using(), DataWriter(place, id, _PREFIX, shard_size) as writer:
        runs = _Runs(place, id, writer)
        for keys in in_grid_order(base, arrays):
            for entries in batches_by_size(base.find(keys), keys):
                data = read_entries(place, entries)
                for key in entries:
                    runs.add(key, data[key])
                if advance is not None:
                    advance(len(data), sum(map(len, data.values())))
        writer.finish()
        new = runs.finish()

    def rewrite(snapshot: Snapshot) -> list[SegmentPlace]:
        there = places_of(snapshot)
        if there[: len(old)] == old:
            return [new, *there[len(old) :]]
        many = settled(there)
        moved = _moved(place, there[:many], old, new)
        return [stream_segment(place, f"data/{new_id()}/merged", moved), *there[many:]] if many else there

    with place.using():
        result = replace_segments(base, rewrite, message="compact", author=author, started=started)
    return CompactResult(result, runs.count, writer.nbytes, writer.shards)


def _is_compact(snapshot: Snapshot) -> bool:
    """Return whether all of a snapshot is what one compaction has made."""
    segments = snapshot.segments
    if len(segments) != 1:
        return not segments
    objects = segments[0].index().objects
    ids = {name.split("/")[1] for name in objects}
    return len(ids) <= 1 and all(name.rpartition("/")[2].startswith(_PREFIX) for name in objects)


def _moved(
    place: Place, there: Sequence[SegmentPlace], old: Sequence[SegmentPlace], new: SegmentPlace
) -> Iterator[SegmentBlock]:
    """Yield the entries of segments, of which those that were copied have the place of the copy."""
    before, after = [Segment(place.root, segment) for segment in old], Segment(place.root, new)

    def changes() -> Iterator[tuple[str, Change]]:
        for block in merged([Segment(place.root, segment) for segment in there], keep=False):
            live = dict(block.entries())
            was, copied = find(before, live), after.find(live)
            for key, entry in live.items():
                yield key, copied[key] if was.get(key) == entry else entry

    return blocks_of(changes())


class _Runs:
    """Chunks into shards, and where they lie into segments of at most `_RUN` entries."""

    def __init__(self, place: Place, id: str, writer: DataWriter):
        self._place, self._id, self._writer = place, id, writer
        self._changes: dict[str, Change] = {}
        self._runs: list[SegmentPlace] = []
        self.count = 0

    def add(self, key: str, data: bytes) -> None:
        self._changes[key] = self._writer.add(key, data)
        self.count += 1
        if len(self._changes) >= _RUN:
            self._end_run()

    def _end_run(self) -> None:
        name = f"run-{len(self._runs):04d}"
        self._runs.append(write_segment(self._place, self._id, self._changes, name=name))
        self._changes = {}

    def finish(self) -> SegmentPlace:
        """Return the segment of all entries."""
        if self._changes or not self._runs:
            self._end_run()
        if len(self._runs) == 1:
            return self._runs[0]
        whole = merge_segments(self._place, self._runs, oldest=True)
        for run in self._runs:
            self._place.delete(run.name)
        return whole
