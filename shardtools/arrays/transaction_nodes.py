"""The arrays and groups of a transaction: their documents, as its commit will have them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shardtools.arrays.conflict_words import Known, describe_conflict
from shardtools.arrays.metadata import ArrayMetadata, group_document, keeps_chunks, parse_array
from shardtools.arrays.names import document_key, parents_of
from shardtools.arrays.transaction_keys import merged_nodes
from shardtools.arrays.write_buffer import WriteBuffer
from shardtools.errors import ExistsError, JobError
from shardtools.log.commit import Write
from shardtools.log.log import Snapshot

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

_OTHER_NAME = "remove it first, or use another name"


class TransactionNodes(ABC):
    """What a `Transaction` does with arrays and groups, and which documents it has written."""

    def __init__(self, hub: Hub, base: Snapshot, buffer: WriteBuffer):
        self.hub, self.base, self.buffer = hub, base, buffer
        self._lock = buffer.lock
        self.documents: dict[str, bytes | None] = {}
        """The documents that were written, by path; None for those that were removed."""
        self._added: set[str] = set()
        self._created: set[str] = set()
        self._metadata: dict[str, ArrayMetadata] = {}
        self._known: dict[str, ArrayMetadata] = {}
        """The arrays that were used, as they were at first."""
        self._reads: set[str] = set()

    @abstractmethod
    def check_open(self) -> None:
        """Raise if nothing can be written to the transaction here."""

    @abstractmethod
    def take_parts(self) -> None:
        """Take over what other processes have written so far."""

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
            self._own_chunks(path, document)
            self.set_document(path, document)
            self._added.add(path)

    def metadata(self, path: str) -> ArrayMetadata:
        """Return the metadata of an array.

        Raises:
            NotFoundError: there is none.
        """
        with self._lock:
            if path not in self._metadata:
                self.know(path, parse_array(self._existing(path), self.hub.url, path))
            return self._metadata[path]

    def know(self, path: str, metadata: ArrayMetadata) -> None:
        """Take the metadata of an array, which then need not be read.

        Raises:
            LimitError: its chunks are larger than they may be.
        """
        with self._lock:
            metadata.check_chunk(self.base.log.place.options.limits, self.hub.url, path)
            self._metadata[path] = metadata
            self._known.setdefault(path, metadata)

    def _existing(self, path: str) -> bytes:
        document = self.document(path)
        if document is None:
            raise self.hub.unknown(self.base, path)
        return document

    def add_array(self, path: str, metadata: ArrayMetadata) -> None:
        """Create an array of this metadata, and the groups that it is in.

        Raises:
            ExistsError: there is an array or a group of this name.
        """
        with self._lock:
            self.check_open()
            metadata.check_chunk(self.base.log.place.options.limits, self.hub.url, path)
            self._check_new(path)
            self._add_parents(path)
            self._created.add(path)
            self._known.setdefault(path, metadata)
            self.documents[path], self._metadata[path] = metadata.document, metadata

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
                self._created.add(parent)
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
            self._own_chunks(path, None)
            self.documents[path] = None
            self._metadata.pop(path, None)
            self._added.discard(path)

    def _own_chunks(self, path: str, document: bytes | None) -> None:
        """Take over the chunks of an array if they may mean something else with a new document, or none.

        It then collides with others who write chunks meanwhile, as they go by the old one.
        """
        before = self.document(path)
        if before is not None and not keeps_chunks(before, document):
            self.take_parts()
            self.buffer.replace_all(f"{path}/", dict(self.buffer.scan(f"{path}/")))

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

    def describe_conflict(self, write: Write, keys: Sequence[str]) -> str:
        """Return what another write has done to keys that this depends on, as far as it is known without a request."""
        return describe_conflict(write, keys, Known(self._known, self._created, self.documents))
