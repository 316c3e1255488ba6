"""Writes to several arrays that become one commit, or none.

    t[name][index] = values -> chunks, in memory up to a limit and in data shards (``write_buffer.py``)
    t.array, t.group, del t[name], t.move -> documents
    all of it -> one commit

A whole chunk is never read first. Threads may write at the same time; so may the workers of a cluster (``parts.py``).
Each element may then be written by one of them only. An overlap is an error: which one came last would be by chance.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shardtools.arrays.chunks import as_block
from shardtools.arrays.grid import Selected, pieces
from shardtools.arrays.marks import Owner, Writer
from shardtools.arrays.metadata import ArrayMetadata, create_array, group_document, parse_array
from shardtools.arrays.names import check_texts, document_key, parents_of
from shardtools.arrays.open_transactions import note_transaction
from shardtools.arrays.parts import PartOf
from shardtools.arrays.taken_parts import TakenParts
from shardtools.arrays.transaction_array import TransactionArray
from shardtools.arrays.transaction_keys import TransactionKeys, merged_nodes
from shardtools.arrays.write_buffer import WriteBuffer
from shardtools.errors import ConflictError, ExistsError, JobError
from shardtools.log.committing import commit
from shardtools.log.log import Snapshot, new_id

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub
    from shardtools.arrays.store import HubStore

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
        check_texts(message, author)
        self.hub, self.base, self.id = hub, base, new_id()
        self.buffer = WriteBuffer(base, self.id, hub.cache)
        self._message, self._author = message, author
        self._lock = self.buffer.lock
        self._owner, self._process = threading.get_ident(), os.getpid()
        self.documents: dict[str, bytes | None] = {}
        """The documents that were written, by path; None for those that were removed."""
        self._added: set[str] = set()
        self._metadata: dict[str, ArrayMetadata] = {}
        self._reads: set[str] = set()
        self.parts = TakenParts(self.buffer, self.id, self.metadata)
        self._result: Snapshot | None = None
        self._ended = False
        note_transaction(self)

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
        with self._lock:
            if error is not None and not self._ended:
                self._ended = True
                self.buffer.writer.abort(error)
        if error is None and self._result is None:
            self.commit()

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
                self._reads.update(map(document_key, self.parts.close()))
                for path in sorted(self._added):
                    self._add_parents(path)
                buffer.flush()
                for path, document in self.documents.items():
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
        """Raise if nothing can be written to the transaction here.

        Raises:
            JobError: it has ended, or this is a fork of its process.
        """
        if self._ended:
            raise JobError("the transaction has ended", fix="begin another one")
        if self._process != os.getpid():
            what = "this is a fork of the process that began the transaction, which does not see what is written here"
            raise JobError(what, fix="send t[NAME] to the other process by pickling, as Dask does")

    def check_readable(self) -> None:
        """Raise if what was written is lost.

        Raises:
            JobError: the transaction has ended without a commit.
        """
        if self._ended and self._result is None:
            raise JobError("the transaction has ended without a commit", fix="begin another one")

    # --- arrays and groups

    @cached_property
    def keys(self) -> TransactionKeys:
        """What a store of the zarr library has of this transaction."""
        return TransactionKeys(self)

    def store(self) -> HubStore:
        """Return a store of the zarr library that writes for this transaction: ``ds.to_zarr(t.store())``.

        It can be sent to other processes, as Dask does: whole chunks that they write are part of the transaction.
        """
        from shardtools.arrays.store import HubStore

        return HubStore(self.keys)

    def __getitem__(self, name: str) -> TransactionArray:
        """Return an array to read and write.

        Raises:
            NotFoundError: there is none.
        """
        path = self._path(name)
        self.metadata(path)
        if not self._ended:
            self.take_parts()
        return TransactionArray(self, path)

    def _path(self, name: str) -> str:
        path, version = self.hub.split(name)
        if version not in (None, self.base.branch.name):
            what = f"this transaction writes to {self.base.branch.name}, not to {version}"
            raise JobError(what, fix=f"begin one for it, or read it with hub.load({name!r})")
        return path

    def __contains__(self, name: str) -> bool:
        return self.document(self._path(name)) is not None

    def document(self, path: str) -> bytes | None:
        """Return the document of a node, None if there is none."""
        with self._lock:
            if path in self.documents:
                return self.documents[path]
        return self.hub.read_document(self.base, path)

    def set_document(self, path: str, document: bytes) -> None:
        """Write the document of a node as it is."""
        with self._lock:
            self.check_open()
            self.take_parts()
            self.documents[path] = document
            self._metadata.pop(path, None)

    def add_node(self, path: str, document: bytes) -> None:
        """Write the document of a node, which may be new; the groups that it is in are there at the commit.

        Raises:
            CorruptError: it is no document, or of an array that zarr cannot read.
            ExistsError: an array would have something in it.
            JobError: the root would be an array.
        """
        is_array = self.hub.is_array(document, path)
        with self._lock:
            if is_array:
                if not path:
                    fix = "give the array a name: zarr.create_array(store, name=…), da.to_zarr(…, component=…)"
                    raise JobError("the root of a hub is a group, and cannot be an array", url=self.hub.url, fix=fix)
                parse_array(document, self.hub.url, path)
                if any(node != path for node in self.nodes(path)):
                    raise ExistsError(f"{path} is a group with something in it", url=self.hub.url, fix=_OTHER_NAME)
            for parent in filter(None, parents_of(path)):
                self._check_group(parent, self.document(parent))
            self.set_document(path, document)
            self._added.add(path)

    def metadata(self, path: str) -> ArrayMetadata:
        """Return the metadata of an array.

        Raises:
            NotFoundError: there is none.
        """
        with self._lock:
            if (known := self._metadata.get(path)) is None:
                known = parse_array(self._existing(path), self.hub.url, path)
                known.check_chunk(self.base.log.place.options.limits, self.hub.url, path)
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
            metadata.check_chunk(self.base.log.place.options.limits, self.hub.url, path)
            self._check_new(path)
            self._add_parents(path)
            self.documents[path], self._metadata[path] = metadata.document, metadata
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
            self.documents[path] = group_document(attributes)

    def _add_parents(self, path: str) -> None:
        for parent in parents_of(path):
            self._reads.add(document_key(parent))
            document = self.document(parent)
            if document is None:
                self.documents[parent] = group_document()
            elif parent:
                self._check_group(parent, document)

    def _check_group(self, path: str, document: bytes | None) -> None:
        if document is not None and self.hub.is_array(document, path):
            what = f"{path} is an array, and can have nothing in it"
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
            self.remove(path)

    def remove_document(self, path: str) -> None:
        """Remove the document of a node, and nothing of what is in it."""
        with self._lock:
            self.check_open()
            self.documents[path] = None
            self._metadata.pop(path, None)
            self._added.discard(path)

    def remove(self, path: str) -> None:
        """Remove a node, whether it has a document or not, and all that is in it."""
        with self._lock:
            self.check_open()
            self.take_parts()
            for node in self.nodes(path):
                self.documents[node] = None
                self._metadata.pop(node, None)
                self._added.discard(node)
            self.buffer.remove_all(f"{path}/")
            self.buffer.removed.append(f"{document_key(path)}/")

    def nodes(self, path: str = "") -> list[str]:
        """Return the paths of a node and of all that is in it, sorted."""
        with self._lock:
            return merged_nodes(self.base, self.documents, path)

    def move(self, name: str, to: str) -> None:
        """Give an array, or a group with all that is in it, another name. No chunk is copied.

        Raises:
            NotFoundError: there is none.
            ExistsError: there is something of the new name.
        """
        path, other = self._path(name), self._path(to)
        with self._lock:
            self.check_open()
            self.take_parts()
            self._existing(path)
            self._check_new(other)
            if f"{other}/".startswith(f"{path}/"):
                raise JobError(f"{path} cannot be moved into itself", fix="use another name")
            documents = {node: self.document(node) for node in self.nodes(path)}
            entries = dict(self.buffer.scan(f"{path}/"))
            del self[path]
            self._add_parents(other)
            for node, document in documents.items():
                self.documents[other + node[len(path) :]] = document
            for key, entry in entries.items():
                self.buffer.put_change(other + key[len(path) :], entry)

    # --- chunks

    def write(self, path: str, selection: Selected, values: Any) -> None:
        """Write values where an index selects.

        Raises:
            ConflictError: another thread has written some of these elements in this transaction.
            ValueError: the shape of the values does not fit.
        """
        metadata = self.metadata(path)
        block = as_block(selection, values, metadata.dtype)
        self.depend_on(path)

        def check() -> None:
            self.check_open()
            if self.metadata(path).shape != metadata.shape:
                what = f"another thread has changed the shape of {path} while this one was writing to it"
                raise ConflictError(what, url=self.hub.url, fix="change it before the threads begin")

        is_owner = threading.get_ident() == self._owner
        sent = self.parts.sent
        writer = (Owner(sent) if sent else None) if is_owner else Writer()
        some = pieces(selection, metadata.shape, metadata.chunks)
        self.buffer.write(path, metadata, block, some, check, writer=writer)

    def depend_on(self, path: str) -> None:
        """Note that what is written depends on the document of an array: nobody else may change it meanwhile."""
        with self._lock:
            self.check_open()
            self._reads.add(document_key(path))

    def send(self) -> PartOf:
        """Return what another process needs that writes for this transaction."""
        with self._lock:
            self.parts.sent += 1
            return PartOf(self.hub, self.id, len(self.buffer.removed), self.parts.sent)

    def take_parts(self) -> None:
        """Take over what other processes have written so far."""
        with self._lock:
            self._reads.update(map(document_key, self.parts.take()))
