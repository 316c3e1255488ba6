"""One DuckDB for each process, in memory. It cannot reach files or the network, and its settings are locked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shardtools.forks import PerProcess

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LOCKED = {"enable_external_access": False, "lock_configuration": True}
"""Settings with which SQL from a user can reach nothing but the tables that it is for."""


def _connect() -> DuckDBPyConnection:
    import duckdb

    return duckdb.connect(config=dict(LOCKED))


_database = PerProcess(_connect)


@contextmanager
def session() -> Iterator[DuckDBPyConnection]:
    """A context that gives a connection of its own to the DuckDB of this process; its tables end with it."""
    connection = _database.get().cursor()
    try:
        yield connection
    finally:
        connection.close()


def connect(paths: Sequence[str]) -> DuckDBPyConnection:
    """Return a new DuckDB in memory that can reach these files, and nothing else."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET allowed_paths = [{', '.join(map(literal, paths))}]")
    for name, value in LOCKED.items():
        connection.execute(f"SET {name} = {str(value).lower()}")
    return connection


def identifier(name: str) -> str:
    """Return a name as SQL writes it.

    >>> identifier('a "b".c')
    '"a ""b"".c"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as SQL writes it.

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"
