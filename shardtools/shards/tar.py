"""The tar format: its blocks, what one header says, and the headers of new members.

    bytes of a header -> number, name, checksum; of an extension header -> name and size of the next member
    names, sizes -> build_headers -> header blocks

A tar file is a sequence of 512-byte blocks: a header, its data padded to whole blocks, the next header. ``walk.py``
finds the headers one after another, ``locate.py`` all those of a buffer at once.

Formats: POSIX.1-2017 "pax" (ustar and its extension headers) and GNU tar's ``L`` names and base-256 numbers.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from shardtools.errors import CorruptError
from shardtools.shards.names import decode_name
from shardtools.types import Bytes, Ints

Size = TypeVar("Size", int, Ints)

BLOCK = 512
"""Bytes in a tar block; headers and data begin at multiples of it."""

END = bytes(2 * BLOCK)
"""What ends an archive."""

RECORD = 20 * BLOCK
"""The archive's length is padded to a multiple of this, as tar programs do."""

TYPE_AT, PREFIX_AT = 156, 345
"""Where in a header its type flag is, and where the prefix of its name begins."""

NAME, SIZE, CHECKSUM, MAGIC = slice(100), slice(124, 136), slice(148, 156), slice(257, 263)
"""Where in a header its name is, the size of its data, its checksum, and the magic of its format."""

PREFIX = slice(PREFIX_AT, 500)
"""Where in a ustar header the prefix of its name is."""

USTAR = b"ustar\0"
"""The magic of headers that have a prefix."""

# Type flags of headers.
PAX, PAX_GLOBAL, _LONG_NAME, _LONG_LINK, SPARSE = b"xgLKS"

BEFORE_A_MEMBER = bytes([PAX, _LONG_NAME, _LONG_LINK])
"""The type flags of headers that describe the next member."""

EXTENSIONS = BEFORE_A_MEMBER + bytes([PAX_GLOBAL])
"""Those of headers that describe the next member, or all."""

EMPTY = b"123456"
"""Those of members without data."""

REGULAR = b"0\x007"
"""Those of regular files."""

REPAIR = "fetch or make the shard again"


def padded(size: Size) -> Size:
    """Return a size, or each of several, rounded up to whole blocks: what data take in a tar file.

    >>> padded(0), padded(1), padded(512), padded(np.array([0, 513])).tolist()
    (0, 512, 512, [0, 1024])
    """
    return size + (-size & (BLOCK - 1))


def member_size(size: Size) -> Size:
    """Return how many bytes of a tar file a member with ``size`` bytes of data takes, or each of several.

    That is with one header; extension headers, which long names need, come on top.

    >>> member_size(1)
    1024
    """
    return BLOCK + padded(size)


