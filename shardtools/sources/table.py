"""A manifest as samples, one row a sample: CSV, TSV, JSON lines or Parquet.

table -> TableRows: keys, paths, and the values of text formats -> TablePart -> records: files read, values encoded
"""

from __future__ import annotations

import gzip
import os
import posixpath
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from shardtools.errors import FieldError, JobError, SampleError, ShardtoolsError, StorageError, UnavailableError, redact
from shardtools.shards.fields import decode, encode, extension, kind_of
from shardtools.shards.tar import BLOCK, member_size
from shardtools.sources import CLASS_TEXT, Source
from shardtools.sources.folder import read_file
from shardtools.sources.parquet import ParquetReader, ParquetValues, open_parquet
from shardtools.sources.rows import TableRows, read_delimited, read_json_lines
from shardtools.sources.table_rules import TableRules, check_rules
from shardtools.storage import current_options, get_storage, using
from shardtools.storage.limited import read_limited
from shardtools.types import Ints
from shardtools.urls import absolute, folder_of, name_of, scheme_of, split_path

__all__ = ["TablePart", "TableRules", "TableSource", "open_table"]

Tabulated = tuple[TableRules, TableRows, ParquetValues | None]


@dataclass(frozen=True)
class TableFormat:
    """How tables with one ending are read.

    ``read`` gets the URL and the rules, and returns the rules, completed, the rows, and where values are that do not
    lie in these. ``as_text`` and ``unit`` are those of `Table`.
    """

    read: Callable[[str, TableRules], Tabulated]
    as_text: bool = False
    unit: str = "line"


def _read_csv(url: str, rules: TableRules) -> Tabulated:
    return rules, read_delimited(url, ",", rules), None


def _read_tsv(url: str, rules: TableRules) -> Tabulated:
    return rules, read_delimited(url, "\t", rules), None


def _read_json_lines(url: str, rules: TableRules) -> Tabulated:
    return rules, read_json_lines(url, rules), None


_FORMATS = {
    ".csv": TableFormat(_read_csv, as_text=True),
    ".tsv": TableFormat(_read_tsv, as_text=True),
    ".jsonl": TableFormat(_read_json_lines),
    ".ndjson": TableFormat(_read_json_lines),
    ".parquet": TableFormat(open_parquet, unit="row"),
}
ENDINGS = tuple(_FORMATS)


def open_table(name: str, rules: TableRules) -> TableSource:
    """Return the rows of a table as a source; the ending of ``name``, a path or URL, says what it is.

    Raises:
        JobError: it is not what its name says, or does not have what the rules want.
        DuplicateKeyError: two rows have one key.
        StorageError: it cannot be read.
    """
    url = absolute(name)
    check_rules(rules, url)
    format = _FORMATS.get(os.path.splitext(name_of(url))[1].lower())
    if format is None:
        raise JobError("this kind of table cannot be read", url=url, fix=f"give one of {', '.join(ENDINGS)}")
    rules, rows, values = format.read(url, rules)
    return TableSource(name, Table(url, rules, format.unit, format.as_text, values), rows)


@dataclass(frozen=True)
class Table:
    """What the parts of a table have in common.

    Messages count rows by ``unit``: ``"line"`` (from 1) or ``"row"`` (from 0). In a table ``as_text`` each value is the
    text of a field, written as it is. ``values`` says where values are that are not in `TableRows`.
    """

    url: str
    rules: TableRules
    unit: str
    as_text: bool
    values: ParquetValues | None


