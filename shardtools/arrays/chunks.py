"""Chunks as numpy arrays: those of a snapshot, and what an index selects of them.

coordinates -> keys -> entries -> kept in memory, or bytes -> decoded
Selection -> pieces, a batch at a time -> chunks -> block
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.arrays.chunk_reader import fill_arrays, read_entries, run_each
from shardtools.arrays.grid import ChunkPiece, Selected, Shape, pieces
from shardtools.arrays.metadata import ArrayMetadata
from shardtools.errors import CorruptError
from shardtools.log.place import Place
from shardtools.log.segment import Entry
from shardtools.lru import LRU
from shardtools.processors import processors

Array = npt.NDArray[Any]
Find = Callable[[Iterable[str]], Mapping[str, Entry]]
"""Returns where the bytes of keys lie; those that there are not are left out."""

Load = Callable[[Sequence[ChunkPiece]], Sequence[Array | None]]
"""Returns the chunks of pieces; None for those that were never written."""

Cache = LRU[Entry, Array]

BATCH = 1 << 26
"""Decoded bytes that are loaded at a time, besides the result."""

PART = 1 << 23
"""Decoded bytes that each of several readers loads at a time."""

READERS = 3
"""Readers of arrays that lie on a server."""

LARGE = 1 << 17
"""Bytes of a chunk from which on it is worth a thread to pack or unpack it."""


def load_chunks(
    place: Place, find: Find, path: str, metadata: ArrayMetadata, wanted: Sequence[ChunkPiece], cache: Cache
) -> list[Array | None]:
    """Return the chunks of pieces, which may be read-only; None for those that were never written.

    A piece with a ``target`` may have been read to it, which is returned then. Those of which only a part is wanted are
    kept in ``cache``.

    Raises:
        CorruptError: one that was written cannot be read, or is damaged.
        StorageError: the storage cannot be read.
    """
    keys = [f"{path}/{metadata.chunk_name(piece.coordinates)}" for piece in wanted]
    entries = find(keys)
    chunks: dict[str, Array] = {}
    missing: dict[str, Entry] = {}
    for key, entry in entries.items():
        if (kept := cache.get(entry)) is not None:
            chunks[key] = kept
        else:
            missing[key] = entry
    if missing:
        metadata.check_chunk(place.options.limits, place.root, path)
    direct = {
        key: piece.target
        for key, piece in zip(keys, wanted, strict=True)
        if piece.target is not None and key in missing and missing[key].size == piece.target.nbytes
    }
    if direct:
        fill_arrays(place, [(key, missing.pop(key), target) for key, target in direct.items()])
        chunks |= direct
    if missing:
        chunks |= _read_chunks(place, metadata, missing)
        for key, piece in zip(keys, wanted, strict=True):
            if not piece.whole and key in missing:
                cache.put(missing[key], chunks[key])
    return [chunks.get(key) for key in keys]


def _read_chunks(place: Place, metadata: ArrayMetadata, entries: Mapping[str, Entry]) -> dict[str, Array]:
    data = read_entries(place, entries)
    decode = metadata.codec.decode
    nbytes = prod(metadata.chunks) * metadata.dtype.itemsize

    def unpack(key: str) -> Array:
        try:
            return decode(data[key])
        except ValueError as error:
            url = place.root + entries[key].name
            fix = "see what wrote it, or read an earlier version"
            raise CorruptError(f"the chunk cannot be decoded: {error}", url=url, member=key, fix=fix) from error

    keys = list(entries)
    return dict(zip(keys, run_each(unpack, keys, processors() if nbytes >= LARGE else 1), strict=True))


def read(selection: Selected, metadata: ArrayMetadata, load: Load, readers: int = 1) -> Array:
    """Return the block that a selection makes; chunks that were never written have the fill value.

    Several ``readers``, threads, take a smaller part at a time: some wait for a server while others copy.
    """
    block = np.empty(selection.block, metadata.dtype)
    nbytes = max(prod(metadata.chunks) * metadata.dtype.itemsize, 1)
    rest = pieces(selection, metadata.shape, metadata.chunks)
    direct = nbytes >= LARGE and metadata.codec.is_raw
    size = max((BATCH if direct or readers < 2 else PART) // nbytes, 1)

    def place(batch: Sequence[ChunkPiece]) -> None:
        if direct:
            batch = [replace(piece, target=_target(block, piece, metadata.chunks)) for piece in batch]
        for piece, chunk in zip(batch, load(batch), strict=True):
            if chunk is None or chunk is not piece.target:
                block[piece.outer] = metadata.fill_value if chunk is None else chunk[piece.inner]

    batches = iter(lambda: list(islice(rest, size)), [])
    if readers < 2:
        for batch in batches:
            place(batch)
    else:
        for _ in run_each(place, list(batches), readers):
            pass
    return block


def _target(block: Array, piece: ChunkPiece, chunks: Shape) -> Array | None:
    """Return the part of a block that has all bytes of a chunk, in their order; None if there is none."""
    if not piece.whole or not all(isinstance(part, slice) for part in (*piece.inner, *piece.outer)):
        return None
    target = block[piece.outer]
    return target if target.shape == chunks and target.flags.c_contiguous else None


def as_block(selection: Selected, values: Any, dtype: np.dtype[Any]) -> Array:
    """Return values that are assigned to a selection as a block, converted as numpy does in an assignment.

    Raises:
        ValueError, TypeError, OverflowError: numpy cannot assign them.
    """
    array = np.asarray(values) if hasattr(values, "__array__") else np.asarray(values, dtype)
    if array.dtype != dtype:
        converted = np.empty(array.shape, dtype)
        converted[...] = array
        array = converted
    return selection.spread(array)


def full_chunk(block: Array, piece: ChunkPiece, metadata: ArrayMetadata) -> Array:
    """Return the whole chunk of a piece that is all of what lies in the array; beyond it is the fill value."""
    part = block[(*piece.outer, ...)]
    if part.shape == metadata.chunks and all(isinstance(inner, slice) for inner in piece.inner):
        return np.asarray(part)
    chunk = np.full(metadata.chunks, metadata.fill_value, metadata.dtype)
    chunk[piece.inner] = part
    return chunk


def overlap(one: Sequence[Any], other: Sequence[Any], shape: Shape) -> bool:
    """Return whether two parts of a chunk have an element in common.

    >>> overlap([slice(0, 2)], [slice(2, 4)], (4,)), overlap([slice(0, 4, 2)], [np.array([2])], (4,))
    (False, True)
    """
    if not all(map(_meet, one, other, shape)):
        return False
    if not any(isinstance(part, np.ndarray) for part in (*one, *other)):
        return True
    mask = np.zeros(shape, np.bool_)  # points may meet on each axis, and yet be different ones
    mask[tuple(one)] = True
    return bool(mask[tuple(other)].any())


def _meet(one: Any, other: Any, size: int) -> bool:
    if isinstance(one, slice) and isinstance(other, slice):
        a, b = range(*one.indices(size)), range(*other.indices(size))
        if not a or not b or a[-1] < b[0] or b[-1] < a[0]:
            return False
        if a.step == b.step == 1:
            return True
    numbers = [np.arange(*part.indices(size)) if isinstance(part, slice) else np.ravel(part) for part in (one, other)]
    return bool(np.isin(numbers[0], numbers[1]).any())
