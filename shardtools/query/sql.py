"""SQL over the tables of datasets: one query, which can read these tables and nothing else.

    query -> DuckDB's parser -> is it one SELECT? -> names like json.width become names of columns -> relation

A file that may be read may be written as well, as far as DuckDB knows. So only a SELECT is run.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from shardtools.errors import JobError
from shardtools.query.changed import ChangedShards, unite
from shardtools.query.condition import unreadable
from shardtools.query.duck import connect, identifier
from shardtools.query.misnamed import explain_names
from shardtools.query.sql_tree import Node, columns_of, parse, to_sql
from shardtools.query.table import DatasetTable
from shardtools.types import Ints

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

_FORM = 'give one query, such as "select cls, count(*) from samples group by cls"'


@dataclass(frozen=True)
class ChosenRows:
    """The rows of a table, those of ``changed`` shards anew; of some samples only if ``chosen`` has shards and rows."""

    table: DatasetTable
    chosen: tuple[Ints, Ints] | None = None
    changed: ChangedShards | None = None

    def source(self, connection: DuckDBPyConnection, number: int, columns: Sequence[str]) -> str:
        """Return SQL for the rows, with these columns; ``number`` tells the tables that it needs from those of others.

        Raises:
            JobError, StorageError, ShardError: a changed shard cannot be read, or does not fit the table.
        """
        if self.changed is None:
            source = f"SELECT * FROM {self.table.source_of(columns)}"
        else:
            changed = self.changed if self.chosen is None else self.changed.among(np.unique(self.chosen[0]).tolist())
            source = unite(connection, f"__changed_{number}", self.table, changed, columns)
        if self.chosen is None:
            return source
        shard, row = self.chosen
        connection.register("given", {"shard": shard, "row": row})
        connection.execute(f"CREATE TEMP TABLE chosen_{number} AS SELECT * FROM given")
        connection.unregister("given")
        return f"SELECT * FROM ({source}) SEMI JOIN chosen_{number} USING (shard, row)"


def run_sql(query: str, tables: Mapping[str, ChosenRows]) -> DuckDBPyRelation:
    """Return the result of a query over tables, by their names in it; it is computed when it is used.

    Raises:
        JobError: it is not one query, or does not fit the tables.
    """
    return start_sql(query, tables)[1]


def start_sql(query: str, tables: Mapping[str, ChosenRows]) -> tuple[DuckDBPyConnection, DuckDBPyRelation]:
    """Return what `run_sql` does, after its connection, which can interrupt it.

    Raises:
        JobError: as `run_sql` does.
    """
    connection = connect([path for rows in tables.values() for path in rows.table.paths])
    columns = {column.lower() for rows in tables.values() for column in rows.table.columns}
    with sql_errors(query):
        read = _read_query(connection, query, columns)
    weakref.finalize(connection, _end, list(tables.values()))  # relations keep it, and so the files of tables
    for number, (name, rows) in enumerate(tables.items()):
        wanted = rows.table.columns
        if read.columns is not None:
            place = ("shard", "row") if rows.chosen is not None else ()
            wanted = tuple(one for one in wanted if one.lower() in read.columns or one in place)
        source = rows.source(connection, number, wanted)
        connection.execute(f"CREATE TEMP VIEW {identifier(name)} AS {source}")
    with sql_errors(query, {name: rows.table.columns for name, rows in tables.items()}):
        return connection, connection.sql(read.sql)


def _end(tables: Sequence[ChosenRows]) -> None:
    """Need tables no longer: those that were downloaded are removed with their last user."""


@contextmanager
def sql_errors(query: str, tables: Mapping[str, Sequence[str]] | None = None) -> Iterator[None]:
    """A context in which what DuckDB raises becomes a `JobError`; ``tables`` have the columns that may be meant."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        first = " ".join(str(error).partition("\n\n")[0].split())
        first = first.partition(" Candidate functions:")[0]
        plain = first.partition(": ")[2] or first, "see docs/query.md"
        what, fix = explain_names(first, query, tables or {}) or plain
        raise JobError(f"the query cannot be run: {what}", fix=fix) from error


@dataclass(frozen=True)
class _Query:
    """A query in which ``json.width`` is the column of that name, and the ``columns`` that it reads, in small letters.

    They are None if it may read any.
    """

    sql: str
    columns: frozenset[str] | None


def _read_query(connection: DuckDBPyConnection, query: str, columns: Collection[str]) -> _Query:
    """Return what a query is.

    Raises:
        JobError: it is not one query.
    """
    tree = parse(connection, query)
    if tree["error"]:
        if tree.get("error_type") == "parser":
            raise unreadable("query", query, tree, 0, _FORM)
        raise JobError("only queries are run, which change nothing", fix=_FORM)
    if not tree["statements"]:
        raise JobError("the query is empty", fix=_FORM)
    if len(tree["statements"]) != 1:
        raise JobError(f"these are {len(tree['statements'])} queries", fix=_FORM)
    _join_names(tree, columns)
    found = _QueryNames()
    found.add(tree["statements"])
    return _Query(to_sql(connection, tree), found.columns(columns))


_ANY = {"STAR", "POSITIONAL_REFERENCE", "SHOW_REF", "PIVOT", "NATURAL"}
"""What stands for columns that it does not name."""


@dataclass
class _QueryNames:
    """The names in a query: all ``texts``, those that are given to tables and to results, and those of columns."""

    texts: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    results: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)

    def add(self, node: Any) -> None:
        """Add the names in a part of DuckDB's tree of a query."""
        if isinstance(node, list):
            for part in node:
                self.add(part)
        elif isinstance(node, dict):
            kinds = {str(node.get(name)) for name in ("class", "type", "ref_type")}
            self.kinds |= kinds
            if node.get("column_name_alias"):
                self.kinds.add("STAR")
            names = self.results if "class" in node else self.tables
            names.update(str(node[name]).lower() for name in ("alias", "table_name") if node.get(name))
            if "COLUMN_REF" in kinds:
                self.used.add(node["column_names"][-1].lower())
                if len(node["column_names"]) > 2:
                    self.used.update(map(str.lower, node["column_names"]))
            for part in node.values():
                self.add(part)
        elif isinstance(node, str):
            self.texts.add(node.lower())

    def columns(self, columns: Collection[str]) -> frozenset[str] | None:
        """Return those ``columns`` of tables that are read, None for any of them."""
        unknown = self.used - set(columns) - self.results
        return None if unknown or self.kinds & _ANY or self.used & self.tables else frozenset(self.texts & set(columns))


def _join_names(tree: Node, columns: Collection[str]) -> None:
    """Join the parts of names that are columns: ``json.width``, also after the name of a table."""
    for node in columns_of(tree):
        names = node["column_names"]
        for first in (0, 1):
            joined = ".".join(names[first:])
            if joined.lower() in columns:
                node["column_names"] = [*names[:first], joined]
                break
