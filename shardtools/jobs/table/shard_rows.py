"""The task of a table: the rows of one shard, as a part in storage.

sidecar -> columns of keys, places and sizes; data of fields, by ranges -> columns of values; both -> Arrow
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import StaleTableError
from shardtools.jobs.table.quick_columns import quick_columns
from shardtools.query.duck import session
from shardtools.query.key_file import hash_keys, texts_of
from shardtools.query.kinds import Kinds
from shardtools.query.names import ColumnSource, content_of, find_source
from shardtools.query.table_file import AnyTable, Asked, ShardState
from shardtools.query.values import ColumnLoader, Columns, key_texts, samples_of, select
from shardtools.shards.columns import pick, with_zero
from shardtools.shards.members import IndexedShard
from shardtools.shards.open_shard import keep_freed_memory
from shardtools.shards.sidecar import find_sidecar, narrow
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK
from shardtools.storage import get_storage, read_optional
from shardtools.urls import name_of

MOST_PATHS = 1000
"""The paths of a JSON field that a table has at most."""

HASH = "__hash"
"""The column of a part for the file of keys: a name that no field has."""

_ENTRY = b"shardtools-part"


@dataclass(frozen=True)
class PartTask:
    """What one task does: write the rows of the shard ``source``, which is number ``number``, to ``part``.

    A part that is there is kept if it fits and need not be made ``anew``.
    """

    source: str
    number: int
    part: str
    asked: tuple[Asked, ...]
    anew: bool = False


@dataclass(frozen=True)
class TablePart:
    """The rows of one shard at the URL ``part``: the state of the shard, and the kinds of the columns of values.

    ``wrong`` counts values that were left out, and ``cut`` names columns with texts that are not whole. ``fields`` are
    those of the shard, and ``crowded`` those with more than `MOST_PATHS` paths, whose columns are left out.
    """

    url: str
    part: str
    state: ShardState
    kinds: Mapping[str, Kinds]
    wrong: Mapping[str, int]
    cut: tuple[str, ...]
    fields: tuple[str, ...]
    crowded: tuple[str, ...] = ()


def write_part(task: PartTask) -> TablePart:
    """Write the rows of a shard, unless they are there.

    Raises:
        StaleTableError: the shard has no matching sidecar.
        ShardtoolsError: the shard cannot be read, or the part cannot be written.
    """
    keep_freed_memory()
    url = task.source
    sidecar = find_sidecar(url, get_storage(url).stat(url))
    if sidecar is None:
        raise StaleTableError("it has no matching sidecar", url=url, fix="make it with htindex")
    state = ShardState(name_of(url), sidecar.filesize, sidecar.checksum, len(sidecar))
    if not task.anew and (there := _read_facts(task, state)) is not None:
        return there
    shard = IndexedShard(url, sidecar)
    columns = _placed(shard.table, task.number)
    values, part = _values(shard, task, TablePart(url, task.part, state, {}, {}, (), shard.table.fields))
    _write(part, task, columns, values)
    return part


# --- the columns of the sidecar


def _placed(table: ShardTable, number: int) -> dict[str, Any]:
    """Return the columns of keys and places, for pyarrow."""
    samples = len(table)
    columns: dict[str, Any] = {
        "key": _keys(table),
        "shard": np.full(samples, number, np.int32),
        "row": np.arange(samples, dtype=np.int32),
        "block": narrow(table.start // BLOCK),
        "blocks": narrow(table.spans // BLOCK),
        HASH: _hashes(table),
    }
    for field in table.fields:
        members = table.members_of(field)
        offset, size = pick(table.offset, members, 0), narrow(pick(table.size, members, 0))
        columns[f"offset.{field}"] = _nullable(narrow(np.maximum(offset - table.start, 0)), members)
        columns[f"size.{field}"] = _nullable(size, members)
        if table.crc32 is not None:
            columns[f"crc32.{field}"] = _nullable(pick(table.crc32, members, 0).astype(np.uint32), members)
    return columns


def _hashes(table: ShardTable) -> Any:
    """Return the hashes of keys, as they are in the table."""
    keys = table.keys
    return hash_keys(keys if keys.data.tobytes().isascii() else texts_of(keys.decode()))


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


def _values(shard: IndexedShard, task: PartTask, part: TablePart) -> tuple[AnyTable | None, TablePart]:
    """Return a table of values, None for none, and the part with what is known of them."""
    import pyarrow

    sources = {one.name: find_source(one.name, shard.table.fields) for one in task.asked}
    valued = {name: source for name, source in sources.items() if source is not None and source.needs_data}
    if not valued or not len(shard.table):
        return None, part
    sides = dict.fromkeys(source for source in valued.values() if source.is_dimension)
    fields = tuple(dict.fromkeys(source.field for source in valued.values() if source not in sides))
    quick = quick_columns(shard, fields)
    if sides or len(quick) < len(fields):
        left = [field for field in fields if field not in quick]
        table, part = _load(shard, left, sides, _paths(valued.values()), part)
        columns = dict(zip(table.column_names, table.columns, strict=True))
    else:
        columns = {}
    columns |= {name: column for name, (column, _) in quick.items()}
    kinds = {**part.kinds, **{name: found for name, (_, found) in quick.items()}}
    names = sorted(columns, key=lambda name: _rank(name, fields))
    cuts = {valued[one.name].field: one.cut for one in task.asked if one.cut and one.name in valued}
    table, cut = _cut(pyarrow.table({name: columns[name] for name in names}), cuts)
    return table, replace(part, kinds={name: kinds[name] for name in names}, cut=cut)


def _rank(name: str, fields: Sequence[str]) -> int:
    """Return the number of the field that a column belongs to."""
    owners = [number for number, field in enumerate(fields) if name == field or name.startswith(f"{field}.")]
    return max(owners, key=lambda number: len(fields[number]), default=len(fields))


def _load(
    shard: IndexedShard,
    fields: Sequence[str],
    sides: Mapping[ColumnSource, None],
    paths: Mapping[str, list[str] | None],
    part: TablePart,
) -> tuple[AnyTable, TablePart]:
    """Return a table of values of fields and of dimensions, by DuckDB, and the part with what is known of them."""
    import pyarrow

    with session() as connection:
        columns = ColumnLoader(connection, samples_of(shard)).load(fields, sides, paths)
        names, crowded = _chosen(columns, fields)
        names += [source.column for source in sides if source.column not in names]
        query = f"SELECT {select(columns.found, dict(zip(names, names, strict=True)))} FROM read ORDER BY n"
        table = connection.sql(query).to_arrow_table() if names else pyarrow.table({})
    kinds = {name: columns.found[name].kinds for name in names}
    wrong = {f"{field}: {why}": count for (field, why), count in columns.wrong.items()}
    return table, replace(part, kinds=kinds, wrong=wrong, crowded=tuple(crowded))


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


# --- parts


def _write(part: TablePart, task: PartTask, columns: Mapping[str, Any], values: AnyTable | None) -> None:
    import pyarrow
    from pyarrow import ipc

    table = pyarrow.table(dict(columns))
    taken = {name.lower() for name in columns}
    for name in values.column_names if values is not None else ():
        if name.lower() not in taken:  # Parquet's readers know no small and capital letters
            taken.add(name.lower())
            table = table.append_column(name, values.column(name))  # type: ignore[union-attr]
    facts = {**asdict(part), "asked": [asdict(one) for one in task.asked], "number": task.number}
    facts["kinds"] = {name: [sorted(kinds.found), kinds.wide] for name, kinds in part.kinds.items()}
    table = table.replace_schema_metadata({_ENTRY: json.dumps(facts)})
    file = pyarrow.BufferOutputStream()
    with ipc.new_file(file, table.schema, options=ipc.IpcWriteOptions(compression="lz4", use_threads=False)) as writer:
        writer.write_table(table)
    with get_storage(part.part).create(part.part) as sink:
        sink.write(file.getvalue())


def read_part(url: str) -> AnyTable:
    """Return the rows of a part.

    Raises:
        StorageError: it cannot be read.
    """
    from pyarrow import ipc

    return ipc.open_file(get_storage(url).read(url)).read_all()


def _read_facts(task: PartTask, state: ShardState) -> TablePart | None:
    """Return the part that is there, if it is one of this shard as it is, and of what is asked."""
    import pyarrow
    from pyarrow import ipc

    data = read_optional(task.part, "sidecar")
    try:
        metadata = {} if data is None else ipc.open_file(data).schema.metadata or {}
    except pyarrow.ArrowException:  # what it was when somebody stopped it, it is made again
        return None
    try:
        facts = json.loads(metadata[_ENTRY])
        same = facts["asked"] == [asdict(one) for one in task.asked] and facts["number"] == task.number
        if not same or facts["state"] != asdict(state):
            return None
        kinds = {name: Kinds(frozenset(found), wide) for name, (found, wide) in facts["kinds"].items()}
        texts = (tuple(facts[name]) for name in ("cut", "fields", "crowded"))
        return TablePart(task.source, task.part, state, kinds, facts["wrong"], *texts)
    except (KeyError, TypeError, ValueError):  # it is none of ours
        return None
