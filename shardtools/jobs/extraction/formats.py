"""Rows as bytes, made by the task of each shard: tsv, csv, jsonl, parquet, npy.

    RowBatch -> Encoder -> bytes, and their schema -> Output (``outputs.py``) -> file

The bytes of all shards become one file. For that they must have the same schema: the names of columns, or the shape and
type of rows.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from shardtools.errors import FieldError, JobError, SampleError
from shardtools.jobs.extraction.row_batches import Blob, RowBatch, describe
from shardtools.shards.fields import decode, extension, kind_of
from shardtools.sources.cells import (
    ENTRY,
    FIELD_METADATA,
    ExactValues,
    cell_kind,
    dump_exact,
    from_cell,
    to_cell,
)

FormatName = Literal["tsv", "csv", "jsonl", "parquet", "npy"]
Binary = Literal["describe", "raw", "base64"]
"""How bytes that are not text are written: as size and checksum, as they are, or in base64.

A Parquet file holds bytes as they are, except with base64; with raw, text and numbers are written as bytes, too.
"""

_BINARY_KINDS = ("image", "array", "arrays")
_OTHER_BINARY = frozenset(
    (
        *("gif", "ico", "exr", "dcm", "nii", "pdf"),
        *("pt", "pth", "ten", "pickle", "pkl", "pyd", "mp", "msgpack", "cbor", "safetensors", "h5"),
        *("mp4", "avi", "mov", "mkv", "webm", "mpg", "mpeg", "mp3", "wav", "flac", "ogg", "opus", "m4a", "aac"),
        *("gz", "zst", "bz2", "xz", "zip", "tar", "parquet", "bin", "raw"),
    )
)
"""Extensions of data that is not text and is not decoded."""
_SPECIAL = re.compile(r"[\\\t\n\r\x00]")
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\x00": "\\0"}


def is_binary(field: str) -> bool:
    """Return whether a field is known by its name to hold bytes that are not text.

    >>> is_binary("seg.PNG"), is_binary("cls"), is_binary("whatever"), is_binary("json.gz")
    (True, False, False, True)
    """
    last = extension(field)
    return last in _OTHER_BINARY or kind_of(last) in _BINARY_KINDS


@dataclass(frozen=True)
class RowFormat:
    """How rows are written: the format, how bytes that are not text are written, and whether there is a ``header``.

    The header of a tsv or csv file is a line with the names of the columns.
    """

    name: FormatName = "tsv"
    binary: Binary = "describe"
    header: bool = False


DEFAULT_FORMAT = RowFormat()

Schema = tuple[Any, ...] | None


class Encoder(Protocol):
    """Makes bytes of the rows of one shard."""

    schema: Schema
    """What all rows of a file must have in common; None before the first row."""

    def encode(self, rows: RowBatch) -> bytes:
        """Return the bytes of some rows.

        Raises:
            FieldError: a value is not what its field's extension says.
            SampleError: rows do not fit together.
        """


class _TsvEncoder:
    def __init__(self, format: RowFormat):
        self._binary = format.binary
        self.schema: Schema = None

    def encode(self, rows: RowBatch) -> bytes:
        self.schema = _same_names(self.schema, rows)
        if self._binary == "raw":
            return self._raw(rows)
        columns = [_escaped(rows.keys), *(_escaped(_texts(name, c, self._binary)) for name, c in rows.columns.items())]
        return "".join(f"{line}\n" for line in map("\t".join, zip(*columns, strict=True))).encode(
            "utf-8", "surrogateescape"
        )

    def _raw(self, rows: RowBatch) -> bytes:
        """Return lines with the bytes of fields as they are, even if these contain tabs or newlines."""
        keys = [text.encode("utf-8", "surrogateescape") for text in _escaped(rows.keys)]
        columns = [keys, *([_raw_bytes(value) for value in column] for column in rows.columns.values())]
        return b"".join(line + b"\n" for line in map(b"\t".join, zip(*columns, strict=True)))


class _CsvEncoder:
    def __init__(self, format: RowFormat):
        self._binary = format.binary
        self.schema: Schema = None

    def encode(self, rows: RowBatch) -> bytes:
        self.schema = _same_names(self.schema, rows)
        text = io.StringIO(newline="")
        columns = [rows.keys, *(_texts(name, column, self._binary) for name, column in rows.columns.items())]
        csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
        return text.getvalue().encode("utf-8", "surrogateescape")


class _JsonEncoder:
    def __init__(self, format: RowFormat):
        self._binary = format.binary
        self.schema: Schema = None

    def encode(self, rows: RowBatch) -> bytes:
        lines = []
        for i, key in enumerate(rows.keys):
            row = {"key": key}
            for name, column in rows.columns.items():
                if (value := column[i]) is not None:
                    row[name] = _json_value(name, value, self._binary, rows.url, key)
            lines.append(_dump(row, rows.url, key))
        # A name's bytes that are not text come out as an escape, so that every line remains JSON.
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


class _ParquetEncoder:
    """Encodes rows as Arrow's stream format, which the output joins to a Parquet file.

    Fields become cells as in ``sources/cells.py``; exact values are in the metadata of each table.
    """

    def __init__(self, format: RowFormat):
        _pyarrow()
        self._binary = format.binary
        self.schema: Schema = None

    def encode(self, rows: RowBatch) -> bytes:
        import pyarrow as arrow

        names = ["key", *rows.columns]
        texts = [key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for key in rows.keys]
        arrays, metadata = [arrow.array(texts, arrow.string())], list[dict[bytes, bytes] | None]([None])
        exact: ExactValues = {}
        for name, column in rows.columns.items():
            of_column = None
            if not all(value is None or isinstance(value, bytes) for value in column):
                arrays.append(self._others(arrow, column))
            elif self._binary == "base64" and cell_kind(name) != "int":
                encoded = [None if value is None else _text(name, value, "base64") for value in column]
                arrays.append(arrow.array(encoded, arrow.string()))
            else:
                of_column = FIELD_METADATA if self._binary != "base64" else None
                arrays.append(self._cells(arrow, name, column, rows, exact))
            metadata.append(of_column)
        fields = [
            arrow.field(name, array.type, metadata=of_column)
            for name, array, of_column in zip(names, arrays, metadata, strict=True)
        ]
        table = arrow.table(arrays, arrow.schema(fields, metadata={ENTRY: dump_exact(exact)} if exact else None))
        kinds = tuple(str(column.type) for column in arrays)
        if self.schema not in (None, (*names, *kinds)):
            raise SampleError("its values are of other types than those before", url=rows.url, fix="use jsonl")
        self.schema = (*names, *kinds)
        sink = io.BytesIO()
        with arrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        data = sink.getvalue()
        return len(data).to_bytes(8, "little") + data

    def _cells(self, arrow: Any, name: str, column: Sequence[bytes | None], rows: RowBatch, exact: ExactValues) -> Any:
        """Return the cells of a field, and add to ``exact`` the bytes that they do not give back."""
        kind = "bytes" if self._binary == "raw" else cell_kind(name)
        if kind == "bytes":
            return arrow.array(column, arrow.binary())
        cells: list[Any] = []
        for row, (key, data) in enumerate(zip(rows.keys, column, strict=True)):
            try:
                cells.append(None if data is None else to_cell(name, data))
            except FieldError as error:
                fix = error.fix or "use --raw, which writes bytes, or another format"
                raise FieldError(error.what, url=rows.url, member=f"{key}.{name}", fix=fix) from error
            if data is not None and from_cell(cells[-1]) != data:
                exact[row, name] = data
        return arrow.array(cells, arrow.int64() if kind == "int" else arrow.string())

    @staticmethod
    def _others(arrow: Any, column: Sequence[Any]) -> Any:
        """Return a column of what a script has made."""
        try:
            array = arrow.array([_plain(value) for value in column])
        except arrow.ArrowException as error:
            reason = str(error).partition("\n")[0]
            fix = "return values of one type for each column, or use jsonl"
            raise SampleError(f"a column has values of several types: {reason}", fix=fix) from error
        return array.cast(arrow.string()) if array.type == arrow.null() else array


class _NpyEncoder:
    """Encodes one column of numbers or arrays of one shape, or of bytes of one length, which are numpy's void."""

    def __init__(self, format: RowFormat):
        self.schema: Schema = None

    def encode(self, rows: RowBatch) -> bytes:
        if len(rows.columns) != 1:
            raise JobError("an npy file holds one column", fix="ask for one field, or use parquet")
        [(name, column)] = rows.columns.items()
        parts = []
        for key, value in zip(rows.keys, column, strict=True):
            array = self._array(name, value, rows.url, key)
            schema = (array.dtype.str, array.shape)
            if self.schema not in (None, schema):
                what = f"{_shape(schema)} after rows of {_shape(self.schema)}"
                raise SampleError(what, url=rows.url, member=f"{key}.{name}", fix="use another format, such as parquet")
            self.schema = schema
            parts.append(array.tobytes())
        return b"".join(parts)

    @staticmethod
    def _array(name: str, value: Any, url: str, key: str) -> np.ndarray[Any, Any]:
        if value is None:
            fix = "leave such samples out with --missing skip"
            raise SampleError(f"the sample has no {name}", url=url, member=key, fix=fix)
        decoded = decode(name, value, url=url, key=key) if isinstance(value, bytes) else value
        if isinstance(decoded, bytes) and decoded:  # not "S", which loses zeros at the end
            return np.asarray(np.void(decoded))
        array = np.asarray(decoded)
        if array.dtype.kind not in "biufc":
            kind = type(decoded).__name__ if decoded != b"" else "value without bytes"
            what = f"a {kind} is not a number or an array of numbers"
            raise FieldError(what, url=url, member=f"{key}.{name}", fix="use another format, such as parquet")
        return array


