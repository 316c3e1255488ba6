"""An array in a transaction: read and written by numpy's indexing, made longer, given another shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shardtools.arrays.array import ChunkedArray
from shardtools.arrays.dask_arrays import is_dask, store
from shardtools.arrays.grid import ChunkPiece, Selected, Shape, select
from shardtools.arrays.metadata import ArrayMetadata
from shardtools.arrays.open_transactions import open_transaction
from shardtools.arrays.parts import PartOf
from shardtools.arrays.worker_array import WorkerArray
from shardtools.log.segment import Entry

if TYPE_CHECKING:
    from shardtools.arrays.transaction import Transaction

Array = npt.NDArray[Any]


class TransactionArray(ChunkedArray):
    """An array in a transaction: it shows what the transaction has written.

    Other processes that get it by pickling, such as the workers of a Dask cluster, write for the same transaction.
    """

    def __init__(self, transaction: Transaction, path: str):
        self._transaction, self.path = transaction, path

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_array, (self._transaction.send(), self.path, self.metadata.document)

    def __dask_tokenize__(self) -> Any:
        return self._transaction.id, self.path

    @property
    def metadata(self) -> ArrayMetadata:
        return self._transaction.metadata(self.path)

    def load_pieces(self, pieces: Sequence[ChunkPiece]) -> Sequence[Array | None]:
        self._transaction.check_readable()
        return self._transaction.buffer.load(self.path, self.metadata, pieces)

    def __setitem__(self, index: Any, values: Any) -> None:
        """Write what numpy would. A Dask array is computed and written by all its workers.

        Raises:
            ConflictError: another thread has written some of these elements in this transaction.
            IndexError, ValueError: numpy's.
        """
        if is_dask(values):
            store(values, self, index)
            self._transaction.take_parts()
        else:
            self.write(select(index, self.shape), values)

    def write(self, selection: Selected, values: Any) -> None:
        """Write a selection."""
        self._transaction.write(self.path, selection, values)

    def append(self, values: Any) -> None:
        """Make the first axis longer by some rows and write them there.

        Raises:
            ValueError: the rows have another shape.
        """
        rows = values if is_dask(values) else np.asarray(values)
        if not self.ndim or rows.ndim != self.ndim or rows.shape[1:] != self.shape[1:]:
            raise ValueError(f"could not append values of shape {rows.shape} to an array of shape {self.shape}")
        with self._transaction.buffer.lock:
            start = self.shape[0]
            stop = start + len(rows)
            self.resize((stop, *self.shape[1:]))
            if not is_dask(rows):
                self[start:stop] = rows
                return
        self[start:stop] = rows  # without the lock, since threads of Dask write

    def resize(self, shape: Sequence[int]) -> None:
        """Give the array another shape. What lies outside of it is removed.

        Raises:
            ValueError: it has another number of axes.
        """
        sizes = tuple(map(index, shape)) if np.iterable(shape) else (index(shape),)
        if len(sizes) != self.ndim:
            raise ValueError(f"the array has {self.ndim} axes, so that it cannot have the shape {sizes}")
        if any(size < 0 for size in sizes):
            raise ValueError(f"the sizes of axes cannot be negative: {sizes}")
        with self._transaction.buffer.lock:
            self._transaction.take_parts()
            old = self.metadata
            if any(new < size for new, size in zip(sizes, old.shape, strict=True)):
                self._clear_beyond(sizes, old)
            self._replace(old.with_shape(sizes))

    def _clear_beyond(self, shape: Shape, old: ArrayMetadata) -> None:
        """Remove chunks outside of a shape, and give elements of others that are outside the fill value."""
        buffer = self._transaction.buffer
        inside: dict[str, Entry] = {}
        for key, entry in list(buffer.scan(f"{self.path}/")):
            coordinates = old.coordinates(key[len(self.path) + 1 :])
            if coordinates is None:
                continue
            starts = [number * chunk for number, chunk in zip(coordinates, old.chunks, strict=True)]
            kept = [min(max(size - start, 0), n) for start, size, n in zip(starts, shape, old.chunks, strict=True)]
            was = [min(size - start, n) for start, size, n in zip(starts, old.shape, old.chunks, strict=True)]
            if 0 in kept:
                continue
            inside[key] = entry
            if any(new < before for new, before in zip(kept, was, strict=True)):
                [chunk] = buffer.load(self.path, old, [ChunkPiece(coordinates, (), (), False)])
                assert chunk is not None
                fresh = np.full(old.chunks, old.fill_value, old.dtype)
                part = tuple(map(slice, kept))
                fresh[part] = chunk[part]
                inside[key] = buffer.writer.add(key, old.codec.encode(fresh))
        buffer.replace_all(f"{self.path}/", inside)

    def set_attrs(self, attributes: Mapping[str, Any]) -> None:
        """Give the array other attributes."""
        self._replace(self.metadata.with_attributes(attributes))

    def _replace(self, metadata: ArrayMetadata) -> None:
        self._transaction.set_document(self.path, metadata.document)

    def __repr__(self) -> str:
        return f"<TransactionArray {self.path} {self.shape} {self.dtype}, chunks {self.chunks}>"


def _open_array(target: PartOf, path: str, document: bytes) -> TransactionArray | WorkerArray:
    """Return an array that writes for a transaction: that of this process, or of another one."""
    if (transaction := open_transaction(target.id)) is not None:
        return TransactionArray(transaction, path)
    return WorkerArray(target, path, document)
