"""What other programs have written, into a hub: a Zarr hierarchy, a .npy or .npz file, or a field of samples.

Zarr 3 -> documents and chunks as they are, each decoded once to see that it can be
Zarr 2 -> documents of the same meaning, chunks packed anew
.npy   -> the same as an array in memory, but mapped
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from shardtools.arrays.chunk_order import batched
from shardtools.arrays.chunk_reader import THREADS, run_each
from shardtools.arrays.exporting import split_selector
from shardtools.arrays.metadata import ArrayMetadata, create_array, group_document, parse_array
from shardtools.errors import CorruptError, JobError, NotFoundError, ShardtoolsError, StorageError
from shardtools.processors import processors
from shardtools.schemes import SERVERS
from shardtools.storage import StorageOptions, get_storage, using
from shardtools.urls import absolute, at_home, is_local, name_of, path_of, scheme_of

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub
    from shardtools.arrays.transaction import Transaction

Advance = Callable[[int, int], object]

_TOGETHER = 64
_MAX_GRID = 1 << 20
"""Chunks of an array that are asked for one by one, where the store does not list them."""


@dataclass(frozen=True)
class ImportResult:
    """What was imported: the paths of ``arrays``, and how many chunks and bytes they took."""

    arrays: tuple[str, ...]
    chunks: int
    nbytes: int


def import_from(hub: Hub, source: str, name: str, *, author: str, advance: Advance | None) -> ImportResult:
    """Copy arrays from a URL as one commit; see `Hub.import_from`."""
    url = absolute(at_home(source))
    tell = advance or (lambda chunks, nbytes: None)
    if name_of(url).lower().endswith((".npy", ".npz")):
        return _import_file(hub, url, name, author, tell)
    return _import_zarr(hub, url, name, author, tell)


def _import_file(hub: Hub, url: str, name: str, author: str, advance: Advance) -> ImportResult:
    from shardtools.sources.array_file import ArrayFile, opened

    path, version = split_selector(hub, name)
    made = []
    nbytes = 0
    with using(hub.options.naming(url)):
        file = opened(ArrayFile(url, get_storage(url).stat(url)))
        found = list(file.headers())
        if not path and url.lower().endswith(".npy"):
            raise JobError("the array needs a name", url=url, fix="give NAME, or NAME:BRANCH")
        with hub.transaction(f"import {name_of(url)}", author=author, version=version) as transaction:
            for part in found:
                array = file.array(part)
                inside = part if url.lower().endswith(".npz") else ""
                where = "/".join(filter(None, (path, inside)))
                if array.dtype.hasobject:
                    raise JobError(
                        f"an array of {array.dtype} cannot be stored", url=url, member=part, fix="convert it"
                    )
                target = transaction.array(where, shape=array.shape, dtype=array.dtype)
                step = target.chunks[0] if array.ndim else 1
                for start in range(0, len(array), step) if array.ndim else ():
                    target[start : start + step] = array[start : start + step]
                    advance(1, array[start : start + step].nbytes)
                if not array.ndim:
                    target[()] = array[()]
                made.append(where)
                nbytes += array.nbytes
    return ImportResult(tuple(made), sum(1 for where in made for _ in transaction.result.scan(f"{where}/")), nbytes)


# --- Zarr


def _import_zarr(hub: Hub, url: str, name: str, author: str, advance: Advance) -> ImportResult:
    root = _open(url, hub.options.naming(url))
    path, version = split_selector(hub, name)
    arrays, chunks, nbytes = [], 0, 0
    with hub.transaction(f"import {name_of(url.rstrip('/'))}", author=author, version=version) as transaction:
        for inside, node in _nodes(root):
            where = "/".join(filter(None, (path, inside)))
            if not hasattr(node, "shape"):
                if where:
                    transaction.group(where, node.attrs.asdict())
                elif transaction.document("") is None:
                    transaction.set_document("", group_document(node.attrs.asdict()))
                continue
            if not where:
                raise JobError("the array needs a name", url=url, fix="give NAME, or NAME:BRANCH")
            source = _Source(node, url)
            transaction.create(where, source.metadata)
            arrays.append(where)
            for batch in batched(source.coordinates(), _TOGETHER):
                count, size = _copy(transaction, where, source, batch)
                chunks, nbytes = chunks + count, nbytes + size
                advance(count, size)
    return ImportResult(tuple(arrays), chunks, nbytes)


def _open(url: str, options: StorageOptions) -> Any:
    import zarr

    from shardtools.arrays.url_store import UrlStore

    place: Any = path_of(url) if is_local(url) else UrlStore(url, options) if scheme_of(url) in SERVERS else url
    try:
        return zarr.open(place, mode="r")
    except FileNotFoundError as error:
        raise NotFoundError("there is no Zarr array or group", url=url, fix="check the path") from error
    except ImportError as error:
        fix = "pip install fsspec, and what it needs for this kind of URL"
        raise JobError(f"zarr cannot open this: {error}", url=url, fix=fix) from error
    except ShardtoolsError:
        raise
    except Exception as error:  # zarr and what it reads through raise many kinds
        what = f"zarr cannot open this: {type(error).__name__}: {' '.join(str(error).split())}"
        raise StorageError(what, url=url, fix="see whether zarr.open can") from error


def _nodes(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield the paths of a node and of all that is in it, sorted, and the nodes."""
    yield "", root
    if not hasattr(root, "shape"):
        if not root.store.supports_listing and root.metadata.consolidated_metadata is None:
            what = "the server does not list what is in a group, and it has no consolidated metadata"
            raise JobError(what, url=str(root.store), fix="name one array, or consolidate the metadata there")
        yield from sorted(root.members(max_depth=None), key=lambda item: str(item[0]))