_ENCODERS: dict[str, Callable[[RowFormat], Encoder]] = {
    "tsv": _TsvEncoder,
    "csv": _CsvEncoder,
    "jsonl": _JsonEncoder,
    "parquet": _ParquetEncoder,
    "npy": _NpyEncoder,
}


def encoder(format: RowFormat) -> Encoder:
    """Return a new encoder of a format."""
    return _ENCODERS[format.name](format)


# --- values


def show(value: bytes | Blob) -> str:
    """Return bytes as text, or a description if they are not text.

    >>> show(b"cat"), show(b"\\xff\\x00")
    ('cat', '<2 bytes d2fdef8d>')
    """
    return _text("", value, "describe")


def _same_names(schema: Schema, rows: RowBatch) -> Schema:
    names = tuple(rows.columns)
    if schema not in (None, names):
        what = f"a row has the columns {', '.join(names)} after others with {', '.join(schema or ())}"
        raise SampleError(what, url=rows.url, member=rows.keys[0] if rows.keys else None, fix="use --format jsonl")
    return names


def _texts(field: str, column: Sequence[Any], binary: Binary) -> list[str]:
    return ["" if value is None else _text(field, value, binary) for value in column]


def _text(field: str, value: Any, binary: Binary) -> str:
    if isinstance(value, bytes):
        try:
            if binary != "base64" or not is_binary(field):
                return value.decode()
        except UnicodeDecodeError:
            pass
        return base64.b64encode(value).decode() if binary == "base64" else str(describe(value))
    if isinstance(value, str | Blob):
        return str(value)
    return json.dumps(_plain(value), ensure_ascii=False, default=str)


