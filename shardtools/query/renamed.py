"""The table and the file of keys of a copied dataset, whose shards have other names: what differs in the files.

    table: all but the footer stays; in the footer, the names of shards in the facts
    keys:  all but the head stays; in the head, the digest of the shards

A string in a Parquet footer (Thrift's compact protocol) is its length as a varint, and its bytes. Nothing else says
where it ends, so it can be replaced by a longer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shardtools.errors import CorruptError
from shardtools.query.key_file import HEAD, KeyFile, head_of
from shardtools.query.table_file import ENTRY, ShardState, TableFacts
from shardtools.storage import ByteRange, get_storage

_END = b"PAR1"
_LENGTH = 4
_FIX = "make it again with htindex --table"


@dataclass(frozen=True)
class Splice:
    """A file as a change of another one: ``head``, the other's bytes from ``start`` up to ``stop``, ``tail``.

    ``stop`` is None for the end.
    """

    head: bytes = b""
    start: int = 0
    stop: int | None = None
    tail: bytes = b""


UNCHANGED = Splice()


def renamed(facts: TableFacts, names: Sequence[str]) -> TableFacts:
    """Return the facts of a table for shards with other names, and else the same."""
    shards = tuple(replace(shard, name=name) for shard, name in zip(facts.shards, names, strict=True))
    return replace(facts, shards=shards)


def rename_in_table(url: str, size: int, names: Sequence[str]) -> Splice:
    """Return the first file of a table, of ``size`` bytes, as one of shards with other names.

    Raises:
        CorruptError: it is damaged, or another program has written it.
        StorageError: it cannot be read.
    """
    ending = _LENGTH + len(_END)
    footer = _read(url, max(size - ending, 0), size)
    length = int.from_bytes(footer[:_LENGTH], "little") + ending
    if footer[_LENGTH:] != _END or length > size:
        raise CorruptError("it is not a Parquet file", url=url, fix=_FIX)
    footer = _read(url, size - length, size - ending)
    data = _facts_in(footer, url)
    new = renamed(TableFacts.parse(data, url), names).dump()
    before, _, after = footer.partition(_string(data))
    footer = before + _string(new) + after
    return Splice(stop=size - length, tail=footer + len(footer).to_bytes(_LENGTH, "little") + _END)


def _facts_in(footer: bytes, url: str) -> bytes:
    """Return the facts as they are in a footer.

    Raises:
        CorruptError: they are not there, or more than once.
    """
    key = _string(ENTRY)
    parts = footer.split(key)
    if len(parts) == 2:
        # a field of type string follows its key: one byte of header, then the value
        length, at = _varint(parts[1], 1)
        data = parts[1][at : at + length]
        if len(data) == length and footer.count(_string(data)) == 1:
            return data
    raise CorruptError("its footer is not as htindex writes it", url=url, fix=_FIX)


def _string(data: bytes) -> bytes:
    """Return a string as Thrift's compact protocol writes it.

    >>> _string(b"a" * 200)[:3]
    b'\\xc8\\x01a'
    """
    length, size = len(data), b""
    while length >= 0x80:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return size + bytes([length]) + data


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint that begins at ``at``, and where it ends."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            break
    return value, at


def _read(url: str, start: int, stop: int) -> bytes:
    [data] = get_storage(url).read_ranges(url, [ByteRange(start, stop)])
    return data


def rename_in_keys(url: str, states: Sequence[ShardState]) -> Splice:
    """Return a file of keys as one of shards in these states.

    Raises:
        CorruptError: it is no such file.
        StorageError: it cannot be read.
    """
    return Splice(head=head_of(KeyFile(url).samples, states), start=HEAD)
