"""Columns in DuckDB, made of the values of samples of one shard.

    keys, sizes, and data of fields -> the table "raw" -> paths and kinds -> the table "read" -> an expression for each

Data that is not what its field's name says gives NULL, and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from shardtools.errors import CorruptError
from shardtools.query.dimensions import dimensions_of, read_dimensions
from shardtools.query.duck import identifier
from shardtools.query.json_paths import Path, What, find_paths, path_names, sql_path
from shardtools.query.kinds import SQL_TYPES, Kind, Kinds
from shardtools.query.names import DIMENSIONS, MEASURES, OWN, ColumnSource, content_of
from shardtools.shards.columns import pick
from shardtools.shards.members import IndexedShard
from shardtools.shards.reader import ShardReader
from shardtools.shards.samples import field_values
from shardtools.shards.table import ShardTable
from shardtools.types import Ints

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Read = Callable[[Sequence[str], slice], Sequence[Sequence[bytes | None]]]
"""Returns the data of some fields of a slice of samples, None for a sample without the field."""

_WORTH_RANGES = 0.5
"""If more than this part of a shard is needed, all of it is read, instead of ranges."""

_NUMBER = r"\s*([-+]?[0-9]+)\s*"


@dataclass(frozen=True)
class Samples:
    """Samples of the shard number ``shard``, from row ``first`` of it on: their table, and how their data is read.

    They are the samples from ``start`` on of those that ``read`` takes slices of. ``indexed`` is their shard, if parts
    of it can be read.
    """

    table: ShardTable
    read: Read
    shard: int = 0
    first: int = 0
    start: int = 0
    indexed: IndexedShard | None = None

    def slice(self, start: int, stop: int) -> Samples:
        """Return the samples from ``start`` up to ``stop``."""
        table = self.table.slice(start, stop)
        return Samples(table, self.read, self.shard, self.first + start, self.start + start, self.indexed)

    def dimensions(self, field: str) -> Ints:
        """Return width and height of the images of a field; -1 for what is none.

        Raises:
            StorageError, ShardError: they cannot be read.
        """
        if self.indexed is None or not self.indexed.is_plain or self.indexed.foreign:
            return dimensions_of(self.data([field])[0])
        members = self.indexed.table.members_of(field)[self.start : self.start + len(self.table)]
        return read_dimensions(self.indexed, members)

    def data(self, fields: Sequence[str]) -> Sequence[Sequence[bytes | None]]:
        """Return the data of some fields, None for a sample without the field.

        Raises:
            StorageError, ShardError: it cannot be read.
        """
        return self.read(fields, slice(self.start, self.start + len(self.table))) if fields else ()


@dataclass(frozen=True)
class Column:
    """A column of the table "read": SQL for its values, and of what kind they are."""

    sql: str
    kinds: Kinds

    def cast(self, kind: Kind) -> str:
        """Return SQL for the values as another kind."""
        return f"TRY_CAST({self.sql} AS {SQL_TYPES[kind]})"


@dataclass(frozen=True)
class Columns:
    """The columns of the table "read" by name.

    ``wrong`` says how many values were left out, by field and reason, and ``paths`` which columns are those of a JSON
    field.
    """

    found: Mapping[str, Column]
    wrong: Mapping[tuple[str, str], int]
    paths: Mapping[str, Sequence[str]]


def samples_of(shard: IndexedShard, number: int = 0) -> Samples:
    """Return all samples of a shard; their data is read by ranges."""
    return Samples(shard.table, partial(read_fields, shard), number, indexed=shard)


def read_fields(shard: IndexedShard, fields: Sequence[str], rows: slice) -> list[list[bytes | None]]:
    """Return the data of some fields of a slice of the samples of a shard.

    It is read by ranges; or from its start to its end, if it cannot be entered elsewhere, or if much of it is needed.

    Raises:
        StorageError, ShardError: it cannot be read.
    """
    columns = [shard.table.members_of(field)[rows] for field in fields]
    wanted = np.concatenate([members[members >= 0] for members in columns])
    if len(wanted) and not (shard.can_enter and shard.cost(wanted) <= _WORTH_RANGES * shard.sidecar.filesize):
        return _read_whole(shard, fields, rows)
    parts = iter(shard.read(wanted))
    return [[next(parts) if member >= 0 else None for member in members.tolist()] for members in columns]


def _read_whole(shard: IndexedShard, fields: Sequence[str], rows: slice) -> list[list[bytes | None]]:
    values: list[list[bytes | None]] = [[] for _ in fields]
    with ShardReader(shard.url) as reader:
        for block in reader:
            for field, column in zip(fields, values, strict=True):
                column += field_values(block, field)
    if any(len(column) != len(shard.table) for column in values):
        raise CorruptError("it does not have the samples that its sidecar says", url=shard.url, fix="run htindex again")
    return [column[rows] for column in values]


class ColumnLoader:
    """Makes columns of samples, in tables of a connection of its own; ``paths`` are all columns of JSON seen so far."""

    def __init__(self, connection: DuckDBPyConnection, samples: Samples):
        self._connection = connection
        self._samples = samples
        self._wrong: Counter[tuple[str, str]] = Counter()
        self.paths: list[str] = []
        self._dimensions: dict[str, Ints] = {}

    def load(
        self, fields: Sequence[str], sources: Iterable[ColumnSource], paths: Mapping[str, Sequence[str] | None]
    ) -> Columns:
        """Make the table "read" with the values of ``fields``, and return the columns that it has.

        These are the values of ``fields``; the ``sources`` that are no values or paths; and for each field of ``paths``
        the columns with these names, or all that it has for None. ``fields`` must have those of ``paths``.
        """
        aliases = {field: f"f{number}" for number, field in enumerate(fields)}
        raw: dict[str, npt.NDArray[Any]] = {"n": np.arange(len(self._samples.table))}
        for field, values in zip(fields, self._samples.data(fields), strict=True):
            raw[aliases[field]] = self._texts(field, values)
        own: dict[str, Column] = {}
        for number, source in enumerate(sources):
            name, raw[f"o{number}"], kinds = self._own(source)
            own[name] = Column(f"o{number}", kinds)
        self._make_raw(raw, [aliases[field] for field in paths])
        found: dict[str, Column] = {}
        extracted, of_field = ["*"], {}
        for field, names in paths.items():
            columns, sql = self._paths(field, aliases[field], names)
            found |= columns
            of_field[field] = list(columns)
            extracted += sql
        self._connection.execute(f"CREATE TEMP TABLE read AS SELECT {', '.join(extracted)} FROM raw")
        values_of = {field: self._value(field, alias) for field, alias in aliases.items()}
        return Columns({**self._narrowed({**found, **values_of}), **own}, self._wrong, of_field)

    def _own(self, source: ColumnSource) -> tuple[str, npt.NDArray[Any], Kinds]:
        """Return the name, the values and the kinds of a column that is no value or path."""
        samples, table = self._samples, self._samples.table
        if source.what == "key":
            return "key", _objects(key_texts(table)), Kinds(frozenset(("text",)))
        integers = Kinds(frozenset(("int",)))
        if source.is_dimension:
            return source.column, self._sides(source.field)[:, DIMENSIONS.index(source.what)], integers
        if source.what in MEASURES:
            column = table.size if source.what == "size" else table.crc32
            members = table.members_of(source.field)
            known = column if column is not None else np.full(len(table.size), -1, np.int64)
            return f"{source.what}.{source.field}", pick(known, members, -1), integers
        assert source.what in OWN
        start = samples.first if source.what == "row" else samples.shard
        step = 1 if source.what == "row" else 0
        return source.what, start + step * np.arange(len(table)), integers

    def _sides(self, field: str) -> Ints:
        """Return width and height of each image."""
        if field not in self._dimensions:
            self._dimensions[field] = found = self._samples.dimensions(field)
            wrong = int(np.count_nonzero((found[:, 0] < 0) & (self._samples.table.members_of(field) >= 0)))
            if wrong:
                self._wrong[field, "not an image"] += wrong
        return self._dimensions[field]

    def _texts(self, field: str, values: Sequence[bytes | None]) -> npt.NDArray[Any]:
        try:
            return _objects([None if value is None else value.decode() for value in values])
        except UnicodeDecodeError:
            texts = list(map(_decode, values))
            lost = sum(value is not None and text is None for value, text in zip(values, texts, strict=True))
            self._wrong[field, "not UTF-8"] += lost
            return _objects(texts)

    def _make_raw(self, columns: Mapping[str, npt.NDArray[Any]], json: Sequence[str]) -> None:
        """Make the table "raw", with the structure of each JSON text."""
        self._connection.register("given", dict(columns))
        parts = []
        for name in columns:
            if name in json:
                parts.append(f"CASE WHEN json_valid({name}::VARCHAR) THEN {name}::VARCHAR END AS {name}")
                parts.append(f"({name} IS NOT NULL AND NOT json_valid({name}::VARCHAR)) AS {name}_wrong")
                parts.append(f"CASE WHEN json_valid({name}::VARCHAR) THEN json_structure({name}::VARCHAR)::VARCHAR END")
                parts[-1] += f" AS {name}_structure"
            elif columns[name].dtype == object:
                parts.append(f"{name}::VARCHAR AS {name}")
            else:  # -1 is that of nothing
                parts.append(f"nullif({name}, -1) AS {name}")
        self._connection.execute(f"CREATE TEMP TABLE raw AS SELECT {', '.join(parts)} FROM given")
        self._connection.unregister("given")

    def _paths(self, field: str, alias: str, names: Sequence[str] | None) -> tuple[dict[str, Column], list[str]]:
        """Return the columns of a JSON field, and SQL for the list of texts that they take their values from."""
        whats = self._structures(field, alias)
        leaves = [path for path, found in whats.items() if found - {"object"}]
        chosen = path_names(field, leaves)
        self.paths += chosen
        if names is not None:
            folded = {name.lower(): path for name, path in reversed(chosen.items())}
            paths = {name: chosen.get(name, folded.get(name.lower())) for name in names}
            chosen = {name: path for name, path in paths.items() if path is not None}
        columns = {}
        for number, (name, path) in enumerate(chosen.items()):
            sql = f"{alias}_paths[{number + 1}]"
            if "object" in whats[path]:
                sql = f"CASE WHEN json_type({alias}, {sql_path(path)}) <> 'OBJECT' THEN {sql} END"
            kinds = frozenset(cast(Kind, what) for what in whats[path] if what not in ("object", "null"))
            columns[name] = Column(sql, Kinds(kinds))
        taken = ", ".join(map(sql_path, chosen.values()))
        return columns, [f"json_extract_string({alias}, [{taken}]) AS {alias}_paths"] if chosen else []

    def _structures(self, field: str, alias: str) -> dict[Path, set[What]]:
        """Return what the texts of a JSON field have at each path, and leave out those that cannot be used."""
        query = f"SELECT {alias}_structure, count(*), count_if({alias}_wrong) FROM raw GROUP BY 1"
        whats: dict[Path, set[What]] = {}
        deep = []
        for structure, count, wrong in self._connection.execute(query).fetchall():
            paths = {} if structure is None else find_paths(structure)
            if paths is None:
                deep.append(structure)
                self._wrong[field, "nested too deeply"] += count
            for path, what in (paths or {}).items():
                whats.setdefault(path, set()).add(what)
            if wrong:
                self._wrong[field, "not JSON"] += wrong
        for structure in deep:
            self._connection.execute(f"UPDATE raw SET {alias} = NULL WHERE {alias}_structure = ?", [structure])
        return whats

    def _value(self, field: str, alias: str) -> Column:
        if content_of(field) != "number":
            return Column(alias, Kinds(frozenset(("text",))))
        digits = f"CASE WHEN regexp_full_match({alias}, '{_NUMBER}') THEN regexp_extract({alias}, '{_NUMBER}', 1) END"
        number = f"TRY_CAST({digits} AS DECIMAL(38, 0))"
        query = f"SELECT count(*) FROM read WHERE {alias} IS NOT NULL AND ({number}) IS NULL"
        [(wrong,)] = self._connection.execute(query).fetchall()
        if wrong:
            self._wrong[field, "not a number"] += wrong
        return Column(number, Kinds(frozenset(("int",))))

    def _narrowed(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        """Return columns with what is known of their integers after looking at all of them."""
        asked = [name for name, column in columns.items() if "int" in column.kinds.found]
        if not asked:
            return dict(columns)
        bounds = ", ".join(f"min({wide}), max({wide})" for wide in (columns[name].cast("huge") for name in asked))
        [row] = self._connection.execute(f"SELECT {bounds} FROM read").fetchall()
        narrowed = dict(columns)
        for at, name in enumerate(asked):
            low, high = (int(row[2 * at + side] or 0) for side in (0, 1))
            others = Kinds(columns[name].kinds.found - {"int"})
            narrowed[name] = Column(columns[name].sql, Kinds.join((others, Kinds.of_integers(low, high))))
        return narrowed


def key_texts(table: ShardTable) -> list[str]:
    """Return the keys of samples as text; bytes that are not UTF-8 become escapes.

    >>> from shardtools.shards.columns import Texts
    >>> key_texts(ShardTable(Texts.of([b"a", b"\\xff"]), *[None] * 3, (), *[None] * 3))  # type: ignore[list-item]
    ['a', '\\\\xff']
    """
    keys = table.keys.decode()
    try:
        "".join(keys).encode()
    except UnicodeEncodeError:
        return [key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for key in keys]
    return keys


def _decode(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _objects(texts: Sequence[str | None]) -> npt.NDArray[Any]:
    column = np.empty(len(texts), object)
    column[:] = texts
    return column


def select(columns: Mapping[str, Column], names: Mapping[str, str]) -> str:
    """Return SQL that selects columns of the table "read", each as its name in ``names``, in the type of its kind."""
    return ", ".join(f"{columns[name].cast(columns[name].kinds.kind)} AS {identifier(names[name])}" for name in names)
