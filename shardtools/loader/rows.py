"""Arrays as a dataset: the rows of one or several arrays of one length are samples, and runs of rows are shards.

    arrays -> chunks along the first axis -> runs of whole chunks, which orders and readers take for shards

Any array will do that has a shape, a type and numpy's slicing; ``chunks`` says what is read at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Protocol, cast

import numpy as np

from shardtools.dataset.joined import Join, JoinedSamples, Sources, is_open, open_sources
from shardtools.dataset.sharded import ShardedDataset
from shardtools.errors import JobError
from shardtools.loader.joined import JoinedShards
from shardtools.loader.order import Shuffle, Window
from shardtools.loader.shard import FieldShard, Shards, Values
from shardtools.loader.stats import Stats
from shardtools.shards.names import names_of
from shardtools.storage import DEFAULT_OPTIONS, StorageOptions
from shardtools.types import Ints
from shardtools.urls import is_local

RUN = 1024
"""Rows of a run, at least."""

MOST_RUNS = 1 << 16

WINDOW = 128_000_000
"""Bytes of a window in which rows are shuffled, by default."""

NAME = "array"
"""The field that the rows of a single array are."""


class RowArray(Protocol):
    """What is read of an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, index: Any, /) -> Any: ...


Arrays = RowArray | Mapping[str, RowArray]


class RowDataset:
    """Arrays of one length by name, as the dataset of a loader.

    Raises:
        JobError: they have different lengths, or no axis.
    """

    def __init__(self, source: Arrays, options: StorageOptions):
        self.arrays = dict(source) if isinstance(source, Mapping) else {NAME: source}
        self.options = options
        lengths = {name: array.shape[0] if array.shape else None for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1 or None in lengths.values():
            what = "arrays must have one length: " + ", ".join(f"{name} has {n}" for name, n in lengths.items())
            raise JobError(what, fix="give arrays whose first axes are of the same size")
        [self._length] = {array.shape[0] for array in self.arrays.values()}
        self._height, self._row = _chunk_of_rows(list(self.arrays.values()))
        run = _multiple(max(RUN, -(-self._length // MOST_RUNS)), self.range_rows)
        self.starts = range(0, self._length, run)
        self.url = next((str(url) for array in self.arrays.values() if (url := getattr(array, "url", None))), NAME)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"<RowDataset {', '.join(self.arrays)}: {self._length:,} rows>"

    @property
    def range_rows(self) -> int:
        """How many rows are read together: one chunk, or some that are small."""
        return max(64 // self._height, 1) * self._height

    @property
    def urls(self) -> list[str]:
        """A URL for each run."""
        return [self.url] * len(self.starts)

    @property
    def counts(self) -> list[int]:
        """How many rows each run has."""
        return [min(self.starts.step, self._length - start) for start in self.starts]

    @property
    def known_fields(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(self.arrays)

    def shuffle(self, shuffle: Shuffle) -> Shuffle:
        """Return how to shuffle: if nothing else is asked for, chunks that are read whole are shuffled in windows."""
        if shuffle is not True:
            return shuffle
        ranges = min(max(WINDOW // max(self.range_rows * self._row, 1), 1), Window().ranges)
        return Window(ranges=ranges, rows=self.range_rows)

    def check(self, names: Sequence[str]) -> None:
        """Raise if a name is of no array.

        Raises:
            JobError: it is.
        """
        if unknown := [name for name in names if name not in self.arrays]:
            raise JobError(f"there is no array {unknown[0]}", fix=f"name one of {', '.join(self.arrays)}")


class RowShard(FieldShard):
    """A run of rows. Its values are rows of the arrays, where those of other shards are bytes."""

    def __init__(self, url: str, arrays: Sequence[RowArray], start: int, count: int):
        self.url, self.first = url, start
        self._arrays = arrays
        self.sizes: Ints = np.full(count, sum(map(_row_bytes, arrays)), np.int64)
        self.weight = self.sizes.nbytes

    def keys(self, rows: Sequence[int]) -> list[str]:
        """Return the indexes of some rows, as texts."""
        return [str(self.first + row) for row in rows]

    def read(self, rows: Ints) -> Values:
        indexes = rows + self.first
        start, stop = int(indexes[0]), int(indexes[-1]) + 1
        index = slice(start, stop) if stop - start == len(indexes) else indexes
        return [list(array[index]) for array in self._arrays]


class RowShards(Shards):
    """The runs of arrays."""

    def __init__(self, dataset: RowDataset, fields: Sequence[str], options: StorageOptions, stats: Stats):
        dataset.check(fields)
        super().__init__(cast(ShardedDataset, dataset), fields, options, stats)
        self._rows, self._counts = dataset, dataset.counts
        self._arrays = [dataset.arrays[name] for name in fields]

    def is_near(self, number: int) -> bool:
        return is_local(self.url(number))

    def _make(self, number: int) -> FieldShard:
        return RowShard(self.url(number), self._arrays, self._rows.starts[number], self._counts[number])


def open_shards(
    dataset: ShardedDataset | RowDataset, fields: Sequence[str], options: StorageOptions, stats: Stats
) -> Shards:
    """Return the shards of a dataset, of which some fields are read."""
    if isinstance(dataset, RowDataset):
        return RowShards(dataset, fields, options, stats)
    if isinstance(dataset, JoinedSamples):
        return JoinedShards(dataset, fields, options, stats)
    return Shards(dataset, fields, options, stats)


def open_source(
    source: Sources | Arrays,
    fields: str | Sequence[str] | None,
    options: StorageOptions,
    *,
    join: Join | None = None,
    trust_index: bool = False,
) -> tuple[ShardedDataset | RowDataset, tuple[str, ...]]:
    """Return the dataset of a loader, and the names of its fields: by default, of arrays, all.

    Raises:
        JobError: no fields are named of shards, arrays do not have one length, or options are given of a dataset that
            is open.
        SpecError: the spec is wrong or names nothing.
    """
    if join is None and not isinstance(source, str | os.PathLike | Sequence):
        arrays = RowDataset(cast(Arrays, source), options)
        return arrays, tuple(arrays.arrays) if fields is None else names_of(fields)
    if fields is None:
        raise JobError("fields is missing", fix="name the fields of the samples, such as fields=('jpg', 'cls')")
    return open_dataset(cast(Sources, source), options, join=join, trust_index=trust_index), names_of(fields)


def open_dataset(
    source: Sources, options: StorageOptions, *, join: Join | None = None, trust_index: bool = False
) -> ShardedDataset:
    """Return the dataset of a spec, or one that is open already, as it is; or a join of such.

    Raises:
        JobError: it is open, and options are given that it does not have; or datasets cannot be joined.
        SpecError: the spec is wrong or names nothing.
    """
    if is_open(source) and (options != DEFAULT_OPTIONS or trust_index):
        what = "cache, index, retries, timeout, trust_index and limits are those with which the dataset was opened"
        raise JobError(what, fix="give them to shardtools.open")
    return open_sources(source, join, lambda spec: ShardedDataset(spec, options, trust_index=trust_index))


def _row_bytes(array: RowArray) -> int:
    return int(prod(array.shape[1:]) * np.dtype(array.dtype).itemsize)


def _chunk_of_rows(arrays: Sequence[RowArray]) -> tuple[int, int]:
    """Return how many rows a chunk of the array with the largest rows has, and the bytes of a row of all arrays."""
    largest = max(arrays, key=_row_bytes)
    chunks = getattr(largest, "chunks", None)
    return (int(chunks[0]) if chunks else 1), sum(map(_row_bytes, arrays))


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of
