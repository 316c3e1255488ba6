"""What two versions differ in: by the segments that only one of them has, so that nothing else is looked at.

segments of one version only -> their keys -> looked up in both -> documents and chunks that are not the same
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge as merge_sorted
from itertools import groupby

from shardtools.arrays.chunk_order import KEYS, batched
from shardtools.arrays.chunk_reader import read_entries
from shardtools.arrays.metadata import parse_node
from shardtools.arrays.names import DOCUMENT, document_key, path_of_document
from shardtools.log.log import Snapshot, places_of
from shardtools.log.reading import Segment, merged
from shardtools.log.segment import Entry


@dataclass(frozen=True)
class Diff:
    """What two versions differ in. All names are sorted.

    ``added`` and ``removed`` are arrays that only the later or the earlier one has. ``metadata`` are arrays and groups
    whose shape, attributes or the like are not the same. ``chunks`` is the number of chunks that were written or
    removed, for each array that has such. (Chunks are the same if their size and their CRC-32C are.)
    """

    before: str
    after: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    metadata: tuple[str, ...]
    chunks: Mapping[str, int]

    def __bool__(self) -> bool:
        """Return whether there is a difference."""
        return bool(self.added or self.removed or self.metadata or self.chunks)


def diff(before: Snapshot, after: Snapshot, names: tuple[str, str]) -> Diff:
    """Return what two snapshots of one log differ in; see `Hub.diff`."""
    nodes = _Nodes(before, after)
    chunks: Counter[str] = Counter()
    documents: tuple[dict[str, Entry], dict[str, Entry]] = ({}, {})
    for key, old, new in _differences(before, after):
        if key == DOCUMENT or key.startswith(f"{DOCUMENT}/"):
            for entry, some in zip((old, new), documents, strict=True):
                if entry is not None:
                    some[path_of_document(key)] = entry
        else:
            chunks[nodes.of(key)] += 1
    old_nodes, new_nodes = (_arrays(version, some) for version, some in zip((before, after), documents, strict=True))
    both = old_nodes.keys() & new_nodes.keys()
    return Diff(
        *names,
        added=tuple(sorted(path for path, is_array in new_nodes.items() if is_array and path not in both)),
        removed=tuple(sorted(path for path, is_array in old_nodes.items() if is_array and path not in both)),
        metadata=tuple(sorted(both)),
        chunks=dict(sorted(chunks.items())),
    )


def _arrays(snapshot: Snapshot, documents: Mapping[str, Entry]) -> dict[str, bool]:
    """Return for each node whether it is an array."""
    place = snapshot.log.place
    data = read_entries(place, {document_key(path): entry for path, entry in documents.items()})
    return {path: parse_node(data[document_key(path)], place.root, path)["node_type"] == "array" for path in documents}


class _Nodes:
    """Which array a chunk belongs to: the deepest node that it is in, as arrays have no others in them."""

    def __init__(self, *snapshots: Snapshot):
        self._snapshots = snapshots
        self._known: set[str] = set()

    def of(self, key: str) -> str:
        """Return the path of the array of a chunk; where there is none, that of the chunk's folder."""
        parts = key.split("/")[:-1]
        paths = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
        for path in paths:
            if path in self._known:
                return path
        keys = {document_key(path): path for path in paths}
        there = {found for snapshot in self._snapshots for found in snapshot.find(keys)}
        path = max((keys[found] for found in there), key=len, default=paths[0] if paths else key)
        self._known.add(path)
        return path


def _differences(before: Snapshot, after: Snapshot) -> Iterator[tuple[str, Entry | None, Entry | None]]:
    """Yield each key whose bytes differ, and where they lie in both versions."""
    for keys in _candidates(before, after):
        old, new = before.find(keys), after.find(keys)
        for key in keys:
            one, other = old.get(key), new.get(key)
            if one != other and (one is None or other is None or one[2:] != other[2:]):
                yield key, one, other


def _candidates(before: Snapshot, after: Snapshot) -> Iterator[Sequence[str]]:
    """Yield the keys that may differ, each of them once."""
    place = before.log.place
    common = {segment.name for segment in places_of(before)} & {segment.name for segment in places_of(after)}
    places = [place for version in (before, after) for place in places_of(version) if place.name not in common]
    segments = [Segment(place.root, segment) for segment in places]
    with place.using():
        prefixes = _outermost(prefix for segment in segments for prefix in segment.index().removed)
        for segment_keys in _keys(segments):
            yield [key for key in segment_keys if not key.startswith(prefixes)] if prefixes else segment_keys
    for prefix in prefixes:  # what was removed is in segments that both may have
        both = merge_sorted((key for key, _ in before.scan(prefix)), (key for key, _ in after.scan(prefix)))
        yield from batched((key for key, _ in groupby(both)), KEYS)


def _keys(segments: Sequence[Segment]) -> Iterator[list[str]]:
    if segments:
        for block in merged(segments, keep=False):
            yield block.names()


def _outermost(prefixes: Iterator[str]) -> tuple[str, ...]:
    """Return prefixes without those that begin with another one."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)
