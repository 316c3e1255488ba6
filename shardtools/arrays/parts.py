"""What other processes write for a transaction: each write is an object, which the transaction takes over.

    array[region] = block, on a worker -> whole chunks into a data shard, parts of chunks as they are -> part-….part
    transaction -> list of parts -> chunks taken over, parts of one chunk put together (``taken_parts.py``)

A part's name depends on what is written. So a task that runs twice, as tasks of a cluster may, writes the same part. It
is written after its shard, so that a process that is killed leaves a whole part, or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from shardtools.arrays.chunks import full_chunk
from shardtools.arrays.data_writer import DataWriter
from shardtools.arrays.grid import ChunkPiece, Shape
from shardtools.arrays.metadata import ArrayMetadata
from shardtools.arrays.names import check_path
from shardtools.errors import ConflictError, CorruptError, NotFoundError, RefusedError
from shardtools.log.names import check_object
from shardtools.log.place import Place
from shardtools.log.segment import Entry
from shardtools.storage import get_storage
from shardtools.urls import name_of

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

Array = npt.NDArray[Any]

_SUFFIX = ".part"
_CLOSED = "closed"
_FORMAT = 1

NONE: Final = "none"

Seen = int | Literal["none"] | None
"""What a writer has read of a key before it wrote it: a CRC-32C, or that there was none; None if it has not read it."""


@dataclass(frozen=True)
class WholeChunk:
    """A whole chunk, and where its bytes lie, None if it was removed."""

    key: str
    entry: Entry | None
    seen: Seen = None


@dataclass(frozen=True)
class Patch:
    """A part of a chunk: ``data`` are the elements of ``inner``, of this shape; or a packed chunk, if ``is_packed``."""

    coordinates: Shape
    inner: tuple[Any, ...]
    shape: Shape
    is_packed: bool
    data: bytes

    def values(self, metadata: ArrayMetadata) -> Array:
        """Return the elements."""
        if self.is_packed:
            return np.asarray(metadata.codec.decode(self.data)[self.inner])
        return np.frombuffer(self.data, metadata.dtype).reshape(self.shape)


@dataclass(frozen=True)
class WorkerPart:
    """What one write of another process consists of; see `PartOf`."""

    name: str
    path: str
    removals: int
    sent: int
    chunks: tuple[WholeChunk, ...]
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class PartOf:
    """The transaction that a process writes parts for, how many removals of nodes it knows of, and its number."""

    hub: Hub
    id: str
    removals: int
    sent: int

    @property
    def place(self) -> Place:
        """Where the parts go.

        Raises:
            NotFoundError: this machine does not see it.
        """
        try:
            return self.hub.place
        except NotFoundError as error:
            what = f"a worker does not see the place of the arrays, process {os.getpid()} on {socket.gethostname()}"
            fix = "use a folder that all machines share, or a server"
            raise NotFoundError(what, url=self.hub.url, fix=fix) from error


def write_part(target: PartOf, path: str, metadata: ArrayMetadata, block: Array, some: Sequence[ChunkPiece]) -> None:
    """Write pieces of a block as one part.

    Raises:
        ConflictError: the transaction has been committed meanwhile.
    """
    chunks, heads, bodies, at = [], [], [], 0
    for piece in some:
        if piece.whole:
            key = f"{path}/{metadata.chunk_name(piece.coordinates)}"
            chunks.append((key, metadata.codec.encode(full_chunk(block, piece, metadata)), None))
            continue
        is_packed = metadata.dtype.kind not in "biufcSUMmV" or metadata.dtype.hasobject
        values = np.ascontiguousarray(block[piece.outer])
        data = metadata.codec.encode(full_chunk(block, piece, metadata)) if is_packed else values.tobytes()
        heads.append([piece.coordinates, _dump_inner(piece.inner), values.shape, is_packed, at, len(data)])
        bodies.append(data)
        at += len(data)
    _write(target, path, chunks, heads, b"".join(bodies))


def write_chunk(target: PartOf, path: str, key: str, data: bytes | None, seen: Seen) -> Entry | None:
    """Write a whole chunk, None removes it, as one part; return where its bytes lie.

    Raises:
        ConflictError: the transaction has been committed meanwhile.
    """
    return _write(target, path, [(key, data, seen)], [], b"")[0]


def _write(
    target: PartOf,
    path: str,
    chunks: Sequence[tuple[str, bytes | None, Seen]],
    patches: Sequence[Any],
    body: bytes,
) -> list[Entry | None]:
    """Write a part. What it is named after are the bytes that are stored, so that those of its name never change."""
    digest = hashlib.blake2b(digest_size=16)
    for text in ([path, target.removals, [(key, data and len(data), seen) for key, data, seen in chunks]], patches):
        digest.update(json.dumps(text).encode() + b"\n")
    for data in (*(data or b"" for _, data, _ in chunks), body):
        digest.update(data)
    name = f"part-{digest.hexdigest()}"
    with DataWriter(target.place, target.id, f"{name}-") as writer:
        entries = [None if data is None else writer.add(key, data) for key, data, _ in chunks]
    head = {
        "format": _FORMAT,
        "path": path,
        "removals": target.removals,
        "sent": target.sent,
        "chunks": [
            [key, entry and [entry.name, entry.offset, entry.size, entry.crc32c], seen]
            for (key, _, seen), entry in zip(chunks, entries, strict=True)
        ],
        "patches": patches,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    place, folder = target.place, f"data/{target.id}/"
    with place.using():
        place.put(f"{folder}{name}{_SUFFIX}", json.dumps(head, ensure_ascii=False).encode() + b"\n" + body)
        url = f"{place.root}{folder}{_CLOSED}"
        if get_storage(url).exists(url):
            what = f"the transaction has been committed, perhaps without what was just written to {path}"
            raise ConflictError(what, url=place.root, fix="wait for all workers before the context is left")
    return entries


def close_parts(place: Place, id: str) -> None:
    """Let writers of parts know that from now on none is taken over."""
    with place.using():
        place.put(f"data/{id}/{_CLOSED}", b"\n")


def read_parts(place: Place, id: str, known: Collection[str] = ()) -> Iterator[WorkerPart]:
    """Yield the parts of a transaction, sorted by name, without those whose names are ``known``.

    Raises:
        RefusedError: the storage does not list.
        CorruptError: a part is damaged.
    """
    with place.using():
        try:
            urls = get_storage(place.root).list(f"{place.root}data/{id}/")
        except NotFoundError:  # nobody has written anything yet
            return
        except RefusedError as error:
            what = "the storage does not list what workers have written"
            fix = "let the process that began the transaction write alone, or use a server that lists"
            raise RefusedError(what, url=place.root, fix=fix) from error
    for url in sorted(urls):
        if url.endswith(_SUFFIX) and name_of(url) not in known:
            with place.using():
                data = get_storage(url).read(url)
            yield _parse(data, url)


def _parse(data: bytes, url: str) -> WorkerPart:
    line, _, body = data.partition(b"\n")
    try:
        head = json.loads(line)
        if head["format"] != _FORMAT or head["sha256"] != hashlib.sha256(body).hexdigest():
            raise ValueError("its checksum does not match")
        return WorkerPart(
            name_of(url),
            check_path(head["path"]),
            int(head["removals"]),
            int(head["sent"]),
            tuple(WholeChunk(check_path(key), entry and _entry(*entry), seen) for key, entry, seen in head["chunks"]),
            tuple(
                Patch(tuple(coordinates), _parse_inner(inner), tuple(shape), is_packed, body[at : at + size])
                for coordinates, inner, shape, is_packed, at, size in head["patches"]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"a part of a transaction is damaged: {error}", url=url, fix="write again") from error


def _entry(name: str, offset: int, size: int, crc32c: int) -> Entry:
    return Entry(check_object(name), offset, size, crc32c)


def _dump_inner(inner: Sequence[Any]) -> list[Any]:
    kind = "points" if len(inner) > 1 and all(np.ndim(part) == 1 for part in inner) else "list"
    return [
        [part.start, part.stop, part.step] if isinstance(part, slice) else {kind: np.ravel(part).tolist()}
        for part in inner
    ]


def _parse_inner(inner: Sequence[Any]) -> tuple[Any, ...]:
    if inner and all(isinstance(part, dict) and "points" in part for part in inner):
        return tuple(np.array(part["points"], np.int64) for part in inner)
    parts = [slice(*part) if isinstance(part, list) else np.array(part["list"], np.int64) for part in inner]
    lists = sum(isinstance(part, np.ndarray) for part in parts)
    return tuple(parts) if lists < 2 else np.ix_(*parts)
