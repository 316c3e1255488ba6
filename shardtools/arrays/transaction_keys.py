"""What a Zarr store has by key of a transaction: in the process that began it, and in others.

    get of a chunk -> remembered until its reader is done -> set -> is the chunk still what was read? -> WriteBuffer

The zarr library writes a part of a chunk by reading the chunk, changing it, and writing it whole. When two threads do
that at the same time, what one of them has written would be lost; here the second one meets a ConflictError.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import google_crc32c

from shardtools.arrays.keys import Keys, snapshot_nodes, split_key
from shardtools.arrays.names import path_of_document
from shardtools.arrays.open_transactions import open_transaction
from shardtools.arrays.parts import NONE, PartOf, Seen, write_chunk
from shardtools.arrays.snapshot_at import SnapshotAt
from shardtools.arrays.taken_parts import fingerprint
from shardtools.errors import ConflictError, JobError
from shardtools.log.segment import Entry

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub
    from shardtools.arrays.transaction import Transaction
    from shardtools.log.log import Snapshot

_PRUNE = 1 << 14
"""Keys that were read and not written, beyond which those are forgotten whose readers are done."""


class Reader(Protocol):
    """Who has read a key, and may write it."""

    reads_once: bool
    """Whether it has written what it had read when it writes for the first time."""

    def may_write(self) -> bool:
        """Return whether it may be the one that writes now."""

    def is_done(self) -> bool:
        """Return whether it will never write."""


class Reads:
    """What the readers of keys have read that may still write them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[str, list[tuple[Seen, Reader]]] = {}
        self._limit = _PRUNE

    def note(self, key: str, seen: Seen, reader: Reader) -> None:
        """Note that somebody has read a key."""
        with self._lock:
            self._reads.setdefault(key, []).append((seen, reader))
            if len(self._reads) > self._limit:
                self._reads = {key: left for key, reads in self._reads.items() if (left := _active(reads))}
                self._limit = max(_PRUNE, 2 * len(self._reads))

    def of(self, key: str) -> set[Seen]:
        """Return what those have read that may now write a key."""
        with self._lock:
            return {seen for seen, reader in self._reads.get(key, ()) if reader.may_write()}

    def written(self, key: str, seen: Seen) -> None:
        """Note that one of those has written a key who had read this."""
        with self._lock:
            reads = [
                read for read in _active(self._reads.pop(key, ())) if read[1].reads_once or not read[1].may_write()
            ]
            for place, (value, reader) in enumerate(reads):
                if value == seen and reader.may_write():
                    del reads[place]
                    break
            if reads:
                self._reads[key] = reads


def _active(reads: Iterable[tuple[Seen, Reader]]) -> list[tuple[Seen, Reader]]:
    return [(seen, reader) for seen, reader in reads if not reader.is_done()]


class WritableKeys(Keys):
    """Keys that remember who has read them."""

    is_writable = True

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._reads = Reads()

    def note_reads(
        self, keys: Iterable[str], held: Mapping[str, bytes], entries: Mapping[str, Entry], reader: Reader
    ) -> None:
        for key in keys:
            if path_of(key) is None:
                entry = entries.get(key)
                seen: Seen = NONE if entry is None else entry.crc32c
                self._reads.note(key, google_crc32c.value(held[key]) if key in held else seen, reader)


def path_of(key: str) -> str | None:
    """Return the path of the node whose document has a key, None if it is another key."""
    return path_of_document(key) if key == "zarr.json" or key.startswith("zarr.json/") else None


class TransactionKeys(WritableKeys):
    """The keys of a transaction, in the process that has begun it."""

    def __init__(self, transaction: Transaction):
        super().__init__(transaction.hub)
        self._transaction, self._buffer = transaction, transaction.buffer

    def __reduce__(self) -> tuple[Any, ...]:
        transaction = self._transaction
        target = transaction.send()
        documents, removed = dict(transaction.documents), tuple(self._buffer.removed)
        return _open_keys, (SnapshotAt.of(transaction.base), target, documents, removed)

    @property
    def identity(self) -> Any:
        return self._transaction.id

    def __str__(self) -> str:
        return f"{self.hub.url}@{self._transaction.id[:8]}"

    def locate(self, keys: Iterable[str]) -> tuple[dict[str, bytes], dict[str, Entry]]:
        documents, held, chunks, others = self._transaction.documents, {}, [], []
        with self._buffer.lock:
            for key in keys:
                if (path := path_of(key)) is None:
                    if (data := self._buffer.packed(key)) is None:
                        chunks.append(key)
                    else:
                        held[key] = data
                elif path not in documents:
                    others.append(key)
                elif (document := documents[path]) is not None:
                    held[key] = document
            entries = self._buffer.find(chunks)
        return held, entries | self._transaction.base.find(others)

    def nodes(self, path: str) -> list[str]:
        return merged_nodes(self._transaction.base, self._transaction.documents, path)

    def chunks(self, prefix: str) -> Iterator[str]:
        return iter(sorted(key for key, _ in self._buffer.scan(prefix)))

    def set(self, key: str, data: bytes) -> None:
        found, node = split_key(key)
        if node is None:
            self._write(found, data)
        else:
            self._transaction.add_node(node, data)

    def delete(self, key: str) -> None:
        found, node = split_key(key)
        with self._buffer.lock:
            if node is None:
                self._write(found, None)
            elif self._transaction.document(node) is not None:
                self._transaction.remove_document(node)

    def delete_all(self, path: str) -> None:
        with self._buffer.lock:
            for node in [path] if path else sorted({node.partition("/")[0] for node in self.nodes("") if node}):
                self._transaction.remove(node)
            if not path:
                self.delete("zarr.json")
                for key in [key for key in self.chunks("") if path_of(key) is None]:
                    self._buffer.put_change(key, None)

    def _write(self, key: str, data: bytes | None) -> None:
        """Write a chunk, None removes it.

        Raises:
            ConflictError: it is no longer what somebody has read who may be the one that writes it.
        """
        with self._buffer.lock:
            self._transaction.check_open()
            if seen := self._reads.of(key):
                now, new = fingerprint(self._buffer, key), NONE if data is None else google_crc32c.value(data)
                if now == new:
                    return
                if seen != {now}:
                    raise stale(key, self.hub)
                self._reads.written(key, now)
            if data is not None:
                self._buffer.put(key, data)
            elif self._buffer.packed(key) is not None or self._buffer.find([key]):
                self._buffer.put_change(key, None)

    def _document(self, path: str) -> bytes | None:
        return self._transaction.document(path)


