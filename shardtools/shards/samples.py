"""Samples as Python records.

    Block -> records -> process_sample -> members_of -> writer

A **record** is a dict: ``record["key"]`` is the sample's key, every other entry a field's bytes. The same key can be
read as ``record["__key__"]``, and where the record came from as ``__url__``, ``__shard__`` (the file's name) and
``__index__`` (the sample's position in its shard); none of these are entries, and none are ever written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from reprlib import Repr
from typing import Any

import numpy as np

from shardtools.errors import SampleError
from shardtools.shards.fields import encode
from shardtools.shards.names import KEY_FIELD, encode_name, is_field, is_key, is_meta, is_special
from shardtools.shards.reader import Block
from shardtools.urls import name_of


class Record(dict[str, Any]):
    """A sample: a dict of its key and fields, which also knows where it came from.

    >>> record = Record({"key": "a", "txt": b"hello"})
    >>> record["__key__"], "__key__" in record, list(record)
    ('a', True, ['key', 'txt'])

    Its `repr` is short; that of ``dict(record)`` has all bytes.

    >>> Record({"key": "a", "jpg": bytes(12_345), "cls": b"7"})
    Record({'key': 'a', 'jpg': <12,345 bytes>, 'cls': b'7'})
    """

    __slots__ = ("index", "url")

    url: str
    index: int

    def __missing__(self, name: str) -> Any:
        if name == "__key__":
            return self["key"]
        try:
            if name == "__url__":
                return self.url
            if name == "__shard__":
                return name_of(self.url)
            if name == "__index__":
                return self.index
        except AttributeError:  # a record that a user made comes from nowhere
            raise KeyError(name) from None
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or (name in _SPECIAL and self.get(str(name)) is not None)

    def __repr__(self) -> str:
        return f"Record({_short_repr(dict(self))})"

    def copy(self) -> Record:
        """Return a shallow copy, which knows where it came from, too."""
        return copy(self)

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return an entry, or one of the special names, or ``default``."""
        try:
            return self[name]
        except KeyError:
            return default


class _ShortRepr(Repr):
    """A `repr` of bounded length: of long bytes and of arrays only the size is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlevel = 4

    def repr_dict(self, entries: dict[Any, Any], level: int) -> str:
        """Return what `dict` shows, in the order of the entries."""
        most = _ENTRIES if level == self.maxlevel else self.maxdict if level > 0 else 0
        shown = [f"{self.repr1(name, 0)}: {self.repr1(entries[name], level - 1)}" for name in islice(entries, most)]
        return f"{{{', '.join([*shown, '...'] if len(entries) > most else shown)}}}"

    def repr_bytes(self, data: bytes, level: int) -> str:
        """Return short bytes as they are."""
        return repr(data) if len(data) <= _SHORT_BYTES else f"<{len(data):,} bytes>"

    def repr_ndarray(self, array: np.ndarray[Any, Any], level: int) -> str:
        """Return the type and shape of an array."""
        return f"<{array.dtype} array of shape {array.shape}>"


_ENTRIES = 20
"""Entries of a record that are shown."""

_SHORT_BYTES = 20
"""Bytes that are shown rather than counted."""

_short_repr = _ShortRepr().repr

_SPECIAL = frozenset(("__key__", "__url__", "__shard__", "__index__"))


def records(block: Block) -> Iterator[Record]:
    """Yield the samples of a block; their fields are bytes of their own, which outlive the block."""
    table, buffer = block.table, block.buffer
    start = (table.offset - block.base).tolist()
    stop = (table.offset - block.base + table.size).tolist()
    names = np.array(table.fields, object)[table.field].tolist() if len(table) else []
    first = table.first.tolist()
    url, positions = block.url, block.positions.tolist()
    for i, key in enumerate(block.keys):
        record = Record(key=key)
        for j in range(first[i], first[i + 1]):
            record[names[j]] = buffer[start[j] : stop[j]].tobytes()
        record.url = url
        record.index = positions[i]
        yield record


def field_values(block: Block, field: str, rows: Sequence[int] | None = None) -> list[bytes | None]:
    """Return the bytes of a field of each sample of a block, or of those at ``rows``; None for a sample without it."""
    table = block.table
    members = table.members_of(field)
    if rows is not None:
        members = members[np.array(rows, np.int64)]
    values: list[bytes | None] = [None] * len(members)
    there = np.flatnonzero(members >= 0)
    starts, sizes = table.offset[members[there]] - block.base, table.size[members[there]]
    for row, start, size in zip(there.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        values[row] = block.buffer[start : start + size].tobytes()
    return values


_is_plain = re.compile(r"(?:[a-z0-9][\w.-]*/)*[a-z0-9][\w-]*", re.ASCII | re.IGNORECASE).fullmatch
"""Matches keys that need no further check, which are most."""

_LAYOUTS = 10_000
"""Sets of fields to remember at most."""


@dataclass(frozen=True, eq=False)
class RecordLayout:
    """The fields of a record, sorted, and what each adds to the key to make its member's name."""

    fields: tuple[str, ...]
    suffixes: tuple[bytes, ...]


