"""Several datasets as one: a sample has the fields of all samples with its key.

    datasets -> hashes of their keys -> pairs -> JoinedSamples: samples of the first, each with what others have

Nothing is written. The order is that of the first dataset. What is about keys, shards and indexes is answered by the
first dataset alone; the index of a sample leads by `Pairs` to the sample of another one.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from itertools import chain
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from shardtools.dataset.joined_pairs import Pairs, find_pairs, keys_of
from shardtools.dataset.joined_where import find_joined
from shardtools.dataset.notebook import dataset_html
from shardtools.dataset.sharded import BATCH, ShardedDataset
from shardtools.errors import ChangedError, JobError
from shardtools.query.condition import Condition
from shardtools.query.sql import ChosenRows
from shardtools.shards.names import is_field
from shardtools.shards.samples import Record
from shardtools.types import Ints
from shardtools.units import format_count
from shardtools.urls import name_of

Join = Literal["inner", "left"]

Source = str | os.PathLike[str] | ShardedDataset
"""A spec, or a dataset that is open."""

Sources = Source | Sequence[Source] | Mapping[str, Source]
"""A dataset; or specs whose shards follow each other; or datasets that are joined, by their names or without."""

V = TypeVar("V")

_BUFFER = 16 << 20
"""Bytes of the largest field that an iteration reads at a time, about, as the last samples before make one think."""

_LOOKED_AT = 16

_FIX = 'name the datasets: in st.open({"a": ..., "b": ...}, join="inner") such fields are called a.FIELD and b.FIELD'


@dataclass(frozen=True)
class JoinPart:
    """One of the datasets of a join, with all samples of its shards.

    ``names`` has the names that its fields have in the join, and those they have here. ``pairs`` leads to its samples;
    None for the first one. ``shown`` is what errors and `repr` call it.
    """

    dataset: ShardedDataset
    names: Mapping[str, str]
    pairs: Pairs | None
    shown: str

    @cached_property
    def called(self) -> dict[str, str]:
        """The names that its fields have in the join, by their own."""
        return {own: name for name, own in self.names.items()}

    def is_aligned(self, total: int) -> bool:
        """Return whether its samples are as many as those of the first dataset, in the same order."""
        return self.pairs is None or (self.pairs.is_identity and len(self.dataset) == total)

    def of(self, indexes: Ints) -> Ints:
        """Return the indexes of its samples that belong to samples of the first dataset, -1 where there is none."""
        return indexes if self.pairs is None else self.pairs.of(indexes)

    def record(self, shard: int, index: int) -> Record | None:
        """Return its sample that belongs to one of the first dataset, which is in a shard; None if there is none."""
        other = index if self.pairs is None else self.pairs.partner(shard, index)
        return None if other < 0 else self.dataset[other]

    def records(self, indexes: Ints) -> list[Record | None]:
        """Return its samples that belong to samples of the first dataset; None where there is none."""
        return self._gather(self.dataset.records, indexes)

    def values(self, name: str, indexes: Ints) -> list[bytes | None]:
        """Return one field, by its name in the join, of samples of the first dataset; None where there is none."""
        return self._gather(partial(self.dataset.values, self.names[name]), indexes)

    def _gather(self, read: Callable[[Ints], list[V]], indexes: Ints) -> list[V | None]:
        others = self.of(indexes)
        there = np.flatnonzero(others >= 0)
        found: list[V | None] = [None] * len(others)
        for at, value in zip(there.tolist(), read(others[there]), strict=True):
            found[at] = value
        return found


class JoinedSamples(ShardedDataset):
    """The samples of the first of several datasets, each with the fields of all samples that have its key.

    With "inner" these are the samples that all datasets have, with "left" all samples of the first. ``sources`` are the
    datasets, by their names if a field may be in several.

    Raises:
        JobError: a field is in two of the datasets, and they have no names; or it is not a list of datasets.
        DuplicateKeyError: two samples of a dataset have one key.
        StorageError, ShardError: the keys of a dataset cannot be read.
    """

    def __init__(self, sources: Mapping[str, ShardedDataset] | Sequence[ShardedDataset], how: Join):
        datasets = list(sources.values() if isinstance(sources, Mapping) else sources)
        _check(sources, datasets, how)
        first = datasets[0]
        self.__dict__.update(first.__dict__)  # its shards, its order, and what was chosen of it
        self.how = how
        names = _names(datasets, list(sources) if isinstance(sources, Mapping) else None)
        keys = keys_of(first._shards, first._chosen)
        pairs = [find_pairs(keys, keys_of(other._shards, other._chosen)) for other in datasets[1:]]
        self.parts = [
            JoinPart(_whole(dataset), named, paired, _shown(dataset))
            for dataset, named, paired in zip(datasets, names, [None, *pairs], strict=True)
        ]
        self._conditions = ()
        specs = [[dataset.spec] if isinstance(dataset.spec, str) else dataset.spec for dataset in datasets]
        self.spec = list(chain.from_iterable(specs))
        if how == "inner":
            self._choose_paired()

    def _choose_paired(self) -> None:
        for part in self.parts[1:]:
            assert part.pairs is not None
            if not part.pairs.is_shifted.all():
                among = self._among()
                paired = among[part.of(among) >= 0]
                if len(paired) < len(among):
                    self._chosen = paired

    def _among(self) -> Ints:
        """Return the indexes of the samples, among all samples of the shards."""
        return np.arange(self._shards.known_ends()[-1]) if self._chosen is None else self._chosen

    def _full(self, indexes: Ints) -> Ints:
        return indexes if self._chosen is None else self._chosen[indexes]

    def indexes_in(self, number: int) -> Ints:
        """Return the indexes of the samples of a shard, among all samples of the shards."""
        start, stop = self._shards.starts(number), self._shards.known_ends()[number]
        if self._chosen is None:
            return np.arange(start, stop)
        low, high = np.searchsorted(self._chosen, (start, stop)).tolist()
        return self._chosen[low:high]

    # --- what it is

    def __repr__(self) -> str:
        ends = self._shards.known_ends()
        counted = f"{len(self):,} of {format_count(ends[-1], 'sample')}"
        if self._chosen is None:
            counted = format_count(ends[-1], "sample")
        where = f" where {' and '.join(self._conditions)}" if self._conditions else ""
        shards = format_count(len(ends), "shard")
        return f"<{type(self).__name__} {self.shown_spec}{where}: {shards}, {counted}>"

    def _repr_html_(self) -> str:
        return dataset_html(self, has_preview=False)

    @property
    def shown_spec(self) -> str:
        """The specs of all datasets and how they are joined, as in `repr`."""
        return f" {self.how} join ".join(part.shown for part in self.parts)

    @property
    def fields(self) -> tuple[str, ...]:
        """The sorted names of the fields of all datasets."""
        return tuple(sorted(chain.from_iterable(part.names for part in self.parts)))

    @property
    def known_fields(self) -> tuple[str, ...]:
        """The same as `fields`."""
        return self.fields

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes of the field ``cls``, by the dataset that has it."""
        part = self.part_of("cls")
        return None if part is None else part.dataset.classes

    @property
    def digest(self) -> str:
        """What tells apart what is joined with the samples of the first dataset."""
        digest = blake2b(self.how.encode(), digest_size=16)
        for part in self.parts[1:]:
            digest.update(json.dumps([list(map(name_of, part.dataset.urls)), part.dataset.counts]).encode())
            if part.pairs is not None:
                digest.update(part.pairs.digest)
        return digest.hexdigest()

    def part_of(self, field: str) -> JoinPart | None:
        """Return the dataset that a field is of, by its name in the join; None if there is no such field."""
        return next((part for part in self.parts if field in part.names), None)

    def source_of(self, field: str, indexes: Ints) -> tuple[ShardedDataset, str, Ints]:
        part = self.part_of(field) or self.parts[0]
        others = part.of(self._full(indexes))
        return part.dataset, part.names.get(field, field), others[others >= 0]

    # --- samples

    def __iter__(self) -> Iterator[Record]:
        """Yield all samples, in order. Shards that are aligned are read as streams, from their start.

        Raises:
            SpecError: a shard does not match the manifest.
            StorageError: a shard cannot be read.
            ShardError: a shard is damaged.
        """
        if self._chosen is None and all(part.is_aligned(len(self)) for part in self.parts):
            for records in zip(*(part.dataset for part in self.parts), strict=True):
                yield self._merged(records)
            return
        start, count = 0, BATCH
        while start < len(self):
            some = self.records(np.arange(start, min(start + count, len(self))))
            yield from some
            start += len(some)
            size = max(len(value) for record in some[-_LOOKED_AT:] for value in record.values())
            count = max(1, min(_BUFFER // max(size, 1), 16 * BATCH))

    def records(self, indexes: Ints) -> list[Record]:
        """Return the samples with these indexes, in this order. The indexes must not be negative."""
        full = self._full(indexes)
        columns = self._shards.map(lambda part: part.records(full), self.parts)
        return [self._merged(records) for records in zip(*columns, strict=True)]

    def _record(self, index: int) -> Record:
        shard, row = self._locate(index)
        return self._completed(shard, row, self._shards.open(shard).record(row))

    def _completed(self, shard: int, row: int, own: Record) -> Record:
        """Return a sample, given that of the first dataset."""
        index = self._shards.starts(shard) + row
        return self._merged([own, *self._shards.map(lambda part: part.record(shard, index), self.parts[1:])])

    def _by_key(self, key: str) -> Record:
        place = self._find(key)
        if place is None:
            raise KeyError(key)
        return self._completed(place.shard, place.row, self._lookup.record(place, key))

    def _merged(self, records: Sequence[Record | None]) -> Record:
        """Return one sample, given those with its key of all datasets.

        Raises:
            ChangedError: they have other keys than when the dataset was opened, or other fields.
        """
        own = records[0]
        assert own is not None
        joined = Record(key=own["key"])
        joined.url, joined.index = own.url, own.index
        for part, record in zip(self.parts, records, strict=True):
            if record is None:
                continue
            called = part.called
            for name, value in record.items():
                if name == "key":
                    if value != own["key"]:
                        what = f"it is joined with {own['key']}, and has another key: its shard has changed"
                        raise ChangedError(what, url=record.url, member=value, fix="open the dataset again")
                elif name in called:
                    joined[called[name]] = value
                else:
                    what = f"the shard has the field {name}, which the dataset did not have"
                    raise ChangedError(what, url=record.url, member=own["key"], fix="make its manifest with htindex")
        return joined

    def values(self, field: str, indexes: Ints) -> list[bytes | None]:
        """Return the bytes of one field of the samples with these indexes; None for a sample without the field."""
        part = self.part_of(field)
        return [None] * len(indexes) if part is None else part.values(field, self._full(indexes))

    # --- questions

    def _choose(self, condition: Condition) -> Ints:
        return find_joined(self.parts, condition, self._among())

    def table_rows(self) -> ChosenRows:
        """Raise: each dataset has a table of its own.

        Raises:
            JobError: always.
        """
        fix = 'name them in one query: st.sql("select ... from a join b using (key)", a=..., b=...)'
        raise JobError("datasets that are joined have no table in common", fix=fix)


def is_open(source: Sources) -> bool:
    """Return whether there is nothing to open: it is a dataset, or several of them."""
    if isinstance(source, str | os.PathLike | ShardedDataset):
        return isinstance(source, ShardedDataset)
    return all(isinstance(one, ShardedDataset) for one in (source.values() if isinstance(source, Mapping) else source))


def open_sources(
    source: Sources,
    join: Join | None,
    open_one: Callable[[str | Sequence[str]], ShardedDataset],
    joined: type[JoinedSamples] = JoinedSamples,
) -> ShardedDataset:
    """Return the dataset of one or several specs, or a join; ``open_one`` opens specs, and ``joined`` joins datasets.

    Raises:
        TypeError: it is something else.
        JobError: it is not said how several datasets are put together, or they cannot be joined.
    """
    if not isinstance(source, Iterable | os.PathLike) or isinstance(source, bytes):
        raise TypeError(f"a dataset is a path, a URL or a list of such, not of type {type(source).__name__}")
    if isinstance(source, ShardedDataset | str | os.PathLike):
        if join is not None:
            raise JobError("a join is of several datasets", fix="give a list of them")
        return source if isinstance(source, ShardedDataset) else open_one(os.fspath(source))
    if join is not None:
        opened = {
            name: one if isinstance(one, ShardedDataset) else open_one(os.fspath(one))
            for name, one in (source.items() if isinstance(source, Mapping) else enumerate(source))
        }
        if isinstance(source, Mapping):
            return joined({str(name): one for name, one in opened.items()}, join)
        return joined(list(opened.values()), join)
    specs = [os.fspath(one) for one in source if isinstance(one, str | os.PathLike)]
    if isinstance(source, Mapping) or len(specs) < len(source):
        raise JobError("these are several datasets", fix="say how they are put together: join='inner' or join='left'")
    return open_one(specs)


def _whole(dataset: ShardedDataset) -> ShardedDataset:
    """Return a dataset with all samples of its shards."""
    whole = copy.copy(dataset)
    whole._chosen, whole._conditions = None, ()
    return whole


def _shown(dataset: ShardedDataset) -> str:
    where = f" where {' and '.join(dataset.conditions)}" if dataset.conditions else ""
    return f"{dataset.shown_spec}{where}"


def _check(sources: object, datasets: Sequence[Any], how: str) -> None:
    if how not in get_args(Join):
        raise JobError(f"join must be 'inner' or 'left', not {how!r}", fix="correct the argument")
    if len(datasets) < 2 or any(isinstance(dataset, JoinedSamples) for dataset in datasets):
        raise JobError("a join is of two datasets or more, none of which is a join", fix="give a list of them all")
    for name in sources if isinstance(sources, Mapping) else ():
        if not is_field(name) or "." in name:
            raise JobError(f"{name!r} cannot be the start of a field's name", fix="give the dataset another name")


def _names(datasets: Sequence[ShardedDataset], called: Sequence[str] | None) -> list[dict[str, str]]:
    """Return for each dataset the names of its fields in the join, and their own names.

    Raises:
        JobError: two fields would have one name.
    """
    fields = [dataset.fields for dataset in datasets]
    everywhere = list(chain.from_iterable(fields))
    names = []
    for number, own in enumerate(fields):
        before = f"{called[number]}." if called else ""
        names.append({name if everywhere.count(name) == 1 else f"{before}{name}": name for name in own})
    seen: dict[str, int] = {}
    for number, some in enumerate(names):
        for name in some:
            if (other := seen.setdefault(name, number)) != number:
                what = f"the field {name} is in {_shown(datasets[other])} and in {_shown(datasets[number])}"
                raise JobError(what, fix=_FIX)
    return names
