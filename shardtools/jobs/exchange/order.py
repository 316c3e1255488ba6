"""The order of a sample: bytes, such that comparing them compares the samples.

    random       64 random bits of a counter-based generator, then the sample's place in the input
    a key        its bytes
    a number     8 bytes, so that larger numbers have larger bytes
    a tuple      its parts, each encoded so that it is not the beginning of another

Samples with equal orders keep the order of the input.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import JobError, SampleError
from shardtools.types import Bytes, Ints

RANDOM_BYTES = 16
"""The length of a random order: 8 random bytes, 4 for the input shard, 4 for the sample."""

_SHARD_SAMPLES = 1 << 32
_DIGITS = re.compile(rb"[0-9]+")
_INVERTED = bytes(255 - byte for byte in range(256))

_NOTHING, _NUMBER, _TEXT, _BYTES, _TUPLE = b"\x00", b"\x10", b"\x20", b"\x30", b"\x40"


class RandomOrder:
    """The random orders of the samples of one input shard, one after another.

    They depend only on the seed, the index of the shard and the index of the sample (Salmon et al., Parallel random
    numbers: as easy as 1, 2, 3; SC 2011).
    """

    def __init__(self, seed: int, ordinal: int):
        self._generator = np.random.Philox(key=np.array([seed % 2**64, ordinal], np.uint64))
        self._ordinal = ordinal
        self._next = 0

    def take(self, count: int) -> Bytes:
        """Return the orders of the next ``count`` samples, end to end."""
        if self._next + count > _SHARD_SAMPLES:
            raise JobError(f"a shard has more than {_SHARD_SAMPLES:,} samples", fix="split it first")
        rows = np.empty((count, 2), ">u8")
        rows[:, 0] = self._generator.random_raw(count)
        rows[:, 1] = (self._ordinal << 32) + np.arange(self._next, self._next + count, dtype=np.uint64)
        self._next += count
        return rows.view(np.uint8).reshape(-1)


def order_of_text(data: bytes) -> bytes:
    """Return the order of a text: its bytes, in which each zero is escaped, so that two zeros can end it.

    >>> order_of_text(b"a") < order_of_text(b"a\\0") < order_of_text(b"a\\0b") < order_of_text(b"aa")
    True
    """
    return data.replace(b"\0", b"\0\xff")


def order_of_int(value: int) -> bytes:
    """Return the order of a whole number that fits into 64 bits.

    >>> order_of_int(-3) < order_of_int(-2) < order_of_int(0) < order_of_int(2**40)
    True
    """
    try:
        return (value + 2**63).to_bytes(8, "big")
    except OverflowError:
        raise ValueError(f"{value} does not fit into 64 bits") from None


def order_of_float(value: float) -> bytes:
    """Return the order of a number; NaN comes last, and both zeros are the same.

    >>> inf = float("inf")
    >>> order_of_float(-inf) < order_of_float(-1e9) < order_of_float(-0.0) == order_of_float(0) < order_of_float(1e-9)
    True
    >>> order_of_float(inf) < order_of_float(float("nan"))
    True
    """
    if value != value:
        return b"\xff" * 8
    bits = int.from_bytes(struct.pack(">d", value + 0.0), "big")
    return (bits ^ (2**64 - 1 if bits >> 63 else 2**63)).to_bytes(8, "big")


def order_of_natural(data: bytes) -> bytes:
    """Return the order of a text in which runs of digits count as numbers.

    >>> sorted([b"a10", b"a9", b"a010", b"b", b"a"], key=order_of_natural)
    [b'a', b'a9', b'a010', b'a10', b'b']
    """
    short = _DIGITS.sub(_number, order_of_text(data))
    return short + b"\0\0" + data  # texts with the same numbers are compared by their bytes


def _number(found: re.Match[bytes]) -> bytes:
    digits = found[0].lstrip(b"0") or b"0"
    return b"0" + len(digits).to_bytes(4, "big").replace(b"\0", b"\0\xff") + digits


def order_of_value(value: Any) -> bytes:
    """Return the order of what a script returns: None, numbers, texts, bytes, and tuples or lists of these.

    Numbers are compared with numbers, texts with texts; None comes first.

    Raises:
        SampleError: it is something else.

    >>> values = [None, -1, 0.5, 2**60, 2**60 + 1, 1e300, "a", "ab", ("a", 1), ("a", 2), ("ab", 0)]
    >>> sorted(values, key=order_of_value) == values
    True
    """
    if value is None:
        return _NOTHING
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, bool | int):
        try:
            rounded = float(value)
            return _NUMBER + order_of_float(rounded) + order_of_int(value - int(rounded))
        except (OverflowError, ValueError):
            fix = "return it as a text of as many digits as all have, such as f'{number:039}'"
            raise SampleError("a number is too large to sort by", fix=fix) from None
    if isinstance(value, float):
        return _NUMBER + order_of_float(value) + order_of_int(0)
    if isinstance(value, str):
        return _TEXT + order_of_text(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, bytes):
        return _BYTES + order_of_text(value)
    if isinstance(value, tuple | list):
        return _TUPLE + b"".join(_ended(order_of_value(part)) for part in value) + b"\0\0"
    fix = "return a number, a text, bytes, None, or a tuple of these"
    raise SampleError(f"a {type(value).__name__} cannot be sorted by", fix=fix)


def _ended(order: bytes) -> bytes:
    """Return the order of a part of a tuple, so that it is not the beginning of another; it never begins with zero."""
    return b"\x01" + order.replace(b"\0", b"\0\xff") + b"\0\0"


def reversed_order(order: bytes) -> bytes:
    """Return bytes for the opposite order.

    >>> sorted([b"a", b"ab", b"b"], key=reversed_order)
    [b'b', b'ab', b'a']
    """
    return (order.replace(b"\0", b"\0\xff") + b"\0\0").translate(_INVERTED)


READINGS: dict[str, Callable[[bytes], bytes]] = {
    "text": order_of_text,
    "int": lambda data: order_of_int(int(data)),
    "float": lambda data: order_of_float(float(data)),
    "natural": order_of_natural,
}
"""How the bytes of a field can be read: the name in ``--by FIELD:NAME``."""


def prefixes(data: Bytes, starts: Ints, stops: Ints) -> npt.NDArray[np.uint64]:
    """Return the first 8 bytes of each text as a number, as if zeros followed its end.

    >>> [hex(n) for n in prefixes(np.frombuffer(b"abc", np.uint8), np.array([0, 2]), np.array([2, 3])).tolist()]
    ['0x6162000000000000', '0x6300000000000000']
    """
    found = np.zeros(len(starts), np.uint64)
    for i in range(8):
        at = starts + i
        inside = at < stops
        if not inside.any():
            break
        byte = data[np.where(inside, at, 0)].astype(np.uint64) if len(data) else np.zeros(len(at), np.uint64)
        found |= np.where(inside, byte, 0).astype(np.uint64) << np.uint64(56 - 8 * i)
    return found


def sort_texts(texts: Sequence[bytes]) -> Ints:
    """Return the indexes that sort texts; the sort is stable."""
    return np.array(sorted(range(len(texts)), key=texts.__getitem__), np.int64)