def _copy(transaction: Transaction, path: str, source: _Source, some: list[tuple[int, ...]]) -> tuple[int, int]:
    """Write some chunks; return how many there are, and their bytes."""
    metadata = source.metadata
    bodies = run_each(source.packed, some, processors() if source.is_local else THREADS)
    count = nbytes = 0
    for coordinates, data in zip(some, bodies, strict=True):
        if data is not None:
            transaction.buffer.put(f"{path}/{metadata.chunk_name(coordinates)}", data)
            count, nbytes = count + 1, nbytes + len(data)
    return count, nbytes


class _Source:
    """An array of zarr's, whose chunks are read as they will be stored."""

    def __init__(self, array: Any, url: str):
        self._array, self._url = array, url
        self.is_local = is_local(url)
        self._is_3 = array.metadata.zarr_format == 3
        self._prefix = f"{array.path}/" if array.path else ""
        self.metadata = self._metadata()

    def _metadata(self) -> ArrayMetadata:
        array = self._array
        if self._is_3:
            document = self._get("zarr.json")
            if document is None:
                raise CorruptError(
                    "a document is gone", url=self._url, member=f"{self._prefix}zarr.json", fix="restore it"
                )
            return parse_array(document, self._url, array.path)
        attributes = array.attrs.asdict()
        names = attributes.pop("_ARRAY_DIMENSIONS", None)
        return create_array(
            array.shape,
            array.chunks,
            array.dtype,
            fill_value=array.fill_value,
            attributes=attributes,
            dimension_names=names,
        )

    def _get(self, name: str) -> bytes | None:
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        found = sync(self._array.store.get(self._prefix + name, default_buffer_prototype()))
        return None if found is None else bytes(found.to_bytes())

    def coordinates(self) -> Iterable[tuple[int, ...]]:
        """Return the coordinates of the chunks that there are, or may be, as far as the store does not list."""
        metadata, store = self.metadata, self._array.store
        if not store.supports_listing:
            if np.prod(metadata.grid, dtype=float) > _MAX_GRID:
                what = "the store does not list the chunks of an array, and there may be too many to try them all"
                raise JobError(what, url=self._url, fix="copy it to a place that lists")
            return product(*map(range, metadata.grid))
        from zarr.core.sync import sync

        async def names() -> list[str]:
            return [name async for name in store.list_prefix(self._prefix)]

        found = (self._coordinates(name[len(self._prefix) :]) for name in sync(names()))
        return sorted(coordinates for coordinates in found if coordinates is not None)

    def _coordinates(self, name: str) -> tuple[int, ...] | None:
        if self._is_3:
            return self.metadata.coordinates(name)
        if not self.metadata.shape:
            return () if name == "0" else None
        parts = name.split(self._array.metadata.dimension_separator)
        return self.metadata.coordinates(self.metadata.chunk_name(map(int, parts))) if _numbers(parts) else None  # type: ignore[arg-type]

    def packed(self, coordinates: tuple[int, ...]) -> bytes | None:
        """Return a chunk as it is stored here; None if there is none.

        Raises:
            CorruptError: it cannot be decoded.
        """
        metadata = self.metadata
        name = metadata.chunk_name(coordinates)
        try:
            if self._is_3:
                if (data := self._get(name)) is not None:
                    metadata.codec.decode(data)
                return data
            region = tuple(
                slice(number * chunk, (number + 1) * chunk)
                for number, chunk in zip(coordinates, metadata.chunks, strict=True)
            )
            values = np.asarray(self._array[region])
        except StorageError:
            raise
        except Exception as error:  # codecs raise many kinds
            what = f"the chunk cannot be decoded: {error}"
            raise CorruptError(
                what, url=self._url, member=self._prefix + name, fix="repair the source first"
            ) from error
        chunk = np.full(metadata.chunks, metadata.fill_value, metadata.dtype)
        chunk[tuple(map(slice, values.shape))] = values
        return metadata.codec.encode(chunk)


def _numbers(parts: list[str]) -> bool:
    return all(part.isdecimal() for part in parts)
