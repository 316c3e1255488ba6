"""The rows of a table in little memory, and the rows of CSV, TSV and JSON lines.

    lines -> csv or json -> the columns asked for -> RowsBuilder -> TableRows

A row is kept as the text of a JSON list, all rows in one buffer. So a million rows of a hundred bytes take about a
hundred megabytes, and are sent to tasks as they are.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from shardtools.errors import CorruptError, DuplicateKeyError, JobError
from shardtools.json_text import parse_json
from shardtools.shards.names import is_key
from shardtools.sources.names import number_key
from shardtools.sources.table_rules import TableRules, key_column, no_rules, require
from shardtools.storage import check_stop, current_options, get_storage
from shardtools.types import Ints


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of a table: each is a list of JSON values, of which the first is the sample's key.

    Row ``i`` is ``blob[bounds[i]:bounds[i + 1]]``; in the table it is in line or row ``places[i]``.
    """

    blob: bytes | bytearray
    bounds: Ints
    places: Ints

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> list[Any]:
        values: list[Any] = json.loads(self.text(row))
        return values

    def text(self, row: int) -> bytes | bytearray:
        """Return a row as JSON."""
        return self.blob[self.bounds[row] : self.bounds[row + 1]]

    def key(self, row: int) -> str:
        """Return the key of the sample that a row describes."""
        key: str = self[row][0]
        return key

    def take(self, rows: Ints) -> TableRows:
        """Return some of the rows, without keeping the others in memory."""
        texts = [self.text(row) for row in rows.tolist()]
        bounds = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(text) for text in texts], out=bounds[1:])
        return TableRows(b"".join(texts), bounds, self.places[rows])


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""With escapes the text of most alphabets would take twice the bytes."""


class RowsBuilder:
    """Collects `TableRows`: in each the key is followed by ``files`` paths, and then by values.

    ``url`` and ``unit``, ``"line"`` or ``"row"``, are for messages.
    """

    def __init__(self, url: str, unit: str, files: int):
        self._url = url
        self._unit = unit
        self._files = files
        self._blob = bytearray()
        self._bounds = array("q", [0])
        self._places = array("q")
        self._hashes = array("q")

    def __len__(self) -> int:
        return len(self._places)

    def add(self, place: int, key: object, values: Sequence[object]) -> None:
        """Add a row, which is in line or row ``place`` of the table.

        Raises:
            JobError: its key, or a path, is not valid.
        """
        key = self._checked(place, key)
        for path in values[: self._files]:
            if path is not None and not isinstance(path, str):
                what = f"{self._unit} {place}: values of type {type(path).__name__} cannot be paths"
                raise JobError(what, url=self._url, fix="use --file with a column of paths, --value for what is in it")
        try:
            self._blob += _to_json([key, *values]).encode("utf-8", "surrogatepass")
        except RecursionError:  # the parser accepts it, since it needs less of the stack
            what = f"{self._unit} {place}: a value is nested too deeply"
            raise JobError(what, url=self._url, fix="use text for it") from None
        self._bounds.append(len(self._blob))
        self._places.append(place)
        self._hashes.append(hash(key))

    def finish(self) -> TableRows:
        """Return all rows.

        Raises:
            JobError: there are none.
            DuplicateKeyError: two of them have one key.
        """
        if not self._places:
            raise JobError("the table has no rows", url=self._url, fix="check the program that wrote it")
        rows = TableRows(self._blob, np.frombuffer(self._bounds, np.int64), np.frombuffer(self._places, np.int64))
        if twice := _find_twice(rows, np.frombuffer(self._hashes, np.int64)):
            places = [int(rows.places[row]) for row in twice]
            raise DuplicateKeyError(
                f"{self._unit}s {places[0]} and {places[1]} have the same key",
                url=self._url,
                member=rows.key(twice[0]),
                fix="make the keys of the table unique, or use --key with another column",
            )
        return rows

    def _checked(self, place: int, key: object) -> str:
        """Return a key as text; a whole number can be a key, too."""
        text = str(key) if isinstance(key, int) and not isinstance(key, bool) else key
        where = f"{self._unit} {place}"
        if text is None or text == "":
            raise JobError(
                f"{where} has no key",
                url=self._url,
                fix="fill it in, or use --key with another column, or --key number",
            )
        if not isinstance(text, str):
            raise JobError(
                f"{where}: values of type {type(key).__name__} cannot be keys",
                url=self._url,
                fix="use --key with a column of text or whole numbers, or --key number",
            )
        if not is_key(text):
            raise JobError(
                f"{where}: {text!r} is not a valid key",
                url=self._url,
                fix="a key is a path whose last component has no dot; use --key with another column, or --key number",
            )
        return text


def _find_twice(rows: TableRows, hashes: Ints) -> tuple[int, int] | None:
    """Return an earlier row and the first row that repeats its key; None if there is none."""
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]) + 1
    suspects = set(order[again].tolist()) | set(order[again - 1].tolist())
    seen: dict[str, int] = {}
    for row in sorted(suspects):
        if (first := seen.setdefault(rows.key(row), row)) != row:
            return first, row
    return None


def read_delimited(url: str, delimiter: str, rules: TableRules) -> TableRows:
    """Return the rows of a CSV or TSV file with a header. Empty lines are ignored.

    Raises:
        JobError: the file is not what its name says; the error names the line.
        DuplicateKeyError: two rows have one key.
        StorageError: it cannot be read.
    """
    builder = RowsBuilder(url, "line", len(rules.files))
    with _long_fields():
        lines = _Lines(url)
        table = _csv_rows(csv.reader(lines, delimiter=delimiter, strict=True), lines, url)
        _, header = next(table, (0, []))
        if not header:
            raise JobError("the table is empty", url=url, fix="it must begin with a line of the columns' names")
        key = key_column(rules, header, url)
        require(rules.columns(), header, url)
        if not rules.columns():
            raise no_rules(header, url)
        at = [_position(header, column, url) for column in rules.columns()]
        key_at = None if key is None else _position(header, key, url)
        for line, row in table:
            if len(row) != len(header):
                what = f"line {line} has {_count(len(row))}, the header has {len(header)}"
                raise JobError(what, url=url, fix='put "…" around text that has a delimiter or a line break in it')
            builder.add(line, row[key_at] if key_at is not None else number_key(len(builder)), [row[i] for i in at])
    return builder.finish()


def _csv_rows(reader: Any, lines: _Lines, url: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row of a csv reader of ``lines`` that is not blank, and the line that it begins in."""
    while True:
        lines.taken = 0
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise JobError(
                f"the row that begins in line {line} cannot be read: {error}",
                url=url,
                fix='write text that has quotes in it as "…""…", and end lines with LF or CRLF',
            ) from error
        if row is None:
            return
        if row:
            yield line, row


