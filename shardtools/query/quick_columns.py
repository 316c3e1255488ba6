"""Columns of small texts and integers, made of the bytes of a plain shard by numpy alone.

    members -> their bytes, end to end -> checksums -> integers or texts, as arrays of Arrow

What is written in a more unusual way (an integer of 19 digits, say, or with spaces around it) is left to DuckDB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.query.kinds import Kinds
from shardtools.query.names import content_of
from shardtools.shards.columns import Texts
from shardtools.shards.members import IndexedShard
from shardtools.types import Ints

_DIGITS = 18
"""The most digits of an integer, so that it surely has 64 bits."""

_LARGEST = 1 << 31
"""The bytes of a column of texts must be fewer."""


def quick_columns(shard: IndexedShard, fields: Sequence[str]) -> dict[str, tuple[Any, Kinds]]:
    """Return the columns of those ``fields`` for which it can be done, with their kinds.

    Raises:
        StorageError, ShardError: the shard cannot be read.
    """
    found = {}
    if not shard.is_plain or shard.foreign:
        return {}
    for field in fields:
        if (content := content_of(field)) not in ("number", "text"):
            continue
        members = shard.table.members_of(field)
        there = members >= 0
        column = (_integers if content == "number" else _strings)(shard.read_texts(members[there]), there)
        if column is not None:
            found[field] = column
    return found


def _integers(texts: Texts, there: npt.NDArray[np.bool_]) -> tuple[Any, Kinds] | None:
    """Return integers, null for samples that are not ``there``; None if one is not just digits and a sign."""
    import pyarrow

    if (numbers := parse_integers(texts)) is None:
        return None
    column = np.zeros(len(there), np.int64)
    column[there] = numbers
    kinds = Kinds.of_integers(int(numbers.min(initial=0)), int(numbers.max(initial=0)))
    return pyarrow.array(column, mask=None if there.all() else ~there), kinds


def parse_integers(texts: Texts) -> Ints | None:
    """Return the integers that texts are; None if one of them is not a sign, perhaps, and 1 to 18 digits.

    >>> parse_integers(Texts.of([b"7", b"-12", b"+007"])).tolist(), parse_integers(Texts.of([b"7 "]))
    ([7, -12, 7], None)
    """
    starts, sizes = texts.starts, texts.sizes
    if not len(texts):
        return np.empty(0, np.int64)
    if not sizes.min():
        return None
    first = texts.data[starts]
    signed = (first == ord("-")) | (first == ord("+"))
    starts, sizes = starts + signed, sizes - signed
    if not 0 < sizes.min() <= sizes.max() <= _DIGITS:
        return None
    numbers = np.zeros(len(texts), np.int64)
    for at in range(int(sizes.max())):
        rows = slice(None) if at < sizes.min() else np.flatnonzero(sizes > at)
        digits = texts.data[starts[rows] + at] - np.uint8(ord("0"))
        if digits.max() > 9:
            return None
        numbers[rows] = 10 * numbers[rows] + digits
    return np.where(first == ord("-"), -numbers, numbers)


def _strings(texts: Texts, there: npt.NDArray[np.bool_]) -> tuple[Any, Kinds] | None:
    """Return texts, null for samples that are not ``there``; None if one is not UTF-8."""
    import pyarrow

    if len(texts.data) >= _LARGEST or not _are_utf8(texts):
        return None
    ends = np.zeros(len(there) + 1, np.int32)
    ends[1:][there] = texts.sizes
    np.cumsum(ends, out=ends)
    missing = None if there.all() else pyarrow.py_buffer(np.packbits(there, bitorder="little").tobytes())
    buffers = (pyarrow.py_buffer(ends), pyarrow.py_buffer(np.ascontiguousarray(texts.data)), missing)
    return pyarrow.StringArray.from_buffers(len(there), *buffers), Kinds(frozenset(("text",)))


def _are_utf8(texts: Texts) -> bool:
    """Return whether each of some texts is UTF-8."""
    try:
        if texts.data.tobytes().decode().isascii():
            return True
    except UnicodeDecodeError:
        return False
    first = texts.data[texts.starts[texts.sizes > 0]]
    return not ((first & 0xC0) == 0x80).any()  # none begins inside a character
