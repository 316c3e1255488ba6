"""The number that an expression in SQL has for each sample of a dataset: from its table, or by reading fields.

expression -> the table, for shards that are as it says -> shard, row, number
           -> the fields of the other shards, by ranges -> a number for each row -> by the indexes of samples
"""

from __future__ import annotations

from functools import reduce
from operator import or_

import numpy as np

from shardtools.dataset.joined import JoinedSamples
from shardtools.dataset.joined_where import owned_by
from shardtools.dataset.sharded import ShardedDataset
from shardtools.query.condition import Condition, Seen, parse_condition
from shardtools.query.numbers import Floats, find_numbers
from shardtools.query.values import samples_of
from shardtools.types import Ints


def numbers_of(dataset: ShardedDataset, expression: str) -> Floats:
    """Return for each sample of a dataset the number that an expression in DuckDB's SQL has; NaN where it has none.

    Raises:
        JobError: the expression cannot be read, is no number, or names a column that no sample has; or one of several
            datasets that are joined.
        StorageError, ShardError: a shard cannot be read.
    """
    parsed = parse_condition(expression, "expression")
    if not isinstance(dataset, JoinedSamples):
        numbers = _find(dataset, parsed, dataset.chosen)
        return numbers if dataset.chosen is None else numbers[dataset.chosen]
    part, own = owned_by(dataset.parts, parsed)
    others = part.of(np.arange(dataset.ends[-1]) if dataset.chosen is None else dataset.chosen)
    numbers = _find(part.dataset, own, np.unique(others[others >= 0]))
    return np.where(others >= 0, np.append(numbers, np.nan)[others], np.nan)


def _find(dataset: ShardedDataset, expression: Condition, among: Ints | None) -> Floats:
    """Return the numbers of all samples of the shards; only those in shards that have samples ``among`` are known."""
    starts = np.array([0, *dataset.ends], np.int64)
    wanted = np.flatnonzero(np.diff(starts)).tolist() if among is None else dataset._shards.numbers_of(among)
    numbers = np.full(starts[-1], np.nan)
    left = set(wanted)
    if (there := dataset._choosing.table()) is not None:
        table, fresh = there
        asked = sorted(left & set(fresh))
        if (found := table.find_numbers(expression, asked)) is not None:
            shard, row, number = found
            numbers[starts[shard] + row] = number
            left -= set(asked)
    read = sorted(left)
    answers = dataset._shards.of_some(lambda at, shard: find_numbers(expression, samples_of(shard, at)), read)
    for at, (some, _) in zip(read, answers, strict=True):
        numbers[starts[at] : starts[at + 1]] = some
    seen = reduce(or_, (there for _, there in answers), Seen())
    if read and len(read) == len(wanted):
        seen.check(expression)
    seen.note()
    return numbers
