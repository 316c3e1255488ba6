"""A segment: a sorted table of keys, and where the bytes of each lie. Written once, read by parts.

    entries -> blocks of sorted entries, packed -> index of the blocks -> one object

The blocks hold `BLOCK` entries each. A reader needs the index, which is small, and then one block for each key. (It is
the sorted-string table of Bigtable: Chang et al., OSDI 2006.)
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import ge
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import zstandard
from numpy.lib.stride_tricks import as_strided

from shardtools.errors import CorruptError
from shardtools.json_text import parse_json
from shardtools.log.names import MAX_KEY, check_object
from shardtools.types import Ints

BLOCK = 2048
"""Entries in a block."""

HEAD = struct.Struct("<II")
ROW = np.dtype([("length", "<u4"), ("object", "<u4"), ("offset", "<u8"), ("size", "<u8"), ("crc32c", "<u4")])

Rows = np.ndarray[Any, np.dtype[np.void]]
"""An array of `ROW`: what a segment says of its keys."""

Keys = np.ndarray[Any, np.dtype[np.bytes_]]
"""Keys in UTF-8, as a column."""

Mask = np.ndarray[Any, np.dtype[np.bool_]]

_MAX_UNPACKED = 64 << 20
_MAX_PLACE = 1 << 62
_MAX_ENTRIES = 1 << 16


class Entry(NamedTuple):
    """Where the bytes of a key lie: ``size`` bytes at ``offset`` of the object ``name``, with this CRC-32C.

    (A tuple is made four times as fast as a dataclass, and there are many.)
    """

    name: str
    offset: int
    size: int
    crc32c: int


Change = Entry | None
"""What a write makes of a key: None removes it."""


@dataclass(frozen=True, eq=False)
class SegmentBlock:
    """Entries as columns: ``keys`` in UTF-8, sorted, and for each a row of ``rows``.

    The object of a row is a number: 1 is the first of ``objects``, and 0 says that the key is removed.
    """

    keys: Keys
    rows: Rows
    objects: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, some: slice | Mask) -> SegmentBlock:
        return SegmentBlock(self.keys[some], self.rows[some], self.objects)

    def find(self, keys: Keys) -> tuple[Mask, Iterator[Change]]:
        """Return which of ``keys`` it has, and their changes."""
        places = np.searchsorted(self.keys, keys)
        there = self.keys[np.minimum(places, len(self) - 1)] == keys
        return there, self._changes(self.rows[places[there]])

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Yield the keys, without those that are removed, and where their bytes lie."""
        for key, change in zip(self.keys.tolist(), self._changes(self.rows), strict=True):
            if change is not None:
                yield key.decode(), change

    def names(self) -> list[str]:
        """Return the keys as texts."""
        return [key.decode() for key in self.keys.tolist()]

    def of_prefix(self, prefix: str) -> SegmentBlock:
        """Return the entries whose keys begin with ``prefix``."""
        return self[np.char.startswith(self.keys, encode_key(prefix))] if prefix else self

    def without(self, prefixes: Sequence[str]) -> SegmentBlock:
        """Return the entries whose keys begin with none of ``prefixes``."""
        kept = np.ones(len(self), bool)
        for prefix in prefixes:
            kept &= ~np.char.startswith(self.keys, encode_key(prefix))
        return self[kept]

    def split(self, last: bytes) -> tuple[SegmentBlock, SegmentBlock]:
        """Return the entries up to the key ``last``, and those after it."""
        place = int(np.searchsorted(self.keys, last, "right"))
        return self[:place], self[place:]

    @property
    def nbytes(self) -> int:
        """The memory that it takes, in bytes, without the names of its objects."""
        return self.rows.nbytes + self.keys.nbytes

    def _changes(self, rows: Rows) -> Iterator[Change]:
        objects = self.objects
        for _, number, offset, size, crc32c in rows.tolist():
            yield Entry(objects[number - 1], offset, size, crc32c) if number else None


def encode_key(key: str) -> bytes:
    """Return a key in UTF-8; what cannot be a key gives bytes that no key has."""
    return key.encode(errors="surrogatepass").replace(b"\0", b"\xff")


def encode_keys(keys: Iterable[str]) -> Keys:
    """Return keys as a column."""
    return np.array([key.encode(errors="surrogatepass") for key in keys], np.bytes_)


@dataclass(frozen=True)
class BlockPlace:
    """Where a block lies in its segment, and the first of its keys."""

    first: str
    offset: int
    size: int
    crc32c: int


