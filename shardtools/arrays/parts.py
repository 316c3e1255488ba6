"""What other processes write for a transaction: each write is an object, which the transaction takes over.

    array[region] = block, on a worker -> whole chunks into a data shard, parts of chunks as they are -> part-….part
    commit -> list of parts -> chunks taken over, parts of one chunk put together

A part's name depends on what is written. So a task that runs twice, as tasks of a cluster may, writes the same part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from shardtools.arrays.chunks import as_block, full_chunk
from shardtools.arrays.data_writer import DataWriter
from shardtools.arrays.grid import Piece, Shape, pieces, select
from shardtools.arrays.metadata import ArrayMetadata, parse_array
from shardtools.arrays.names import check_path
from shardtools.errors import CorruptError, RefusedError
from shardtools.log.names import check_object
from shardtools.log.place import Place
from shardtools.log.segment import Entry
from shardtools.storage import get_storage

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

_SUFFIX = ".part"
_FORMAT = 1


@dataclass(frozen=True)
class WholeChunk:
    """A whole chunk, and where its bytes lie."""

    coordinates: Shape
    entry: Entry


@dataclass(frozen=True)
class Patch:
    """A part of a chunk: ``data`` are the elements of ``inner``, of this shape."""

    coordinates: Shape
    inner: tuple[Any, ...]
    shape: Shape
    data: bytes


@dataclass(frozen=True)
class Part:
    """What one write of another process consists of."""

    path: str
    chunks: tuple[WholeChunk, ...]
    patches: tuple[Patch, ...]


class WorkerArray:
    """An array that writes for a transaction in another process. It cannot be read."""

    def __init__(self, hub: Hub, id: str, path: str, document: bytes):
        self._hub, self._id, self.path = hub, id, path
        self._metadata = parse_array(document, hub.url, path)
        self.shape, self.dtype, self.chunks = self._metadata.shape, self._metadata.dtype, self._metadata.chunks
        self.ndim = len(self.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerArray, (self._hub, self._id, self.path, self._metadata.document)

    def __setitem__(self, index: Any, values: Any) -> None:
        """Write what numpy would. It is seen when the transaction is committed.

        Raises:
            IndexError, ValueError: numpy's.
        """
        metadata = self._metadata
        selection = select(index, metadata.shape)
        block = as_block(selection, values, metadata.dtype)
        write_part(
            self._hub.place, self._id, self.path, metadata, block, list(pieces(selection, self.shape, self.chunks))
        )


def write_part(place: Place, id: str, path: str, metadata: ArrayMetadata, block: Any, some: Sequence[Piece]) -> None:
    """Write pieces of a block as one part of the transaction ``id``."""
    whole = [(piece, metadata.codec.encode(full_chunk(block, piece, metadata))) for piece in some if piece.whole]
    cut = [(piece, np.ascontiguousarray(block[piece.outer])) for piece in some if not piece.whole]
    digest = hashlib.blake2b(path.encode(), digest_size=16)
    for piece, data in [*whole, *((piece, values.tobytes()) for piece, values in cut)]:
        digest.update(repr((piece.coordinates, _dump_inner(piece.inner))).encode())
        digest.update(data)
    name = f"part-{digest.hexdigest()}"
    chunks = []
    with DataWriter(place, id, f"{name}-") as writer:
        for piece, data in whole:
            entry = writer.add(f"{path}/{metadata.chunk_name(piece.coordinates)}", data)
            chunks.append([piece.coordinates, [entry.name, entry.offset, entry.size, entry.crc32c]])
    patches, bodies, at = [], [], 0
    for piece, values in cut:
        data = values.tobytes()
        patches.append([piece.coordinates, _dump_inner(piece.inner), values.shape, at, len(data)])
        bodies.append(data)
        at += len(data)
    body = b"".join(bodies)
    head = {
        "format": _FORMAT,
        "path": path,
        "chunks": chunks,
        "patches": patches,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    with place.using():
        place.put(f"data/{id}/{name}{_SUFFIX}", json.dumps(head, ensure_ascii=False).encode() + b"\n" + body)


def read_parts(place: Place, id: str) -> Iterator[Part]:
    """Yield the parts of a transaction.

    Raises:
        RefusedError: the storage does not list.
        CorruptError: a part is damaged.
    """
    with place.using():
        try:
            urls = get_storage(place.root).list(f"{place.root}data/{id}/")
        except RefusedError as error:
            fix = "let the process that began the transaction write alone, or use a server that lists"
            raise RefusedError(
                "the storage does not list what workers have written", url=place.root, fix=fix
            ) from error
    for url in urls:
        if url.endswith(_SUFFIX):
            with place.using():
                data = get_storage(url).read(url)
            yield _parse(data, url)


def _parse(data: bytes, url: str) -> Part:
    line, _, body = data.partition(b"\n")
    try:
        head = json.loads(line)
        if head["format"] != _FORMAT or head["sha256"] != hashlib.sha256(body).hexdigest():
            raise ValueError("its checksum does not match")
        return Part(
            check_path(head["path"]),
            tuple(
                WholeChunk(tuple(map(int, coordinates)), Entry(check_object(entry[0]), *map(int, entry[1:])))
                for coordinates, entry in head["chunks"]
            ),
            tuple(
                Patch(tuple(map(int, coordinates)), _parse_inner(inner), tuple(map(int, shape)), body[at : at + size])
                for coordinates, inner, shape, at, size in head["patches"]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"a part of a transaction is damaged: {error}", url=url, fix="write again") from error


def _dump_inner(inner: Sequence[Any]) -> list[Any]:
    return [
        [part.start, part.stop, part.step] if isinstance(part, slice) else {"list": np.ravel(part).tolist()}
        for part in inner
    ]


def _parse_inner(inner: Sequence[Any]) -> tuple[Any, ...]:
    parts = [slice(*part) if isinstance(part, list) else np.array(part["list"], np.int64) for part in inner]
    lists = sum(isinstance(part, np.ndarray) for part in parts)
    return tuple(parts) if lists < 2 else np.ix_(*parts)


def is_dask(values: Any) -> bool:
    """Return whether values are a Dask array."""
    return hasattr(values, "__dask_graph__")


def store(values: Any, target: Any, index: Any) -> None:
    """Compute a Dask array and write its blocks, each where it was computed.

    Raises:
        ValueError: the shape does not fit.
    """
    import dask.array as da

    selection = select(index, target.shape)
    region = []
    for axis, part in zip(selection.axes, selection.index, strict=False):
        if not isinstance(axis, range) or part != slice(None):
            raise IndexError("a Dask array can be written to slices with a positive step only")
        region.append(slice(axis.start, axis.stop, axis.step))
    if values.shape != selection.block:
        raise ValueError(f"could not write an array of shape {values.shape} into {selection.block}")
    da.store(values, target, regions=tuple(region), lock=False)
