"""All headers of a buffer at once, with numpy.

    buffer -> blocks with the ustar magic -> does each one's data end where the next one begins? -> LocatedHeaders

Any other buffer (a tar within a tar, no magic, sizes over 8 GiB, an archive after the end of the first) is walked
header by header (``walk.py``), which takes several times as long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import CorruptError, TruncatedError
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.shards import tar
from shardtools.shards.names import decode_name
from shardtools.shards.tar import (
    BLOCK,
    PAX,
    PAX_GLOBAL,
    REPAIR,
    SPARSE,
    TYPE_AT,
    bad_header,
    blocks_of,
    checksum_holds,
    member_size,
)
from shardtools.shards.walk import END_MARK, buffer_reader, walk
from shardtools.types import Bytes, Ints

_MAGIC = int.from_bytes(b"\0ust", "little")
_MAGIC_WORD = 256 // 4
_POWERS = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_EXTENSIONS = np.zeros(256, bool)
_EXTENSIONS[list(tar.EXTENSIONS)] = True
_EMPTY = np.zeros(256, bool)
_EMPTY[list(tar.EMPTY)] = True


@dataclass(frozen=True)
class Incomplete:
    """A member whose header is in a buffer, but not all of its data; ``name`` is its whole name."""

    name: bytes
    is_regular: bool


@dataclass(frozen=True)
class LocatedHeaders:
    """Where the headers of a buffer are: one row for each header, extension headers too.

    ``start`` is the header's offset in the buffer and ``size`` that of its data, in bytes. ``stop`` is where the last
    complete member ends. ``ended`` says that only an end-of-archive mark follows it. ``breaks`` are the rows that come
    right after an end-of-archive mark inside the buffer: the first headers of concatenated archives. ``wanted`` is the
    length that the buffer would need to hold the member that is incomplete, 0 if none is; ``incomplete`` is that
    member, None if its header is not in the buffer.
    """

    start: Ints
    size: Ints
    stop: int
    ended: bool
    breaks: tuple[int, ...] = ()
    wanted: int = 0
    incomplete: Incomplete | None = None


def locate_headers(
    data: Bytes,
    *,
    final: bool = True,
    ended: bool = False,
    base: int = 0,
    limits: Limits = DEFAULT_LIMITS,
    url: str | None = None,
) -> LocatedHeaders:
    """Find the headers of the complete members of ``data``, which begins with a header or after an archive's end.

    ``final`` says that nothing follows, ``ended`` that the bytes before were an end-of-archive mark, and ``base`` at
    what offset of the shard the buffer begins.

    Raises:
        TruncatedError: ``final``, and a member is incomplete, or the end-of-archive mark is missing.
        CorruptError: there is no header where one must be.
        LimitError: the extension headers of the member that is incomplete are larger than ``limits`` allow.
    """
    found = _locate_ustar(data) or _locate_by_walk(data, base, url)
    if not found.ended:
        found = replace(found, incomplete=_find_incomplete(data, found.stop, base, limits, url))
    if final:
        _check_end(data, found, found.ended or (ended and len(data) < BLOCK), base, url)
    return found


def _locate_ustar(data: Bytes) -> LocatedHeaders | None:
    """Find the headers with numpy; None if this is not a plain chain of ustar headers."""
    rows = blocks_of(data)
    found = np.flatnonzero(rows.view("<u4")[:, _MAGIC_WORD] == _MAGIC)
    if not len(found) or found[0] != 0:
        return None
    size = sizes_of(rows[found, tar.SIZE])
    if (size < 0).any():
        return None
    kind = rows[found, TYPE_AT]
    size[_EMPTY[kind]] = 0
    after = found + member_size(size) // BLOCK
    if (after[:-1] != found[1:]).any() or (kind == SPARSE).any():
        return None
    if after[-1] > len(rows):  # the last member is incomplete, and so are the extension headers before it
        wanted = int(after[-1]) * BLOCK
        found, size, kind, after = found[:-1], size[:-1], kind[:-1], after[:-1]
        keep = _without_dangling(kind)
        found, size, kind, after = found[:keep], size[:keep], kind[:keep], after[:keep]
        return (
            None
            if _resizes(data, found, size, kind)
            else LocatedHeaders(found * BLOCK, size, int(after[-1]) * BLOCK if keep else 0, False, wanted=wanted)
        )
    keep, stop = _without_dangling(kind), int(after[-1])
    rest = rows[stop:]
    ended = len(rest) > 0
    if rest.any() or (ended and keep < len(kind)) or _resizes(data, found, size, kind):
        return None
    if not ended:
        found, size = found[:keep], size[:keep]
        stop = int(after[keep - 1]) if keep else 0
    return LocatedHeaders(found * BLOCK, size, stop * BLOCK, ended)


def _locate_by_walk(data: Bytes, base: int, url: str | None) -> LocatedHeaders:
    """Find the headers one after another: slower than numpy, and exact for every kind of tar."""
    start: list[int] = []
    size: list[int] = []
    breaks: list[int] = []
    stop = kept = wanted = 0
    ended = False
    for header in walk(buffer_reader(data, base), base + len(data), at=base, url=url):
        if header.kind == END_MARK:
            ended = True
            continue
        if ended and start:
            breaks.append(len(start))
        ended = False
        if header.stop > base + len(data):
            wanted = header.stop - base
            break
        dangling = kept < len(start)
        start.append(header.start - base)
        size.append(header.size)
        if not header.is_extension or (header.kind == PAX_GLOBAL and not dangling):
            stop, kept = header.stop - base, len(start)
    starts, sizes = (np.array(column[:kept], np.int64) for column in (start, size))
    return LocatedHeaders(starts, sizes, stop, ended, tuple(breaks), wanted)


def _find_incomplete(data: Bytes, at: int, base: int, limits: Limits, url: str | None) -> Incomplete | None:
    """Return the member whose headers begin at ``at``, or after zeros there; None if its own header is not there."""
    begin: int | None = None
    for header in walk(buffer_reader(data, base), base + len(data), at=base + at, url=url):
        if header.kind == END_MARK:
            continue
        if not header.is_extension:
            return Incomplete(header.name, header.kind in tar.REGULAR)
        begin = header.start if begin is None else begin
        member = None if header.extended_name is None else decode_name(header.extended_name)
        limits.check("header", header.stop - begin, url=url, member=member)
    return None


def _without_dangling(kind: Bytes) -> int:
    """Return how many headers there are without extension headers at the end whose member is not in the buffer."""
    if len(kind) and not _EXTENSIONS[kind[-1]]:
        return len(kind)
    members = np.flatnonzero(~_EXTENSIONS[kind])
    keep = int(members[-1]) + 1 if len(members) else 0
    while keep < len(kind) and kind[keep] == PAX_GLOBAL:
        keep += 1
    return keep


def _resizes(data: Bytes, found: Ints, size: Ints, kind: Bytes) -> bool:
    """Return whether a pax record gives a member a size other than its header's."""
    pax = np.flatnonzero((kind == PAX) | (kind == PAX_GLOBAL))
    if not len(pax):
        return False
    start, size = (found[pax] + 1) * BLOCK, size[pax]
    for i in np.flatnonzero(~only_times(data, start, size)):
        if b"size=" in data[start[i] : start[i] + size[i]].tobytes():
            return True
    return False


