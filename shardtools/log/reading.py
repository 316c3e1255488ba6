"""Segments as they are read: by their index and then block by block, and several as one, by merging their blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress

import google_crc32c
import numpy as np

from shardtools.errors import CorruptError, NotFoundError
from shardtools.log.commit import SegmentPlace
from shardtools.log.segment import (
    BLOCK,
    ROW,
    Change,
    Entry,
    SegmentBlock,
    SegmentIndex,
    encode_keys,
    parse_block,
    parse_index,
)
from shardtools.lru import LRU
from shardtools.storage import ByteRange, get_storage

WHOLE = 1 << 16
"""A segment up to this size is read in one piece."""

_TOGETHER = 16
"""So many blocks are read in one request by those who need all of them."""

_SMALL = 4 * BLOCK
"""Neighbouring segments of so many entries together are merged at once."""

_INDEXES: LRU[str, SegmentIndex] = LRU(32 << 20, lambda index: index.nbytes)
_BLOCKS: LRU[tuple[str, int], SegmentBlock] = LRU(64 << 20, lambda block: block.nbytes)


@dataclass(frozen=True)
class Segment:
    """A segment of the log at ``root``, a URL that ends with a slash."""

    root: str
    place: SegmentPlace

    @property
    def url(self) -> str:
        """The URL of its object."""
        return self.root + self.place.name

    @property
    def count(self) -> int:
        """The number of its entries."""
        return self.place.count

    @property
    def objects(self) -> tuple[str, ...]:
        """The names of the objects that its entries refer to."""
        return self.index().objects

    @property
    def removed(self) -> tuple[str, ...]:
        """The prefixes that it removes."""
        return self.index().removed

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
                _BLOCKS.put((self.url, number), parse_block(part, number, index, self.url))
        return _INDEXES.put(self.url, index)

    def blocks(self, numbers: Iterable[int], *, keep: bool = True) -> dict[int, SegmentBlock]:
        """Return some blocks by their numbers; those that are not in memory are read in one request.

        Those that were read are to be kept in memory, with ``keep``.
        """
        index, found, missing = self.index(), {}, []
        for number in sorted(set(numbers)):
            if (kept := _BLOCKS.get((self.url, number))) is not None:
                found[number] = kept
            else:
                missing.append(number)
        if missing:
            places = [index.blocks[number] for number in missing]
            pieces = self._read([ByteRange(place.offset, place.offset + place.size) for place in places])
            for number, piece in zip(missing, pieces, strict=True):
                block = parse_block(piece, number, index, self.url)
                found[number] = _BLOCKS.put((self.url, number), block) if keep else block
        return found

    def find(self, keys: Iterable[str]) -> dict[str, Change]:
        """Return the changes of those of ``keys`` that it has."""
        names = sorted(key for key in keys if "\0" not in key)
        if not self.index().blocks or not names:
            return {}
        wanted = encode_keys(names)
        numbers = self.index().blocks_with(wanted)
        blocks = self.blocks(number for number in np.unique(numbers).tolist() if number >= 0)
        found: dict[str, Change] = {}
        for number, block in blocks.items():
            start, stop = np.searchsorted(numbers, [number, number + 1]).tolist()
            there, changes = block.find(wanted[start:stop])
            found.update(zip(compress(names[start:stop], there.tolist()), changes, strict=True))
        return found

    def scan(self, prefix: str = "", *, keep: bool = True) -> Iterator[SegmentBlock]:
        """Yield the entries whose keys begin with ``prefix``, in blocks. The more are used, the more are read ahead."""
        numbers, together = self.index().blocks_of(prefix), 1
        while numbers:
            some, numbers = numbers[:together], numbers[together:]
            for block in self.blocks(some, keep=keep).values():
                if part := block.of_prefix(prefix):
                    yield part
            together = min(2 * together, _TOGETHER)

    def _read(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        try:
            return get_storage(self.url).read_ranges(self.url, ranges)
        except NotFoundError as error:
            fix = "restore it from a copy, or go back to an earlier commit"
            raise CorruptError("an object that a commit refers to is gone", url=self.url, fix=fix) from error


@dataclass(frozen=True, eq=False)
class MemorySegment:
    """The entries and removed prefixes of a segment that need not be written."""

    block: SegmentBlock
    removed: tuple[str, ...]

    @property
    def count(self) -> int:
        """The number of its entries."""
        return len(self.block)

    @property
    def objects(self) -> tuple[str, ...]:
        """The names of the objects that its entries refer to."""
        return self.block.objects

    def scan(self, prefix: str = "", *, keep: bool = True) -> Iterator[SegmentBlock]:
        """Yield the entries whose keys begin with ``prefix``, as one block, which is in memory anyway."""
        if part := self.block.of_prefix(prefix):
            yield part


Part = Segment | MemorySegment


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


def merged(parts: Sequence[Part], prefix: str = "", *, keep: bool = True) -> Iterator[SegmentBlock]:
    """Yield the entries of neighbouring segments as if they were one, whose keys begin with ``prefix``.

    ``parts``: the oldest first. It takes the memory of some blocks of each large one, and of all small ones.
    """
    if len(parts) == 1:
        yield from parts[0].scan(prefix, keep=keep)
        return
    objects = tuple(name for part in parts for name in part.objects)
    before = list(accumulate((len(part.objects) for part in parts), initial=0))
    hidden = [*accumulate((part.removed for part in reversed(parts)), initial=())][-2::-1]

    def stream(number: int) -> Iterator[SegmentBlock]:
        for block in parts[number].scan(prefix, keep=keep):
            if kept := block.without(hidden[number]):
                rows = kept.rows.copy()
                rows["object"][rows["object"] > 0] += before[number]
                yield SegmentBlock(kept.keys, rows, objects)

    def joined(numbers: range) -> Iterator[SegmentBlock]:
        if blocks := [block for number in reversed(numbers) for block in stream(number)]:
            yield _newest(blocks, objects)

    runs = [_Run(joined(group) if len(group) > 1 else stream(group[0])) for group in _small_together(parts)]
    while blocks := [run.block for run in runs if run.fill()]:
        last = min(block.keys[-1] for block in blocks)
        yield _newest([run.take(last) for run in reversed(runs) if run.block], objects)


def _small_together(parts: Sequence[Part]) -> list[range]:
    """Return the numbers of neighbouring parts in groups: small ones together, as many take long one by one."""
    groups: list[range] = []
    total = 0
    for number, part in enumerate(parts):
        total += part.count
        if groups and total <= _SMALL:
            groups[-1] = range(groups[-1].start, number + 1)
        else:
            groups.append(range(number, number + 1))
            total = part.count
    return groups


_NONE = SegmentBlock(encode_keys([]), np.empty(0, ROW), ())


class _Run:
    """The entries of one of the streams that are merged."""

    def __init__(self, blocks: Iterator[SegmentBlock]):
        self._blocks = blocks
        self.block = _NONE

    def fill(self) -> bool:
        """Go on to the next block if all of this one was taken; return whether there are entries."""
        if not self.block:
            self.block = next(self._blocks, _NONE)
        return bool(self.block)

    def take(self, last: bytes) -> SegmentBlock:
        """Take the entries up to the key ``last``."""
        taken, self.block = self.block.split(last)
        return taken


def _newest(parts: Sequence[SegmentBlock], objects: tuple[str, ...]) -> SegmentBlock:
    """Return the entries of ``parts``, the newest first, as one block, in which each key is once."""
    keys = np.concatenate([part.keys for part in parts])
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(keys, kind="stable")  # of equal keys the newest comes first
    keys = keys[order]
    first = np.concatenate(([True], keys[1:] != keys[:-1]))
    return SegmentBlock(keys[first], rows[order[first]], objects)
