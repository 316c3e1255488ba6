"""A hub: arrays by name and version at one place.

st.hub(url) -> Hub -> array, load -> HubArray
                   -> transaction -> commit
                   -> history, tag, branch, diff, list
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shardtools.arrays.array import HubArray
from shardtools.arrays.chunk_reader import read_entries
from shardtools.arrays.chunks import Cache
from shardtools.arrays.fill import shape_like
from shardtools.arrays.hub_shown import HubShown
from shardtools.arrays.hub_sync import HubSync
from shardtools.arrays.hub_upkeep import HubUpkeep
from shardtools.arrays.keys import SnapshotKeys
from shardtools.arrays.metadata import ArrayMetadata, create_array, parse_array, parse_node
from shardtools.arrays.names import check_new_version, document_key, path_of_document, split_version
from shardtools.arrays.new_place import new_place
from shardtools.arrays.settings import HubSettings
from shardtools.arrays.snapshot_at import SnapshotAt
from shardtools.arrays.transaction import Transaction
from shardtools.arrays.unknown import nothing_to_tag, unknown_array
from shardtools.errors import ConflictError, ConflictUnsupportedError, ExistsError, NotFoundError, SpecError
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.log.commit import Commit
from shardtools.log.log import MAIN, Log, Snapshot
from shardtools.log.place import Place
from shardtools.log.versions import Tag
from shardtools.lru import LRU
from shardtools.storage import StorageOptions
from shardtools.urls import absolute, at_home

if TYPE_CHECKING:
    from shardtools.arrays.store import HubStore

MEMORY = 128 << 20
"""Decoded bytes of chunks that are kept in memory, by default."""

_ATTEMPTS = 20
"""How often an array is created anew when others create some in the same group at the same time."""


class Hub(HubUpkeep, HubSync, HubShown):
    """Arrays by name and version. ``st.hub`` returns it; it can be pickled and used by many threads.

    A name is that of an array, such as ``mnist/train``; with a version it is ``mnist/train:v0``, for a branch or a tag,
    or ``mnist/train@17``, for a commit. Without one it is the branch ``main``.
    """

    def __init__(self, settings: HubSettings):
        """Users call `shardtools.hub` instead."""
        self._settings = settings
        self._options = settings.options()
        self.url = absolute(at_home(settings.url)).rstrip("/") + "/"
        self.cache: Cache = LRU(settings.memory, lambda chunk: chunk.nbytes + 200)
        self._log: Log | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Hub, (self._settings,)

    def __repr__(self) -> str:
        from shardtools.errors import redact

        return f"<Hub {redact(self.url)}>"

    @property
    def options(self) -> StorageOptions:
        """How storage is used."""
        return self._options

    # --- the log

    @property
    def place(self) -> Place:
        """Where the log lies."""
        return self.log.place

    @property
    def log(self) -> Log:
        """The log of the place.

        Raises:
            NotFoundError: there is none yet: it is made by the first array.
        """
        return self._open(create=False)

    def _open(self, *, create: bool) -> Log:
        if self._log is None:
            single_writer = self._settings.single_writer
            try:
                self._log = Log.open(self.url, single_writer=single_writer, options=self._options)
            except NotFoundError as error:
                if not create:
                    fix = "check the URL, or create an array: hub.array(NAME, shape=…, dtype=…)"
                    raise NotFoundError("there are no arrays here", url=self.url, fix=fix) from error
                self._new_place()
                try:
                    self._log = Log.open(self.url, create=True, single_writer=single_writer, options=self._options)
                except ConflictUnsupportedError as refused:
                    fix = "if one process alone writes there, say so: st.hub(URL, single_writer=True)"
                    raise ConflictUnsupportedError(refused.what, url=self.url, fix=fix) from refused
        return self._log

    def log_to_fill(self) -> Log:
        """Return the log of the place; if there is none yet, one that is not made.

        Raises:
            ExistsError: the place holds something else.
        """
        try:
            return self.log
        except NotFoundError:
            return Log(self._new_place())

    def beside(self, url: str) -> Hub:
        """Return a hub at another place, with the same settings but for caches and ``single_writer``."""
        return Hub(replace(self._settings, url=url, cache=None, single_writer=False))

    def _new_place(self) -> Place:
        return new_place(self.url, self._options, single_writer=self._settings.single_writer)

    def split(self, name: str) -> tuple[str, str | None]:
        """Return the path and the version in a name; see `names.split_version`."""
        return split_version(name)

    def snapshot(self, version: str | None = None) -> Snapshot:
        """Return the commit that a version names: a branch, a tag or ``@17``; by default the newest of ``main``.

        Raises:
            NotFoundError: there is no such version; the error says which there are.
        """
        return self.log.head() if version is None else self.log.resolve(version)

    def snapshot_at(self, at: SnapshotAt) -> Snapshot:
        """Return a snapshot that was seen elsewhere."""
        if at.fixed is not None:
            return self.log.resolve(at.fixed)
        if at.number < 0:
            return replace(self.log.head(at.branch), commit=None)
        return replace(self.log.resolve(f"{at.branch}@{at.number}"), fixed=None)

    # --- documents

    def read_document(self, snapshot: Snapshot, path: str) -> bytes | None:
        """Return the document of a node, None if there is none."""
        key = document_key(path)
        entries = snapshot.find([key])
        return read_entries(snapshot.log.place, entries)[key] if entries else None

    def documents(self, snapshot: Snapshot, path: str = "") -> Iterator[tuple[str, bytes]]:
        """Yield path and document of a node and of all that is in it, sorted by path."""
        key = document_key(path)
        found = snapshot.find([key])
        found |= dict(snapshot.scan(f"{key}/"))
        data = read_entries(snapshot.log.place, found)
        return ((path_of_document(key), data[key]) for key in sorted(found))

    def is_array(self, document: bytes, path: str) -> bool:
        """Return whether a document is that of an array."""
        return bool(parse_node(document, self.url, path)["node_type"] == "array")

    def read_array(self, snapshot: Snapshot, path: str) -> ArrayMetadata:
        """Return the metadata of an array.

        Raises:
            NotFoundError: there is none, or it is a group; the error says which there are.
            CorruptError: it is damaged.
        """
        document = self.read_document(snapshot, path)
        if document is None:
            raise self.unknown(snapshot, path)
        return parse_array(document, self.url, path)

    def unknown(self, snapshot: Snapshot, path: str) -> NotFoundError:
        """Return the error for an array that there is not."""
        return unknown_array(self, snapshot, path)

    # --- arrays

    def array(
        self,
        name: str,
        shape: Sequence[int] | int | None = None,
        chunks: Sequence[int] | int | None = None,
        dtype: Any = None,
        *,
        like: Any = None,
        fill_value: Any = None,
        attributes: Mapping[str, Any] | None = None,
        dimension_names: Sequence[str | None] | None = None,
        **options: Any,
    ) -> HubArray:
        """Return the array ``name``, which is created if there is none, as one commit. No chunk is written.

        Args:
            name: ``NAME`` or ``NAME:BRANCH``. A branch that there is not begins at the newest commit of ``main``.
            shape: the size of each axis. ``(0, …)`` is for `append`: it opens an array of any number of rows.
            chunks: the shape of a chunk, which is what is written and read at once; by default whole rows,
                about 1 MiB of them.
            dtype: the type of the elements, by default float64.
            like: an array that has the shape, type and chunks that are not given: of numpy, Dask, Zarr or a hub, or a
                view of a dataset's samples. Its values are written by `fill`.
            fill_value: what elements are that were never written; by default 0.
            attributes: what else is known of the array, as JSON.
            dimension_names: the names of the axes.
            options: those of `zarr.create_array`: ``compressors``, ``filters``, ``serializer``, ``shards``.

        Raises:
            ExistsError: there is one of another shape or type, or a group of this name.
            JobError: the version is a tag or a commit.
        """
        path, version = split_version(name)
        options |= {"fill_value": fill_value, "attributes": attributes, "dimension_names": dimension_names}
        if like is not None:
            shape_of_it, dtype_of_it, chunks_of_it = shape_like(like)
            chunks = chunks_of_it if chunks is None and shape is None else chunks
            shape, dtype = shape_of_it if shape is None else shape, dtype_of_it if dtype is None else dtype
        if shape is None:
            raise TypeError("an array needs a shape, or another array that it is like")
        metadata = create_array(shape, chunks, "float64" if dtype is None else dtype, **options)
        for attempt in range(_ATTEMPTS):
            base = self._branch_to_write(version)
            if (document := self.read_document(base, path)) is not None:
                if not self.is_array(document, path):
                    fix = f"use another name, or one in it, such as {path}/x"
                    raise ExistsError(f"{path} is a group already", url=self.url, fix=fix)
                there = parse_array(document, self.url, path)
                _check_same(there, metadata, path, self.url)
                return HubArray(self, base, path, there)
            try:
                with self.begin(base, f"create {path}") as transaction:
                    transaction.create(path, metadata)
            except ConflictError:
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return HubArray(self, transaction.result, path, metadata)
        raise AssertionError("unreachable")

    def _branch_to_write(self, version: str | None) -> Snapshot:
        """Return the newest commit of a branch, which is made if there is none."""
        log = self._open(create=True)
        if version is None or log.find_branch(version) is not None:
            return log.head(version or MAIN)
        if "@" in version or log.find_tag(version) is not None:
            return log.resolve(version)
        try:
            return log.branch(check_new_version(version), log.head())
        except ExistsError:  # another process has just made it
            return log.head(version)

    def load(self, name: str) -> HubArray:
        """Return the array ``name``, such as ``mnist/train:v1``, as it is now. It shows that until it is refreshed.

        Raises:
            NotFoundError: there is no such version, or no such array in it; the error says which there are.
        """
        path, version = split_version(name)
        snapshot = self.snapshot(version)
        return HubArray(self, snapshot, path, self.read_array(snapshot, path))

    def store(self, version: str | None = None) -> HubStore:
        """Return a version as a store of the zarr library, to read: ``xr.open_zarr(hub.store("v1"))``.

        To write, take that of a transaction: ``with hub.transaction() as t: ds.to_zarr(t.store())``.
        """
        from shardtools.arrays.store import HubStore

        return HubStore(SnapshotKeys(self, SnapshotAt.of(self.snapshot(version))))

    def list(self, version: str | None = None) -> list[str]:
        """Return the names of all arrays, sorted."""
        snapshot = self.snapshot(version)
        return [path for path, document in self.documents(snapshot) if path and self.is_array(document, path)]

    def __contains__(self, name: str) -> bool:
        path, version = split_version(name)
        try:
            return self.read_document(self.snapshot(version), path) is not None
        except NotFoundError:
            return False

    def __delitem__(self, name: str) -> None:
        """Remove an array, or a group with all that is in it, as one commit. Versions before it keep it."""
        path, version = split_version(name)
        with self.begin(self.snapshot(version), f"remove {path}") as transaction:
            del transaction[path]

    def move(self, name: str, to: str) -> None:
        """Give an array, or a group with all that is in it, another name, as one commit. No chunk is copied."""
        path, version = split_version(name)
        with self.begin(self.snapshot(version), f"move {path} to {to}") as transaction:
            transaction.move(path, to)

    # --- writing

    def transaction(self, message: str = "", *, author: str = "", version: str | None = None) -> Transaction:
        """Return a context in which several arrays are written, as one commit.

        ``t["mnist/train"]`` is an array of it. ``version`` is the branch, by default ``main``.

        Raises:
            JobError: the version is a tag or a commit.
        """
        return self.begin(self._branch_to_write(version), message, author)

    def begin(self, base: Snapshot, message: str = "", author: str = "") -> Transaction:
        """Return a transaction on top of a commit."""
        return Transaction(self, base, message, author)

    # --- versions

    def history(self, version: str | None = None) -> Iterator[Commit]:
        """Yield the commits of a version, the newest first."""
        return self.snapshot(version).history()

    def tag(self, name: str, version: str | None = None, *, message: str = "", author: str = "") -> Tag:
        """Give a commit a name, for ever; by default the newest commit of ``main``.

        Raises:
            ExistsError: there is a tag or a branch of this name.
            JobError: this cannot be its name.
        """
        snapshot = self.snapshot(version)
        if snapshot.commit is None:
            raise nothing_to_tag(self, snapshot, name)
        return self.log.tag(check_new_version(name), snapshot, message=message, author=author)

    def branch(self, name: str, version: str | None = None) -> None:
        """Make a branch that begins at a version, by default the newest commit of ``main``.

        Raises:
            ExistsError: there is a tag or a branch of this name.
            JobError: this cannot be its name.
        """
        self.log.branch(check_new_version(name), self.snapshot(version))

    def branches(self) -> Sequence[str]:
        """Return the names of the branches, sorted."""
        return self.log.branches()

    def tags(self) -> Sequence[str]:
        """Return the names of the tags, sorted."""
        return self.log.tags()


def open_hub(
    url: str,
    *,
    cache: str | Sequence[str] | None = None,
    memory: int = MEMORY,
    single_writer: bool = False,
    retries: int = 5,
    timeout: float = 60.0,
    limits: Limits = DEFAULT_LIMITS,
) -> Hub:
    """Return the arrays at ``url``: a folder, ``http://``, ``s3://`` or ``gs://``. Nothing is read or made yet.

    Args:
        url: the place.
        cache: ``DIR`` or ``DIR:SIZE``, a local folder that keeps what is read from a server; or several, of which the
            first is asked first.
        memory: decoded bytes of chunks that are kept in memory.
        single_writer: says that nobody else writes at the same time, for services that cannot create an object only if
            there is none.
        retries: how often a request is repeated after a temporary failure.
        timeout: how many seconds to wait for a server.
        limits: the largest sizes of data that are held in memory.
    """
    place = os.fspath(url)
    if not place or not isinstance(place, str):
        raise SpecError(f"{place!r} is not the URL of a place", fix="name a folder, or http://, s3:// or gs://")
    return Hub(HubSettings(place, cache, retries, timeout, memory, single_writer, limits))


def _check_same(there: ArrayMetadata, wanted: ArrayMetadata, path: str, url: str) -> None:
    is_to_append = there.shape != () and wanted.shape == (0, *there.shape[1:])
    for what in ("shape", "dtype"):
        found, asked = getattr(there, what), getattr(wanted, what)
        if found != asked and not (what == "shape" and is_to_append):
            fix = f"open it with hub.load({path!r}), or use another name"
            raise ExistsError(f"there is {path} already, and its {what} is {found}, not {asked}", url=url, fix=fix)
