"""The table of a dataset, opened: which shards it still describes, and SQL over its rows.

    spec -> the files, on the local disk -> facts -> the states of the shards now -> fresh shards -> rows

DuckDB reads local files only, so a table on a server is downloaded once, into a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from shardtools.errors import AccessError, CorruptError, NotFoundError, RefusedError
from shardtools.forks import PerProcess
from shardtools.query.condition import Condition, misfit
from shardtools.query.duck import LOCKED, identifier, literal
from shardtools.query.names import find_source
from shardtools.query.table_file import ENTRY, ShardState, TableFacts, table_url
from shardtools.storage import get_storage
from shardtools.types import Ints
from shardtools.urls import absolute, is_local

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_PIECE = 1 << 22


class DatasetTable:
    """The table of the dataset ``spec``. It may be used by many threads, and after a fork.

    Raises:
        NotFoundError: there is none.
        CorruptError: it is damaged, or not a table.
        StorageError: it cannot be read.
    """

    def __init__(self, spec: str):
        self.url = table_url(spec)
        self._folder: str | None = None
        self.paths = [self._local(self.url)]
        self._connection = PerProcess(self._connect)
        self.facts = self._read_facts()
        self.paths += [self._local(table_url(spec, number)) for number in range(1, len(self.facts.files))]
        self._connection = PerProcess(self._connect)
        self.columns = self._read_columns()
        self.fields = tuple(name.removeprefix("size.") for name in self.columns if name.startswith("size."))

    def _local(self, url: str) -> str:
        """Return the path of a file, which is downloaded if it is on a server."""
        if is_local(url):
            get_storage(url).stat(url)
            return absolute(url)
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="shardtools-table-")
            weakref.finalize(self, _remove, self._folder, os.getpid())
        path = os.path.join(self._folder, f"{len(os.listdir(self._folder))}.parquet")
        with get_storage(url).open(url) as stream, open(path, "wb") as file:
            while piece := stream.read(_PIECE):
                file.write(piece)
        return path

    def _connect(self) -> DuckDBPyConnection:
        return connect(self.paths)

    def cursor(self) -> DuckDBPyConnection:
        """Return a connection that can read the files of the table, and nothing else."""
        return self._connection.get().cursor()

    @property
    def source(self) -> str:
        """SQL for all rows of the table."""
        return f"read_parquet([{', '.join(map(literal, self.paths))}])"

    def _read_facts(self) -> TableFacts:
        import duckdb

        query = f"SELECT value FROM parquet_kv_metadata({literal(self.paths[0])}) WHERE key = {literal(ENTRY.decode())}"
        try:
            found = self.cursor().execute(query).fetchall()
        except duckdb.Error as error:
            raise CorruptError("it is not a Parquet file", url=self.url, fix="delete it") from error
        return TableFacts.parse(found[0][0] if found else None, self.url)

    def _read_columns(self) -> tuple[str, ...]:
        import duckdb

        try:
            rows = self.cursor().execute(f"DESCRIBE SELECT * FROM {self.source}").fetchall()
        except duckdb.Error as error:
            raise CorruptError("it is not a Parquet file", url=self.url, fix="delete it") from error
        return tuple(row[0] for row in rows)

    # --- conditions

    def column_of(self, name: str) -> str | None:
        """Return the column of the table that a name in a condition means; None if the table does not have it whole."""
        source = find_source(name, self.fields)
        if source is None:
            return None
        wanted = source.column
        folded = {column.lower(): column for column in reversed(self.columns)}
        column = wanted if wanted in self.columns else folded.get(wanted.lower())
        if column is None or column in self.facts.cut or (source.needs_data and column not in self.facts.kinds):
            return None
        return column

    def find_rows(self, condition: Condition, shards: Sequence[int]) -> tuple[Ints, Ints] | None:
        """Return shard and row of each sample of some shards for which a condition is true, in order.

        None if the table does not have all of its columns.

        Raises:
            JobError: the condition does not fit the types of its columns.
            CorruptError: the table is damaged.
        """
        import duckdb

        columns = {name: self.column_of(name) for name in condition.columns}
        if None in columns.values():
            return None
        parts = ["shard", "row"]
        for number, column in enumerate(columns.values()):
            is_null = self.facts.kinds.get(column or "") == "null"
            parts.append(f"{'NULL' if is_null else identifier(column or '')} AS c{number}")
        asked = f"(SELECT {', '.join(parts)} FROM {self.source})"
        cursor = self.cursor()
        try:
            condition.check_type(cursor, asked)
            found = cursor.execute(f"SELECT shard, row FROM {asked} WHERE {condition.sql} ORDER BY ALL").fetchnumpy()
        except (duckdb.ProgrammingError, duckdb.DataError) as error:
            raise misfit(condition, str(error)) from error
        except duckdb.Error as error:
            raise self._damaged(str(error).partition("\n")[0]) from error
        chosen = np.isin(found["shard"], np.array(shards, np.int64))
        shard, row = found["shard"][chosen].astype(np.int64), found["row"][chosen].astype(np.int64)
        self._check(shard, row)
        return shard, row

    def _check(self, shard: Ints, row: Ints) -> None:
        """Raise if sorted rows of the table are not of different samples.

        Raises:
            CorruptError: they are not.
        """
        samples = np.array([state.samples for state in self.facts.shards], np.int64)
        rising = (np.diff(shard) > 0) | (np.diff(row) > 0)
        if not rising.all() or (len(row) and (row.min() < 0 or (row >= samples[shard]).any())):
            raise self._damaged("it has rows of samples that there are not")

    def _damaged(self, what: str) -> CorruptError:
        return CorruptError(f"the table is damaged: {what}", url=self.url, fix="make it again with htindex --table")


def _remove(folder: str, process: int) -> None:
    """Remove a folder, but not in a child of the process that made it, which still needs it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def connect(paths: Sequence[str]) -> DuckDBPyConnection:
    """Return a new DuckDB in memory that can reach these files, and nothing else."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET allowed_paths = [{', '.join(map(literal, paths))}]")
    for name, value in LOCKED.items():
        connection.execute(f"SET {name} = {str(value).lower()}")
    return connection


def open_table(spec: str) -> DatasetTable | None:
    """Return the table of a dataset; None if there is none.

    Raises:
        CorruptError: it is damaged.
        StorageError: it cannot be read.
    """
    try:
        return DatasetTable(spec)
    except (NotFoundError, AccessError, RefusedError):
        return None


def fresh_shards(facts: TableFacts, states: Sequence[ShardState]) -> list[int]:
    """Return the numbers of the shards that are as they were when the table was made, given how they are now.

    >>> a, b = ShardState("a.tar", 10, "crc32:0", 2), ShardState("b.tar", 10, "crc32:1", 2)
    >>> fresh_shards(TableFacts((a, b), {}, files=(4,)), [a, ShardState("b.tar", 11, "crc32:1", 2)])
    [0]
    """
    if [shard.name for shard in facts.shards] != [state.name for state in states]:
        return []
    return [number for number, (was, now) in enumerate(zip(facts.shards, states, strict=True)) if was == now]
