"""The versions of a hub as read-only Zarr stores over HTTP, for other programs.

    main@3/deep/x/zarr.json -> the document; that of a group has those of all that is in it
    main@3/deep/x/c/0/0     -> the bytes of a chunk where they lie, or a range of them

Nothing is copied or unpacked. A version is a commit or a tag, which never change, since a program reads an array piece
by piece. Only a key that the version does not have is a 404, which Zarr takes for the fill value; what is damaged or
gone is another error.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import quote

from shardtools.arrays.keys import Request, SnapshotKeys
from shardtools.arrays.metadata import parse_node
from shardtools.arrays.names import DOCUMENT
from shardtools.arrays.snapshot_at import SnapshotAt
from shardtools.errors import NotFoundError
from shardtools.lru import LRU
from shardtools.viewer.answers import BYTES, JSON, AskedError, HttpAnswer

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub
    from shardtools.log.log import Snapshot

VERSIONS = 32
"""Versions that are kept open."""

LARGEST = 256 << 20
"""Bytes of an answer at most."""

DOCUMENTS = 10_000
"""Nodes of a group that are in its document at most."""

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class ZarrVersions:
    """The keys of all versions of a hub."""

    def __init__(self, hub: Hub):
        self._hub = hub
        self._open: LRU[str, tuple[Snapshot, SnapshotKeys]] = LRU(VERSIONS)

    def answer(self, version: str, key: str, wanted: str = "", *, head: bool = False) -> HttpAnswer:
        """Return what a key of Zarr has in a version, or the range of it that is ``wanted``; with ``head``, no bytes.

        Raises:
            AskedError: there is no such key or version, or it has too many bytes.
            CorruptError, StorageError: the key is there, but its bytes cannot be read, or are damaged.
        """
        snapshot, keys = self._version(version)
        is_document = key == DOCUMENT or key.endswith(f"/{DOCUMENT}")
        document = self._document(snapshot, keys, key) if is_document else None
        size = keys.size(key) if document is None else len(document)
        if size is None or (is_document and document is None):
            raise AskedError("there is no such key", 404)
        if (part := _part(wanted, size)) is None:
            return HttpAnswer(b"", BYTES, 416, {"Content-Range": f"bytes */{size}"})
        length = part.stop - part.start
        if length > LARGEST and not head:
            fix = f"ask for ranges of it; {LARGEST:,} bytes are sent at once at most"
            raise AskedError(f"the chunk has {size:,} bytes", 413, fix=fix)
        headers = {"Content-Length": str(length), "Accept-Ranges": "bytes"}
        if length < size:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        body = b"" if head else document[part] if document is not None else _read(keys, key, part, size)
        return HttpAnswer(body, BYTES if document is None else JSON, 206 if length < size else 200, headers)

    def _version(self, version: str) -> tuple[Snapshot, SnapshotKeys]:
        if (known := self._open.get(version)) is not None:
            return known
        try:
            snapshot = self._hub.snapshot(version)
        except NotFoundError as error:
            raise AskedError(error.what, 410, fix=error.fix) from error
        if snapshot.fixed is None:
            fix = f"name a commit, such as {fixed_version(snapshot)}, or a tag"
            raise AskedError(f"{version[:100]} is a branch, which may change while it is read", fix=fix)
        return self._open.put(version, (snapshot, SnapshotKeys(self._hub, SnapshotAt.of(snapshot))))

    def _document(self, snapshot: Snapshot, keys: SnapshotKeys, key: str) -> bytes | None:
        """Return a document; that of a group with all that is in it, as nothing can be listed over HTTP."""
        [document] = keys.read([Request(key)])
        if document is None:
            return None
        path = key[: -len(DOCUMENT)].rstrip("/")
        body = parse_node(document, self._hub.url, path)
        if body["node_type"] != "group":
            return document
        start = len(path) + 1 if path else 0
        inside = islice(self._hub.documents(snapshot, path), 1, DOCUMENTS + 2)
        found = {name[start:]: parse_node(text, self._hub.url, name) for name, text in inside}
        body.pop("consolidated_metadata", None)
        if len(found) <= DOCUMENTS:
            body["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": found}
        return json.dumps(body, ensure_ascii=False).encode()


def fixed_version(snapshot: Snapshot) -> str:
    """Return the name of what a snapshot is of: a tag, or a commit such as ``main@3``."""
    return snapshot.fixed or f"{snapshot.branch.name}@{snapshot.number}"


def zarr_path(version: str, path: str) -> str:
    """Return the address of a node below that of its hub.

    >>> zarr_path("main@3", "deep/x 1")
    'main@3/deep/x%201/'
    """
    return f"{quote(version, safe='@')}/{quote(path)}/"


def _read(keys: SnapshotKeys, key: str, part: slice, size: int) -> bytes:
    """Return a part of what a key has; what is read whole is compared with its CRC-32C."""
    [data] = keys.read([Request(key, None if part == slice(0, size) else part)])
    assert data is not None
    return data


def _part(wanted: str, size: int) -> slice | None:
    """Return the part that a Range header names, None if there are no such bytes; all if it names none, or several.

    >>> _part("bytes=2-4", 10), _part("bytes=8-", 10), _part("bytes=-3", 10), _part("", 10), _part("bytes=10-", 10)
    (slice(2, 5, None), slice(8, 10, None), slice(7, 10, None), slice(0, 10, None), None)
    """
    match = _RANGE.fullmatch(wanted.strip())
    first, last = match.groups() if match else ("", "")
    if not first:
        return slice(max(size - int(last), 0), size) if last else slice(0, size)
    start, stop = int(first), min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return slice(0, size)
    return slice(start, stop) if start < size else None