class TableSource(Source):
    """Rows of a table as samples.

    Rows of text formats can be read in any order. So can rows of Parquet if the columns that tasks read have at most
    64 MiB together, as labels and captions do. Otherwise they can only be read in their own order: for rows from all
    over the file every task would have to read most of it. Sizes of values from Parquet are averages over a row group.
    """

    def __init__(self, name: str, table: Table, rows: TableRows):
        self.name = name
        self.random_access = table.values is None or table.values.small
        self.reads_at_once = not table.rules.files
        self._table = table
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, row: int) -> str:
        return self._rows.key(row)

    def sizes(self) -> Ints:
        table = self._table
        sizes = np.zeros(len(self), np.int64)
        if table.values is not None:
            sizes += table.values.sizes() + len(table.values.columns) * (BLOCK + BLOCK // 2)  # half a block of padding
        files = len(table.rules.files)
        for start in range(0, len(self), _BATCH):
            entries = [self._rows[row][1:] for row in range(start, min(start + _BATCH, len(self)))]
            here = sizes[start : start + len(entries)]
            for i in range(files):
                here += _file_sizes([entry[i] for entry in entries], table.url)
            here += [_values_size(entry[files:]) for entry in entries]
        return sizes

    def read_by_tasks(self) -> Sequence[str]:
        """Return the table, if tasks read values from it, and some of the files that it names."""
        urls = [] if self._table.values is None else [self._table.url]
        files = len(self._table.rules.files)
        for row in range(0, len(self), max(len(self) // _FEW, 1)) if files else ():
            for path in self._rows[row][1 : 1 + files]:
                with suppress(ShardtoolsError, ValueError):  # reading it will raise an error
                    urls += [file_place(path, self._table.url)] if path else []
        return urls

    def place(self, row: int) -> str:
        return f"{redact(self._table.url)} {self._table.unit} {self._rows.places[row]}"

    def part(self, rows: Ints) -> TablePart:
        return TablePart(self._table, self._rows, rows)


_BATCH = 4096
_FEW = 16


def _values_size(values: Sequence[Any]) -> int:
    """Return about how many bytes values, which are text or JSON, take in a tar file."""
    texts = [str(value) for value in values if value is not None]
    return sum(member_size(len(text.encode("utf-8", "replace"))) for text in texts)


def _file_sizes(paths: Sequence[str | None], table: str) -> list[int]:
    """Return how many bytes files take in a tar file; a file that cannot be read counts as empty."""
    options = current_options()

    def size(path: str | None) -> int:
        if path is None:
            return 0
        try:
            with using(options):  # which the threads of a pool do not know
                place = file_place(path, table)
                size = get_storage(place).stat(place).size or 0
        except UnavailableError:
            raise
        except (ShardtoolsError, ValueError):
            size = 0
        return member_size(size)

    if any("://" in path for path in (table, *paths) if path):
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(size, paths))
    return list(map(size, paths))


_REQUESTS = 16


class TablePart:
    """Some rows of a table: those of ``rows`` that are ``picked``. Only these are pickled."""

    def __init__(self, table: Table, rows: TableRows, picked: Ints):
        self._table = table
        self._rows = rows
        self._picked = picked
        self._reader: ParquetReader | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return TablePart, (self._table, self._rows.take(self._picked), np.arange(len(self._picked)))

    def __len__(self) -> int:
        return len(self._picked)

    def key(self, row: int) -> str:
        return self._rows.key(int(self._picked[row]))

    def record(self, row: int) -> dict[str, Any]:
        at = int(self._picked[row])
        rules = self._table.rules
        key, *entry = self._rows[at]
        place = int(self._rows.places[at])
        record: dict[str, Any] = {"key": key}
        taken = 0
        for (field, _), path in zip(rules.files, entry, strict=False):
            if path is not None:
                record[field] = data = self._read_file(path, place, f"{key}.{field}", taken)
                taken += len(data)
        values = entry[len(rules.files) :] if self._table.values is None else self._stored(place)
        for (field, _), value in zip(rules.values, values, strict=True):
            if value is not None:
                record[field] = self._encode(field, value, place, key)
        if len(record) == 1:
            raise SampleError(
                f"{self._table.unit} {place} is empty in all chosen columns",
                url=self._table.url,
                member=key,
                fix="leave the row out",
            )
        return record

    def value(self, row: int, field: str) -> bytes | None:
        at = int(self._picked[row])
        rules = self._table.rules
        key, *entry = self._rows[at]
        place = int(self._rows.places[at])
        for (name, _), path in zip(rules.files, entry, strict=False):
            if name == field and path is not None:
                return self._read_file(path, place, f"{key}.{field}", 0)
        values = entry[len(rules.files) :] if self._table.values is None else self._stored(place)
        for (name, _), value in zip(rules.values, values, strict=True):
            if name == field and value is not None:
                return self._encode(field, value, place, key)
        return None

    def facts(self) -> Sequence[Any]:
        table = self._table
        rows = [self._rows.text(at).decode("utf-8", "surrogatepass") for at in self._picked.tolist()]
        facts: list[Any] = [
            list(map(list, table.rules.files)),
            list(map(list, table.rules.values)),
            table.as_text,
            rows,
        ]
        if table.values is not None:
            facts.append([redact(table.url), table.values.stat.size, table.values.stat.validator])
            facts.append(self._rows.places[self._picked].tolist())
        for row in range(len(self)) if table.rules.files else ():
            paths = self._rows[int(self._picked[row])][1 : 1 + len(table.rules.files)]
            facts.extend(_file_facts(path, table.url) for path in paths if path is not None)
        return facts

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read_file(self, path: str, place: int, member: str, taken: int) -> bytes:
        table = self._table
        row = f"{table.unit} {place} of {redact(table.url)}"
        if not path:
            fix = "name a file, or, in JSON lines, write null for a sample without one"
            raise SampleError(f"{table.unit} {place} names no file", url=table.url, member=member, fix=fix)
        where = path
        try:
            where = file_place(path, table.url)
            return read_limited(where, "sample") if scheme_of(where) else read_file(where, taken)
        except ShardtoolsError as error:
            raise type(error)(f"{error.what} ({row})", url=error.url or where, member=member, fix=error.fix) from error
        except ValueError as error:  # a NUL byte, or half a surrogate pair
            what = f"{path!r} cannot be the name of a file ({row})"
            raise StorageError(what, member=member, fix="correct the row") from error

    def _stored(self, place: int) -> list[Any]:
        if self._reader is None:
            assert self._table.values is not None
            self._reader = ParquetReader(self._table.values, self._rows.places[self._picked])
        return self._reader.read(place)

    def _encode(self, field: str, value: Any, place: int, key: str) -> bytes:
        table = self._table
        if field == CLASS_TEXT:
            return str(value).encode("utf-8", "surrogatepass")
        try:
            # No value of JSON is a text here, so it is one that is JSON already.
            is_text = table.as_text or (isinstance(value, str) and kind_of(field) == "JSON")
            return text_bytes(field, value) if is_text else encode(field, value)
        except FieldError as error:
            fix = error.fix or "correct it, or choose another field"
            if isinstance(value, str):
                fix += ", or use --file if the column names files"
            what = f"{table.unit} {place}: {error.what}"
            raise FieldError(what, url=table.url, member=f"{key}.{field}", fix=fix) from error


def text_bytes(field: str, text: str) -> bytes:
    """Return the bytes of a field, given the text that is written in it.

    Raises:
        FieldError: the bytes could not be decoded.

    >>> text_bytes("cls", "7"), text_bytes("json", "[1, 2]"), text_bytes("caption", "a cat")
    (b'7', b'[1, 2]', b'a cat')
    """
    data = text.encode()
    if extension(field) == "gz":
        data = gzip.compress(data, mtime=0)
    decode(field, data)
    return data


def file_place(path: str, table: str) -> str:
    """Return the path or URL of a file that a table names; a relative path is one in the table's folder.

    >>> file_place("a/b.png", "/data/x.csv"), file_place("s3://b/c", "/data/x.csv")
    ('/data/a/b.png', 's3://b/c')
    >>> file_place("../b #1.png", "http://host/d/x.csv?token=1")
    'http://host/b%20%231.png'
    """
    if path != "-" and scheme_of(path):
        return absolute(path)
    if path.startswith("/"):
        return path
    folder = folder_of(table)
    if not scheme_of(folder):
        return folder + path
    head, start, _ = split_path(folder)
    if scheme_of(folder) in ("http", "https"):
        path = quote(path, errors="surrogateescape")
    return head + posixpath.normpath(start + path)


def _file_facts(path: str, table: str) -> list[Any]:
    """Return what a file's bytes depend on. For a URL that is the URL: asking for each takes as long as reading it."""
    try:
        place = file_place(path, table)
        if scheme_of(place):
            return [place]
        status = os.stat(place)
    except (OSError, ValueError):  # reading it will raise an error
        return [path]
    return [place, status.st_size, status.st_mtime_ns]
