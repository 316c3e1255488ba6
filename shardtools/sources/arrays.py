"""Arrays whose first axis is samples: a ``.npy``, or an ``.npz`` of several that are equally long.

file -> headers -> ArraySource -> ArrayPart -> one row of each array, encoded
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardtools.errors import CorruptError, JobError, redact
from shardtools.shards.fields import encode, extension
from shardtools.shards.npy import Header
from shardtools.shards.tar import member_size
from shardtools.sources import Source
from shardtools.sources.array_file import Array, ArrayFile, OpenArrayFile, close, opened
from shardtools.sources.names import check_fields, number_key
from shardtools.storage import get_storage
from shardtools.types import Ints
from shardtools.urls import absolute, split_path

ENDINGS = (".npy", ".npz")

_FORGET_BYTES = 32 << 20
_TRIED = 64
"""Rows that are encoded to estimate the size of all."""


@dataclass(frozen=True)
class ArrayRules:
    """How arrays become fields: ``names`` has pairs of a field and the name of its array.

    The array of a ``.npy`` has the name of its file, without the ending. Without rules it becomes the field ``npy``,
    and each array ``x`` of an ``.npz`` the field ``x.npy``.
    """

    names: tuple[tuple[str, str], ...] = ()


def open_array(name: str, rules: ArrayRules = ArrayRules()) -> ArraySource:
    """Return the rows of the arrays in a ``.npy`` or ``.npz`` file, a path or URL, as a source.

    Raises:
        JobError: the file is damaged, or its arrays do not fit the rules, are not equally long, or hold objects.
        StorageError: it cannot be read.
    """
    url = absolute(name)
    ending = split_path(url)[1].lower()[-4:]
    if ending not in ENDINGS:
        raise JobError("this is not a file of arrays", url=url, fix=f"give one of {', '.join(ENDINGS)}")
    file = ArrayFile(url, get_storage(url).stat(url))
    try:
        headers = opened(file).headers()
    except CorruptError as error:
        raise JobError(error.what, url=error.url, fix=error.fix) from error
    names = rules.names
    if not names:
        names = tuple((f"{array}.npy" if ending == ".npz" else "npy", array) for array in headers)
    check_fields((field for field, _ in names), url, rename="name fields like png or seg.png, as in --as png=ARRAY")
    rows = _check(headers, [array for _, array in names], url)
    return ArraySource(name, file, names, rows)


def _check(headers: Mapping[str, Header], names: Sequence[str], url: str) -> int:
    """Return the length of the first axis of some arrays, after checking them."""
    if not names:
        raise JobError("there are no arrays in this file", url=url, fix="check the program that wrote it")
    for name in names:
        if name not in headers:
            raise JobError(f"there is no array {name!r}", url=url, fix=f"the arrays are {', '.join(headers)}")
        header = headers[name]
        if header.dtype.hasobject:
            raise JobError(
                f"the array {name!r} holds Python objects, which only pickle could read",
                url=url,
                fix="save it with a type of numbers or text, as in array.astype(...), or leave it out with --as",
            )
        if not header.shape:
            fix = "give an array with one row a sample, or leave it out with --as"
            raise JobError(f"the array {name!r} is a single value", url=url, fix=fix)
        first, length = headers[names[0]].shape[0], header.shape[0]
        if length != first:
            raise JobError(
                f"the array {names[0]!r} has {first:,} rows, but {name!r} has {length:,}",
                url=url,
                fix="each row is a sample: make them equally long, or choose arrays with --as",
            )
    rows = headers[names[0]].shape[0]
    if not rows:
        raise JobError(f"the array {names[0]!r} has no rows", url=url, fix="check the program that wrote it")
    return rows


class ArraySource(Source):
    """Rows of arrays as samples. Their sizes are estimated from some encoded rows."""

    def __init__(self, name: str, file: ArrayFile, names: tuple[tuple[str, str], ...], rows: int):
        self.name = name
        self._file = file
        self._names = names
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def key(self, row: int) -> str:
        return number_key(row)

    def place(self, row: int) -> str:
        return f"{redact(self._file.url)} row {row}"

    def sizes(self) -> Ints:
        rows = np.unique(np.linspace(0, len(self) - 1, _TRIED).astype(np.int64))
        part = self.part(rows)
        size = 0
        for row in range(len(part)):
            record = part.record(row)
            size += sum(member_size(len(data)) for name, data in record.items() if name != "key")
        part.close()
        return np.full(len(self), size // len(rows), np.int64)

    def part(self, rows: Ints) -> ArrayPart:
        return ArrayPart(self._file, self._names, rows)

    def close(self) -> None:
        close(self._file)


class ArrayPart:
    """Some rows of the arrays in a file; ``names`` is as in `ArrayRules`."""

    def __init__(self, file: ArrayFile, names: tuple[tuple[str, str], ...], rows: Ints):
        self._file = file
        self._names = names
        self._rows = rows
        self._open: OpenArrayFile | None = None
        self._arrays: list[tuple[str, Array, bool]] = []
        self._read = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayPart, (self._file, self._names, self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, row: int) -> str:
        return number_key(int(self._rows[row]))

    def value(self, row: int, field: str) -> bytes | None:
        value: bytes | None = self.record(row).get(field)
        return value

    def record(self, row: int) -> dict[str, Any]:
        if self._open is None:
            self._open = opened(self._file)
        if not self._arrays:
            self._arrays = [(field, self._open.array(name), _keeps_arrays(field)) for field, name in self._names]
        number = int(self._rows[row])
        key = number_key(number)
        record: dict[str, Any] = {"key": key}
        for field, array, as_array in self._arrays:
            value = array[number, ...]
            self._read += value.nbytes
            if not as_array:
                # An image or a number has no byte order; a row of a one-dimensional array is a scalar.
                value = value.astype(value.dtype.newbyteorder("="), copy=False)[()]
            is_bytes = value.dtype.kind == "V" and value.dtype.names is None
            record[field] = value.tobytes() if is_bytes else bytes(encode(field, value, url=self._file.url, key=key))
        if self._read > _FORGET_BYTES:
            self._open.forget_pages()
            self._read = 0
        return record

    def facts(self) -> Sequence[Any]:
        stat = self._file.stat
        return [redact(self._file.url), stat.size, stat.validator, list(map(list, self._names)), self._rows.tolist()]

    def close(self) -> None:
        self._arrays = []
        if self._open is not None:
            self._open.forget_pages()
            self._open = None


def _keeps_arrays(field: str) -> bool:
    """Return whether a field holds arrays of any type and shape, also without an axis."""
    return extension(field.lower().removesuffix(".gz")) == "npy"
