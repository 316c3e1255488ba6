"""The table of a dataset, opened: which shards it still describes, and SQL over its rows.

    spec -> the files, on the local disk -> facts -> the states of the shards now -> fresh shards -> rows

DuckDB reads local files only. Of a table on a server, the columns that are asked for are fetched when they are asked
for first, into a temporary folder (``partial_file.py``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import AccessError, CorruptError, NotFoundError, RefusedError
from shardtools.forks import PerProcess
from shardtools.query.condition import Condition, misfit
from shardtools.query.duck import connect, identifier, literal
from shardtools.query.names import find_source
from shardtools.query.numbers import number_sql
from shardtools.query.partial_file import PartialFile
from shardtools.query.table_file import ENTRY, ShardState, TableFacts, table_url
from shardtools.storage import Stat, current_options, get_storage, using
from shardtools.storage.together import each
from shardtools.types import Ints
from shardtools.urls import absolute, is_local

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class DatasetTable:
    """The table of the dataset ``spec``. It may be used by many threads, and after a fork.

    Raises:
        NotFoundError: there is none.
        CorruptError: it is damaged, or not a table.
        StorageError: it cannot be read.
    """

    def __init__(self, spec: str):
        self.url = table_url(spec)
        self._options = current_options()
        self._folder: str | None = None
        self._partial: list[PartialFile] = []
        self._stats: list[Stat] = []
        self.paths = self._local([self.url])
        self._connection = PerProcess(self._connect)
        self.facts = self._read_facts()
        self.paths += self._local([table_url(spec, number) for number in range(1, len(self.facts.files))])
        self._connection = PerProcess(self._connect)
        self.columns = self._read_columns()
        self.fields = tuple(name.removeprefix("size.") for name in self.columns if name.startswith("size."))

    def _local(self, urls: Sequence[str]) -> list[str]:
        """Return the paths of files; of those on a server, only the ends are fetched."""
        if all(map(is_local, urls)):
            self._stats += [get_storage(url).stat(url) for url in urls]
            return list(map(absolute, urls))
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="shardtools-table-")
            weakref.finalize(self, _remove, self._folder, os.getpid())
        paths = [os.path.join(self._folder, f"{len(self._partial) + at}.parquet") for at in range(len(urls))]
        self._partial += each(lambda both: PartialFile(*both), zip(urls, paths, strict=True))
        self._stats += [file.stat for file in self._partial[-len(urls) :]]
        return paths

    @property
    def modified(self) -> float | None:
        """When its first file, which is the last one to be written, was written; None where storage does not say."""
        return self._stats[0].modified

    def _connect(self) -> DuckDBPyConnection:
        return connect(self.paths)

    def cursor(self) -> DuckDBPyConnection:
        """Return a connection that can read the files of the table, and nothing else."""
        return self._connection.get().cursor()

    @property
    def source(self) -> str:
        """SQL for all rows of the table; all of it is fetched."""
        return self.source_of(self.columns)

    def source_of(self, columns: Collection[str]) -> str:
        """Return SQL for all rows of the table, of which only these columns may be used; these are fetched.

        Raises:
            ChangedError: the table on the server is another one now.
            StorageError: it cannot be read.
        """
        with using(self._options):
            for _ in each(lambda file: file.fetch(columns), self._partial):
                pass
        return self._source

    @property
    def _source(self) -> str:
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
            rows = self.cursor().execute(f"DESCRIBE SELECT * FROM {self._source}").fetchall()
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
        found = self._select(condition, "shard, row", condition.sql, check=True)
        if found is None:
            return None
        shard, row, _ = self._places(found, shards)
        return shard, row

    def find_numbers(
        self, expression: Condition, shards: Sequence[int]
    ) -> tuple[Ints, Ints, npt.NDArray[np.float64]] | None:
        """Return shard and row of each sample of some shards, in order, and the number that an expression has for it.

        That is NaN for NULL. None if the table does not have all of its columns.

        Raises:
            JobError: the expression does not fit the types of its columns, or is no number.
            CorruptError: the table is damaged.
        """
        found = self._select(expression, f"shard, row, {number_sql(expression)} AS number", "true", check=False)
        if found is None:
            return None
        shard, row, chosen = self._places(found, shards)
        return shard, row, np.asarray(found["number"], np.float64)[chosen]

    def _places(
        self, found: Mapping[str, Any], shards: Sequence[int]
    ) -> tuple[Ints, Ints, npt.NDArray[np.bool_] | slice]:
        """Return shard and row of those of the rows ``found`` that are of some shards, and which of them these are.

        Raises:
            CorruptError: the table is damaged.
        """
        shard, row = np.asarray(found["shard"]), np.asarray(found["row"])
        wanted = np.zeros(len(self.facts.shards) + 1, bool)
        wanted[shards] = True
        is_chosen = wanted[np.where((shard >= 0) & (shard < len(wanted)), shard, len(wanted) - 1)]
        chosen = slice(None) if is_chosen.all() else is_chosen
        shard, row = shard[chosen], row[chosen]
        self._check(shard, row)
        return shard.astype(np.int64), row.astype(np.int64), chosen

    def _select(self, condition: Condition, what: str, where: str, *, check: bool) -> dict[str, Any] | None:
        import duckdb

        columns = {name: self.column_of(name) for name in condition.columns}
        if None in columns.values():
            return None
        parts = ["shard", "row"]
        for number, column in enumerate(columns.values()):
            is_null = self.facts.kinds.get(column or "") == "null"
            parts.append(f"{'NULL' if is_null else identifier(column or '')} AS c{number}")
        source = self.source_of({"shard", "row", *filter(None, columns.values())})
        asked = f"(SELECT {', '.join(parts)} FROM {source})"
        cursor = self.cursor()
        try:
            if check:
                condition.check_type(cursor, asked)
            return cursor.execute(f"SELECT {what} FROM {asked} WHERE {where}").fetchnumpy()
        except (duckdb.ProgrammingError, duckdb.DataError) as error:
            raise misfit(condition, str(error)) from error
        except duckdb.Error as error:
            raise self.damaged(str(error)) from error

    def _check(self, shard: Ints, row: Ints) -> None:
        """Raise if rows of the table are not those of different samples, in their order.

        Raises:
            CorruptError: they are not.
        """
        samples = np.array([state.samples for state in self.facts.shards], np.int64)
        rising = (np.diff(shard) > 0) | (np.diff(row) > 0)
        if not rising.all() or (len(row) and (row.min() < 0 or (row >= samples[shard]).any())):
            raise self.damaged("it has rows of samples that there are not")

    def damaged(self, message: str) -> CorruptError:
        """Return the error for a table whose rows cannot be read, of which the first line of a message says why."""
        what = f"the table is damaged: {message.partition(chr(10))[0]}"
        return CorruptError(what, url=self.url, fix="make it again with htindex --table")


def _remove(folder: str, process: int) -> None:
    """Remove a folder, but not in a child of the process that made it, which still needs it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


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
