"""SQL over the tables of datasets: one query, which can read these tables and nothing else.

    query -> DuckDB's parser -> is it one SELECT? -> names like json.width become names of columns -> relation

A file that may be read may be written as well, as far as DuckDB knows. So only a SELECT is run.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardtools.errors import JobError
from shardtools.query.condition import unreadable
from shardtools.query.duck import identifier
from shardtools.query.table import DatasetTable, connect
from shardtools.types import Ints

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

_FORM = 'give one query, such as "select cls, count(*) from samples group by cls"'


@dataclass(frozen=True)
class ChosenRows:
    """The rows of a table; of some samples only if ``chosen`` has their shards and rows."""

    table: DatasetTable
    chosen: tuple[Ints, Ints] | None = None


def run_sql(query: str, tables: Mapping[str, ChosenRows]) -> DuckDBPyRelation:
    """Return the result of a query over tables, by their names in it; it is computed when it is used.

    Raises:
        JobError: it is not one query, or does not fit the tables.
    """
    connection = connect([path for rows in tables.values() for path in rows.table.paths])
    weakref.finalize(connection, _end, list(tables.values()))  # relations keep it, and so the files of tables
    for number, (name, rows) in enumerate(tables.items()):
        source = f"SELECT * FROM {rows.table.source}"
        if rows.chosen is not None:
            shard, row = rows.chosen
            connection.register("given", {"shard": shard, "row": row})
            connection.execute(f"CREATE TEMP TABLE chosen_{number} AS SELECT * FROM given")
            connection.unregister("given")
            source += f" SEMI JOIN chosen_{number} USING (shard, row)"
        connection.execute(f"CREATE TEMP VIEW {identifier(name)} AS {source}")
    columns = {column.lower() for rows in tables.values() for column in rows.table.columns}
    with sql_errors(query):
        return connection.sql(_with_names(connection, query, columns))


def _end(tables: Sequence[ChosenRows]) -> None:
    """Need tables no longer: those that were downloaded are removed with their last user."""


@contextmanager
def sql_errors(query: str) -> Iterator[None]:
    """A context in which what DuckDB raises becomes a `JobError`."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        first = " ".join(str(error).partition("\n\n")[0].split())
        what = first.partition(": ")[2] or first
        raise JobError(f"the query cannot be run: {what}", fix="see docs/query.md") from error


def _with_names(connection: DuckDBPyConnection, query: str, columns: Collection[str]) -> str:
    """Return a query in which ``json.width`` is the column of that name.

    Raises:
        JobError: it is not one query.
    """
    [(answer,)] = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    tree = json.loads(answer)
    if tree["error"]:
        if tree.get("error_type") == "parser":
            raise unreadable("query", query, tree, 0, _FORM)
        raise JobError("only queries are run, which change nothing", fix=_FORM)
    if len(tree["statements"]) != 1:
        raise JobError(f"these are {len(tree['statements'])} queries", fix=_FORM)
    _join_names(tree, columns)
    [(sql,)] = connection.execute("SELECT json_deserialize_sql(?)", [json.dumps(tree)]).fetchall()
    return str(sql)


def _join_names(node: Any, columns: Collection[str]) -> None:
    """Join the parts of names that are columns: ``json.width``, also after the name of a table."""
    if isinstance(node, list):
        for part in node:
            _join_names(part, columns)
    elif isinstance(node, dict):
        if node.get("class") == "COLUMN_REF":
            names = node["column_names"]
            for first in (0, 1):
                joined = ".".join(names[first:])
                if joined.lower() in columns:
                    node["column_names"] = [*names[:first], joined]
                    break
        for part in node.values():
            _join_names(part, columns)