Members = tuple[RecordLayout, list[bytes]]
"""The members of one sample, in the order they are written: their layout and their data."""


class Composer:
    """Turns records into members; remembers the layout of each set of fields."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[Any, ...], RecordLayout] = {}

    def compose(self, record: object) -> tuple[str, Members]:
        """Return the key and the members of a record, encoded, with fields sorted.

        Raises:
            SampleError: it is not a record, or its key or a field is not valid.
            FieldError: a value cannot be encoded.
        """
        if not isinstance(record, (dict, Mapping)):  # dict first: asking an abstract class takes long
            raise SampleError(
                f"a record must be a dict, not {type(record).__name__}",
                fix='return None, or a dict such as {"key": record["key"], "txt": "..."}',
            )
        names = tuple(record)
        key = record["__key__"] if "__key__" in names else record.get("key")
        if not isinstance(key, str):
            raise SampleError(
                "the record has no key" if key is None else f"a key must be a str, not {key!r}",
                fix='return it with "key": record["key"]',
            )
        layout = self.layout(names, key)
        values = [record[field] for field in layout.fields]
        for i, value in enumerate(values):
            if type(value) is not bytes:
                values[i] = encode(layout.fields[i], value, key=key)
        return key, (layout, values)

    def layout(self, names: tuple[Any, ...], key: str) -> RecordLayout:
        """Return the layout of a record's fields, given its ``names`` in any order, and check the key.

        Raises:
            SampleError: the key or a field cannot be a member's name.
        """
        layout = self._layouts.get(names)
        if layout is None:
            if len(self._layouts) >= _LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[names] = _layout(names, key)
        if not (key.isalnum() and key.isascii()) and not _is_plain(key):
            _check_key(key, layout)
        return layout


def _check_key(key: str, layout: RecordLayout) -> None:
    """Make sure that members named with the key read back with the same key."""
    if not is_key(key):
        raise SampleError(
            f"{key!r} is not a valid key",
            fix="a key is a path in UTF-8 whose last component is not empty and has no dot",
        )
    if is_special(key) and any(is_meta(encode_name(key) + suffix) for suffix in layout.suffixes):
        raise SampleError(
            f"{key!r} is not a valid key", fix="readers take names that begin and end with __ for metadata"
        )


def _layout(names: tuple[Any, ...], key: str) -> RecordLayout:
    fields = []
    for name in names:
        if not isinstance(name, str):
            raise SampleError(f"a field's name must be a str, not {name!r}", member=key, fix="name fields like png")
        if name == KEY_FIELD or is_special(name):
            continue
        if not is_field(name):
            raise SampleError(
                f"{name!r} is not a valid name of a field", member=key, fix="name fields like png or seg.png"
            )
        fields.append(name)
    if not fields:
        raise SampleError("the record has no fields", member=key, fix="return None to drop the sample")
    fields.sort()
    return RecordLayout(tuple(fields), tuple(encode_name("." + field) for field in fields))
