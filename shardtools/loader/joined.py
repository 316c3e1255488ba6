"""The samples of a join, whose fields are in the shards of several datasets.

    rows of a shard of the first dataset -> `Pairs` -> indexes in another one -> rows of its shards -> values

An order, ranks and states know the first dataset alone. What is read together of several of its shards is read together
of the others, too: one read for each of their shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import cast

import numpy as np

from shardtools.dataset.joined import JoinedSamples, JoinPart
from shardtools.errors import ChangedError, ShardError, ShardtoolsError, SpecError, StorageError, UnavailableError
from shardtools.loader.shard import FieldShard, FilePiece, ShardRows, Shards, Values, read_columns
from shardtools.loader.stats import Stats
from shardtools.storage import StorageOptions
from shardtools.types import Ints

SCATTERED = 16
"""Shards of another dataset in which samples of a shard have partners, up to which the sizes of all are looked up. If
there are more, they are taken for as large as those of the first ones."""


class PartShards:
    """The shards of one of the datasets of a join, and which of its fields are read: those ``at`` some places."""

    def __init__(self, part: JoinPart, fields: Sequence[str], stats: Stats):
        self.at = [place for place, name in enumerate(fields) if name in part.names]
        self.names = [part.names[fields[place]] for place in self.at]
        self._part, self._failed = part, dict[int, ShardtoolsError]()
        self.shards = Shards(part.dataset, self.names, part.dataset.options, stats)
        self.starts = np.cumsum([0, *(part.dataset.counts or [])])

    def get(self, number: int) -> FieldShard:
        """Return a shard. One that cannot be opened is tried again only if that was a transient failure.

        Raises:
            StorageError, ShardError, SpecError: it cannot be read.
        """
        if (failed := self._failed.get(number)) is not None:
            raise failed
        try:
            return self.shards.get(number)
        except (StorageError, ShardError, SpecError) as error:
            if isinstance(error, UnavailableError):
                raise
            self._failed[number] = named = error.at(url=self.shards.url(number))
            raise named from error

    def rows_of(self, indexes: Ints) -> tuple[Ints, list[tuple[int, Ints]]]:
        """Return where the samples stand in ``indexes`` that have a partner, and the shards and rows of the partners.

        The indexes are of the first dataset. The rows rise, and so do the shards.
        """
        others = self._part.of(indexes)
        there = np.flatnonzero((others >= 0) & (others < self.starts[-1]))
        others = others[there]
        if (others[1:] < others[:-1]).any():
            order = np.argsort(others, kind="stable")
            there, others = there[order], others[order]
        numbers = np.searchsorted(self.starts, others, side="right") - 1
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        pieces = pairwise(bounds) if len(numbers) else ()
        return there, [(int(numbers[a]), others[a:b] - self.starts[numbers[a]]) for a, b in pieces]

    def read(self, indexes: Ints) -> Values:
        """Return the fields of samples of the first dataset.

        Raises:
            StorageError, ShardError, SpecError: they cannot be read.
        """
        there, rows = self.rows_of(indexes)
        if not rows:
            return [[None] * len(indexes) for _ in self.names]
        found = read_columns(self.names, [(self.get(number), some) for number, some in rows])
        if len(there) == len(indexes) and (there[1:] > there[:-1]).all():
            return found
        values: Values = [[None] * len(indexes) for _ in self.names]
        for column, some in zip(values, found, strict=True):
            for place, value in zip(there.tolist(), some, strict=True):
                column[place] = value
        return values

    def sizes(self, rows: Sequence[tuple[int, Ints]]) -> Ints:
        """Return how many bytes the fields of some rows of shards have; of many shards, about."""
        sizes = np.zeros(sum(len(some) for _, some in rows), np.int64)
        found = np.concatenate([np.empty(0, np.int64), *(self._sizes(*some) for some in rows[:SCATTERED])])
        sizes[len(found) :] = int(found.mean()) if len(found) else 0
        sizes[: len(found)] = found
        return sizes

    def _sizes(self, number: int, rows: Ints) -> Ints:
        try:
            return self.get(number).sizes[rows]
        except (StorageError, ShardError, SpecError) as error:
            if isinstance(error, UnavailableError):
                raise
            return np.zeros(len(rows), np.int64)  # the error is that of the samples that are read


class JoinedShard(FieldShard):
    """A shard of the first dataset, whose samples have the fields of all."""

    def __init__(self, number: int, own: PartShards, others: Sequence[PartShards], indexes: Ints):
        """``indexes`` are those of its samples that are in the join."""
        self._shard, self._start = own.get(number), int(own.starts[number])
        self.url = self._shard.url
        self._own, self._others = own, others
        self.sizes = self._shard.sizes.copy()
        partners = [part.rows_of(indexes) for part in others]
        for part, (there, rows) in zip(others, partners, strict=True):
            self.sizes[indexes[there] - self._start] += part.sizes(rows)
        self.weight = self.sizes.nbytes
        if all(len(rows) <= SCATTERED for _, rows in partners):
            known = [
                self._known(part, indexes[there] - self._start, rows)
                for part, (there, rows) in zip(others, partners, strict=True)
            ]
            each = {shard.is_lazy for shard in chain(*known, [self._shard] if own.names else ())}
            self.is_lazy = None if None in each else True in each

    def _known(self, part: PartShards, mine: Ints, rows: list[tuple[int, Ints]]) -> list[FieldShard]:
        """Return the open shards of the partners of some rows, whose keys have been compared.

        Raises:
            ChangedError: a partner has another key.
        """
        opened = []
        ends = np.cumsum([len(some) for _, some in rows])
        for (number, some), places in zip(rows, np.split(mine, ends[:-1]), strict=False):
            if (shard := part.shards.known(number)) is not None:
                opened.append(shard)
                keys, theirs = self._shard.texts(places), shard.texts(some)
                if keys is not None and theirs is not None and keys.tolist() != theirs.tolist():
                    what = "its keys are others than those for which it was joined"
                    raise ChangedError(what, url=shard.url, fix="open the dataset again")
        return opened

    def pieces(self, rows: Ints) -> list[FilePiece]:
        found = []
        if self._own.names:
            found += [replace(piece, fields=np.array(self._own.at)) for piece in self._shard.pieces(rows)]
        for part in self._others:
            there, partners = part.rows_of(self._start + rows)
            ends = np.cumsum([len(some) for _, some in partners])
            for (number, some), places in zip(partners, np.split(there, ends[:-1]), strict=False):
                for piece in part.get(number).pieces(some):
                    found.append(FilePiece(piece.shard, np.array(part.at), places[piece.places], some))
        return found

    def keys(self, rows: Sequence[int]) -> list[str]:
        return self._shard.keys(rows)

    def read(self, rows: Ints) -> Values:
        return self.read_together([(self, rows)])

    @classmethod
    def read_together(cls, parts: Sequence[ShardRows]) -> Values:
        joined = [(cast(JoinedShard, shard), rows) for shard, rows in parts]
        own, others = joined[0][0]._own, joined[0][0]._others
        indexes = np.concatenate([shard._start + rows for shard, rows in joined])
        found: dict[int, list[bytes | None]] = {}
        if own.names:
            found |= zip(own.at, read_columns(own.names, [(shard._shard, rows) for shard, rows in joined]), strict=True)
        for part in others:
            found |= zip(part.at, part.read(indexes), strict=True)
        return [found[place] for place in range(len(found))]


class JoinedShards(Shards):
    """The shards of the first dataset of a join, whose samples have fields of all."""

    def __init__(self, dataset: JoinedSamples, fields: Sequence[str], options: StorageOptions, stats: Stats):
        first, *others = dataset.parts
        self._joined = dataset
        self._own = PartShards(first, fields, Stats())
        named = (PartShards(part, fields, stats) for part in others)
        self._others = [part for part in named if part.names]
        super().__init__(first.dataset, self._own.names, options, stats)

    def is_near(self, number: int) -> bool:
        return super().is_near(number) and all(part.shards.is_near(0) for part in self._others)

    def _make(self, number: int) -> FieldShard:
        return JoinedShard(number, self._own, self._others, self._joined.indexes_in(number))

    def close(self) -> None:
        for part in (self._own, *self._others):
            part.shards.close()
        super().close()