def stale(key: str, hub: Hub) -> ConflictError:
    """Return the error for writing a chunk by a reader who may not have seen the latest of it."""
    what = f"{key} was changed while others had read it to change a part of it, so that a change would be lost"
    fix = "write to t[NAME], which puts parts together, or let no two threads write to one chunk"
    return ConflictError(what, url=hub.url, fix=fix)


def merged_nodes(base: Snapshot, documents: Mapping[str, bytes | None], path: str) -> list[str]:
    """Return the paths of a node and of all that is in it, sorted, given the documents that were written."""
    inside = {node for node in documents if not path or node == path or node.startswith(f"{path}/")}
    there = set(snapshot_nodes(base, path)) - inside
    return sorted(there | {node for node in inside if documents[node] is not None})


class WorkerKeys(WritableKeys):
    """The keys of a transaction in another process than that which has begun it.

    It shows what the transaction had as documents when it was sent there, the chunks of the version that the
    transaction began with, and what was written here. What is written becomes parts of the transaction.
    """

    def __init__(
        self,
        at: SnapshotAt,
        target: PartOf,
        documents: Mapping[str, bytes | None],
        removed: tuple[str, ...],
    ):
        super().__init__(target.hub)
        self._at, self._target, self._documents, self._removed = at, target, documents, removed
        self._written: dict[str, Entry | None] = {}
        self._first: dict[str, Seen] = {}
        self._arrays: dict[str, bool] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_keys, (self._at, self._target, self._documents, self._removed)

    @cached_property
    def _base(self) -> Snapshot:
        return self.hub.snapshot_at(self._at)

    @property
    def identity(self) -> Any:
        return self._target.id

    def __str__(self) -> str:
        return f"{self.hub.url}@{self._target.id[:8]}"

    def locate(self, keys: Iterable[str]) -> tuple[dict[str, bytes], dict[str, Entry]]:
        held, entries, others = {}, {}, []
        for key in keys:
            path = path_of(key)
            if key in self._written:
                if (entry := self._written[key]) is not None:
                    entries[key] = entry
            elif path is None or path not in self._documents:
                if not (self._removed and key.startswith(self._removed)):
                    others.append(key)
            elif (document := self._documents[path]) is not None:
                held[key] = document
        return held, entries | self._base.find(others)

    def nodes(self, path: str) -> list[str]:
        return merged_nodes(self._base, self._documents, path)

    def chunks(self, prefix: str) -> Iterator[str]:
        keys = {key for key, _ in self._base.scan(prefix) if not (self._removed and key.startswith(self._removed))}
        for key, entry in list(self._written.items()):
            if key.startswith(prefix):
                (keys.discard if entry is None else keys.add)(key)
        return iter(sorted(keys))

    def set(self, key: str, data: bytes) -> None:
        self._write(key, data)

    def delete(self, key: str) -> None:
        self._write(key, None)

    def delete_all(self, path: str) -> None:
        raise self._documents_only()

    def _documents_only(self) -> JobError:
        what = "only chunks can be written by other processes than the one that began the transaction"
        return JobError(what, url=self.hub.url, fix="create and remove arrays, and set attributes, there")

    def _write(self, key: str, data: bytes | None) -> None:
        found, node = split_key(key)
        if node is not None or (path := self._array_of(found)) is None:
            raise self._documents_only()
        with self._lock:
            seen = self._reads.of(found)
            if len(seen) > 1:
                raise stale(found, self.hub)
            what = next(iter(seen), None)
            self._reads.written(found, what)
            first = self._first.setdefault(found, what)  # so that a task that runs twice writes the same
            self._written[found] = write_chunk(self._target, path, found, data, first)

    def _array_of(self, key: str) -> str | None:
        """Return the path of the array that a chunk is of, None if it is of none."""
        parts = key.split("/")
        for count in range(1, len(parts)):
            path = "/".join(parts[:count])
            if path not in self._arrays:
                document = self._document(path)
                self._arrays[path] = document is not None and self.hub.is_array(document, path)
            if self._arrays[path]:
                return path
        return None

    def _document(self, path: str) -> bytes | None:
        return self._documents[path] if path in self._documents else self.hub.read_document(self._base, path)


def _open_keys(
    at: SnapshotAt,
    target: PartOf,
    documents: Mapping[str, bytes | None],
    removed: tuple[str, ...],
) -> WritableKeys:
    """Return the keys of a transaction: of this process, or of another one."""
    if (transaction := open_transaction(target.id)) is not None:
        return transaction.keys
    return WorkerKeys(at, target, documents, removed)
