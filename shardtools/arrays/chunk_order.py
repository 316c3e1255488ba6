"""All keys of a snapshot in the order in which they are best copied: documents, then each array's chunks in C order.

keys, sorted as texts -> coordinates of the chunks of one array, a column for each axis -> sorted -> keys
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from shardtools.arrays.metadata import ArrayMetadata
from shardtools.arrays.names import DOCUMENT
from shardtools.log.log import Snapshot
from shardtools.log.reading import merged
from shardtools.log.segment import Entry

T = TypeVar("T")

KEYS = 1 << 12
"""Keys that are looked up at a time."""

BYTES = 1 << 26
"""Bytes of keys that are read at a time."""

_WAITING = 1 << 16


def in_grid_order(snapshot: Snapshot, arrays: Iterable[tuple[str, ArrayMetadata]]) -> Iterator[list[str]]:
    """Yield all live keys, some thousands at a time: documents, the chunks of each array in C order, and all others.

    ``arrays`` are all arrays of the snapshot. It takes memory for the coordinates of the chunks of one array.
    """
    documents = [DOCUMENT] if snapshot.find([DOCUMENT]) else []
    yield from batched([*documents, *(key for key, _ in snapshot.scan(f"{DOCUMENT}/"))], KEYS)
    by_prefix = sorted((f"{path}/", metadata) for path, metadata in arrays)
    others: list[str] = []
    current = None
    for number, keys in _by_array(snapshot, [prefix for prefix, _ in by_prefix]):
        if number is None:
            others += keys
            continue
        prefix, metadata = by_prefix[number]
        if current is None or current.prefix != prefix:
            if current is not None:
                yield from current.sorted_keys()
            current = _Chunks(prefix, metadata)
        current.add(keys)
    if current is not None:
        yield from current.sorted_keys()
    yield from batched(others, KEYS)


def _by_array(snapshot: Snapshot, prefixes: Sequence[str]) -> Iterator[tuple[int | None, list[str]]]:
    """Yield keys that are no documents in their order, and the number of the prefix that they begin with."""
    starts = np.array([prefix.encode() for prefix in prefixes], np.bytes_)
    with snapshot.log.place.using():
        for block in merged(snapshot.segments, keep=False):
            names = [key for key, _ in block.entries() if key != DOCUMENT and not key.startswith(f"{DOCUMENT}/")]
            if not names:
                continue
            encoded = np.array([name.encode() for name in names], np.bytes_)
            numbers = np.searchsorted(starts, encoded, "right") - 1 if prefixes else np.full(len(names), -1)
            cuts = np.flatnonzero(np.diff(numbers)) + 1
            for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(names)], strict=True):
                number, some = int(numbers[start]), names[start:stop]
                inside = [name for name in some if number >= 0 and name.startswith(prefixes[number])]
                if inside:
                    yield number, inside
                if len(inside) < len(some):
                    yield None, [name for name in some if number < 0 or not name.startswith(prefixes[number])]


class _Chunks:
    """The keys of one array."""

    def __init__(self, prefix: str, metadata: ArrayMetadata):
        self.prefix = prefix
        self._metadata = metadata
        self._types = [np.min_scalar_type(max(size - 1, 0)) for size in metadata.grid]
        self._columns: list[list[npt.NDArray[np.integer]]] = [[] for _ in self._types]
        self._waiting: list[tuple[int, ...]] = []
        self._others: list[str] = []

    def add(self, keys: Sequence[str]) -> None:
        for key in keys:
            coordinates = self._metadata.coordinates(key[len(self.prefix) :])
            if coordinates:
                self._waiting.append(coordinates)
            else:  # of an array without axes, or no chunk
                self._others.append(key)
        if len(self._waiting) >= _WAITING:
            self._pack()

    def _pack(self) -> None:
        for column, values, kind in zip(self._columns, zip(*self._waiting, strict=True), self._types, strict=False):
            column.append(np.array(values, kind))
        self._waiting = []

    def sorted_keys(self) -> Iterator[list[str]]:
        """Yield the chunks in C order, and then what is no chunk of the grid."""
        self._pack()
        if self._columns and self._columns[0]:
            columns = [np.concatenate(column) for column in self._columns]
            self._columns = []
            order = np.lexsort(columns[::-1])
            for start in range(0, len(order), KEYS):
                some = order[start : start + KEYS]
                rows = zip(*(column[some].tolist() for column in columns), strict=True)
                yield [self.prefix + self._metadata.chunk_name(row) for row in rows]
        yield from batched(self._others, KEYS)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield items, ``size`` at a time.

    >>> list(batched("abc", 2))
    [['a', 'b'], ['c']]
    """
    items = iter(items)
    while some := list(islice(items, size)):
        yield some


def batches_by_size(
    entries: Mapping[str, Entry], keys: Iterable[str], limit: int = BYTES
) -> Iterator[dict[str, Entry]]:
    """Yield the entries of ``keys``, in their order, in parts of about ``limit`` bytes; at least one at a time."""
    some: dict[str, Entry] = {}
    nbytes = 0
    for key in keys:
        if some and nbytes + entries[key].size > limit:
            yield some
            some, nbytes = {}, 0
        some[key] = entries[key]
        nbytes += entries[key].size
    if some:
        yield some
