"""The rows of a Parquet file: keys and paths where the command runs, values where a task does.

    open_parquet -> TableRows: keys and paths; ParquetValues -> (a task) -> ParquetReader -> values, a row at a time

A reader goes through the row groups that it needs, a few megabytes at a time. Files on servers are read by ranges.
pyarrow is imported when a file is opened, so that this module can be imported without it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from shardtools.errors import ChangedError, CorruptError, JobError, LimitError, RefusedError, ShardtoolsError
from shardtools.shards.fields import extension
from shardtools.sources.cells import ENTRY, FIELD_METADATA, ExactValues, parse_exact, restored
from shardtools.sources.names import number_key
from shardtools.sources.rows import RowsBuilder, TableRows
from shardtools.sources.table_rules import TableRules, check_rules, key_column, no_rules, require
from shardtools.storage import ByteRange, Stat, check_stop, get_storage
from shardtools.storage.files import os_errors
from shardtools.types import Ints
from shardtools.urls import absolute, is_local

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BATCH_BYTES = 4 << 20
_MOST_ROWS = 4096
_SMALL = 64 << 20
_MOST_KEPT, _SOME_BYTES = 4 * _SMALL, 64
_READ_SIZE = 1 << 20
_FETCH_SIZE = 4 << 20


@dataclass(frozen=True)
class ParquetValues:
    """Columns of a Parquet file, as it was when it was listed: pairs of a field and the path to its column.

    They are ``small`` if together they take so few bytes that a task may read all of them to get some rows. The cells
    of ``field_columns`` are fields as htextract writes them (`cells`); other cells are taken as they are.
    """

    url: str
    stat: Stat
    columns: tuple[tuple[str, tuple[str, ...]], ...]
    small: bool
    field_columns: frozenset[str] = frozenset()

    def sizes(self) -> Ints:
        """Return about how many bytes the values of each row take: the average of its row group."""
        with _opened(self.url, self.stat) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        sizes = np.array([_bytes_of(group, self.columns) // max(group.num_rows, 1) for group in groups], np.int64)
        return np.repeat(sizes, [group.num_rows for group in groups])


def open_parquet(url: str, rules: TableRules) -> tuple[TableRules, TableRows, ParquetValues | None]:
    """Return the rules, the rows with their keys and paths, and where the values are, or None without values.

    Without rules, each column that htextract has written from a field becomes a field of that name; without such
    columns, each column of bytes does.

    Raises:
        JobError: there is no pyarrow, the file is not Parquet, or does not have what the rules want.
        DuplicateKeyError: two rows have one key.
        StorageError: it cannot be read.
    """
    stat = get_storage(url).stat(url)
    with _opened(url, stat) as file, _is_parquet(url):
        schema = file.schema_arrow
        leaves = _leaves(schema)
        key = key_column(rules, _key_candidates(schema) if rules.key is None else leaves, url)
        if not rules.columns():
            found = _field_columns(schema) or _binary_columns(schema)
            binary = tuple((name, name) for name in found if name != key)
            if not binary:
                raise no_rules(leaves, url)
            rules = replace(rules, values=binary)
            check_rules(rules, url)
        paths = {column: _find(schema, column, leaves, url) for column in rules.columns()}
        key_path = None if key is None else _find(schema, key, leaves, url)
        rows = _read_keys(file, url, key_path, [paths[column] for _, column in rules.files])
        columns = tuple((field, paths[column]) for field, column in rules.values)
        size = sum(_bytes_of(file.metadata.row_group(i), columns) for i in range(file.metadata.num_row_groups))
        field_columns = frozenset(_field_columns(schema))
    return rules, rows, ParquetValues(url, stat, columns, size <= _SMALL, field_columns) if columns else None


def _read_keys(file: Any, url: str, key: tuple[str, ...] | None, paths: Sequence[tuple[str, ...]]) -> TableRows:
    builder = RowsBuilder(url, "row", len(paths))
    wanted = [*([key] if key else []), *paths]
    if not wanted:
        for row in range(file.metadata.num_rows):
            builder.add(row, number_key(row), [])
        return builder.finish()
    row = 0
    for batch in file.iter_batches(_MOST_ROWS, columns=[".".join(path) for path in wanted], use_threads=False):
        check_stop()
        columns = [_column(batch, path).to_pylist() for path in wanted]
        keys = columns.pop(0) if key else [number_key(row + i) for i in range(batch.num_rows)]
        for i, name in enumerate(keys):
            builder.add(row + i, name, [column[i] for column in columns])
        row += batch.num_rows
    return builder.finish()


class ParquetReader:
    """The values of the rows at ``places``; reading them in ascending order is fastest."""

    def __init__(self, values: ParquetValues, places: Ints):
        self._values = values
        self._places = np.unique(places)
        self._batches: Iterator[tuple[int, list[Any]]] | None = None
        self._start = 0
        self._columns: list[Any] = []
        self._kept: dict[int, list[Any]] | None = None
        self._exact: ExactValues = {}

    def read(self, place: int) -> list[Any]:
        """Return the values of the row at ``place``, as Python values, or numpy arrays for fields like ``npy``.

        Raises:
            CorruptError: the file is damaged.
            ChangedError: it was changed since it was listed.
            StorageError: it cannot be read.
        """
        if self._values.small and self._kept is None:
            self._kept = dict(self._keep())
            self.close()
        if self._kept is not None and (values := self._kept.get(place)) is not None:
            return values
        return self._row(place)

    def _keep(self) -> Iterator[tuple[int, list[Any]]]:
        """Yield the place and the values of the rows to keep: all, unless a small file unpacks to much more data."""
        size = 0
        for place in self._places.tolist():
            yield place, (values := self._row(place))
            size += sum(len(value) if isinstance(value, bytes | str) else _SOME_BYTES for value in values)
            if size > _MOST_KEPT:
                return

    def _row(self, place: int) -> list[Any]:
        if self._batches is None or place < self._start:
            self.close()
            self._batches = self._read(place)
        while not self._columns or place >= self._start + len(self._columns[0]):
            self._start, self._columns = next(self._batches, (place + 1, []))
            if place < self._start:
                what = f"row {place} is not there, although the Parquet file says so"
                raise CorruptError(what, url=self._values.url, fix="write it again")
        row = place - self._start
        named = zip(self._values.columns, self._columns, strict=True)
        return [self._value(field, path, column[row], place) for (field, path), column in named]

    def _value(self, field: str, path: tuple[str, ...], scalar: Any, place: int) -> Any:
        name = path[0]
        if name not in self._values.field_columns or not scalar.is_valid:
            return _value(scalar, extension(field))
        return restored(name, scalar.as_py(), self._exact.get((place, name)))

    def _read(self, place: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield the first row and the columns of batches, from the row group of ``place`` on, where rows are needed."""
        url, columns = self._values.url, self._values.columns
        with _opened(url, self._values.stat) as file:
            start = 0
            self._exact = parse_exact((file.metadata.metadata or {}).get(ENTRY)) if self._values.field_columns else {}
            for i in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(i)
                stop = start + group.num_rows
                first, last = np.searchsorted(self._places, (max(start, place), stop))
                if first < last:
                    each = _bytes_of(group, columns) // group.num_rows + 1
                    size = min(max(_BATCH_BYTES // each, 1), _MOST_ROWS)
                    names = [".".join(path) for _, path in columns]
                    with _is_intact(url):
                        for batch in file.iter_batches(size, row_groups=[i], columns=names, use_threads=False):
                            yield start, [_column(batch, path) for _, path in columns]
                            start += batch.num_rows
                start = stop

    def close(self) -> None:
        """Close the file."""
        if self._batches is not None:
            self._batches.close()  # type: ignore[attr-defined]
        self._batches = None
        self._start, self._columns = 0, []


def _value(scalar: Any, kind: str) -> Any:
    """Return the value of a cell; for a field like ``npy`` lists and numbers become arrays of the column's type."""
    types = _pyarrow().types
    if kind == "npy" and scalar.is_valid:
        if isinstance(values := getattr(scalar, "values", None), _pyarrow().Array) and not values.null_count:
            return values.to_numpy(zero_copy_only=False)
        if types.is_integer(scalar.type) or types.is_floating(scalar.type) or types.is_boolean(scalar.type):
            return np.asarray(scalar.as_py(), scalar.type.to_pandas_dtype())
    return scalar.as_py()


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise JobError("reading Parquet needs pyarrow", fix="install it: pip install pyarrow") from error
    return pyarrow


@contextmanager
def _opened(url: str, stat: Stat) -> Iterator[Any]:
    """A context with the file as a `pyarrow.parquet.ParquetFile`, if it is what ``stat`` describes."""
    pyarrow = _pyarrow()
    if get_storage(url).stat(url) != stat:
        raise ChangedError("the file has changed since it was listed", url=url, fix="run again")
    with _random_access(url, stat) as source:
        with _is_parquet(url):
            # Without pre_buffer, and with a buffer, a row group is read piece by piece.
            size = _FETCH_SIZE if isinstance(source, _RangeFile) else _READ_SIZE
            file = pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=size)
        with file:
            yield file


def _random_access(url: str, stat: Stat) -> io.IOBase:
    if is_local(url):
        with os_errors(url):
            return open(absolute(url), "rb")
    return _RangeFile(url, stat)


class _RangeFile(io.RawIOBase):
    """An object of a server as a file: every read is a request for a range."""

    def __init__(self, url: str, stat: Stat):
        super().__init__()
        if stat.size is None:
            what = "the server does not say how long the file is"
            raise RefusedError(what, url=url, fix="download it, and give its path")
        self._url = url
        self._size = stat.size
        self._position = 0
        # pyarrow may read in a thread of its own, where get_storage would not know the options.
        self._storage = get_storage(url)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        (data,) = self._storage.read_ranges(self._url, [ByteRange(self._position, stop)])
        self._position = stop
        return data

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


@contextmanager
def _is_parquet(url: str) -> Iterator[None]:
    with _pyarrow_errors(url, JobError, "this is not a Parquet file, or a damaged one"):
        yield


@contextmanager
def _is_intact(url: str) -> Iterator[None]:
    with _pyarrow_errors(url, CorruptError, "the Parquet file is damaged"):
        yield


@contextmanager
def _pyarrow_errors(url: str, kind: type[ShardtoolsError], what: str) -> Iterator[None]:
    """A context in which the exceptions of pyarrow, which are of several types, become an error of one ``kind``."""
    foreign = (_pyarrow().ArrowException, OSError, ValueError)
    try:
        yield
    except ShardtoolsError:
        raise
    except MemoryError as error:
        what, fix = "a part of the Parquet file needs more memory than there is", "write it with smaller row groups"
        raise LimitError(what, url=url, fix=fix) from error
    except foreign as error:
        raise kind(f"{what}: {error}", url=url, fix="write it again") from error


# columns


def _leaves(schema: Any) -> list[str]:
    """Return the names of columns; a column in a struct is called ``outer.inner``."""
    types = _pyarrow().types
    names = []

    def walk(fields: Any, prefix: str) -> None:
        for field in fields:
            if types.is_struct(field.type):
                walk(field.type, f"{prefix}{field.name}.")
            else:
                names.append(prefix + field.name)

    walk(schema, "")
    return names


def _find(schema: Any, column: str, leaves: Sequence[str], url: str) -> tuple[str, ...]:
    """Return the path to a column, which may be a struct: its name, after the names of the structs around it."""
    if schema.names.count(column) > 1:
        raise JobError(f"two columns are called {column!r}", url=url, fix="rename one")
    if column in schema.names:
        return (column,)
    types = _pyarrow().types
    path: list[str] = []
    fields, rest = {field.name: field.type for field in schema}, column
    while rest not in fields:
        name = next((name for name in fields if rest.startswith(f"{name}.") and types.is_struct(fields[name])), None)
        if name is None:
            require([column], leaves, url)
            raise JobError(
                f"the column {column!r} cannot be found",
                url=url,
                fix="rename the columns that have dots in their names",
            )
        path.append(name)
        rest = rest[len(name) + 1 :]
        fields = {field.name: field.type for field in fields[name]}
    return (*path, rest)


def _column(batch: Any, path: tuple[str, ...]) -> Any:
    """Return a column of a batch; it is null where an outer struct is null."""
    column = batch.column(path[0])
    if len(path) > 1:
        import pyarrow.compute

        column = pyarrow.compute.struct_field(column, list(path[1:]))
    return column


def _key_candidates(schema: Any) -> list[str]:
    types = _pyarrow().types
    kinds = (types.is_integer, types.is_string, types.is_large_string, types.is_string_view, types.is_dictionary)
    return [field.name for field in schema if any(kind(field.type) for kind in kinds)]


def _binary_columns(schema: Any) -> list[str]:
    types = _pyarrow().types
    kinds = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return [field.name for field in schema if any(kind(field.type) for kind in kinds)]


def _field_columns(schema: Any) -> list[str]:
    """Return the columns that htextract has written from fields: they have its metadata, and types that it writes."""
    types = _pyarrow().types
    kinds = (types.is_int64, types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return [
        field.name
        for field in schema
        if FIELD_METADATA.items() <= (field.metadata or {}).items() and any(kind(field.type) for kind in kinds)
    ]


def _bytes_of(group: Any, columns: Sequence[tuple[str, tuple[str, ...]]]) -> int:
    """Return the uncompressed size of these columns of a row group in bytes."""
    prefixes = [".".join(path) for _, path in columns]
    chunks = [group.column(i) for i in range(group.num_columns)]
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if any(f"{chunk.path_in_schema}.".startswith(f"{prefix}.") for prefix in prefixes)
    )
