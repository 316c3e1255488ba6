"""How a segment is written: entries in the order of their keys go in, and blocks go out as soon as they are full."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import google_crc32c
import numpy as np
import zstandard

from shardtools.log.commit import SegmentPlace
from shardtools.log.place import Place
from shardtools.log.segment import BLOCK, HEAD, ROW, Change, Keys, Rows, SegmentBlock, ascending, encode_keys
from shardtools.storage import Sink, get_storage


def write_segment(
    place: Place, id: str, changes: Mapping[str, Change], removed: Iterable[str] = (), name: str = "segment"
) -> SegmentPlace:
    """Write a segment as an object of the place, and return where it lies."""
    return stream_segment(place, f"data/{id}/{name}", blocks_of(sorted(changes.items())), removed)


def stream_segment(
    place: Place, path: str, blocks: Iterable[SegmentBlock], removed: Iterable[str] = ()
) -> SegmentPlace:
    """Write the segment of ``blocks``, each after the one before it, and return where it lies.

    It takes the memory of a few blocks and of the segment's index, however many blocks there are.

    Raises:
        ValueError: the keys are not in order.
    """
    url = place.root + path
    with get_storage(url).create(url) as sink:
        writer = SegmentWriter(sink)
        for block in blocks:
            writer.add(block)
        return writer.finish(path, removed)


def blocks_of(changes: Iterable[tuple[str, Change]]) -> Iterator[SegmentBlock]:
    """Yield keys and their changes, which are in the order of the keys, as blocks.

    >>> [len(block) for block in blocks_of((f"{i:04d}", None) for i in range(3000))]
    [2048, 952]
    """
    changes = iter(changes)
    while some := list(islice(changes, BLOCK)):
        yield block_of(some)


def block_of(changes: Sequence[tuple[str, Change]]) -> SegmentBlock:
    """Return keys and their changes, which are in the order of the keys, as one block, however many they are."""
    numbers: dict[str, int] = {}
    rows = [
        (0, 0, 0, 0, 0)
        if change is None
        else (0, numbers.setdefault(change.name, len(numbers) + 1), change.offset, change.size, change.crc32c)
        for _, change in changes
    ]
    return SegmentBlock(encode_keys(key for key, _ in changes), np.array(rows, ROW), tuple(numbers))


class SegmentWriter:
    """Writes a segment to ``sink``."""

    def __init__(self, sink: Sink):
        self._sink = sink
        self._keys: Keys = np.empty(0, "S1")  # those that do not fill a block yet, and their rows
        self._rows = np.empty(0, ROW)
        self._last: bytes | None = None
        self._objects: dict[str, int] = {}
        self._blocks: list[tuple[str, int, int, int]] = []
        self._offset = 0
        self._count = 0

    def add(self, block: SegmentBlock) -> None:
        """Add entries; their keys come after all that were added before.

        Raises:
            ValueError: they do not.
        """
        if not block:
            return
        last, self._last = self._last, block.keys[-1]
        if (last is not None and block.keys[0] <= last) or not ascending(block.keys):
            raise ValueError(f"keys of a segment are not in order, near {block.keys[0]!r}")
        self._count += len(block)
        self._keys = np.concatenate((self._keys, block.keys))
        self._rows = np.concatenate((self._rows, self._renumbered(block)))
        self._write_blocks(len(self._keys) - len(self._keys) % BLOCK)

    def finish(self, name: str, removed: Iterable[str]) -> SegmentPlace:
        """Write what is left, and the index; return where the segment lies, an object of this ``name``."""
        self._write_blocks(len(self._keys))
        index = {
            "count": self._count,
            "blocks": self._blocks,
            "objects": list(self._objects),
            "removed": sorted(set(removed)),
        }
        packed = zstandard.compress(json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode(), 3)
        self._sink.write(packed)
        return SegmentPlace(name, self._offset + len(packed), self._offset, self._count, google_crc32c.value(packed))

    def _renumbered(self, block: SegmentBlock) -> Rows:
        """Return the rows of a block with the numbers that its objects have in this segment."""
        used, places = np.unique(block.rows["object"], return_inverse=True)
        own = [self._number(block.objects[number - 1]) if number else 0 for number in used.tolist()]
        rows = block.rows.copy()
        rows["object"] = np.array(own, "<u4")[places]
        return rows

    def _number(self, name: str) -> int:
        return self._objects.setdefault(name, len(self._objects) + 1)

    def _write_blocks(self, count: int) -> None:
        """Write the first ``count`` of the entries that wait, as blocks."""
        for start in range(0, count, BLOCK):
            some = slice(start, min(start + BLOCK, count))
            packed = zstandard.compress(_dump_block(self._keys[some], self._rows[some]), 3)
            self._blocks.append((self._keys[start].decode(), self._offset, len(packed), google_crc32c.value(packed)))
            self._sink.write(packed)
            self._offset += len(packed)
        self._keys, self._rows = self._keys[count:].copy(), self._rows[count:].copy()


def _dump_block(keys: Keys, rows: Rows) -> bytes:
    names = keys.tolist()
    rows["length"] = list(map(len, names))
    return b"".join((HEAD.pack(len(keys), sum(map(len, names))), rows.tobytes(), *names))
