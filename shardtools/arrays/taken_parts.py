"""What other processes have written for a transaction, taken over into its buffer.

    list of parts -> those that are new -> whole chunks: entries     -> WriteBuffer
                                        -> parts of chunks: put together

Two parts that have an element in common are an error, unless they say the same. So is a chunk that was read, changed
and written whole by a worker, when the chunk is not what the worker has read.
"""

from __future__ import annotations

from collections.abc import Callable

import google_crc32c
import numpy as np

from shardtools.arrays.chunk_reader import read_entries
from shardtools.arrays.grid import ChunkPiece
from shardtools.arrays.marks import Worker
from shardtools.arrays.metadata import ArrayMetadata
from shardtools.arrays.parts import NONE, Patch, Seen, WholeChunk, WorkerPart, close_parts, read_parts
from shardtools.arrays.write_buffer import WriteBuffer, key_of
from shardtools.errors import ConflictError
from shardtools.log.segment import Entry


class TakenParts:
    """The parts of a transaction. ``metadata`` returns that of an array by its path."""

    def __init__(self, buffer: WriteBuffer, id: str, metadata: Callable[[str], ArrayMetadata]):
        self.sent = 0
        """How often arrays and stores were sent to other processes, which may write then."""
        self._buffer, self._id, self._metadata = buffer, id, metadata
        self._names: set[str] = set()
        self._chunks: dict[str, Entry | None] = {}

    def close(self) -> None:
        """Take over what is there, and let workers that come later know that they are too late; see `take`."""
        if self.sent:
            close_parts(self._buffer.place, self._id)
            self.take()

    def take(self) -> None:
        """Take over the parts that are new.

        Raises:
            ConflictError: two workers have written the same elements, or a chunk was changed after one has read it.
            RefusedError: the storage does not list.
        """
        if self.sent:
            with self._buffer.lock:
                for part in read_parts(self._buffer.place, self._id, self._names):
                    self._take(part)
                    self._names.add(part.name)

    def _take(self, part: WorkerPart) -> None:
        buffer = self._buffer
        if f"{part.path}/".startswith(tuple(buffer.removed[part.removals :]) or ("\0",)):
            what = f"a worker has written to {part.path} while this transaction has removed it"
            raise ConflictError(what, url=buffer.place.root, fix="wait for all workers before it is removed")
        metadata = self._metadata(part.path)
        worker = Worker(part.sent)
        for chunk in part.chunks:
            self._take_chunk(chunk, metadata, worker)
        for patch in part.patches:
            self._take_patch(part.path, patch, metadata, worker)

    def _take_chunk(self, chunk: WholeChunk, metadata: ArrayMetadata, worker: Worker) -> None:
        buffer, key, entry = self._buffer, chunk.key, chunk.entry
        if key in self._chunks:
            if not self._is_same(key, self._chunks[key], entry, metadata):
                raise buffer.overlapping(key)
            return
        if chunk.seen is not None and chunk.seen != fingerprint(buffer, key):
            what = f"{key} was changed in this transaction after a worker had read it to change a part of it"
            raise ConflictError(what, url=buffer.place.root, fix="write to t[NAME], which puts parts together")
        buffer.mark(key, [slice(0, size) for size in metadata.chunks], metadata.chunks, worker)
        self._chunks[key] = entry
        if entry is not None or fingerprint(buffer, key) != NONE:
            buffer.put_change(key, entry)

    def _is_same(self, key: str, one: Entry | None, other: Entry | None, metadata: ArrayMetadata) -> bool:
        """Return whether two workers have written the same chunk, which may be packed differently."""
        if one is None or other is None:
            return one is other
        if (one.size, one.crc32c) == (other.size, other.crc32c):
            return True
        decode = metadata.codec.decode
        first, second = (decode(read_entries(self._buffer.place, {key: entry})[key]) for entry in (one, other))
        return bool(np.array_equal(first, second, equal_nan=metadata.dtype.kind in "fc"))

    def _take_patch(self, path: str, patch: Patch, metadata: ArrayMetadata, worker: Worker) -> None:
        piece = ChunkPiece(patch.coordinates, patch.inner, (...,), False)
        self._buffer.mark(key_of(path, metadata, piece), patch.inner, metadata.chunks, worker)
        self._buffer.change(path, metadata, [piece], patch.values(metadata))


def fingerprint(buffer: WriteBuffer, key: str) -> Seen:
    """Return what is the same for a key in a transaction as long as its bytes are the same; no shard is read."""
    with buffer.lock:
        if (data := buffer.packed(key)) is not None:
            return int(google_crc32c.value(data))
        entry = buffer.find([key]).get(key)
        return NONE if entry is None else entry.crc32c
