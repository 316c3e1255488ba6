"""Arrays as other programs read them: a Zarr directory, a .npy file, or references to the chunks where they lie.

snapshot -> documents, chunks as they are -> a directory that any Zarr library opens
array    -> rows, some at a time -> .npy
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from shardtools.arrays.array import HubArray
from shardtools.arrays.chunk_order import KEYS, batched, batches_by_size
from shardtools.arrays.chunk_reader import THREADS, read_entries, run_each
from shardtools.arrays.names import DOCUMENT, document_key, member_name
from shardtools.errors import ExistsError, JobError, NotFoundError, RefusedError
from shardtools.log.log import Snapshot
from shardtools.log.segment import Entry
from shardtools.storage import get_storage, using
from shardtools.urls import absolute, at_home, is_local

Advance = Callable[[int, int], object]
"""Called with the chunks and bytes that were done since it was last called."""


@dataclass(frozen=True)
class ExportResult:
    """What was written: ``chunks`` are those of the arrays, ``nbytes`` what was written to ``destination``."""

    destination: str
    chunks: int
    nbytes: int


@dataclass(frozen=True)
class Exported:
    """What is exported: the node ``path`` of a snapshot, and all that is in it. The path of the root is ""."""

    snapshot: Snapshot
    path: str

    def documents(self) -> dict[str, bytes]:
        """Return the documents of all nodes by their names below the exported one, which is first.

        Raises:
            NotFoundError: there is no such node.
        """
        key = document_key(self.path)
        found = self.snapshot.find([key])
        if not found:
            name = self.path or "arrays"
            fix = "see which arrays there are: hub.list(VERSION), htarray ls PLACE VERSION"
            raise NotFoundError(f"there is no {name} in this version", url=self.snapshot.log.place.root, fix=fix)
        found |= dict(self.snapshot.scan(f"{key}/"))
        data = read_entries(self.snapshot.log.place, found)
        return {self.name_of(key): data[key] for key in found}

    def chunks(self) -> Iterator[dict[str, Entry]]:
        """Yield keys that are no documents, and where their bytes lie, some thousands at a time."""
        prefix = f"{self.path}/" if self.path else ""
        some = (item for item in self.snapshot.scan(prefix) if not _is_document(item[0]))
        return (dict(batch) for batch in batched(some, KEYS))

    def name_of(self, key: str) -> str:
        """Return the name of a key below the exported node."""
        return member_name(key)[len(self.path) + 1 if self.path else 0 :]


def _is_document(key: str) -> bool:
    return key == DOCUMENT or key.startswith(f"{DOCUMENT}/")


def destination_of(url: str) -> str:
    """Return the URL of a destination."""
    return absolute(at_home(url))


def check_absent(url: str, *, overwrite: bool = False) -> None:
    """Raise if there is an object.

    Raises:
        ExistsError: there is.
    """
    if not overwrite and get_storage(url).exists(url):
        raise ExistsError("it exists already", url=url, fix="name another file, or give overwrite (--overwrite)")


def export_zarr(source: Exported, destination: str, advance: Advance) -> ExportResult:
    """Write a Zarr directory: documents and chunks are copied as they are.

    The document of its root is written last, so that what is not whole cannot be opened.

    Raises:
        ExistsError: there is something at the destination.
        CorruptError: a chunk is gone, or damaged.
    """
    root = destination.rstrip("/") + "/"
    place = source.snapshot.log.place
    documents = source.documents()
    with using(place.options.naming(destination)):
        _check_empty(root)
        nbytes = count = 0

        def put(item: tuple[str, bytes]) -> None:
            with get_storage(root).create(root + item[0]) as sink:
                sink.write(item[1])

        def write(named: Mapping[str, bytes]) -> None:
            nonlocal nbytes
            for _ in run_each(put, list(named.items()), 1 if is_local(root) else THREADS):
                pass
            nbytes += sum(map(len, named.values()))

        for batch in source.chunks():
            for entries in batches_by_size(batch, batch):
                data = read_entries(place, entries)
                write({source.name_of(key): body for key, body in data.items()})
                count += len(data)
                advance(len(data), sum(map(len, data.values())))
        top, *others = documents.items()
        write(dict(others))
        write(dict([top]))
    return ExportResult(destination, count, nbytes)


def _check_empty(root: str) -> None:
    try:
        there = get_storage(root).list(root)
    except RefusedError:
        there = [root + DOCUMENT] if get_storage(root).exists(root + DOCUMENT) else []
    if there:
        raise ExistsError("there is something already", url=root, fix="name an empty or new folder")


def export_npy(array: HubArray, destination: str, advance: Advance, *, overwrite: bool = False) -> ExportResult:
    """Write a .npy file, some rows at a time.

    Raises:
        ExistsError: there is one, and it may not be overwritten.
        JobError: the type of the elements has no form in .npy.
    """
    if array.dtype.hasobject or array.dtype.kind == "T":
        raise JobError(f".npy has no form for {array.dtype}", fix="export to a Zarr directory")
    with using(array.snapshot.log.place.options.naming(destination)):
        check_absent(destination, overwrite=overwrite)
        with get_storage(destination).create(destination) as sink:
            header = npy_header(array.shape, array.dtype)
            sink.write(header)
            nbytes = len(header)
            for rows in array.pieces(1) if array.ndim else [array]:
                data = np.ascontiguousarray(np.asarray(rows)).tobytes()
                sink.write(data)
                nbytes += len(data)
                advance(1, len(data))
    return ExportResult(destination, sum(map(len, Exported(array.snapshot, array.path).chunks())), nbytes)


def npy_header(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bytes:
    """Return the header of a .npy file of an array in C order.

    >>> npy_header((2, 3), np.dtype("uint8"))[:10]
    b'\\x93NUMPY\\x01\\x00v\\x00'
    """
    from io import BytesIO

    head = BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, described)
    return head.getvalue()


def all_entries(source: Exported) -> Iterator[tuple[str, Entry]]:
    """Yield the names of all chunks below the exported node, and where their bytes lie."""
    return ((source.name_of(key), entry) for key, entry in chain.from_iterable(b.items() for b in source.chunks()))
