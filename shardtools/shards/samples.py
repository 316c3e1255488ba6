"""Samples as Python records.

    Block -> records -> process_sample -> members_of -> writer

A **record** is a dict: ``record["key"]`` is the sample's key, every other entry a field's bytes. The same key can be
asked for as ``record["__key__"]``, and where the record came from as ``__url__``, ``__shard__`` (the file's name) and
``__index__`` (the sample's position in its shard); none of these are entries, and none are ever written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shardtools.errors import DuplicateKeyError, SampleError
from shardtools.shards.fields import encode
from shardtools.shards.reader import Block
from shardtools.shards.table import encode_name
from shardtools.spec import name_of


class Record(dict[str, Any]):
    """A sample: a dict of its key and fields, which also knows where it came from.

    >>> record = Record({"key": "a", "txt": b"hello"})
    >>> record["__key__"], "__key__" in record, list(record)
    ('a', True, ['key', 'txt'])
    """

    __slots__ = ("index", "url")

    url: str
    index: int

    def __missing__(self, name: str) -> Any:
        if name == "__key__":
            return self["key"]
        if name == "__url__":
            return self.url
        if name == "__shard__":
            return name_of(self.url)
        if name == "__index__":
            return self.index
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or name in _SPECIAL

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return an entry, or one of the special names, or ``default``."""
        try:
            return self[name]
        except KeyError:
            return default


_SPECIAL = frozenset(("__key__", "__url__", "__shard__", "__index__"))


def records(block: Block) -> Iterator[Record]:
    """Yield the samples of a block; their fields are bytes of their own, which outlive the block."""
    table, buffer = block.table, block.buffer
    start = (table.offset - block.base).tolist()
    stop = (table.offset - block.base + table.size).tolist()
    names = np.array(table.fields, object)[table.field].tolist() if len(table) else []
    first = table.first.tolist()
    url, index = block.url, block.index
    for i, key in enumerate(block.keys):
        record = Record(key=key)
        for j in range(first[i], first[i + 1]):
            record[names[j]] = buffer[start[j] : stop[j]].tobytes()
        record.url = url
        record.index = index + i
        yield record


Members = list[tuple[str, bytes, bytes]]
"""The members of one sample, in the order they are written: field, name and data."""


class Composer:
    """Turns records into members; remembers what it found out about each set of fields."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[str, ...], list[tuple[str, bytes]]] = {}

    def compose(self, record: object) -> tuple[str, Members]:
        """Return the key and the members of a record, encoded, with fields sorted.

        Raises:
            SampleError: it is not a record, or its key or a field cannot be a member's name.
            FieldError: a value cannot be encoded.
        """
        if not isinstance(record, Mapping):
            raise SampleError(
                f"a record must be a dict, not {type(record).__name__}",
                fix='return None, or a dict such as {"key": record["key"], "txt": "..."}',
            )
        names = tuple(record)
        key = record["__key__"] if "__key__" in names else record.get("key")
        if not isinstance(key, str):
            raise SampleError(
                "a record must have its key, a str, as 'key'" if key is None else f"a key must be a str, not {key!r}",
                fix='return it with "key": record["key"]',
            )
        stem = _check_key(key)
        layout = self._layouts.get(names)
        if layout is None:
            layout = self._layouts[names] = _layout(names, key)
        members = []
        for field, suffix in layout:
            value = record[field]
            if type(value) is not bytes:
                value = encode(field, value, key=key)
            members.append((field, stem + suffix, value))
        return key, members


def _check_key(key: str) -> bytes:
    """Return a key's bytes if a member named with it reads back with the same key."""
    base = key.rpartition("/")[2]
    if not base or "." in base or "\0" in key or key.startswith("./") or (key == base and base.startswith("__")):
        raise SampleError(
            f"{key!r} cannot be a key",
            fix="a key is a path whose last component is not empty, has no dot, and does not begin with __",
        )
    try:
        return encode_name(key)
    except UnicodeEncodeError as error:
        raise SampleError(f"{key!r} cannot be a key", fix="use text that UTF-8 can encode") from error


def _layout(names: tuple[Any, ...], key: str) -> list[tuple[str, bytes]]:
    """Return the fields to write, sorted, with what each adds to the key to make its member's name."""
    layout = []
    for name in names:
        if not isinstance(name, str):
            raise SampleError(f"a field's name must be a str, not {name!r}", member=key, fix="name fields like png")
        if name == "key" or name.startswith("__"):
            continue
        if not name or "/" in name or "\0" in name:
            raise SampleError(f"{name!r} cannot be a field", member=key, fix="name fields like png or seg.png")
        layout.append((name, encode_name("." + name)))
    if not layout:
        raise SampleError("the record has no fields", member=key, fix="return None to drop the sample")
    return sorted(layout)


def refuse_repeated(block: Block) -> None:
    """Raise if a sample of the block has a key that came earlier in the shard, not right before it.

    Raises:
        DuplicateKeyError: one has; every other reader would silently make two samples of it.
    """
    if block.repeated:
        raise repeated_key(block.url, block.keys[block.repeated[0]])


def repeated_key(url: str, key: str) -> DuplicateKeyError:
    """Return the error for a key whose members are not next to each other."""
    return DuplicateKeyError(
        "this key occurs again after other samples",
        url=url,
        member=key,
        fix="htsort groups the members of each sample; two samples with one key must be renamed",
    )
