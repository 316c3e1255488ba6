"""Segments as they are read: by their index, and then block by block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge as merged

import google_crc32c

from shardtools.errors import CorruptError, NotFoundError
from shardtools.log.commit import SegmentPlace
from shardtools.log.segment import Change, Entry, SegmentIndex, parse_block, parse_index
from shardtools.lru import LRU
from shardtools.storage import ByteRange, get_storage

WHOLE = 1 << 16
"""A segment up to this size is read in one piece."""

_INDEXES: LRU[str, SegmentIndex] = LRU(32 << 20, lambda index: 200 * (len(index.blocks) + len(index.objects) + 1))
_BLOCKS: LRU[tuple[str, int], dict[str, Change]] = LRU(64 << 20, lambda block: 300 * (len(block) + 1))


@dataclass(frozen=True)
class Segment:
    """A segment of the log at ``root``, a URL that ends with a slash."""

    root: str
    place: SegmentPlace

    @property
    def url(self) -> str:
        """The URL of its object."""
        return self.root + self.place.name

    def index(self) -> SegmentIndex:
        """Return its index, which is read once.

        Raises:
            CorruptError: it is damaged, or gone.
        """
        if (known := _INDEXES.get(self.url)) is not None:
            return known
        place = self.place
        start = 0 if place.size <= WHOLE else place.index
        [data] = self._read([ByteRange(start, place.size)])
        text = data[place.index - start :]
        if google_crc32c.value(text) != place.crc32c:
            raise CorruptError("the segment is damaged", url=self.url, fix="restore it from a copy")
        index = parse_index(text, self.url)
        if index.count != place.count:
            raise CorruptError("the segment is not the one of its commit", url=self.url, fix="restore it from a copy")
        if not start:
            for number, block in enumerate(index.blocks):
                part = data[block.offset : block.offset + block.size]
                _BLOCKS.put((self.url, number), parse_block(part, block, index, self.url))
        return _INDEXES.put(self.url, index)

    def blocks(self, numbers: Iterable[int]) -> dict[int, dict[str, Change]]:
        """Return some blocks by their numbers; those that are not kept in memory are read in one request."""
        index, found, missing = self.index(), {}, []
        for number in sorted(set(numbers)):
            if (kept := _BLOCKS.get((self.url, number))) is not None:
                found[number] = kept
            else:
                missing.append(number)
        if missing:
            places = [index.blocks[number] for number in missing]
            pieces = self._read([ByteRange(place.offset, place.offset + place.size) for place in places])
            for number, place, piece in zip(missing, places, pieces, strict=True):
                block = parse_block(piece, place, index, self.url)
                found[number] = _BLOCKS.put((self.url, number), block)
        return found

    def find(self, keys: Iterable[str]) -> dict[str, Change]:
        """Return the changes of those of ``keys`` that it has."""
        index = self.index()
        wanted: defaultdict[int, list[str]] = defaultdict(list)
        for key in keys:
            if (number := index.block_of(key)) is not None:
                wanted[number].append(key)
        blocks = self.blocks(wanted)
        return {key: blocks[number][key] for number, some in wanted.items() for key in some if key in blocks[number]}

    def scan(self, prefix: str = "") -> Iterator[tuple[str, Change]]:
        """Yield the changes of all keys that begin with ``prefix``, in their order."""
        index = self.index()
        first = index.block_of(prefix) or 0
        for number in range(first, len(index.blocks)):
            start = index.blocks[number].first
            if start > prefix and not start.startswith(prefix):
                return
            for key, change in self.blocks([number])[number].items():
                if key.startswith(prefix):
                    yield key, change

    def _read(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        try:
            return get_storage(self.url).read_ranges(self.url, ranges)
        except NotFoundError as error:
            fix = "restore it from a copy, or go back to an earlier commit"
            raise CorruptError("an object that a commit refers to is gone", url=self.url, fix=fix) from error


def find(segments: Sequence[Segment], keys: Iterable[str]) -> dict[str, Entry]:
    """Return where the bytes of keys lie; those that there are not are left out. ``segments``: the oldest first."""
    left = set(keys)
    found: dict[str, Entry] = {}
    for segment in reversed(segments):
        if not left:
            break
        changes = segment.find(left)
        found.update((key, change) for key, change in changes.items() if change is not None)
        left.difference_update(changes)
        if removed := segment.index().removed:
            left = {key for key in left if not key.startswith(removed)}
    return found


def scan(segments: Sequence[Segment], prefix: str = "") -> Iterator[tuple[str, Entry]]:
    """Yield all keys that begin with ``prefix``, in their order, and where their bytes lie."""
    hidden: list[tuple[str, ...]] = []  # what segments after each one have removed
    later: tuple[str, ...] = ()
    for segment in reversed(segments):
        hidden.append(later)
        later += segment.index().removed
    hidden.reverse()

    def aged(age: int, segment: Segment) -> Iterator[tuple[str, int, Change]]:
        return ((key, -age, change) for key, change in segment.scan(prefix))

    last = None
    for key, age, change in merged(*map(aged, range(len(segments)), segments), key=lambda item: item[:2]):
        if key == last:
            continue
        last = key
        if change is not None and not key.startswith(hidden[-age]):
            yield key, change


def entries(segment: Segment) -> Mapping[str, Change]:
    """Return all changes of a segment, which is read in one request."""
    blocks = segment.blocks(range(len(segment.index().blocks)))
    return {key: change for block in blocks.values() for key, change in block.items()}