def _raw_bytes(value: Any) -> bytes:
    if value is None or isinstance(value, bytes):
        return value or b""
    return _text("", value, "raw").encode("utf-8", "surrogateescape")


def _escaped(column: Sequence[str]) -> Sequence[str]:
    """Return texts in which tabs, newlines, NULs and backslashes are escaped."""
    if not _SPECIAL.search("".join(column)):
        return column
    return [_SPECIAL.sub(lambda found: _ESCAPES[found[0]], text) for text in column]


def _json_value(name: str, value: Any, binary: Binary, url: str, key: str) -> Any:
    if isinstance(value, bytes):
        if kind_of(extension(name)) in ("number", "JSON"):
            return decode(name, value, url=url, key=key)
        return _text(name, value, binary)
    return str(value) if isinstance(value, Blob) else _plain(value)


def _plain(value: Any) -> Any:
    """Return numpy's numbers and arrays as Python numbers and lists."""
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _dump(row: dict[str, Any], url: str, key: str) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=_refuse)
    except (TypeError, ValueError) as error:
        raise SampleError(
            f"the row cannot be written as JSON: {error}",
            url=url,
            member=key,
            fix="return numbers, texts, lists and dicts",
        ) from error


def _refuse(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__}")


def _shape(schema: Schema) -> str:
    dtype, shape = schema or ("", ())
    return f"{np.dtype(dtype).name} of shape {tuple(shape)}"


def _pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise JobError("Parquet needs pyarrow", fix="install it: pip install pyarrow") from error
