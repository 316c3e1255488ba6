"""Which samples of a join a condition chooses, whose columns may be of all of its datasets.

condition -> its parts that AND joins -> columns of one dataset: asked there, by its table or by reading fields
                                      -> columns of several: their fields are read, shard by shard of the first
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import numpy as np

from shardtools.dataset.joined_tables import ask_tables
from shardtools.errors import JobError
from shardtools.query.condition import Condition, Seen, find_rows
from shardtools.query.conjuncts import conjuncts, is_true_of_nothing
from shardtools.query.names import OWN, ColumnSource, find_source, no_column
from shardtools.query.values import Samples
from shardtools.shards.columns import pick, with_zero
from shardtools.shards.table import ShardTable
from shardtools.types import Ints

if TYPE_CHECKING:
    from shardtools.dataset.joined import JoinPart


def find_joined(parts: Sequence[JoinPart], condition: Condition, among: Ints) -> Ints:
    """Return those of the samples ``among``, by their indexes in the first dataset, for which a condition is true.

    Raises:
        JobError: it does not fit its columns, or names one that no sample has.
        StorageError, ShardError: a shard cannot be read.
    """
    owned = [(_owner(parts, one), one) for one in conjuncts(condition)]
    for owner, one in owned:
        if owner is not None:
            among = _ask(parts[owner], _renamed(parts, one), among)
    for owner, one in owned:
        if owner is None and len(among):
            found = ask_tables(parts, _sources(parts, one), one, among)
            among = _read(parts, one, among) if found is None else found
    return among


def _sources(parts: Sequence[JoinPart], condition: Condition) -> list[tuple[int, ColumnSource]]:
    """Return for each column of a condition the number of the dataset that has it, and what it is there.

    Raises:
        JobError: none has it.
    """
    fields = [name for part in parts for name in part.names]
    found = []
    for column in condition.columns:
        source = find_source(column, fields)
        if source is None:
            raise no_column(condition.kind, column, fields)
        owner = next((number for number, part in enumerate(parts) if source.field in part.names), 0)
        own = source if source.what in OWN else replace(source, field=parts[owner].names[source.field])
        found.append((owner, own))
    return found


def _owner(parts: Sequence[JoinPart], condition: Condition) -> int | None:
    """Return the number of the dataset that has all columns of a condition; None if they are of several."""
    owners = {owner for owner, _ in _sources(parts, condition)}
    return None if len(owners) > 1 else next(iter(owners), 0)


def _renamed(parts: Sequence[JoinPart], condition: Condition) -> Condition:
    """Return a condition of one dataset in which columns have the names that they have there."""
    return replace(condition, columns=tuple(source.column for _, source in _sources(parts, condition)))


def owned_by(parts: Sequence[JoinPart], expression: Condition) -> tuple[JoinPart, Condition]:
    """Return the dataset that has all columns of an expression, and the expression with the names they have there.

    Raises:
        JobError: none has.
    """
    owner = _owner(parts, expression)
    if owner is None:
        what = f"its columns are of several of the joined datasets: {expression.text}"
        raise JobError(what, fix="name columns of one of them")
    return parts[owner], _renamed(parts, expression)


def _ask(part: JoinPart, condition: Condition, among: Ints) -> Ints:
    """Return those of the samples ``among`` for which a condition is true that is about one dataset."""
    others = part.of(among)
    there = others >= 0
    asked = np.unique(others[there])
    found = part.dataset._choosing.find(condition, None if len(asked) == len(part.dataset) else asked)
    chosen = np.isin(others, found)
    if not there.all() and is_true_of_nothing(condition):
        chosen |= ~there
    return among[chosen]


def _read(parts: Sequence[JoinPart], condition: Condition, among: Ints) -> Ints:
    """Return those of the samples ``among`` for which a condition is true that is about several datasets."""
    shards = parts[0].dataset._shards
    ends = np.array(shards.known_ends(), np.int64)
    sources = condition.sources([name for part in parts for name in part.names]).values()
    fields = list(dict.fromkeys(source.field for source in sources if source.field))

    def find(number: int) -> tuple[Ints, Seen]:
        start, stop = shards.starts(number), int(ends[number])
        low, high = np.searchsorted(among, (start, stop)).tolist()
        joined = _JoinedShard(parts, fields, number, start, among[low:high])
        answer = find_rows(condition, joined.samples())
        rows = answer.rows + start
        return rows[np.isin(rows, joined.wanted)], answer.seen

    numbers = shards.numbers_of(among)
    answers = shards.map(find, numbers)
    if numbers:
        reduce(or_, (seen for _, seen in answers)).check(condition)
    return np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in answers)])


class _JoinedShard:
    """The samples ``wanted`` of a shard of the first dataset, which begins at ``start``, with some fields of a join."""

    def __init__(self, parts: Sequence[JoinPart], fields: Sequence[str], number: int, start: int, wanted: Ints):
        self._parts, self._fields, self._number, self._start = parts, fields, number, start
        self.wanted = wanted

    def samples(self) -> Samples:
        """Return all samples of the shard; those that are not wanted have no fields."""
        keys = self._parts[0].dataset.indexed(self._number).table.keys
        found = [self._members(field) for field in self._fields]
        row, size, crc32 = (np.concatenate([column[i] for column in found]) for i in range(3))
        order = np.argsort(row, kind="stable")
        field = np.repeat(np.arange(len(found)), [len(column[0]) for column in found])
        nothing = np.zeros(len(keys), np.int64)
        counts = np.bincount(row, minlength=len(keys))
        table = ShardTable(
            keys=keys,
            start=nothing,
            stop=nothing,
            first=with_zero(np.cumsum(counts)),
            fields=tuple(self._fields),
            field=field[order],
            offset=np.zeros(len(row), np.int64),
            size=size[order],
            crc32=None if (crc32 < 0).any() else crc32[order].astype(np.uint32),
        )
        return Samples(table, self._data, self._number)

    def _part(self, field: str) -> JoinPart:
        return next(part for part in self._parts if field in part.names)

    def _members(self, field: str) -> tuple[Ints, Ints, Ints]:
        """Return rows of the shard that have a field, its sizes, and its checksums, -1 where they are not known."""
        part = self._part(field)
        others = part.of(self.wanted)
        rows, others = (self.wanted - self._start)[others >= 0], others[others >= 0]
        sizes, sums = np.full(len(rows), -1, np.int64), np.full(len(rows), -1, np.int64)
        numbers, places = part.dataset.places(others)
        for number in np.unique(numbers).tolist():
            at = np.flatnonzero(numbers == number)
            table = part.dataset.indexed(number).table
            members = table.members_of(part.names[field])[places[at]]
            sizes[at] = pick(table.size, members, -1)
            if table.crc32 is not None:
                sums[at] = pick(table.crc32, members, -1)
        there = sizes >= 0
        return rows[there], sizes[there], sums[there]

    def _data(self, fields: Sequence[str], rows: slice) -> list[list[bytes | None]]:
        """Return the data of some fields of a slice of the samples of the shard."""
        low, high = np.searchsorted(self.wanted, (self._start + rows.start, self._start + rows.stop)).tolist()
        some = self.wanted[low:high]
        columns: list[list[bytes | None]] = []
        for field in fields:
            column: list[bytes | None] = [None] * (rows.stop - rows.start)
            at = (some - self._start - rows.start).tolist()
            for place, value in zip(at, self._part(field).values(field, some), strict=True):
                column[place] = value
            columns.append(column)
        return columns
