"""An array of a hub, as numpy users know arrays: indexing fetches the chunks that it needs and returns numpy arrays.

array[index] -> Selection -> chunks of one snapshot -> numpy array
array[index] = values -> a transaction -> one commit -> the array goes on to that
"""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shardtools.arrays.array_parts import Indexer, RowRange
from shardtools.arrays.chunks import READERS, load_chunks, read
from shardtools.arrays.grid import ChunkPiece, Selected, Shape, select, select_orthogonal, select_points
from shardtools.arrays.metadata import ArrayMetadata, parse_array
from shardtools.arrays.names import document_key
from shardtools.arrays.snapshot_at import SnapshotAt
from shardtools.errors import ConflictError
from shardtools.log.log import Snapshot
from shardtools.urls import is_local
from shardtools.view.reducible import Reducible

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub
    from shardtools.arrays.transaction import Transaction
    from shardtools.dataset.shown import Shown

Array = npt.NDArray[Any]

_BATCH = 1 << 25
"""Decoded bytes of a part of a reduction."""

_ATTEMPTS = 60
"""How often an append is made anew when others append at the same time."""

_LONGEST_PAUSE = 8
"""The longest pause before it is made anew, in times that it took: others come in between, and not all at once."""


class ChunkedArray(Reducible):
    """What arrays of a snapshot and of a transaction have in common: all that reads.

    Basic indexing, one list or mask, and lists for all axes are as in numpy. ``oindex`` takes a list for each axis.
    """

    path: str

    @property
    @abstractmethod
    def metadata(self) -> ArrayMetadata:
        """What the array's document says."""

    @abstractmethod
    def write(self, selection: Selected, values: Any) -> None:
        """Write a selection."""

    @abstractmethod
    def load_pieces(self, pieces: Sequence[ChunkPiece]) -> Sequence[Array | None]:
        """Return the chunks of pieces; None for those that were never written."""

    @property
    def readers(self) -> int:
        """How many threads read."""
        return 1

    @property
    def shape(self) -> Shape:
        """The size of each axis."""
        return self.metadata.shape

    @property
    def chunks(self) -> Shape:
        """The shape of a chunk."""
        return self.metadata.chunks

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""
        return self.metadata.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements, whether they were written or not."""
        return self.size * self.dtype.itemsize

    @property
    def fill_value(self) -> Any:
        """What elements are that were never written."""
        return self.metadata.fill_value

    @property
    def attrs(self) -> Mapping[str, Any]:
        """The array's attributes."""
        return self.metadata.attributes

    @property
    def dims(self) -> tuple[str | None, ...]:
        """The names of the axes, None for those that have none."""
        return self.metadata.dimension_names or (None,) * self.ndim

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    # --- reading

    def __getitem__(self, index: Any) -> Any:
        """Return what numpy would. Several lists must be for all axes: they are points.

        Raises:
            IndexError: it is out of range, or not allowed.
            CorruptError: a chunk that was written is gone, too short or damaged.
        """
        now = self.as_now()
        selection = select(index, now.shape)
        found = selection.result(now.read_selection(selection))
        parts = index if isinstance(index, tuple) else (index,)
        return found if found.ndim or any(part is Ellipsis for part in parts) else found[()]

    def as_now(self) -> ChunkedArray:
        """Return the array as it is seen now, which a refresh in another thread does not change."""
        return self

    def read_selection(self, selection: Selected) -> Array:
        """Return the block that a selection makes."""
        return read(selection, self.metadata, self.load_pieces, self.readers)

    @property
    def oindex(self) -> Indexer:
        """Indexing with a list or mask for each axis by itself, as ``numpy.ix_``."""
        return Indexer(self, select_orthogonal)

    @property
    def vindex(self) -> Indexer:
        """Indexing with lists for all axes, which together are the points."""
        return Indexer(self, select_points)

    def __iter__(self) -> Iterator[Any]:
        for part in self.pieces(1):
            yield from np.asarray(part)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the array in memory.

        Raises:
            ValueError: ``copy`` is False.
        """
        if copy is False:
            raise ValueError("an array of a hub is always a copy")
        loaded: Array = self[...]
        return loaded if dtype is None else loaded.astype(dtype, copy=False)

    def pieces(self, size: int) -> Iterator[RowRange]:
        """Yield the array in parts along the first axis: whole chunks of about 32 MiB, whatever ``size`` is."""
        if not self.shape:
            raise TypeError("an array without axes has no parts: take array[()]")
        now = self.as_now()
        height = now.chunks[0]
        row = max(now.nbytes // max(len(now), 1), 1)
        step = max(_BATCH // (row * height), 1) * height
        return (RowRange(now, at, min(at + step, len(now))) for at in range(0, max(len(now), 1), step))

    def to_dask(self, chunks: Any = None) -> Any:
        """Return a Dask array, whose chunks, by default those of this array, are read when they are computed."""
        import dask.array as da

        return da.from_array(self, chunks=self.chunks if chunks is None else chunks)

    def to_torch(self, transform: Callable[[Any], Any] | None = None) -> Any:
        """Return the rows as a map-style dataset of PyTorch; ``transform`` is called with each.

        `shardtools.torch.ShardIterable`, which takes arrays too, reads each chunk once.
        """
        from shardtools.torch.array_rows import ArrayRows

        return ArrayRows(self, transform)

    def to_tf(self, **options: Any) -> Any:
        """Return batches of rows as a `tf.data.Dataset`; see `shardtools.tensorflow.to_tf` for the options."""
        from shardtools.tensorflow import to_tf

        return to_tf(self, **options)


class HubArray(ChunkedArray):
    """The array ``path`` of a hub, as of one commit. What others write is not seen before `refresh`.

    ``hub.array`` and ``hub.load`` return it. It can be pickled: where it arrives it shows the same commit.
    """

    def __init__(self, hub: Hub, snapshot: Snapshot | SnapshotAt, path: str, metadata: ArrayMetadata):
        self.hub, self.path = hub, path
        self._seen = snapshot, metadata  # together, so that a thread that reads never has one of each commit

    def __reduce__(self) -> tuple[Any, ...]:
        seen, metadata = self._seen
        at = seen if isinstance(seen, SnapshotAt) else SnapshotAt.of(seen)
        return _open_again, (self.hub, at, self.path, metadata.document)

    def _open(self) -> tuple[Snapshot, ArrayMetadata]:
        """Return the commit that is seen, which is looked for when it is needed, and what the document says in it."""
        before = self._seen
        seen, metadata = before
        if isinstance(seen, SnapshotAt):
            seen = self.hub.snapshot_at(seen)
            if self._seen is before:
                self._seen = seen, metadata
        return seen, metadata

    def __dask_tokenize__(self) -> Any:
        commit = self.snapshot.commit
        return self.hub.url, None if commit is None else commit.digest, self.path

    @property
    def metadata(self) -> ArrayMetadata:
        return self._seen[1]

    @property
    def snapshot(self) -> Snapshot:
        """The commit that is seen."""
        return self._open()[0]

    @property
    def url(self) -> str:
        """Where it lies, in the place of the hub."""
        return f"{self.hub.url}{self.path}"

    @property
    def version(self) -> str:
        """The branch and number of the commit that is seen, such as ``main@17``."""
        return f"{self.snapshot.branch.name}@{self.snapshot.number}"

    def load_pieces(self, pieces: Sequence[ChunkPiece]) -> Sequence[Array | None]:
        snapshot, metadata = self._open()
        return load_chunks(snapshot.log.place, snapshot.find, self.path, metadata, pieces, self.hub.cache)

    @property
    def readers(self) -> int:
        return 1 if is_local(self.hub.url) else READERS

    def as_now(self) -> HubArray:
        return HubArray(self.hub, self._seen[0], self.path, self._seen[1])

    def refresh(self) -> HubArray:
        """Go on to the newest commit of the branch, and return the array. A tag or a number stays what it is."""
        if self.snapshot.fixed is None:
            snapshot = self.snapshot.log.head(self.snapshot.branch.name)
            self._seen = snapshot, self.hub.read_array(snapshot, self.path)
        return self

    def _follow(self, transaction: Transaction) -> None:
        """Go on to the commit of an own transaction. The document is known, unless others have changed it meanwhile."""
        result = transaction.result
        known = not transaction.others_changed(document_key(self.path))
        self._seen = result, transaction.metadata(self.path) if known else self.hub.read_array(result, self.path)

    # --- writing: each is one commit

    def __setitem__(self, index: Any, values: Any) -> None:
        """Write what numpy would, as one commit. A Dask array is computed and written by all its workers.

        Raises:
            ConflictError: others have written the same chunks since the commit that is seen.
            IndexError, ValueError: numpy's.
        """
        with self._begin("write") as transaction:
            transaction[self.path][index] = values
        self._follow(transaction)

    def write(self, selection: Selected, values: Any) -> None:
        """Write a selection, as one commit."""
        with self._begin("write") as transaction:
            transaction[self.path].write(selection, values)
        self._follow(transaction)

    def append(self, values: Any) -> None:
        """Make the first axis longer by some rows and write them there, as one commit.

        When others append at the same time, their rows come before or after these.

        Raises:
            ValueError: the rows have another shape.
        """
        for attempt in range(_ATTEMPTS):
            begin = time.monotonic()
            try:
                with self._begin("append to") as transaction:
                    transaction[self.path].append(values)
            except ConflictError:
                if attempt == _ATTEMPTS - 1:
                    raise
                took = time.monotonic() - begin
                time.sleep(random.uniform(0, took * min(2**attempt, _LONGEST_PAUSE)))
                self.refresh()
            else:
                self._follow(transaction)
                return

    def resize(self, shape: Sequence[int]) -> None:
        """Give the array another shape, as one commit. What lies outside of it is removed for good."""
        with self._begin("resize") as transaction:
            transaction[self.path].resize(shape)
        self._follow(transaction)

    def set_attrs(self, attributes: Mapping[str, Any]) -> None:
        """Give the array other attributes, as one commit."""
        with self._begin("set attributes of") as transaction:
            transaction[self.path].set_attrs(attributes)
        self._follow(transaction)

    def _begin(self, what: str) -> Transaction:
        snapshot, metadata = self._open()
        transaction = self.hub.begin(snapshot, f"{what} {self.path}")
        transaction.know(self.path, metadata)
        return transaction

    def __repr__(self) -> str:
        return f"<HubArray {self.path}:{self.version} {self.shape} {self.dtype}, chunks {self.chunks}>"

    def _repr_html_(self) -> str:
        from shardtools.arrays.hub_shown import array_html

        return array_html(self)

    def show(self) -> Shown:
        """Show the array in the browser, as of the commit that is seen: return a link; see `shardtools.show`.

        Raises:
            StorageError: the hub cannot be read.
        """
        from shardtools.arrays.hub_shown import show_array

        return show_array(self)


def _open_again(hub: Hub, at: SnapshotAt, path: str, document: bytes) -> HubArray:
    return HubArray(hub, at, path, parse_array(document, hub.url, path))
