"""A segment: a sorted table of keys, and where the bytes of each lie. Written once, read by parts.

    entries -> blocks of sorted entries, packed -> index of the blocks -> one object

The blocks hold `BLOCK` entries each. A reader needs the index, which is small, and then one block for each key. (It is
the sorted-string table of Bigtable: Chang et al., OSDI 2006.)
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import google_crc32c
import zstandard

from shardtools.errors import CorruptError
from shardtools.json_text import parse_json
from shardtools.log.names import check_object

BLOCK = 2048
"""Entries in a block."""

_HEAD = struct.Struct("<II")
_ENTRY = struct.Struct("<IIQQI")
_MAX_UNPACKED = 64 << 20


@dataclass(frozen=True)
class Entry:
    """Where the bytes of a key lie: ``size`` bytes at ``offset`` of the object ``name``, with this CRC-32C."""

    name: str
    offset: int
    size: int
    crc32c: int


Change = Entry | None
"""What a write makes of a key: None removes it."""


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

    def block_of(self, key: str) -> int | None:
        """Return the number of the block that would have a key, None if none would."""
        place = bisect_right(self.blocks, key, key=lambda block: block.first)
        return place - 1 if place else None


def dump_segment(changes: Mapping[str, Change], removed: Iterable[str] = ()) -> tuple[bytes, int]:
    """Return the bytes of a segment, and where in them its index begins.

    >>> data, index = dump_segment({"a/c/0": Entry(f"data/{32 * '0'}/a.tar", 512, 100, 7), "b": None})
    >>> parse_index(data[index:], "x").count
    2
    """
    keys = sorted(changes)
    objects = sorted({change.name for change in changes.values() if change is not None})
    numbers = {name: number for number, name in enumerate(objects, 1)}
    pieces: list[bytes] = []
    blocks: list[list[object]] = []
    offset = 0
    for start in range(0, len(keys), BLOCK):
        some = keys[start : start + BLOCK]
        packed = zstandard.compress(_dump_block(some, changes, numbers), 3)
        blocks.append([some[0], offset, len(packed), google_crc32c.value(packed)])
        pieces.append(packed)
        offset += len(packed)
    index = {"count": len(keys), "blocks": blocks, "objects": objects, "removed": sorted(set(removed))}
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode()
    pieces.append(zstandard.compress(text, 3))
    return b"".join(pieces), offset


def _dump_block(keys: Sequence[str], changes: Mapping[str, Change], numbers: Mapping[str, int]) -> bytes:
    names = [key.encode() for key in keys]
    rows = []
    for key, name in zip(keys, names, strict=True):
        change = changes[key]
        if change is None:
            rows.append(_ENTRY.pack(len(name), 0, 0, 0, 0))
        else:
            rows.append(_ENTRY.pack(len(name), numbers[change.name], change.offset, change.size, change.crc32c))
    return b"".join((_HEAD.pack(len(keys), sum(map(len, names))), *rows, *names))


def parse_index(data: bytes, url: str) -> SegmentIndex:
    """Return the index of a segment.

    Raises:
        CorruptError: it is not one.
    """
    found = parse_json(_unpack(data, url), url)
    try:
        blocks = tuple(BlockPlace(str(first), int(a), int(b), int(c)) for first, a, b, c in found["blocks"])
        objects, removed = tuple(map(check_object, found["objects"])), tuple(map(str, found["removed"]))
        index = SegmentIndex(int(found["count"]), blocks, objects, removed)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(url) from error
    firsts = [block.first for block in blocks]
    if firsts != sorted(set(firsts)) or any(block.offset < 0 or block.size <= 0 for block in blocks):
        raise _damaged(url)
    return index


def parse_block(data: bytes, place: BlockPlace, index: SegmentIndex, url: str) -> dict[str, Change]:
    """Return the entries of a block, sorted by their keys.

    Raises:
        CorruptError: it is not what was written.
    """
    if len(data) != place.size or google_crc32c.value(data) != place.crc32c:
        raise _damaged(url)
    plain = _unpack(data, url)
    try:
        count, names_size = _HEAD.unpack_from(plain)
        names_at = _HEAD.size + count * _ENTRY.size
        if names_at + names_size != len(plain):
            raise _damaged(url)
        entries: dict[str, Change] = {}
        at = names_at
        for length, number, offset, size, crc32c in _ENTRY.iter_unpack(plain[_HEAD.size : names_at]):
            key = plain[at : at + length].decode()
            at += length
            entries[key] = Entry(index.objects[number - 1], offset, size, crc32c) if number else None
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise _damaged(url) from error
    if at != len(plain) or len(entries) != count or list(entries) != sorted(entries) or place.first not in entries:
        raise _damaged(url)
    return entries


def _unpack(data: bytes, url: str) -> bytes:
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= _MAX_UNPACKED:
            raise _damaged(url)
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_UNPACKED)
    except zstandard.ZstdError as error:
        raise _damaged(url) from error


def _damaged(url: str) -> CorruptError:
    return CorruptError(
        "the segment is damaged", url=url, fix="restore it from a copy, or go back to an earlier commit"
    )


def merge(
    parts: Sequence[tuple[SegmentIndex, Iterable[tuple[str, Change]]]], *, oldest: bool
) -> tuple[dict[str, Change], set[str]]:
    """Return the changes and removed prefixes of neighbouring segments as one, given from the oldest to the newest.

    If the ``oldest`` of all is among them, nothing lies below, so that what removes keys is left out.
    """
    changes: dict[str, Change] = {}
    removed: set[str] = set()
    for index, entries in parts:
        if index.removed:
            changes = {key: change for key, change in changes.items() if not key.startswith(index.removed)}
            removed.update(index.removed)
        changes.update(entries)
    if oldest:
        return {key: change for key, change in changes.items() if change is not None}, set()
    return changes, removed