def blocks_of(data: Bytes) -> Bytes:
    """Return the whole blocks of a buffer, one a row; bytes at its end that do not fill a block are left out."""
    return data[: len(data) // BLOCK * BLOCK].reshape(-1, BLOCK)


def repair(what: str) -> str:
    """Return what to do about a damaged file, which is a ``what``."""
    return f"fetch or make the {what} again"


def bad_header(url: str | None, offset: int, what: str = "shard") -> CorruptError:
    """Return the error for a header whose checksum is wrong."""
    return CorruptError(f"the header checksum at byte {offset} is wrong", url=url, fix=repair(what))


def sparse(url: str | None, member: str | None, what: str = "shard") -> CorruptError:
    """Return the error for a sparse member, which holds only parts of a file."""
    fix = f"make the {what} again with tar without --sparse"
    return CorruptError("sparse members are not supported", url=url, member=member, fix=fix)


def own_name(header: bytes) -> bytes:
    """Return the name in a header block itself; an extension header may replace it."""
    name = header[NAME].split(b"\0", 1)[0]
    if not header[PREFIX_AT] or header[MAGIC] != USTAR:
        return name
    return header[PREFIX].split(b"\0", 1)[0] + b"/" + name


def parse_number(field: bytes) -> int:
    """Return the number in a header's field: octal, or base 256 if the first bit is set.

    Raises:
        ValueError: it is neither.

    >>> parse_number(b"00000000144\\0"), parse_number(b"\\x80\\0\\0\\0\\0\\0\\0\\2\\0\\0\\0\\0")
    (100, 8589934592)
    """
    if field[:-1].isdigit() and field[-1] in b"\0 ":  # the usual form
        return int(field[:-1], 8)
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    text = field.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    if not text.isdigit():  # int() would take signs, underscores and prefixes
        raise ValueError("not an octal number")
    return int(text, 8)


def parse_pax(payload: bytes) -> dict[str, bytes]:
    """Return the records of a pax extension header.

    Raises:
        ValueError: a record is malformed.

    >>> parse_pax(b"12 path=a/b\\n")
    {'path': b'a/b'}
    """
    records = {}
    at = 0
    while at < len(payload) and payload[at]:
        space = payload.index(b" ", at)
        stop = at + int(payload[at:space])
        name, equals, value = payload[space + 1 : stop - 1].partition(b"=")
        if not equals or stop <= space or payload[stop - 1 : stop] != b"\n":
            raise ValueError("malformed pax record")
        records[name.decode("utf-8", "replace")] = value
        at = stop
    return records


def checksum_holds(header: bytes) -> bool:
    """Return whether the checksum is right, as the sum of unsigned or, in some old archives, of signed bytes."""
    try:
        stored = parse_number(header[CHECKSUM])
    except ValueError:
        return False
    body = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(body)
    return stored == unsigned or stored == unsigned - 256 * sum(byte > 127 for byte in body)


def read_extension(
    kind: int, payload: bytes, *, offset: int, url: str | None, what: str = "shard"
) -> tuple[bytes | None, int | None]:
    """Return the name and the size that an extension header gives to the next member, or None for either.

    ``kind`` is the header's type flag, ``payload`` its data, and ``offset`` where it begins.

    Raises:
        CorruptError: it is malformed, or of a kind that is not supported.
    """
    if kind == _LONG_NAME:
        return payload.split(b"\0", 1)[0], None
    if kind == _LONG_LINK or _is_time(payload):
        return None, None
    try:
        records = parse_pax(payload)
        size = None if kind == PAX_GLOBAL else _pax_size(records)
    except ValueError as error:
        raise CorruptError(f"malformed pax header at byte {offset}", url=url, fix=repair(what)) from error
    if any(name.startswith("GNU.sparse") for name in records):
        raise sparse(url, decode_name(records.get("GNU.sparse.name", b"")) or None, what)
    if kind == PAX_GLOBAL and not {"path", "size"}.isdisjoint(records):
        problem = f"a global pax header at byte {offset} renames or resizes members"
        raise CorruptError(problem, url=url, fix=repair(what))
    return records.get("path"), size


def _is_time(payload: bytes) -> bool:
    """Return whether a pax payload holds one ``mtime`` record and nothing else: see `locate.only_times`."""
    return payload[2:9] == b" mtime=" and payload[:2] == b"%02d" % len(payload) and payload.endswith(b"\n")


def _pax_size(records: dict[str, bytes]) -> int | None:
    """Return the size in pax records, or None; a negative size would lead back to the same header, forever."""
    size = records.get("size")
    if size is not None and not size.isdigit():
        raise ValueError("not a decimal number")
    return None if size is None else int(size)


_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_TEMPLATE = np.frombuffer(_HEADER[:148] + bytes(8) + _HEADER[156:], np.uint8)
_EMPTY_SUM = int(_TEMPLATE.sum(dtype=np.int64)) + 8 * 32 - 11 * 48
_LIMIT = 8**11


def build_headers(names: Sequence[bytes], sizes: Sequence[int]) -> list[memoryview]:
    """Return the header blocks of regular files: mode 0644, owner and time 0, ustar, or pax where that is too small.

    >>> [len(header) for header in build_headers([b"a.txt", b"d" * 300 + b".txt"], [1, 2])]
    [512, 1536]
    """
    if not names:
        return []
    longest = max(map(len, names))
    number = np.array(sizes, np.int64)
    if longest > 100 or number.max() >= _LIMIT:
        return [memoryview(_build_header(name, size)) for name, size in zip(names, sizes, strict=True)]
    rows = np.empty((len(names), BLOCK), np.uint8)
    rows[:] = _TEMPLATE
    text = np.array(names, f"S{longest}").view(np.uint8).reshape(len(names), longest)
    rows[:, :longest] = text
    digits = ((number[:, None] >> np.arange(30, -1, -3)) & 7).astype(np.uint8) + np.uint8(48)
    rows[:, 124:135] = digits
    total = _EMPTY_SUM + text.sum(axis=1, dtype=np.int64) + digits.sum(axis=1, dtype=np.int64)
    rows[:, 148:154] = ((total[:, None] >> np.arange(15, -1, -3)) & 7) + 48
    rows[:, 155] = 32
    flat = rows.reshape(-1).data
    return [flat[at : at + BLOCK] for at in range(0, len(flat), BLOCK)]


def _build_header(name: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.size = size
    if name.startswith(b"/") and len(name) > 100:  # tarfile would make its slash the one that splits the name
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    except ValueError:
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
