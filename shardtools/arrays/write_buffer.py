"""The chunks that a transaction has written: packed, changed in memory, or in its shards.

whole chunk -> packed -> `_packed`, up to a limit -> data shard -> `changes`
part of a chunk -> chunk of the snapshot -> `_open`, up to a limit -> packed, as above
read -> `_open`, `_packed`, `changes`, the snapshot: the first that has it
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.arrays.chunk_reader import run_each
from shardtools.arrays.chunks import BATCH, LARGE, Cache, full_chunk, load_chunks
from shardtools.arrays.data_writer import DataWriter
from shardtools.arrays.grid import ChunkPiece, Shape
from shardtools.arrays.marks import Marks, Writer
from shardtools.arrays.metadata import ArrayMetadata
from shardtools.errors import ConflictError
from shardtools.log.log import Snapshot
from shardtools.log.segment import Change, Entry
from shardtools.processors import processors

Array = npt.NDArray[Any]

OPEN_LIMIT = 256 << 20
"""Bytes of chunks that were changed in part and are held in memory; beyond it all of them are packed."""

PACKED_LIMIT = 32 << 20
"""Bytes of packed chunks that are held in memory, as they may be changed again."""


class WriteBuffer:
    """The chunks of all arrays of one transaction. Safe for threads."""

    def __init__(self, base: Snapshot, id: str, cache: Cache):
        self.base, self.place, self.lock = base, base.log.place, threading.RLock()
        self.writer = DataWriter(self.place, id)
        self.changes: dict[str, Change] = {}
        """The keys in shards of this transaction, and those that were removed."""
        self.removed: list[str] = []
        """Prefixes of keys that were removed before ``changes`` were made."""
        self._cache = cache
        self._packed: dict[str, bytes] = {}
        self._packed_bytes = 0
        self._open: dict[str, tuple[Array, ArrayMetadata]] = {}
        self._open_bytes = 0
        self._marks: dict[str, Marks] = {}

    # --- reading

    def find(self, keys: Iterable[str]) -> dict[str, Entry]:
        """Return where the bytes of keys lie, as far as they are in shards."""
        with self.lock:
            found: dict[str, Entry] = {}
            rest = []
            for key in keys:
                if key in self.changes:
                    if (change := self.changes[key]) is not None:
                        found[key] = change
                elif not self._is_removed(key):
                    rest.append(key)
            being_written = self.writer.open_object
            if being_written is not None and any(entry.name == being_written for entry in found.values()):
                self.writer.finish()
        return found | self.base.find(rest)

    def _is_removed(self, key: str) -> bool:
        return bool(self.removed) and key.startswith(tuple(self.removed))

    def scan(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        """Yield the keys that begin with ``prefix``, and where their bytes lie; in no order."""
        with self.lock:
            self.flush()
            for key, entry in self.base.scan(prefix):
                if key not in self.changes and not self._is_removed(key):
                    yield key, entry
            for key, change in list(self.changes.items()):
                if change is not None and key.startswith(prefix):
                    yield key, change

    def load(self, path: str, metadata: ArrayMetadata, wanted: Sequence[ChunkPiece]) -> list[Array | None]:
        """Return the chunks of pieces; None for those that were never written."""
        with self.lock:
            keys = [key_of(path, metadata, piece) for piece in wanted]
            found = {key: self._open[key][0] for key in keys if key in self._open}
            found |= {key: metadata.codec.decode(self._packed[key]) for key in keys if key in self._packed}
            rest = [piece for key, piece in zip(keys, wanted, strict=True) if key not in found]
            loaded = load_chunks(self.place, self.find, path, metadata, rest, self._cache) if rest else []
            others = iter(loaded)
            return [found[key] if key in found else next(others) for key in keys]

    def packed(self, key: str) -> bytes | None:
        """Return the bytes of a chunk that is in no shard yet; None if there is none."""
        with self.lock:
            if key in self._open:
                self._pack_open()
            return self._packed.get(key)

    # --- writing

    def write(
        self,
        path: str,
        metadata: ArrayMetadata,
        block: Array,
        pieces: Iterator[ChunkPiece],
        check: Callable[[], object],
        *,
        writer: Writer | None = None,
    ) -> None:
        """Write pieces of a block. If there is a ``writer``, others may not write the same elements; see `Writer`.

        ``check`` is called before anything is changed, while nobody else can change anything.

        Raises:
            ConflictError: somebody has.
        """
        nbytes = prod(metadata.chunks) * metadata.dtype.itemsize

        def pack(piece: ChunkPiece) -> bytes:
            return metadata.codec.encode(full_chunk(block, piece, metadata))

        while batch := list(islice(pieces, max(BATCH // max(nbytes, 1), 1))):
            whole = [piece for piece in batch if piece.whole]
            bodies = run_each(pack, whole, processors() if nbytes >= LARGE else 1)
            with self.lock:
                check()
                if writer is not None:
                    for piece in batch:
                        self.mark(key_of(path, metadata, piece), piece.inner, metadata.chunks, writer)
                for piece, data in zip(whole, bodies, strict=True):
                    self.put(key_of(path, metadata, piece), data)
                self.change(path, metadata, [piece for piece in batch if not piece.whole], block)

    def change(self, path: str, metadata: ArrayMetadata, pieces: Sequence[ChunkPiece], block: Array) -> None:
        """Write parts of chunks, which are read first."""
        with self.lock:
            keys = [key_of(path, metadata, piece) for piece in pieces]
            missing = [piece for key, piece in zip(keys, pieces, strict=True) if key not in self._open]
            loaded = iter(self.load(path, metadata, missing) if missing else ())
            for key, piece in zip(keys, pieces, strict=True):
                if key not in self._open:
                    self._begin(key, metadata, next(loaded))
                self._open[key][0][piece.inner] = block[piece.outer]
            if self._open_bytes > OPEN_LIMIT:
                self._pack_open()

    def _begin(self, key: str, metadata: ArrayMetadata, chunk: Array | None) -> None:
        """Hold a chunk in memory, to be changed."""
        if chunk is None:
            fresh = np.full(metadata.chunks, metadata.fill_value, metadata.dtype)
        else:
            fresh = chunk.astype(metadata.dtype)
        self._drop(key)
        self._open[key] = fresh, metadata
        self._open_bytes += fresh.nbytes

    def mark(self, key: str, inner: Sequence[Any], chunks: Shape, writer: Writer) -> None:
        """Note that a thread or worker has written a part of a chunk.

        Raises:
            ConflictError: another one has written some of it.
        """
        if key not in self._marks:
            self._marks[key] = Marks(chunks)
        if not self._marks[key].add(inner, writer):
            raise self.overlapping(key)

    def overlapping(self, key: str) -> ConflictError:
        """Return the error for two writers of the same elements."""
        return ConflictError(
            f"two threads or workers of this transaction have written the same elements of {key}",
            url=self.place.root,
            fix="let each element be written once, or by the thread that began the transaction",
        )

    def put(self, key: str, data: bytes) -> None:
        """Write the bytes of a whole chunk."""
        with self.lock:
            self._drop(key)
            self._packed[key] = data
            self._packed_bytes += len(data)
            if self._packed_bytes > PACKED_LIMIT:
                self._write_packed()

    def put_change(self, key: str, change: Change) -> None:
        """Take a chunk that lies in a shard already; None removes it."""
        with self.lock:
            self._drop(key)
            self.changes[key] = change

    def remove_all(self, prefix: str) -> None:
        """Remove all keys that begin with ``prefix``, which ends with a slash."""
        with self.lock:
            self.flush()
            self.changes = {key: change for key, change in self.changes.items() if not key.startswith(prefix)}
            self._marks = {key: marks for key, marks in self._marks.items() if not key.startswith(prefix)}
            self.removed.append(prefix)

    def replace_all(self, prefix: str, entries: Mapping[str, Entry]) -> None:
        """Let these keys be all that begin with ``prefix``, which collides with whatever others write there."""
        with self.lock:
            self.remove_all(prefix)
            for key, entry in entries.items():
                self.put_change(key, entry)

    def _drop(self, key: str) -> None:
        if (data := self._packed.pop(key, None)) is not None:
            self._packed_bytes -= len(data)
        if (held := self._open.pop(key, None)) is not None:
            self._open_bytes -= held[0].nbytes

    # --- to storage

    def flush(self) -> None:
        """Write all chunks to shards, the last of which stays open."""
        with self.lock:
            self._pack_open()
            self._write_packed()

    def _pack_open(self) -> None:
        for key, (chunk, metadata) in list(self._open.items()):
            self.put(key, metadata.codec.encode(chunk))

    def _write_packed(self) -> None:
        for key, data in self._packed.items():
            self.changes[key] = self.writer.add(key, data)
        self._packed, self._packed_bytes = {}, 0


def key_of(path: str, metadata: ArrayMetadata, piece: ChunkPiece) -> str:
    """Return the key of a piece's chunk."""
    return f"{path}/{metadata.chunk_name(piece.coordinates)}"