def sizes_of(fields: Bytes) -> Ints:
    """Return the numbers that rows of 12 bytes hold as 11 octal digits and a NUL or space; -1 for any other form."""
    low, after = fields[:, :11] - np.uint8(48), fields[:, 11] & 0xDF
    numbers: Ints = low.astype(np.int64) @ _POWERS
    if (low > 7).any() or after.any():
        numbers[(low > 7).any(axis=1) | (after != 0)] = -1
    return numbers


def has_prefix(headers: Bytes) -> npt.NDArray[np.bool_]:
    """Return which header blocks, one a row, have a prefix of the name, as in `tar.own_name`."""
    found: npt.NDArray[np.bool_] = headers[:, tar.PREFIX_AT] != 0
    found &= (headers[:, tar.MAGIC] == np.frombuffer(tar.USTAR, np.uint8)).all(axis=1)
    return found


def _check_end(data: Bytes, found: LocatedHeaders, ended: bool, base: int, url: str | None) -> None:
    """Raise unless the shard, which ends with the buffer, is complete; ``ended`` says that its end mark was there."""
    offset = base + len(data)
    if ended:
        if data[len(data) // BLOCK * BLOCK :].any():
            raise CorruptError(
                f"unexpected data after the end of the archive, before byte {offset}", url=url, fix=REPAIR
            )
        return
    if found.incomplete is not None:
        name = decode_name(found.incomplete.name)
        raise TruncatedError(f"the shard ends at byte {offset}, inside this member", url=url, member=name, fix=REPAIR)
    if len(data) - found.stop >= BLOCK and data[found.stop : found.stop + BLOCK].any():
        raise TruncatedError(f"the shard ends at byte {offset}, inside an extension header", url=url, fix=REPAIR)
    if (len(data) - found.stop) % BLOCK:
        raise TruncatedError(f"the shard ends at byte {offset}, inside a tar block", url=url, fix=REPAIR)
    raise TruncatedError(f"the shard ends at byte {offset} without an end-of-archive mark", url=url, fix=REPAIR)


def verify_checksums(headers: Bytes, start: Ints, *, base: int, url: str | None) -> None:
    """Check the checksums of header blocks, one a row, found at the offsets ``start``.

    The sum of 512 bytes is taken in the four 16-bit lanes of 64-bit words: a lane adds 128 bytes, and cannot overflow.

    Raises:
        CorruptError: one is wrong.
    """
    words = headers.view("<u8")
    lanes = words & _EVEN_BYTES
    odd = words >> np.uint64(8)
    odd &= _EVEN_BYTES
    lanes += odd
    total: Any = lanes.sum(axis=1)
    total = total.view("<u2").reshape(-1, 4).sum(axis=1, dtype=np.int64)
    field = headers[:, tar.CHECKSUM]
    total += 8 * 32 - field.sum(axis=1, dtype=np.int64)
    digits = field[:, :6] - np.uint8(48)
    usual = (digits <= 7).all(axis=1) & ((field[:, 6] & 0xDF) == 0)
    stored = digits.astype(np.int64) @ _POWERS[-6:]
    for i in np.flatnonzero(~usual | (stored != total)):
        if not checksum_holds(headers[i].tobytes()):
            raise bad_header(url, base + int(start[i]))


def is_extension(kind: Bytes) -> npt.NDArray[np.bool_]:
    """Return which type flags are those of headers that describe the next member, or all (pax ``g``)."""
    found: npt.NDArray[np.bool_] = _EXTENSIONS[kind]
    return found


def is_regular(kind: Bytes) -> npt.NDArray[np.bool_]:
    """Return which type flags are those of regular files."""
    found: npt.NDArray[np.bool_] = (kind == ord("0")) | (kind == 0) | (kind == ord("7"))
    return found


def only_times(data: Bytes, start: Ints, size: Ints) -> npt.NDArray[np.bool_]:
    """Return which pax payloads, given by their offsets and sizes, hold one ``mtime`` record and nothing else.

    webdataset's writer puts such a header before every member, so they must cost little.
    """
    begin = data[np.minimum(start[:, None] + np.arange(9), len(data) - 1)]
    length = (begin[:, 0].astype(np.int64) - 48) * 10 + begin[:, 1] - 48
    plain: npt.NDArray[np.bool_] = (begin[:, 2:9] == np.frombuffer(b" mtime=", np.uint8)).all(axis=1)
    plain &= length == size
    return plain
