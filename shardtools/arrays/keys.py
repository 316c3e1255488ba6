"""What a Zarr store has by key: of a snapshot, or of a transaction.

    Zarr's key -> key of the log -> document, chunk in memory, or entry -> bytes, those of many keys by few requests

``store.py`` makes a store of the zarr library of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shardtools.arrays.chunk_reader import read_entries, read_parts
from shardtools.arrays.metadata import parse_array, parse_node
from shardtools.arrays.names import DOCUMENT, check_path, document_key, key_of_member, member_name, path_of_document
from shardtools.arrays.snapshot_at import SnapshotAt
from shardtools.errors import JobError, SpecError
from shardtools.log.log import Snapshot
from shardtools.log.segment import Entry

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

SMALL = 1 << 16
"""Bytes of a chunk up to which all of it is read when a part is wanted, so that its checksum can be compared."""

_OLD = frozenset([".zarray", ".zgroup", ".zattrs", ".zmetadata"])
"""Documents of Zarr's format 2."""


@dataclass(frozen=True)
class Request:
    """What is wanted of a key: all, or a slice of its bytes."""

    key: str
    part: slice | None = None


class Keys(ABC):
    """Bytes by Zarr's keys: documents, such as ``x/zarr.json``, and chunks, such as ``x/c/0/0``. Safe for threads."""

    hub: Hub
    is_writable = False

    # --- what a subclass has

    @property
    @abstractmethod
    def identity(self) -> Any:
        """What is the same for two that have the same keys."""

    @abstractmethod
    def locate(self, keys: Iterable[str]) -> tuple[dict[str, bytes], dict[str, Entry]]:
        """Return the bytes of those keys of the log that are in memory, and where those of others lie."""

    @abstractmethod
    def nodes(self, path: str) -> list[str]:
        """Return the paths of a node and of all that is in it."""

    @abstractmethod
    def chunks(self, prefix: str) -> Iterator[str]:
        """Yield the keys of the log that begin with ``prefix``; documents may be among them."""

    def note_reads(
        self, keys: Iterable[str], held: Mapping[str, bytes], entries: Mapping[str, Entry], reader: Any
    ) -> None:
        """Note what a reader has read that may write it: once for each time that a key is in ``keys``."""
        raise self.read_only()

    def set(self, key: str, data: bytes) -> None:
        """Write what a key has."""
        raise self.read_only()

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        raise self.read_only()

    def delete_all(self, path: str) -> None:
        """Remove a node and all that is in it; "" is the root."""
        raise self.read_only()

    def read_only(self) -> Exception:
        """Return the error for writing to a version, each key of which would be a commit of its own."""
        what = "store was opened in read-only mode and does not support writing"
        fix = "write in a transaction: with hub.transaction() as t: ds.to_zarr(t.store())"
        return JobError(what, url=self.hub.url, fix=fix)

    # --- reading

    def read(self, requests: Sequence[Request], reader: Any = None) -> list[bytes | None]:
        """Return what is wanted of some keys, None for those that there are not.

        If there is a ``reader`` it may write them, which is compared with what it has read.

        Raises:
            CorruptError: one that there is cannot be read, or is damaged.
            StorageError: the storage cannot be read.
        """
        keys = [log_key(request.key) for request in requests]
        wanted = [key for key in keys if key is not None]
        held, entries = self.locate(set(wanted))
        if reader is not None:
            self.note_reads(wanted, held, entries, reader)
        whole: dict[str, Entry] = {}
        cut: list[tuple[str, Entry]] = []
        for key, request in zip(keys, requests, strict=True):
            if key is None or (entry := entries.get(key)) is None:
                continue
            if request.part is None or entry.size <= SMALL:
                whole[key] = entry
            else:
                start, stop, _ = request.part.indices(entry.size)
                cut.append((key, Entry(entry.name, entry.offset + start, max(stop - start, 0), 0)))
        place = self.hub.place
        held |= read_entries(place, whole) if whole else {}
        parts = iter(read_parts(place, cut) if cut else ())
        found: list[bytes | None] = []
        for key, request in zip(keys, requests, strict=True):
            if key is None or (key not in held and key not in entries):
                found.append(None)
            elif request.part is not None and key in entries and entries[key].size > SMALL:
                found.append(next(parts))
            else:
                found.append(held[key] if request.part is None else held[key][request.part])
        return found

    def size(self, key: str) -> int | None:
        """Return how many bytes a key has, None if there is none."""
        if (found := log_key(key)) is None:
            return None
        held, entries = self.locate([found])
        return len(held[found]) if found in held else entries[found].size if found in entries else None

    # --- listing

    def names(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with ``prefix``, documents first."""
        for node in self.nodes(prefix.rpartition("/")[0]):
            if (key := member_name(document_key(node))).startswith(prefix):
                yield key
        yield from (key for key in self.chunks(prefix) if not _is_document(key))

    def children(self, prefix: str) -> list[str]:
        """Return what is directly below a path, sorted. The chunks of arrays in a group are not looked at."""
        path = prefix.strip("/")
        nodes = self.nodes(path)
        inside = f"{path}/" if path else ""
        found = {DOCUMENT if node == path else node[len(inside) :].partition("/")[0] for node in nodes}
        has_nodes = bool(nodes) and (path in nodes or not path)
        if has_nodes and (nodes != [path] or self._is_group(path)):
            return sorted(found)
        below = (key[len(inside) :] for key in self.chunks(inside) if not _is_document(key))
        if nodes == [path] and (first := self._folder_of_chunks(path)) is not None:
            found |= {first} if next(below, None) is not None else set()
        else:
            found |= {name.partition("/")[0] for name in below}
        return sorted(found)

    def _document(self, path: str) -> bytes | None:
        return self.read([Request(member_name(document_key(path)))])[0]

    def _is_group(self, path: str) -> bool:
        document = self._document(path)
        return document is not None and parse_node(document, self.hub.url, path)["node_type"] == "group"

    def _folder_of_chunks(self, path: str) -> str | None:
        """Return the folder that all chunks of an array are in, None if they are in none."""
        document = self._document(path)
        assert document is not None
        prefix = parse_array(document, self.hub.url, path).prefix
        return prefix.removesuffix("/") if prefix.endswith("/") else None


def log_key(key: str) -> str | None:
    """Return the key of the log for a key of Zarr, None if a hub cannot have it.

    >>> log_key("a/zarr.json"), log_key("a/c/0/0"), log_key("zarr.json/a"), log_key("../a")
    ('zarr.json/a', 'a/c/0/0', None, None)
    """
    try:
        return _checked(key)
    except SpecError:
        return None


def _checked(key: str) -> str:
    path, _, name = key.rpartition("/")
    if name == DOCUMENT:
        return document_key(check_path(path) if path else "")
    return key_of_member(check_path(key))


def _is_document(key: str) -> bool:
    return key == DOCUMENT or key.startswith(f"{DOCUMENT}/")


def split_key(key: str) -> tuple[str, str | None]:
    """Return the key of the log for a key that is written, and the path of the node if it is that of a document.

    Raises:
        SpecError: a hub cannot have it.
        JobError: it is of another format of Zarr.
    """
    if key.rpartition("/")[2] in _OLD:
        raise JobError(f"{key} is of Zarr's format 2", fix="write format 3: give zarr_format=3")
    found = _checked(key)
    return found, path_of_document(found) if _is_document(found) else None


class SnapshotKeys(Keys):
    """The keys of a version."""

    def __init__(self, hub: Hub, at: SnapshotAt):
        self.hub, self._at = hub, at

    def __reduce__(self) -> tuple[Any, ...]:
        return SnapshotKeys, (self.hub, self._at)

    @cached_property
    def _snapshot(self) -> Snapshot:
        return self.hub.snapshot_at(self._at)

    @property
    def identity(self) -> Any:
        return self.hub.url, self._at.branch, self._at.number

    def locate(self, keys: Iterable[str]) -> tuple[dict[str, bytes], dict[str, Entry]]:
        return {}, self._snapshot.find(keys)

    def nodes(self, path: str) -> list[str]:
        return snapshot_nodes(self._snapshot, path)

    def chunks(self, prefix: str) -> Iterator[str]:
        return (key for key, _ in self._snapshot.scan(prefix))

    def __str__(self) -> str:
        return f"{self.hub.url}@{self._at.fixed or f'{self._at.branch}@{self._at.number}'}"


def snapshot_nodes(snapshot: Snapshot, path: str) -> list[str]:
    """Return the paths of a node of a snapshot and of all that is in it. No document is read."""
    key = document_key(path)
    return [path_of_document(found) for found in (*snapshot.find([key]), *(k for k, _ in snapshot.scan(f"{key}/")))]