def _position(header: Sequence[str], column: str, url: str) -> int:
    if header.count(column) > 1:
        raise JobError(f"two columns are called {column!r}", url=url, fix="rename one")
    return header.index(column)


def _count(fields: int) -> str:
    return "1 field" if fields == 1 else f"{fields} fields"


@contextmanager
def _long_fields() -> Iterator[None]:
    """A context in which a field may be longer than 128 KiB, the limit of the csv module."""
    before = csv.field_size_limit(1 << 30)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def read_json_lines(url: str, rules: TableRules) -> TableRows:
    """Return the rows of a file with a JSON object in each line. A column that an object does not have is null.

    Raises:
        JobError: a line is something else; the error names it.
        DuplicateKeyError: two rows have one key.
        StorageError: it cannot be read.
    """
    builder = RowsBuilder(url, "line", len(rules.files))
    columns = rules.columns()
    key: str | None = None
    seen: dict[str, None] = {}
    lines = _Lines(url)
    for line, text in enumerate(lines, 1):
        lines.taken = 0
        if not text.strip():
            continue
        row = _object(text, line, url)
        if not len(builder):
            key = key_column(rules, list(row), url)
            if not columns:
                raise no_rules(list(row), url)
        if len(seen) < _MOST_COLUMNS:
            seen.update(dict.fromkeys(row))
        builder.add(
            line, number_key(len(builder)) if key is None else row.get(key), [row.get(name) for name in columns]
        )
    rows = builder.finish()
    if len(seen) < _MOST_COLUMNS:
        require(columns, list(seen), url)
    return rows


_MOST_COLUMNS = 10_000
"""The most columns to remember, for objects whose keys are not columns."""


def _object(text: str, line: int, url: str) -> dict[str, Any]:
    try:
        row = parse_json(text)
    except CorruptError as error:
        what = error.what.replace("it is", f"line {line} is", 1)
        raise JobError(what, url=url, fix="write one JSON object in each line") from None
    if not isinstance(row, dict):
        raise JobError(
            f"line {line} is not a JSON object", url=url, fix='write rows like {"path": "a.jpg", "label": 7}'
        )
    return row


class _Lines:
    """The lines of a text, with newlines. ``taken`` is the bytes of the current row, which may be several lines."""

    def __init__(self, url: str):
        self._url = url
        self._rest = self._read()
        self.taken = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        return next(self._rest)

    def _read(self) -> Iterator[str]:
        with get_storage(self._url).open(self._url) as stream, io.BufferedReader(stream, _BUFFER) as file:
            yield from self._decoded(file)

    def _decoded(self, file: IO[bytes]) -> Iterator[str]:
        limits, url = current_options().limits, self._url
        number = 0
        while line := file.readline(limits.sample - self.taken + 1):
            number += 1
            self.taken += len(line)
            limits.check("sample", self.taken, url=url, member=f"line {number}")
            if number % _LINES_BETWEEN_CHECKS == 1:
                check_stop()
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise JobError(f"line {number} is not UTF-8", url=url, fix="save the table as UTF-8") from error


_BUFFER = 1 << 20
_LINES_BETWEEN_CHECKS = 10_000
