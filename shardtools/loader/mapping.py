"""Any samples of a dataset by their indexes, decoded and transformed: for your own samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from shardtools.dataset.indexes import normalize
from shardtools.dataset.joined import Join, Sources
from shardtools.dataset.sharded import ShardedDataset
from shardtools.forks import PerProcess
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.loader.assemble import RawBatch, Recipe
from shardtools.loader.places import Places, find_places
from shardtools.loader.rows import open_dataset, open_shards
from shardtools.loader.shard import Shards, data_fields, read_columns
from shardtools.loader.stats import Stats
from shardtools.shards.names import names_of
from shardtools.storage import StorageOptions, follow, using
from shardtools.storage.options import storage_options
from shardtools.types import Ints

THREADS = 16
"""Threads that read and decode, by default."""


class SampleMap:
    """The samples of a dataset by their indexes; see `shardtools.torch.ShardMap`."""

    def __init__(
        self,
        source: Sources,
        *,
        fields: str | Sequence[str],
        decode: bool = True,
        transform: Callable[..., Any] | None = None,
        threads: int | None = None,
        cache: str | None = None,
        index: str | None = None,
        retries: int = 5,
        timeout: float = 60.0,
        trust_index: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        join: Join | None = None,
    ):
        options = storage_options(cache, retries, timeout, limits, index)
        self._dataset = open_dataset(source, options, join=join, trust_index=trust_index)
        self._options = self._dataset.options
        self._fields, self._decode, self._transform, self._threads = names_of(fields), decode, transform, threads
        self._start()

    def _start(self) -> None:
        """Start without open shards, as in a new process."""
        self._reader = PerProcess(
            partial(
                SampleReader, self._dataset, self._fields, self._decode, self._transform, self._options, self._threads
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_reader"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        """Return one sample.

        Raises:
            IndexError: there is no such index.
            ShardtoolsError: it cannot be read or decoded.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indexes: Sequence[int]) -> list[Any]:
        """Return some samples, in the order asked for; DataLoader calls this."""
        wanted = normalize(np.asarray(indexes, np.int64), len(self))
        return self._reader.get().read(wanted) if len(wanted) else []

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


class SampleReader:
    """What one process reads samples with."""

    def __init__(
        self,
        dataset: ShardedDataset,
        names: tuple[str, ...],
        decode: bool,
        transform: Callable[..., Any] | None,
        options: StorageOptions,
        threads: int | None,
    ):
        self._names, self._options = names, options
        self._places = find_places(dataset, dataset.counts or ())
        self._shards = open_shards(dataset, data_fields(names), options, Stats())
        name = partial(_name, self._shards, self._places)
        self._recipe = Recipe(names, decode, transform, None, name, lambda: dataset.known_fields)
        self._pool = ThreadPoolExecutor(threads or THREADS, "shardtools-map", follow, (options,))

    def read(self, indexes: Ints) -> list[Any]:
        unique, places = np.unique(indexes, return_inverse=True)
        shards, rows = self._places.of(unique)
        bounds = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(unique)]
        parts = [(int(shards[a]), rows[a:b]) for a, b in pairwise(bounds)]
        columns: list[list[Any]] = [[] for _ in self._names]
        for found in self._each(self._columns, parts):
            for column, values in zip(columns, found, strict=True):
                column += values
        raw = RawBatch(columns, unique.tolist(), {})
        with using(self._options):
            samples = self._each(lambda place: self._recipe.sample(raw, place), range(len(raw)))
        return [samples[place] for place in places.tolist()]

    def _each(self, call: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        return [call(arguments[0])] if len(arguments) == 1 else list(self._pool.map(call, arguments))

    def _columns(self, part: tuple[int, Ints]) -> list[list[Any]]:
        number, rows = part
        with using(self._options):
            shard = self._shards.get(number)
            return read_columns(self._names, [(shard, rows)])


def _name(shards: Shards, places: Places, index: int) -> tuple[str, str]:
    """Return URL and key of a sample. No method, so that the threads of a reader end as soon as nobody has it."""
    [shard], [row] = places.of(np.array([index]))
    return shards.name(int(shard), int(row))
