"""Which column a name in SQL stands for.

    key, row, shard    of every sample: its key, its row in the shard, the number of the shard
    size.F, crc32.F    of the field F: the bytes of its data, and their checksum
    F                  the value of the field F: a number, or text; of a JSON field, its text
    F.a.b              what the JSON field F has at the path a, b
    F.width, F.height  those of the image that the field F is

Names that occur twice mean the first in this order. Small and capital letters make a difference only where two names
differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal

from shardtools.errors import JobError
from shardtools.shards.fields import kind_of

OWN = ("key", "row", "shard")
"""Columns that every sample has."""

MEASURES = ("size", "crc32")
"""What is known of each field without its data: ``size.jpg`` is the bytes of the field ``jpg``."""

DIMENSIONS = ("width", "height")
"""What is known of each image by its head: ``jpg.width``."""

SHOWN = 30
"""The most columns that an error lists."""

Content = Literal["number", "text", "JSON"]


@dataclass(frozen=True)
class ColumnSource:
    """Where the values of a column come from.

    ``what`` is one of `OWN`, one of `MEASURES` or `DIMENSIONS` (of ``field``), ``"value"`` of ``field``, or ``"path"``:
    ``path`` is the text after the name of the JSON ``field``.
    """

    what: str
    field: str = ""
    path: str = ""

    @property
    def column(self) -> str:
        """The name of the column in a table."""
        if self.what == "path":
            return f"{self.field}.{self.path}"
        if self.what in DIMENSIONS:
            return f"{self.field}.{self.what}"
        return self.field if self.what == "value" else f"{self.what}.{self.field}".rstrip(".")

    @property
    def needs_data(self) -> bool:
        """Whether the data of the field must be read."""
        return self.what in ("value", "path", *DIMENSIONS)

    @property
    def is_dimension(self) -> bool:
        """Whether it is about the head of an image."""
        return self.what in DIMENSIONS


def content_of(field: str) -> Content | None:
    """Return what a field's values are for SQL; None for images, arrays and compressed data.

    >>> [content_of(name) for name in ("cls", "txt", "meta.json", "caption", "seg.png", "json.gz")]
    ['number', 'text', 'JSON', 'text', None, None]
    """
    kind = kind_of(field)
    if kind in ("image", "array", "arrays") or field.lower().endswith(".gz"):
        return None
    return {"number": "number", "JSON": "JSON"}.get(kind, "text")  # type: ignore[return-value]


def find_source(name: str, fields: Sequence[str]) -> ColumnSource | None:
    """Return the source of a column, for samples that have ``fields``; None if there is no such column.

    >>> find_source("json.a.b", ["jpg", "json"])
    ColumnSource(what='path', field='json', path='a.b')
    >>> find_source("size.jpg", ["jpg", "json"]), find_source("jpg", ["jpg"]), find_source("CLS", ["cls"])
    (ColumnSource(what='size', field='jpg', path=''), None, ColumnSource(what='value', field='cls', path=''))
    """
    return _find(name, fields, str) or _find(name, fields, str.lower)


def _find(name: str, fields: Sequence[str], fold: Callable[[str], str]) -> ColumnSource | None:
    if fold(name) in OWN:
        return ColumnSource(fold(name))
    named = _named(tuple(fields), fold)
    measure, _, rest = name.partition(".")
    if fold(measure) in MEASURES and fold(rest) in named:
        return ColumnSource(fold(measure), named[fold(rest)])
    if (field := named.get(fold(name))) is not None and content_of(field) is not None:
        return ColumnSource("value", field)
    for at in reversed([at for at, letter in enumerate(name) if letter == "."]):
        if (field := named.get(fold(name[:at]))) is not None and content_of(field) == "JSON":
            return ColumnSource("path", field, name[at + 1 :])
    before, _, last = name.rpartition(".")
    if fold(last) in DIMENSIONS and (field := named.get(fold(before))) is not None and kind_of(field) == "image":
        return ColumnSource(fold(last), field)
    return None


@lru_cache(maxsize=16)  # each of thousands of fields is looked for among all
def _named(fields: tuple[str, ...], fold: Callable[[str], str]) -> dict[str, str]:
    return {fold(field): field for field in reversed(fields)}


def no_column(kind: str, name: str, fields: Iterable[str], paths: Iterable[str] = ()) -> JobError:
    """Return the error for a column that a condition names, and no sample has.

    It lists those of the ``fields``, and the ``paths``, whole names of columns.

    >>> str(no_column("condition", "clss", ["cls"]))[-59:]
    'there are key, row, shard, cls, size.cls; did you mean cls?'
    """
    columns = [*OWN, *dict.fromkeys(_columns(sorted(fields))), *sorted(paths)]
    fix = f"there are {', '.join(_some(columns))}"
    if close := get_close_matches(name.lower(), columns, 1):
        fix = f"{fix}; did you mean {close[0]}?"
    elif "." not in name.strip(".0123456789"):
        fix = f"{fix}; a text has single quotes: '{name}'"
    return JobError(f"the {kind} names {name}, but no sample has such a column", fix=fix)


def _columns(fields: Sequence[str]) -> Iterator[str]:
    yield from (field for field in fields if content_of(field) is not None)
    yield from (f"{field}.{what}" for field in fields if kind_of(field) == "image" for what in DIMENSIONS)
    yield from (f"size.{field}" for field in fields)


def _some(names: Sequence[str]) -> Sequence[str]:
    return names if len(names) <= SHOWN else [*names[:SHOWN], f"and {len(names) - SHOWN:,} more"]
