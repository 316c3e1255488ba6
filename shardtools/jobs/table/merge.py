"""Parts become a table: one type for each column, and groups of rows that follow shards.

    what all parts have -> the columns of the table
    parts, in order -> rows in these columns -> groups of some shards -> Parquet files

Keys, places and sizes change little from row to row, so differences are stored; values that repeat get a dictionary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardtools.errors import JobError
from shardtools.jobs.forward import ForwardFile
from shardtools.jobs.table.shard_rows import HASH, ShardPart, read_part
from shardtools.query.key_file import KeySorter, head_of, keys_url
from shardtools.query.kinds import Kind, Kinds
from shardtools.query.names import content_of
from shardtools.query.shard_rows import MOST_PATHS, conformed
from shardtools.query.table_file import ENTRY, AnyTable, Asked, TableFacts, table_url
from shardtools.storage import Sink, get_storage
from shardtools.storage.together import each

GROUP_ROWS = 100_000
"""Rows from which on a group ends with its shard."""

FILE_ROWS = 50_000_000
"""Rows from which on another file begins."""

_AHEAD = 4
_LEVEL = 3
_REPEATED = 4
"""Values that occur so often, on average, get a dictionary."""

_PLACES = (("key", "string"), ("shard", "int32"), ("row", "int32"), ("block", "int64"), ("blocks", "int64"))
_MEASURES = (("offset", "int64"), ("size", "int64"), ("crc32", "uint32"))


@dataclass(frozen=True)
class TablePlan:
    """The columns of a table by name, with their types, and what it says of itself; ``left_out`` are notes."""

    columns: dict[str, str]
    facts: TableFacts
    left_out: tuple[str, ...]


def plan_table(parts: Sequence[ShardPart], asked: tuple[Asked, ...] | None) -> TablePlan:
    """Return the plan of the table that has all rows of ``parts``; ``asked`` is what a user has asked for.

    Raises:
        JobError: a JSON field that was asked for has too many paths.
    """
    columns, notes = dict(_PLACES), []
    fields = sorted({field for part in parts for field in part.fields})
    kinds = _join_kinds(parts)
    for field in _crowded(parts, kinds):
        what = f"the field {field} has more than {MOST_PATHS:,} paths"
        if asked is not None:
            raise JobError(what, fix=f"ask for some of them, such as -f {field}.PATH")
        notes.append(f"{what}, which are left out; ask for some of them with -f {field}.PATH")
        kinds = {name: found for name, found in kinds.items() if not name.startswith(f"{field}.")}
    wanted = {f"{measure}.{field}": type_ for field in fields for measure, type_ in _MEASURES}
    wanted |= {name: _TYPES[found.kind] for name, found in kinds.items()}
    taken = Counter(name.lower() for name in (*columns, *wanted))
    columns |= {name: type_ for name, type_ in wanted.items() if taken[name.lower()] == 1}
    alike = sorted({*fields, *kinds} & {name for name in (*fields, *wanted) if taken[name.lower()] > 1})
    if alike:  # SQL could not tell which of them is meant
        notes.append(f"left out, as other names differ from these in capital letters alone: {', '.join(alike)}")
    own = {*dict(_PLACES), *(f"{measure}.{field}" for field in fields for measure, _ in _MEASURES)}
    valued = columns.keys() - own
    facts = TableFacts(
        shards=tuple(part.state for part in parts),
        kinds={name: found.kind if found.found else "null" for name, found in kinds.items() if name in valued},
        asked=asked,
        cut=tuple(sorted({name for part in parts for name in part.cut})),
        files=tuple(map(_samples, _files(parts))),
        wrong=_add([part.wrong for part in parts]),
    )
    return TablePlan(columns, facts, tuple(notes))


_TYPES: dict[Kind, str] = {
    "bool": "bool_",
    "int": "int64",
    "huge": "decimal128",
    "float": "float64",
    "text": "string",
}


def _join_kinds(parts: Sequence[ShardPart]) -> dict[str, Kinds]:
    found: dict[str, list[Kinds]] = {}
    for part in parts:
        for name, kinds in part.kinds.items():
            found.setdefault(name, []).append(kinds)
    return {name: Kinds.join(some) for name, some in found.items()}


def _crowded(parts: Sequence[ShardPart], kinds: Mapping[str, Kinds]) -> list[str]:
    """Return the JSON fields with too many paths, in a shard or in all."""
    fields = sorted({field for part in parts for field in part.fields if content_of(field) == "JSON"})
    crowded = {field for part in parts for field in part.crowded}
    return [
        field
        for field in fields
        if field in crowded or sum(name.startswith(f"{field}.") for name in kinds) > MOST_PATHS
    ]


def _add(counts: Sequence[Any]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, number in count.items():
            total[name] = total.get(name, 0) + number
    return dict(sorted(total.items()))


def _files(parts: Sequence[ShardPart]) -> list[list[ShardPart]]:
    """Return the parts of each file of the table."""
    files: list[list[ShardPart]] = [[]]
    rows = 0
    for part in parts:
        if rows >= FILE_ROWS:
            files.append([])
            rows = 0
        files[-1].append(part)
        rows += part.state.samples
    return files


def _samples(parts: Sequence[ShardPart]) -> int:
    return sum(part.state.samples for part in parts)


# --- writing


def write_table(spec: str, parts: Sequence[ShardPart], plan: TablePlan) -> list[str]:
    """Write the table of the dataset ``spec`` and its file of keys, and return the URLs of the table's files.

    The first is written last.

    Raises:
        StorageError: a part cannot be read, or a file cannot be written.
    """
    files = _files(parts)
    urls = [table_url(spec, number) for number in range(len(files))]
    keys = KeySorter(plan.facts.samples)
    for number in reversed(range(1, len(files))):
        _write_file(urls[number], files[number], plan, keys, sum(plan.facts.files[:number]))
    _write_file(urls[0], files[0], plan, keys, 0, lambda: _write_keys(keys_url(spec), keys, plan))
    return urls


def _write_keys(url: str, keys: KeySorter, plan: TablePlan) -> None:
    with get_storage(url).create(url) as sink:
        sink.write(head_of(plan.facts.samples, plan.facts.shards))
        for piece in keys.pieces():
            sink.write(piece)


def _write_file(
    url: str,
    parts: Sequence[ShardPart],
    plan: TablePlan,
    keys: KeySorter,
    first: int,
    before: Callable[[], object] = int,
) -> None:
    """Write a file of the table, whose first sample has the index ``first``; call ``before`` before it is complete."""
    with get_storage(url).create(url) as sink:
        _write_rows(sink, parts, plan, keys, first)
        before()


def _write_rows(sink: Sink, parts: Sequence[ShardPart], plan: TablePlan, keys: KeySorter, first: int) -> None:
    from pyarrow import parquet

    schema = _schema(plan)
    file = ForwardFile(sink)
    writer: Any = None
    try:
        for group in _groups(_rows(parts, schema, keys, first)):
            writer = writer or parquet.ParquetWriter(file, schema, **_how(group))
            writer.write_table(group, row_group_size=2 * GROUP_ROWS)
        writer = writer or parquet.ParquetWriter(file, schema)
    except BaseException:
        file.give_up()
        raise
    finally:
        if writer is not None:
            writer.close()


def _schema(plan: TablePlan) -> Any:
    import pyarrow

    def type_of(name: str) -> Any:
        return pyarrow.decimal128(38, 0) if name == "decimal128" else getattr(pyarrow, name)()

    fields = [pyarrow.field(name, type_of(type_)) for name, type_ in plan.columns.items()]
    return pyarrow.schema(fields, {ENTRY: plan.facts.dump()})


def _rows(parts: Sequence[ShardPart], schema: Any, keys: KeySorter, first: int) -> Iterator[AnyTable]:
    """Yield the rows of parts, in order, with the columns of the table, and add their keys; some are read ahead."""
    for table in each(read_part, [part.part for part in parts], _AHEAD, ahead=1):
        hashes, block, blocks = (table.column(name).to_numpy() for name in (HASH, "block", "blocks"))
        keys.add(hashes, first, block, blocks)
        first += len(hashes)
        yield conformed(table, schema)


def _groups(tables: Iterator[AnyTable]) -> Iterator[AnyTable]:
    """Yield the rows of some tables at a time."""
    import pyarrow

    held: list[AnyTable] = []
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= GROUP_ROWS:
            yield pyarrow.concat_tables(held)
            held = []
    if held:
        yield pyarrow.concat_tables(held)


def _how(group: AnyTable) -> dict[str, Any]:
    """Return how columns like those of ``group`` are written most compactly."""
    import pyarrow
    from pyarrow import compute

    dictionary, encodings = [], {}
    for name in group.column_names:
        column = group.column(name)
        steady = name in dict(_PLACES)
        if not steady and compute.count_distinct(column).as_py() * _REPEATED <= len(column):
            dictionary.append(name)
        elif column.type == pyarrow.string():
            encodings[name] = "DELTA_BYTE_ARRAY" if name == "key" else "DELTA_LENGTH_BYTE_ARRAY"
        elif column.type in (pyarrow.int32(), pyarrow.int64()):
            encodings[name] = "DELTA_BINARY_PACKED"
    return {
        "use_dictionary": dictionary,
        "column_encoding": encodings,
        "compression": "zstd",
        "compression_level": _LEVEL,
        "data_page_version": "2.0",
    }
