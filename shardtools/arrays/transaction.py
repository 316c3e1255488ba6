"""Writes to several arrays that become one commit, or none.

    t[name][index] = values -> chunks, in memory up to a limit and in data shards (``write_buffer.py``)
    t.array, t.group, del t[name], t.move -> documents
    all of it -> one commit

A whole chunk is never read first. Threads may write at the same time; so may the workers of a cluster (``parts.py``).
Each element may then be written by one of them only. An overlap is an error: which one came last would be by chance.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from shardtools.arrays.chunks import as_block
from shardtools.arrays.grid import Piece, Selection, pieces
from shardtools.arrays.metadata import ArrayMetadata, create_array, group_document, parse_array
from shardtools.arrays.names import document_key, parents_of
from shardtools.arrays.parts import read_parts
from shardtools.arrays.transaction_array import TransactionArray
from shardtools.arrays.write_buffer import WriteBuffer, key_of
from shardtools.errors import ExistsError, JobError
from shardtools.log.committing import commit
from shardtools.log.log import Snapshot, new_id

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

_OTHER_NAME = "remove it first, or use another name"


class Transaction:
    """Writes that become one commit when the context is left; after an exception nothing of them is seen.

    ``t[name]`` is an array to read and write: it shows what this transaction has written. `result` is the snapshot
    after the commit. ``hub.transaction`` returns it.
    """

    def __init__(self, hub: Hub, base: Snapshot, message: str = "", author: str = ""):
        if base.fixed is not None:
            what = f"{base.fixed} is a {'commit' if '@' in base.fixed else 'tag'}, which stays as it is"
            fix = f"make a branch that begins there, hub.branch(NAME, {base.fixed!r}), and write to NAME:BRANCH"
            raise JobError(what, url=base.log.place.root, fix=fix)
        self.hub, self.base, self.id = hub, base, new_id()
        self.buffer = WriteBuffer(base, self.id, hub.cache)
        self._message, self._author = message, author
        self._lock = self.buffer.lock
        self._owner = threading.get_ident()
        self._documents: dict[str, bytes | None] = {}
        self._metadata: dict[str, ArrayMetadata] = {}
        self._reads: set[str] = set()
        self._has_workers = False
        self._result: Snapshot | None = None
        self._ended = False

    @property
    def result(self) -> Snapshot:
        """The snapshot after the commit.

        Raises:
            JobError: it is not committed.
        """
        if self._result is None:
            raise JobError("the transaction is not committed", fix="leave its context first")
        return self._result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.commit()
        elif not self._ended:
            self._ended = True
            self.buffer.writer.abort(error)

    def commit(self) -> Snapshot:
        """Make one commit of all that was written, and return the snapshot after it.

        Raises:
            ConflictError: others have changed the same chunks, or the same array, since the transaction began; or two
                workers have written the same elements. Nothing of it is seen.
            UnavailableError: it is not known whether it was committed, since the storage does not answer.
        """
        with self._lock:
            self.check_open()
            self._ended = True
            buffer = self.buffer
            try:
                if self._has_workers:
                    self._take_parts()
                buffer.flush()
                for path, document in self._documents.items():
                    key = document_key(path)
                    buffer.changes[key] = None if document is None else buffer.writer.add(key, document)
                buffer.writer.finish()
            except BaseException as error:
                buffer.writer.abort(error)
                raise
            if not buffer.changes and not buffer.removed:
                self._result = self.base
                return self.base
            self._result = commit(
                self.base,
                buffer.changes,
                removed=buffer.removed,
                reads=self._reads.difference(buffer.changes),
                message=self._message,
                author=self._author,
                id=self.id,
            )
            return self._result

    def check_open(self) -> None:
        """Raise if the transaction has ended.

        Raises:
            JobError: it has.
        """
        if self._ended:
            raise JobError("the transaction has ended", fix="begin another one")

    # --- arrays and groups

    def __getitem__(self, name: str) -> TransactionArray:
        """Return an array to read and write.

        Raises:
            NotFoundError: there is none.
        """
        path = self._path(name)
        self.metadata(path)
        return TransactionArray(self, path)

    def _path(self, name: str) -> str:
        path, version = self.hub.split(name)
        if version not in (None, self.base.branch.name):
            what = f"this transaction writes to {self.base.branch.name}, not to {version}"
            raise JobError(what, fix=f"begin one with hub.transaction(version={version!r})")
        return path

    def __contains__(self, name: str) -> bool:
        return self.document(self._path(name)) is not None

    def document(self, path: str) -> bytes | None:
        """Return the document of a node, None if there is none."""
        with self._lock:
            if path in self._documents:
                return self._documents[path]
        return self.hub.read_document(self.base, path)

    def set_document(self, path: str, document: bytes) -> None:
        """Write the document of a node as it is."""
        with self._lock:
            self.check_open()
            self._documents[path] = document
            self._metadata.pop(path, None)

    def metadata(self, path: str) -> ArrayMetadata:
        """Return the metadata of an array.

        Raises:
            NotFoundError: there is none.
        """
        with self._lock:
            if (known := self._metadata.get(path)) is None:
                known = parse_array(self._existing(path), self.hub.url, path)
                self._metadata[path] = known
            return known

    def _existing(self, path: str) -> bytes:
        document = self.document(path)
        if document is None:
            raise self.hub.unknown(self.base, path)
        return document

    def array(
        self,
        name: str,
        shape: Sequence[int] | int,
        chunks: Sequence[int] | int | None = None,
        dtype: Any = "float64",
        **options: Any,
    ) -> TransactionArray:
        """Create an array, and the groups that it is in; see `Hub.array` for the options.

        Raises:
            ExistsError: there is an array or a group of this name.
        """
        return self.create(self._path(name), create_array(shape, chunks, dtype, **options))

    def create(self, path: str, metadata: ArrayMetadata) -> TransactionArray:
        """Create an array of this metadata, and the groups that it is in.

        Raises:
            ExistsError: there is an array or a group of this name.
        """
        with self._lock:
            self.check_open()
            self._check_new(path)
            self._add_parents(path)
            self._documents[path], self._metadata[path] = metadata.document, metadata
            return TransactionArray(self, path)

    def _check_new(self, path: str) -> None:
        if self.document(path) is not None:
            raise ExistsError(f"there is {path} already", url=self.hub.url, fix=_OTHER_NAME)

    def group(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Create a group, or give one that there is other attributes.

        Raises:
            ExistsError: there is an array of this name.
        """
        path = self._path(name)
        with self._lock:
            self.check_open()
            document = self.document(path)
            if document is not None and self.hub.is_array(document, path):
                raise ExistsError(f"{path} is an array", url=self.hub.url, fix=_OTHER_NAME)
            self._add_parents(path)
            self._documents[path] = group_document(attributes)

    def _add_parents(self, path: str) -> None:
        for parent in parents_of(path):
            document = self.document(parent)
            if document is None:
                self._documents[parent] = group_document()
            elif parent and self.hub.is_array(document, parent):
                what = f"{parent} is an array, and can have nothing in it"
                raise ExistsError(what, url=self.hub.url, fix=_OTHER_NAME)

    def __delitem__(self, name: str) -> None:
        """Remove an array, or a group with all that is in it.

        Raises:
            NotFoundError: there is none.
        """
        path = self._path(name)
        with self._lock:
            self.check_open()
            self._existing(path)
            for node in self.nodes(path):
                self._documents[node] = None
                self._metadata.pop(node, None)
            self.buffer.remove_all(f"{path}/")

    def nodes(self, path: str = "") -> list[str]:
        """Return the paths of a node and of all that is in it, sorted."""
        with self._lock:
            there = {found for found, _ in self.hub.documents(self.base, path)}
            inside = {node for node in self._documents if not path or node == path or node.startswith(f"{path}/")}
            there |= {node for node in inside if self._documents[node] is not None}
            return sorted(there - {node for node in inside if self._documents[node] is None})

    def move(self, name: str, to: str) -> None:
        """Give an array, or a group with all that is in it, another name. No chunk is copied.

        Raises:
            NotFoundError: there is none.
            ExistsError: there is something of the new name.
        """
        path, other = self._path(name), self._path(to)
        with self._lock:
            self.check_open()
            self._existing(path)
            self._check_new(other)
            if f"{other}/".startswith(f"{path}/"):
                raise JobError(f"{path} cannot be moved into itself", fix="use another name")
            documents = {node: self.document(node) for node in self.nodes(path)}
            entries = dict(self.buffer.scan(f"{path}/"))
            del self[path]
            self._add_parents(other)
            for node, document in documents.items():
                self._documents[other + node[len(path) :]] = document
            for key, entry in entries.items():
                self.buffer.put_change(other + key[len(path) :], entry)

    # --- chunks

    def write(self, path: str, selection: Selection, values: Any) -> None:
        """Write values where an index selects.

        Raises:
            ConflictError: another thread has written some of these elements in this transaction.
            ValueError: the shape of the values does not fit.
        """
        metadata = self.metadata(path)
        block = as_block(selection, values, metadata.dtype)
        with self._lock:
            self.check_open()
            self._reads.add(document_key(path))
        marked = threading.get_ident() != self._owner
        some = pieces(selection, metadata.shape, metadata.chunks)
        self.buffer.write(path, metadata, block, some, marked=marked)

    def expect_workers(self) -> None:
        """Note that other processes may write for this transaction."""
        self._has_workers = True

    def _take_parts(self) -> None:
        """Take over what other processes have written; parts of one chunk are put together."""
        for part in read_parts(self.buffer.place, self.id):
            metadata = self.metadata(part.path)
            self._reads.add(document_key(part.path))
            for chunk in part.chunks:
                key = f"{part.path}/{metadata.chunk_name(chunk.coordinates)}"
                self.buffer.mark(key, [slice(0, size) for size in metadata.chunks], metadata.chunks)
                self.buffer.put_change(key, chunk.entry)
            for patch in part.patches:
                piece = Piece(patch.coordinates, patch.inner, (...,), False)
                self.buffer.mark(key_of(part.path, metadata, piece), patch.inner, metadata.chunks)
                values = np.frombuffer(patch.data, metadata.dtype).reshape(patch.shape)
                self.buffer.change(part.path, metadata, [piece], values)
