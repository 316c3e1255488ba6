"""The rows of one shard, in memory: what a table has of it.

sidecar -> columns of keys, places and sizes; data of fields, by ranges -> columns of values; both are Arrow's
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.query.duck import session
from shardtools.query.kinds import Kinds
from shardtools.query.names import ColumnSource, content_of, find_source
from shardtools.query.quick_columns import quick_columns
from shardtools.query.table_file import AnyTable, Asked
from shardtools.query.values import ColumnLoader, Columns, key_texts, samples_of, select
from shardtools.shards.columns import pick, with_zero
from shardtools.shards.members import IndexedShard
from shardtools.shards.sidecar import narrow
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK

MOST_PATHS = 1000
"""The paths of a JSON field that a table has at most."""


# --- the columns of the sidecar


def place_columns(table: ShardTable, number: int) -> dict[str, Any]:
    """Return the columns of keys and places, for pyarrow."""
    samples = len(table)
    columns: dict[str, Any] = {
        "key": _keys(table),
        "shard": np.full(samples, number, np.int32),
        "row": np.arange(samples, dtype=np.int32),
        "block": narrow(table.start // BLOCK),
        "blocks": narrow(table.spans // BLOCK),
    }
    for field in table.fields:
        members = table.members_of(field)
        offset, size = pick(table.offset, members, 0), narrow(pick(table.size, members, 0))
        columns[f"offset.{field}"] = _nullable(narrow(np.maximum(offset - table.start, 0)), members)
        columns[f"size.{field}"] = _nullable(size, members)
        if table.crc32 is not None:
            columns[f"crc32.{field}"] = _nullable(pick(table.crc32, members, 0).astype(np.uint32), members)
    return columns


def _keys(table: ShardTable) -> Any:
    import pyarrow

    keys, data = table.keys, table.keys.data.tobytes()
    if not data.isascii() or len(data) >= 1 << 31:
        return pyarrow.array(key_texts(table), pyarrow.string())
    ends = with_zero(keys.ends).astype(np.int32)
    return pyarrow.StringArray.from_buffers(len(keys), pyarrow.py_buffer(ends), pyarrow.py_buffer(data))


def _nullable(values: npt.NDArray[Any], members: npt.NDArray[Any]) -> Any:
    import pyarrow

    missing = members < 0
    return pyarrow.array(values, mask=missing) if missing.any() else values


# --- the columns of values


@dataclass(frozen=True)
class ShardValues:
    """The columns of values of a shard, as a table of pyarrow or None for none, and their kinds.

    ``wrong`` counts values that were left out, and ``cut`` names columns with texts that are not whole. ``crowded`` are
    the fields with more than `MOST_PATHS` paths, whose columns are left out.
    """

    table: AnyTable | None
    kinds: Mapping[str, Kinds]
    wrong: Mapping[str, int]
    cut: tuple[str, ...] = ()
    crowded: tuple[str, ...] = ()


def value_columns(shard: IndexedShard, asked: Sequence[Asked]) -> ShardValues:
    """Return the columns of what is ``asked`` of a shard.

    Raises:
        StorageError, ShardError: the shard cannot be read.
    """
    import pyarrow

    sources = {one.name: find_source(one.name, shard.table.fields) for one in asked}
    valued = {name: source for name, source in sources.items() if source is not None and source.needs_data}
    if not valued or not len(shard.table):
        return ShardValues(None, {}, {})
    sides = dict.fromkeys(source for source in valued.values() if source.is_dimension)
    fields = tuple(dict.fromkeys(source.field for source in valued.values() if source not in sides))
    quick = quick_columns(shard, fields)
    loaded, columns = ShardValues(None, {}, {}), {}
    if sides or len(quick) < len(fields):
        left = [field for field in fields if field not in quick]
        loaded = _load(shard, left, sides, _paths(valued.values()))
        table: AnyTable = loaded.table
        columns = dict(zip(table.column_names, table.columns, strict=True))
    columns |= {name: column for name, (column, _) in quick.items()}
    kinds = {**loaded.kinds, **{name: found for name, (_, found) in quick.items()}}
    ranks = {field: number for number, field in enumerate(fields)}
    names = sorted(columns, key=lambda name: _rank(name, ranks))
    cuts = {valued[one.name].field: one.cut for one in asked if one.cut and one.name in valued}
    table, cut = _cut(pyarrow.table({name: columns[name] for name in names}), cuts)
    return replace(loaded, table=table, kinds={name: kinds[name] for name in names}, cut=cut)


def _rank(name: str, ranks: Mapping[str, int]) -> int:
    """Return the number of the field that a column belongs to: the longest whose name it begins with."""
    while name not in ranks:
        name, dot, _ = name.rpartition(".")
        if not dot:
            return len(ranks)
    return ranks[name]


def _load(
    shard: IndexedShard,
    fields: Sequence[str],
    sides: Mapping[ColumnSource, None],
    paths: Mapping[str, list[str] | None],
) -> ShardValues:
    """Return the columns of values of fields and of dimensions, by DuckDB."""
    import pyarrow

    with session() as connection:
        columns = ColumnLoader(connection, samples_of(shard)).load(fields, sides, paths)
        names, crowded = _chosen(columns, fields)
        names += [source.column for source in sides if source.column not in names]
        query = f"SELECT {select(columns.found, dict(zip(names, names, strict=True)))} FROM read ORDER BY n"
        table = connection.sql(query).to_arrow_table() if names else pyarrow.table({})
    kinds = {name: columns.found[name].kinds for name in names}
    wrong = {f"{field}: {why}": count for (field, why), count in columns.wrong.items()}
    return ShardValues(table, kinds, wrong, crowded=tuple(crowded))


def _paths(sources: Iterable[ColumnSource]) -> dict[str, list[str] | None]:
    """Return the columns of each JSON field that are wanted, None for all."""
    paths: dict[str, list[str] | None] = {}
    for source in sources:
        if source.what == "path":
            if (some := paths.setdefault(source.field, [])) is not None:
                some.append(f"{source.field}.{source.path}")
        elif content_of(source.field) == "JSON":
            paths[source.field] = None
    return paths


def _chosen(columns: Columns, fields: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of the columns that a table gets, and the JSON fields that have too many paths.

    The texts of JSON fields are not among them.
    """
    names, crowded = [], []
    for field in fields:
        if content_of(field) != "JSON":
            names.append(field)
        elif len(some := columns.paths[field]) > MOST_PATHS:
            crowded.append(field)
        else:
            names += some
    return list(dict.fromkeys(names)), crowded


def _cut(table: AnyTable, cuts: Mapping[str, int | None]) -> tuple[AnyTable, tuple[str, ...]]:
    """Return a table with some texts cut, and the names of the columns that are not whole any more."""
    import pyarrow.compute as compute

    shortened = []
    for name, length in cuts.items():
        if name not in table.column_names:
            continue
        texts = table.column(name)
        if not (compute.max(compute.utf8_length(texts)).as_py() or 0) > (length or 0):
            continue
        place = table.column_names.index(name)
        table = table.set_column(place, name, compute.utf8_slice_codeunits(texts, 0, length))
        shortened.append(name)
    return table, tuple(shortened)


# --- the columns of a table


def conformed(rows: AnyTable, schema: Any) -> AnyTable:
    """Return rows with the columns of a table, in its types; null where they have none."""
    import pyarrow

    there = dict(zip(rows.column_names, rows.columns, strict=True))
    columns = []
    for field in schema:
        column = there.get(field.name)
        if column is None:
            column = pyarrow.nulls(len(rows), field.type)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pyarrow.table(columns, schema=schema)
