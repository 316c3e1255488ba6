"""SQL over a table of which some shards have changed since: their rows are made anew in memory, with its columns.

    shards as the table says -> its rows          together, in the order of the shards
    changed shards -> their rows, in its types

Shards that have not changed are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from shardtools.errors import JobError
from shardtools.query.duck import identifier
from shardtools.query.kinds import Kind, Kinds
from shardtools.query.shard_rows import conformed, place_columns, value_columns
from shardtools.query.table import DatasetTable
from shardtools.query.table_file import AnyTable, Asked
from shardtools.shards.members import IndexedShard

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MOST_RUNS = 64
"""With more runs of shards that have changed or have not, rows are sorted, instead of a query for each run."""

_FIX = "make the table anew with htindex --table"


@dataclass(frozen=True)
class ChangedShards:
    """The ``numbers`` of shards that are not as a table says; ``each`` calls a function for some shards, in threads."""

    numbers: tuple[int, ...]
    each: Callable[[Callable[[int, IndexedShard], AnyTable], Sequence[int]], list[AnyTable]]

    def among(self, numbers: Sequence[int]) -> ChangedShards:
        """Return those of the shards that have one of these numbers."""
        return ChangedShards(tuple(sorted(set(self.numbers) & set(numbers))), self.each)


def unite(
    connection: DuckDBPyConnection, name: str, table: DatasetTable, changed: ChangedShards, columns: Sequence[str]
) -> str:
    """Return SQL for rows of a table, those of ``changed`` shards anew: these are in a temporary table ``name``.

    Raises:
        JobError: values of a changed shard do not fit the type of their column.
        StorageError, ShardError: a changed shard cannot be read.
    """
    columns = [column for column in table.columns if column in columns or column in ("shard", "row")]
    connection.register("given", _rows(table, changed, columns))
    connection.execute(f"CREATE TEMP TABLE {identifier(name)} AS SELECT * FROM given")
    connection.unregister("given")
    listed, there = ", ".join(map(identifier, columns)), table.source_of(columns)
    runs = list(_runs(len(table.facts.shards), changed.numbers))
    if len(runs) > _MOST_RUNS:
        numbers = ", ".join(map(str, changed.numbers))
        fresh = f"SELECT {listed} FROM {there} WHERE shard NOT IN ({numbers})"
        return f"SELECT * FROM ({fresh} UNION ALL FROM {identifier(name)}) ORDER BY shard, row"
    return " UNION ALL ".join(
        f"SELECT {listed} FROM {identifier(name) if is_changed else there} WHERE shard BETWEEN {first} AND {last}"
        for is_changed, first, last in runs
    )


def _runs(shards: int, changed: Sequence[int]) -> Iterator[tuple[bool, int, int]]:
    """Yield runs of shards that have all changed, or have not: which of both, the first number and the last.

    >>> list(_runs(6, [1, 2, 5]))
    [(False, 0, 0), (True, 1, 2), (False, 3, 4), (True, 5, 5)]
    """
    known = set(changed)
    for is_changed, run in groupby(range(shards), known.__contains__):
        numbers = list(run)
        yield is_changed, numbers[0], numbers[-1]


def _rows(table: DatasetTable, changed: ChangedShards, columns: Sequence[str]) -> AnyTable:
    """Return the rows of changed shards, with some columns of a table and their types there."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        what = f"{len(changed.numbers):,} shards have changed since the table was made, and are read with pyarrow"
        raise JobError(what, fix="install it: pip install 'shardtools[parquet]'; or " + _FIX) from error
    there = parquet.read_schema(table.paths[0])
    schema = pyarrow.schema([there.field(column) for column in columns])
    cuts = {one.name: one.cut for one in table.facts.asked or ()}
    asked = [Asked(column, cuts.get(column)) for column in columns if column in table.facts.kinds]
    parts = changed.each(lambda number, shard: _rows_of(table, shard, number, asked, schema), changed.numbers)
    return pyarrow.concat_tables([schema.empty_table(), *parts])


def _rows_of(table: DatasetTable, shard: IndexedShard, number: int, asked: Sequence[Asked], schema: Any) -> AnyTable:
    import pyarrow

    values = value_columns(shard, asked)
    for name, kinds in values.kinds.items():
        _check_fit(name, table.facts.kinds.get(name), kinds, shard)
    columns = {} if values.table is None else dict(zip(values.table.column_names, values.table.columns, strict=True))
    found = pyarrow.table({**columns, **place_columns(shard.table, number)})
    return conformed(found, schema)


def _check_fit(name: str, was: str | None, now: Kinds, shard: IndexedShard) -> None:
    """Raise if the column of a table would be of another type with values of these kinds.

    Raises:
        JobError: it would.
    """
    if was is None:
        return
    before = Kinds() if was == "null" else Kinds(frozenset((cast(Kind, was),)))
    if Kinds.join([before, now]).kind != before.kind:
        what = f"the column {name} has changed: its type in the table is {before.kind}, and in this shard {now.kind}"
        raise JobError(what, url=shard.url, fix=_FIX)
