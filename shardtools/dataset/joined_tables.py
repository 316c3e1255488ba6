"""Ask the tables of several datasets, joined by the places of their samples, which ones a condition chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from shardtools.errors import CorruptError
from shardtools.query.condition import Condition, misfit
from shardtools.query.duck import connect, identifier
from shardtools.query.names import ColumnSource
from shardtools.query.table import DatasetTable
from shardtools.types import Ints

if TYPE_CHECKING:
    from shardtools.dataset.joined import JoinPart


def ask_tables(
    parts: Sequence[JoinPart], sources: Sequence[tuple[int, ColumnSource]], condition: Condition, among: Ints
) -> Ints | None:
    """Return those of the samples ``among``, by their indexes in the first dataset, for which a condition is true.

    ``sources`` has, for each of its columns, the number of a dataset and the column there. None if one of the datasets
    does not have a table with its columns that is as all of its shards are.

    Raises:
        JobError: the condition does not fit its columns.
        StorageError: a table cannot be read.
    """
    import duckdb

    tables = {number: _table(parts[number]) for number, _ in sources}
    known = {number: table for number, table in tables.items() if table is not None}
    if len(known) < len(tables):
        return None
    columns, used = ["n"], {number: {"shard", "row"} for number in known}
    for at, (number, source) in enumerate(sources):
        column = known[number].column_of(source.column)
        if column is None:
            return None
        used[number].add(column)
        is_null = known[number].facts.kinds.get(column) == "null"
        columns.append(f"{'NULL' if is_null else f't{number}.{identifier(column)}'} AS c{at}")
    given = {"n": np.arange(len(among))}
    joins = "given"
    for number, table in known.items():
        given[f"shard{number}"], given[f"row{number}"] = _places(parts[number], among)
        on = f"t{number}.shard = given.shard{number} AND t{number}.row = given.row{number}"
        joins += f" LEFT JOIN {table.source_of(used[number])} t{number} ON {on}"
    connection = connect([path for table in known.values() for path in table.paths])
    connection.register("given", given)
    asked = f"(SELECT {', '.join(columns)} FROM {joins})"
    try:
        condition.check_type(connection, asked)
        found = connection.execute(f"SELECT n FROM {asked} WHERE {condition.sql} ORDER BY n").fetchnumpy()["n"]
    except (duckdb.ProgrammingError, duckdb.DataError) as error:
        raise misfit(condition, str(error)) from error
    except duckdb.Error as error:
        url, what = next(iter(known.values())).url, str(error).partition("\n")[0]
        raise CorruptError(f"a table is damaged: {what}", url=url, fix="make it again with htindex --table") from error
    return among[np.asarray(found, np.int64)]


def _table(part: JoinPart) -> DatasetTable | None:
    """Return the table of a dataset, if it is as all of its shards are."""
    there = part.dataset._choosing.table()
    return there[0] if there is not None and len(there[1]) == len(part.dataset.urls) else None


def _places(part: JoinPart, among: Ints) -> tuple[Ints, Ints]:
    """Return shard and row of the samples that belong to samples of the first dataset, -1 where there is none."""
    others = part.of(among)
    there = others >= 0
    shards, rows = np.full(len(others), -1, np.int64), np.full(len(others), -1, np.int64)
    shards[there], rows[there] = part.dataset.places(others[there])
    return shards, rows
