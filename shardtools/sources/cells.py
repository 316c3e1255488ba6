"""The bytes of fields as the cells of a Parquet table, and back: what htextract writes and htupload reads.

    bytes -> to_cell -> int, str or bytes, by the field's name -> (a table) -> from_cell -> the same bytes

The metadata of a column says that it holds a field. The cells of a few values do not give the same bytes back: text
that is not UTF-8, or a number with a newline. The exact bytes of these are in the metadata of the file, by row and
column, and are taken from there if the cell is still the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from shardtools.errors import FieldError
from shardtools.shards.fields import Kind, decode, extension, kind_of

CellKind = Literal["int", "text", "bytes"]

_CELLS: Mapping[Kind, CellKind] = {"number": "int", "text": "text", "JSON": "text", "JSON lines": "text"}
_OTHER_TEXT = frozenset(("csv", "tsv", "xml", "html", "md", "yaml", "yml", "srt", "vtt"))
"""Extensions of text that is not decoded."""

FIELD_METADATA = {b"shardtools": b"field"}
"""The metadata of a column that holds the bytes of a field."""

ENTRY = b"shardtools"
"""The entry of the metadata of a file, or of a part of one, that has exact values."""

MAX_EXACT_BYTES = 16 << 20
"""Bytes that all exact values of a file may have together."""

Cell = int | str | bytes
ExactValues = dict[tuple[int, str], bytes]
"""The bytes of values whose cells do not give the same bytes back, by row and column."""


def cell_kind(field: str) -> CellKind:
    """Return what the cells of a field are.

    >>> cell_kind("cls"), cell_kind("meta.json"), cell_kind("seg.png"), cell_kind("json.gz")
    ('int', 'text', 'bytes', 'bytes')
    """
    last = extension(field)
    return "text" if last in _OTHER_TEXT else _CELLS.get(kind_of(last), "bytes")


def to_cell(field: str, data: bytes) -> Cell:
    """Return the cell for the bytes of a field.

    Raises:
        FieldError: the field holds numbers, and the bytes are not a number of 64 bits.
    """
    kind = cell_kind(field)
    if kind == "bytes":
        return data
    if kind == "text":
        return data.decode("utf-8", "backslashreplace")
    number = decode(field, data)
    if not isinstance(number, int) or not -(1 << 63) <= number < 1 << 63:
        raise FieldError("the number has more than 64 bits")
    return number


def from_cell(cell: Cell) -> bytes:
    """Return the bytes that a cell stands for.

    >>> [from_cell(to_cell(field, data)) for field, data in (("cls", b"7"), ("txt", b"a"), ("jpg", b"\\xff"))]
    [b'7', b'a', b'\\xff']
    """
    return cell if isinstance(cell, bytes) else str(cell).encode()


def restored(field: str, cell: Cell, exact: bytes | None) -> bytes:
    """Return the bytes of a field: ``exact``, if there are any and they have this cell; else those of the cell."""
    if exact is not None:
        try:
            if to_cell(field, exact) == cell:
                return exact
        except FieldError:  # they belong to another cell
            pass
    return from_cell(cell)


def dump_exact(values: Mapping[tuple[int, str], bytes]) -> bytes:
    """Return exact values as an entry of metadata."""
    entries = [[row, column, base64.b64encode(data).decode()] for (row, column), data in values.items()]
    return json.dumps({"version": 1, "untold": entries}, ensure_ascii=False).encode()


def parse_exact(data: bytes | None) -> ExactValues:
    """Return the exact values that `dump_exact` has written as ``data``; none if it has not written it."""
    try:
        entries: Iterable[Any] = json.loads(data or b"{}").get("untold", [])
        return {(int(row), str(column)): base64.b64decode(text) for row, column, text in entries}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}
