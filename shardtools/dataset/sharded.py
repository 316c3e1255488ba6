"""A dataset as a sequence of samples: by index, slice, list of indexes, and key."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from shardtools.dataset.choosing import Choosing
from shardtools.dataset.indexes import normalize
from shardtools.dataset.lookup import KeyLookup, SamplePlace
from shardtools.dataset.shard_set import ShardSet
from shardtools.errors import redact
from shardtools.query.condition import Condition, parse_condition
from shardtools.query.sql import ChosenRows, run_sql
from shardtools.shards.members import IndexedShard
from shardtools.shards.open_shard import OpenShard, keep_freed_memory
from shardtools.shards.reader import ShardReader
from shardtools.shards.samples import Record, records
from shardtools.storage import StorageOptions, using
from shardtools.types import Ints
from shardtools.units import format_count

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation

    from shardtools.dataset.shown import Shown

BATCH = 256
"""Chosen samples that an iteration reads at a time."""

_SHOWN_SPECS = 3
"""The number of specs that are shown of a list."""


class ShardedDataset(Sequence[Record]):
    """The samples of all shards, in order: ``ds[712_345]``, ``ds["some/key"]``, ``ds[10:20]``, ``for record in ds``.

    A slice, or a list or array of indexes, gives a list of records. `where` chooses samples, and gives a dataset of
    these. A dataset can be pickled, without its connections, works after a fork, and may be used by many threads.
    """

    _chosen: Ints | None = None
    """The indexes, among the samples of all shards, of those that conditions have chosen; None for all."""

    _conditions: tuple[str, ...] = ()

    def __init__(self, spec: str | Sequence[str], options: StorageOptions, *, trust_index: bool = False):
        """Users call `shardtools.open` instead."""
        self.spec = spec
        self._shards = ShardSet(spec, options, trust_index=trust_index)
        self._choosing = Choosing(spec, self._shards)
        self._lookup = KeyLookup(self._shards, self._choosing)

    def __repr__(self) -> str:
        counted = [format_count(len(self._shards.urls), "shard")]
        if (ends := self._shards.ends) and self._chosen is None:
            counted.append(format_count(ends[-1], "sample"))
        elif ends and self._chosen is not None:
            counted.append(f"{len(self._chosen):,} of {format_count(ends[-1], 'sample')}")
        where = f" where {' and '.join(self._conditions)}" if self._conditions else ""
        return f"<{type(self).__name__} {self.shown_spec}{where}: {', '.join(counted)}>"

    def _repr_html_(self) -> str:
        from shardtools.dataset.notebook import dataset_html

        return dataset_html(self)

    def show(self) -> Shown:
        """Show the dataset in the browser: return a link to a page that this process serves; see `shardtools.show`.

        Raises:
            JobError: it is a join.
        """
        import shardtools

        return shardtools.show(self)

    def _ipython_key_completions_(self) -> list[str]:
        from shardtools.dataset.notebook import first_keys

        return first_keys(self)

    @property
    def shown_spec(self) -> str:
        """The quoted spec, as in `repr`: without passwords and queries, and only the start of a long list."""
        if isinstance(self.spec, str):
            return repr(redact(self.spec))
        more = len(self.spec) - _SHOWN_SPECS
        shown = ", ".join(repr(redact(spec)) for spec in self.spec[:_SHOWN_SPECS])
        return f"[{shown}, and {more:,} more]" if more > 0 else f"[{shown}]"

    # --- what is known of the shards

    @property
    def options(self) -> StorageOptions:
        """The options of the storage: retries, timeout, cache, limits."""
        return self._shards.options

    @property
    def urls(self) -> list[str]:
        """The URLs of the shards."""
        return list(self._shards.urls)

    @property
    def counts(self) -> list[int] | None:
        """How many samples each shard has. None until known; ``len()`` computes it."""
        if self._chosen is not None:
            before = np.searchsorted(self._chosen, [0, *self._shards.known_ends()])
            return list(map(int, np.diff(before)))
        return None if self._shards.counts is None else list(self._shards.counts)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions by which the samples were chosen, none if these are all samples of the shards."""
        return self._conditions

    @property
    def chosen(self) -> Ints | None:
        """The indexes, among all samples of the shards, of the samples; they rise. None if these are all."""
        return self._chosen

    @property
    def ends(self) -> list[int]:
        """How many samples shards 0 to i have, for each i, chosen or not. Without a manifest all shards are read."""
        return list(self._shards.known_ends())

    def places(self, indexes: Ints) -> tuple[Ints, Ints]:
        """Return the number of the shard, and the row in it, of samples with these indexes."""
        if self._chosen is not None:
            indexes = self._chosen[indexes]
        return self._shards.places(indexes)

    def indexed(self, number: int) -> IndexedShard:
        """Return the URL of a shard and its table; see `ShardSet.indexed`."""
        return self._shards.indexed(number)

    def shard(self, number: int) -> OpenShard:
        """Return an open shard; see `ShardSet.open`."""
        return self._shards.open(number)

    def peek(self, number: int) -> OpenShard | None:
        """Return an open shard if that is quick, else None; see `ShardSet.peek`."""
        return self._shards.peek(number)

    @property
    def fields(self) -> tuple[str, ...]:
        """The sorted names of all fields. Without a manifest, the tables of all shards are fetched."""
        return self._shards.fields

    @property
    def known_fields(self) -> tuple[str, ...]:
        """The sorted names of the fields that the manifest or the shards used so far have. Nothing is fetched."""
        return self._shards.known_fields

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes: class i of the field ``cls`` is ``classes[i]``. None if the manifest has none."""
        return self._shards.classes

    def source_of(self, field: str, indexes: Ints) -> tuple[ShardedDataset, str, Ints]:
        """Return the dataset that has a field of some samples, its name there, and their indexes; in a join another."""
        return self, field, indexes

    # --- samples

    def where(self, condition: str) -> Self:
        """Return the samples for which a condition is true, as a dataset: an expression in DuckDB's SQL.

        Its columns are fields, paths of JSON fields, key, row, shard, and size.FIELD; see docs/query.md. The answer
        comes from the dataset's table (`shardtools.index` makes it) for all shards that are as the table says. For
        others, the fields that the condition names are read. The samples are chosen once, now.

        Raises:
            TypeError: the condition is no text.
            JobError: it cannot be read, does not fit its columns, or names one that no sample has.
            StorageError, ShardError: a shard cannot be read.
        """
        if not isinstance(condition, str):
            raise TypeError(f'a condition is a text such as "cls = 3", not {condition!r}')
        chosen = copy.copy(self)
        chosen._chosen = self._choose(parse_condition(condition))
        chosen._conditions = (*self._conditions, f"({condition})")
        return chosen

    def _choose(self, condition: Condition) -> Ints:
        return self._choosing.find(condition, self._chosen)

    def table_rows(self) -> ChosenRows:
        """Return the rows that the dataset's table has of the samples, for SQL.

        Raises:
            JobError: there is no table, or it describes no shard as it is.
            StorageError: it cannot be read.
        """
        table, changed = self._choosing.table_and_changed()
        return ChosenRows(table, None if self._chosen is None else self.places(np.arange(len(self))), changed)

    def table(self) -> DuckDBPyRelation:
        """Return the dataset's table, a row for each sample, as a relation of DuckDB.

        It has ``arrow()``, ``df()``, ``filter(...)`` and so on, and is computed when it is used.

        Raises:
            JobError, StorageError: as `sql` does.
        """
        return self.sql("FROM samples")

    def sql(self, query: str) -> DuckDBPyRelation:
        """Return the result of a query in DuckDB's SQL, where ``samples`` is the dataset's table.

        The table must be there (`shardtools.index` makes it). Rows of shards that have changed since are made anew.

        Raises:
            JobError: it is not one query, or does not fit the table, or there is no such table.
            StorageError, ShardError: the table, or a shard that has changed, cannot be read.
        """
        return run_sql(query, {"samples": self.table_rows()})

    @property
    def keys(self) -> list[str]:
        """The keys of all samples, in order. The tables of all shards are fetched."""
        keys = self._shards.keys()
        return keys if self._chosen is None else [keys[index] for index in self._chosen.tolist()]

    def __len__(self) -> int:
        if self._chosen is not None:
            return len(self._chosen)
        ends = self._shards.known_ends()
        return ends[-1] if ends else 0

    def __contains__(self, key: object) -> bool:
        """Return whether there is a sample with this key."""
        return isinstance(key, str) and self._find(key) is not None

    @overload
    def __getitem__(self, index: int | str) -> Record: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | Ints) -> list[Record]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return the sample with an index or key, or a list of the samples of a slice or of several indexes.

        Raises:
            IndexError: an index is out of range.
            KeyError: no sample has the key.
            StorageError: a shard cannot be read.
            ShardError: a shard is damaged.
        """
        if isinstance(index, int | np.integer):
            return self._record(int(index))
        if isinstance(index, str):
            return self._by_key(index)
        if isinstance(index, slice):
            return self.records(np.arange(*index.indices(len(self))))
        return self.records(normalize(index, len(self)))

    def __iter__(self) -> Iterator[Record]:
        """Yield all samples, in order. Each shard is read as one stream, from its start; chosen samples by ranges.

        Raises:
            SpecError: a shard does not match the manifest.
            StorageError: a shard cannot be read.
            ShardError: a shard is damaged.
        """
        if self._chosen is not None:
            for start in range(0, len(self._chosen), BATCH):
                yield from self.records(np.arange(start, min(start + BATCH, len(self._chosen))))
            return
        for number, url in enumerate(self._shards.urls):
            count = 0
            with using(self._shards.options):
                reader = ShardReader(url, ahead=True)
            with reader:
                for block in reader:
                    count += len(block)
                    yield from records(block)
            self._shards.compare(number, count)

    def _record(self, index: int) -> Record:
        shard, row = self._locate(index)
        return self._shards.open(shard).record(row)

    def _locate(self, index: int) -> tuple[int, int]:
        ends = self._shards.ends or self._shards.known_ends()
        total = len(self)
        if not 0 <= index < total:
            if not -total <= index < 0:
                raise IndexError(f"index {index} is out of range: the dataset has {total:,} samples")
            index += total
        if self._chosen is not None:
            index = int(self._chosen[index])
        shard = bisect_right(ends, index)
        return shard, index - (ends[shard - 1] if shard else 0)

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the index of the first sample whose key is ``value``, from index ``start`` on and before ``stop``.

        Raises:
            ValueError: no sample has the key.
        """
        first, last, _ = slice(start, stop).indices(len(self))
        for place in self._find_all(value) if isinstance(value, str) else ():
            index = self._shards.starts(place.shard) + place.row
            if self._chosen is not None:
                index = int(np.searchsorted(self._chosen, index))
            if first <= index < last:
                return index
        raise ValueError(f"no sample has the key {value!r}")

    def count(self, value: Any) -> int:
        """Return how many samples have the key ``value``. For the number of samples of each shard, see `counts`."""
        return sum(1 for _ in self._find_all(value)) if isinstance(value, str) else 0

    def _by_key(self, key: str) -> Record:
        """Return the sample with a key.

        Raises:
            KeyError: no sample has it.
        """
        place = self._find(key)
        if place is None:
            raise KeyError(key)
        return self._lookup.record(place, key)

    def rows_of(self, keys: Sequence[str]) -> Ints:
        """Return the index of the first sample with each of ``keys``, -1 where none has it.

        With the file of keys (`shardtools.index` makes it with the table) a few ranges of this file are read, else the
        tables of all shards.

        Raises:
            StorageError, ShardError: what is needed cannot be read.
        """
        indexes = self._lookup.find_all(keys)
        if self._chosen is None:
            return indexes
        at = np.searchsorted(self._chosen, indexes)
        at[at == len(self._chosen)] = -1
        is_chosen = self._chosen[at] == indexes if len(self._chosen) else np.zeros(len(at), bool)
        return np.where(is_chosen & (indexes >= 0), at, -1)

    def _find(self, key: str) -> SamplePlace | None:
        """Return the place of the first sample with a key; None if there is none."""
        return next(self._find_all(key), None)

    def _find_all(self, key: str) -> Iterator[SamplePlace]:
        """Yield, for each shard that has the key, the place of the first such sample."""
        for place in self._lookup.find(key):
            if self._chosen is None or self._shards.starts(place.shard) + place.row in self._chosen:
                yield place

    def records(self, indexes: Ints) -> list[Record]:
        """Return the samples with these indexes, in this order. The indexes must not be negative."""
        return self._gather(indexes, None, lambda shard, some: shard.records(some))

    def values(self, field: str, indexes: Ints) -> list[bytes | None]:
        """Return the bytes of one field of the samples with these indexes; None for a sample without the field."""
        return self._gather(indexes, field, lambda shard, some: shard.values(some, field))

    def _gather(self, indexes: Ints, field: str | None, read: Callable[[OpenShard, Ints], list[Any]]) -> list[Any]:
        if not len(indexes):
            return []
        keep_freed_memory()
        shards, rows = self.places(indexes)

        def plan(number: int) -> tuple[Ints, Ints, list[tuple[OpenShard, Ints]]]:
            at = np.flatnonzero(shards == number)
            unique, places = np.unique(rows[at], return_inverse=True)
            shard = self._shards.open(number)
            return at, places, [(shard, some) for some in shard.pieces(unique, field)]

        plans = self._shards.map(plan, np.unique(shards).tolist())
        parts = iter(self._shards.map(lambda part: read(*part), [part for _, _, parts in plans for part in parts]))
        results: list[Any] = [None] * len(indexes)
        for at, places, pieces in plans:
            values = list(chain.from_iterable(islice(parts, len(pieces))))
            for i, place in zip(at.tolist(), places.tolist(), strict=True):
                results[i] = values[place]
        return results