@dataclass(frozen=True)
class SegmentIndex:
    """What a segment says of itself: its blocks, the objects that its entries name, and the prefixes it removes.

    A removed prefix hides the keys that begin with it in all segments before this one.
    """

    count: int
    blocks: tuple[BlockPlace, ...]
    objects: tuple[str, ...]
    removed: tuple[str, ...]

    def blocks_with(self, keys: Keys) -> Ints:
        """Return for each key the number of the block that would have it, -1 if none would."""
        return np.searchsorted(self._firsts, keys, "right") - 1

    def blocks_of(self, prefix: str) -> range:
        """Return the numbers of the blocks that may have keys that begin with ``prefix``."""
        start = encode_key(prefix)
        inside = np.char.startswith(self._firsts, start) | (self._firsts <= start)
        return range(max(0, int(self.blocks_with(encode_keys([prefix]))[0])), int(inside.sum()))

    @property
    def nbytes(self) -> int:
        """The memory that it takes, in bytes, about."""
        names = (*(block.first for block in self.blocks), *self.objects, *self.removed)
        return sum(map(sys.getsizeof, names)) + 8 * len(names) + 200 * len(self.blocks) + self._firsts.nbytes

    @cached_property
    def _firsts(self) -> Keys:
        return encode_keys(block.first for block in self.blocks)


def parse_index(data: bytes, url: str) -> SegmentIndex:
    """Return the index of a segment.

    Raises:
        CorruptError: it is not one.
    """
    found = parse_json(unpack(data, url), url)
    try:
        blocks = tuple(BlockPlace(str(first), int(a), int(b), int(c)) for first, a, b, c in found["blocks"])
        objects, removed = tuple(map(check_object, found["objects"])), tuple(map(str, found["removed"]))
        index = SegmentIndex(int(found["count"]), blocks, objects, removed)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(url) from error
    firsts = [block.first for block in blocks]
    if any(map(ge, firsts, firsts[1:])) or any(block.offset < 0 or block.size <= 0 for block in blocks):
        raise damaged(url)
    return index


def parse_block(data: bytes, number: int, index: SegmentIndex, url: str) -> SegmentBlock:
    """Return block ``number`` of a segment.

    Raises:
        CorruptError: it is not what was written.
    """
    place = index.blocks[number]
    if len(data) != place.size or google_crc32c.value(data) != place.crc32c:
        raise damaged(url)
    plain = unpack(data, url)
    try:
        count, names_size = HEAD.unpack_from(plain)
        rows = np.frombuffer(plain, ROW, count, HEAD.size).copy()
        keys = _cut(plain[HEAD.size + rows.nbytes :], rows["length"], names_size)
    except (struct.error, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise damaged(url) from error
    if keys[0] != encode_key(place.first) or not ascending(keys):
        raise damaged(url)
    if number + 1 < len(index.blocks) and keys[-1] >= encode_key(index.blocks[number + 1].first):
        raise damaged(url)
    if rows["object"].max() > len(index.objects) or max(rows["offset"].max(), rows["size"].max()) > _MAX_PLACE:
        raise damaged(url)
    return SegmentBlock(keys, rows, index.objects)


def ascending(keys: Keys) -> bool:
    """Return whether each key is larger than the one before."""
    return bool((keys[:-1] < keys[1:]).all())


def _cut(names: bytes, lengths: Ints, size: int) -> Keys:
    """Return the texts that lie end to end in ``names``, of ``lengths`` in bytes.

    Raises:
        ValueError: they are not UTF-8, or not of ``size`` bytes together.
    """
    stops = np.cumsum(lengths, dtype=np.int64)
    names.decode()
    if not 0 < len(stops) <= _MAX_ENTRIES or stops[-1] != size or size != len(names) or b"\0" in names:
        raise ValueError("the keys are not as long as the block says")
    starts, width = stops - lengths, int(lengths.max())
    if not 0 < width <= MAX_KEY or lengths.min() == 0:
        raise ValueError("a key is empty, or too long")
    padded = np.frombuffer(names + bytes(width), np.uint8)
    if ((padded[starts] & 0xC0) == 0x80).any():
        raise ValueError("a key begins within a character")
    cut = as_strided(padded, (len(names) + 1, width), (1, 1))[starts]
    cut[np.arange(width) >= lengths[:, None]] = 0
    keys: Keys = cut.reshape(-1).view(f"S{width}")
    return keys


def unpack(data: bytes, url: str) -> bytes:
    """Return the bytes of which ``data`` are the packed form.

    Raises:
        CorruptError: it is not packed, or too large.
    """
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= _MAX_UNPACKED:
            raise damaged(url)
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_UNPACKED)
    except zstandard.ZstdError as error:
        raise damaged(url) from error


def damaged(url: str) -> CorruptError:
    """Return the error that a segment is not what was written."""
    return CorruptError(
        "the segment is damaged", url=url, fix="restore it from a copy, or go back to an earlier commit"
    )
