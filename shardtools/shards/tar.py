"""Tar headers: find every member of a buffer, and build the headers of new ones.

    buffer -> locate (where the headers are) -> Headers -> table.py groups them into samples

A tar file is a row of 512-byte blocks: a header, its data padded to whole blocks, the next header. `locate` finds the
headers of a buffer of the usual kind with numpy: blocks with the ustar magic are candidates, and the candidates are
the headers exactly if each one's data ends where the next one begins. Whatever else is in the buffer (a tar within a
tar, no magic, sizes over 8 GiB, an archive after the end of the first) is walked header by header.

Formats: POSIX.1-2017 "pax" (ustar and its extension headers) and GNU tar's ``L`` names and base-256 numbers.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import CorruptError, TruncatedError
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.types import Bytes, Ints

BLOCK = 512
"""Bytes in a tar block; headers and data begin at multiples of it."""

END = bytes(2 * BLOCK)
"""What ends an archive."""

RECORD = 20 * BLOCK
"""The archive's length is padded to a multiple of this, as tar programs do."""

_MAGIC = int.from_bytes(b"\0ust", "little")
_MAGIC_WORD = 256 // 4
_POWERS = 8 ** np.arange(10, -1, -1, dtype=np.int64)
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_CHECKSUM = slice(148, 156)
TYPE_AT, MAGIC_AT = 156, 257
"""Where in a header its type flag is, and "ustar"."""

# Type flags: those of extension headers, which describe the member that follows, and those without data.
PAX, PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"xgLKS"
_EXTENSIONS = np.zeros(256, bool)
_EXTENSIONS[[PAX, PAX_GLOBAL, _LONG_NAME, _LONG_LINK]] = True
_WITHOUT_DATA = np.zeros(256, bool)
_WITHOUT_DATA[list(b"123456")] = True


BEFORE_A_MEMBER = bytes([PAX, _LONG_NAME, _LONG_LINK])
"""The type flags of headers that describe the next member."""

EMPTY = b"123456"
"""Those of members without data."""

USUAL = b"\x007" + b"0" + EMPTY + BEFORE_A_MEMBER
"""Those that a shard usually has: all but global headers, sparse files, and what nobody knows."""


@dataclass(frozen=True)
class Incomplete:
    """A member whose header is in a buffer, and whose data are not, or not all; ``name`` is its whole name."""

    name: bytes
    is_regular: bool


@dataclass(frozen=True)
class Located:
    """Where the headers of a buffer are: one row for each header, extension headers too.

    ``start`` is the header's offset in the buffer and ``size`` that of its data, in bytes. ``stop`` is where the last
    complete member ends. ``ended`` says that an end-of-archive mark follows it and nothing else. ``breaks`` are the
    rows whose headers are the first after an end-of-archive mark inside the buffer: those of concatenated archives.
    ``wanted`` is the length that the buffer would need to hold the member that is incomplete, 0 where none is;
    ``incomplete`` is that member, None where its header is not in the buffer.
    """

    start: Ints
    size: Ints
    stop: int
    ended: bool
    breaks: tuple[int, ...] = ()
    wanted: int = 0
    incomplete: Incomplete | None = None


def locate(
    data: Bytes,
    *,
    final: bool = True,
    ended: bool = False,
    base: int = 0,
    limits: Limits = DEFAULT_LIMITS,
    url: str | None = None,
) -> Located:
    """Find the headers of the complete members of ``data``, which begins with a header or after an archive's end.

    ``final`` says that nothing follows, ``ended`` that the bytes before were an end-of-archive mark, and ``base`` at
    what offset of the shard the buffer begins.

    Raises:
        TruncatedError: ``final``, and a member is incomplete, or the end-of-archive mark is missing.
        CorruptError: something that is not a header stands where one must be.
        LimitError: the extension headers of the member that is incomplete are larger than ``limits`` allow.
    """
    found = _locate_ustar(data) or _Walk(data, base, url).run()
    if not found.ended:
        found = replace(found, incomplete=_find_incomplete(data, found.stop, base, limits, url))
    if final:
        _check_end(data, found, found.ended or (ended and len(data) < BLOCK), base, url)
    return found


def _locate_ustar(data: Bytes) -> Located | None:
    """Find the headers with numpy; None if this is not a plain chain of ustar headers."""
    blocks = len(data) // BLOCK
    rows = data[: blocks * BLOCK].reshape(blocks, BLOCK)
    found = np.flatnonzero(rows.view("<u4")[:, _MAGIC_WORD] == _MAGIC)
    if not len(found) or found[0] != 0:
        return None
    size = _octal(rows[found, 124:136])
    if size is None:
        return None
    kind = rows[found, TYPE_AT]
    size[_WITHOUT_DATA[kind]] = 0
    after = found + 1 + (size + BLOCK - 1) // BLOCK
    if (after[:-1] != found[1:]).any() or (kind == _SPARSE).any():
        return None
    if after[-1] > blocks:  # the last member is incomplete, and so are the extension headers before it
        wanted = int(after[-1]) * BLOCK
        found, size, kind, after = found[:-1], size[:-1], kind[:-1], after[:-1]
        keep = _without_dangling(kind)
        found, size, kind, after = found[:keep], size[:keep], kind[:keep], after[:keep]
        return (
            None
            if _resizes(data, found, size, kind)
            else Located(found * BLOCK, size, int(after[-1]) * BLOCK if keep else 0, False, wanted=wanted)
        )
    keep, stop = _without_dangling(kind), int(after[-1])
    rest = rows[stop:]
    ended = len(rest) > 0
    if rest.any() or (ended and keep < len(kind)) or _resizes(data, found, size, kind):
        return None
    if not ended:
        found, size = found[:keep], size[:keep]
        stop = int(after[keep - 1]) if keep else 0
    return Located(found * BLOCK, size, stop * BLOCK, ended)


def _find_incomplete(data: Bytes, at: int, base: int, limits: Limits, url: str | None) -> Incomplete | None:
    """Return the member whose headers begin at ``at``, or after the zeros there, if its own header is in the buffer."""
    begin, name = at, None
    while at + BLOCK <= len(data):
        header = data[at : at + BLOCK].tobytes()
        if not header.strip(b"\0"):
            at = begin = at + BLOCK
            continue
        if not checksum_holds(header):
            raise _bad_header(url, base + at)
        kind = header[TYPE_AT]
        if not _EXTENSIONS[kind]:
            regular = bool(is_regular(np.frombuffer(header[TYPE_AT : TYPE_AT + 1], np.uint8)).all())
            return Incomplete(own_name(header) if name is None else name, regular)
        size = parse_number(header[124:136])
        stop = at + BLOCK + -(-size // BLOCK) * BLOCK
        limits.check("header", stop - begin, url=url, member=None if name is None else show_name(name))
        if stop > len(data):
            return None
        name = extended_name(kind, data[at + BLOCK : at + BLOCK + size].tobytes(), offset=base + at, url=url) or name
        at = stop
    return None


def _without_dangling(kind: Bytes) -> int:
    """Return how many headers are left without the extension headers at the end, whose member is not there yet."""
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


def _octal(digits: Bytes) -> Ints | None:
    """Return the numbers that rows of 12 bytes hold as 11 octal digits and a NUL or space; None for any other form."""
    low = digits[:, :11] - np.uint8(48)
    if (low > 7).any() or (digits[:, 11] & 0xDF).any():
        return None
    return low.astype(np.int64) @ _POWERS


def parse_number(field: bytes) -> int:
    """Return the number in a header's field: octal, or base 256 if the first bit is set.

    Raises:
        ValueError: it is neither.

    >>> parse_number(b"00000000144\\0"), parse_number(b"\\x80\\0\\0\\0\\0\\0\\0\\2\\0\\0\\0\\0")
    (100, 8589934592)
    """
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
        stored = parse_number(header[_CHECKSUM])
    except ValueError:
        return False
    body = header[:148] + b" " * 8 + header[156:]
    unsigned = sum(body)
    return stored == unsigned or stored == unsigned - 256 * sum(byte > 127 for byte in body)


class _Walk:
    """The headers of a buffer, one after another: slower than numpy, and exact for every kind of tar."""

    def __init__(self, data: Bytes, base: int, url: str | None):
        self.data, self.base, self.url = data, base, url
        self.start: list[int] = []
        self.size: list[int] = []
        self.breaks: list[int] = []
        self.stop = self.kept = self.wanted = 0

    def run(self) -> Located:
        data, at, length, zeros = self.data, 0, len(self.data), 0
        override: int | None = None
        while at + BLOCK <= length:
            header = data[at : at + BLOCK].tobytes()
            dangling = self.kept < len(self.start)
            if not header.strip(b"\0"):
                if dangling:
                    raise _without_member(self.url, self.base + self.start[-1])
                at += BLOCK
                zeros = at
                continue
            kind = header[TYPE_AT]
            size = self._size_of(header, at)
            if override is not None and not _EXTENSIONS[kind]:
                size, override = (0 if _WITHOUT_DATA[kind] else override), None
            after = at + BLOCK + -(-size // BLOCK) * BLOCK
            if zeros and self.start:
                self.breaks.append(len(self.start))
            zeros = 0
            if after > length:
                self.wanted = after
                break
            self.start.append(at)
            self.size.append(size)
            if kind == PAX:
                override = self._pax_size(at, size, override)
            at = after
            if not _EXTENSIONS[kind] or (kind == PAX_GLOBAL and not dangling):
                self.stop, self.kept = at, len(self.start)
        start, size_of = (np.array(column[: self.kept], np.int64) for column in (self.start, self.size))
        return Located(start, size_of, self.stop, bool(zeros), tuple(self.breaks), self.wanted)

    def _size_of(self, header: bytes, at: int) -> int:
        if not checksum_holds(header):
            raise _bad_header(self.url, self.base + at)
        if header[TYPE_AT] == _SPARSE:
            raise CorruptError(
                "sparse members are not supported",
                url=self.url,
                member=header_name(header),
                fix="make the shard again with tar without --sparse",
            )
        if _WITHOUT_DATA[header[TYPE_AT]]:
            return 0
        try:
            return parse_number(header[124:136])
        except ValueError as error:
            raise CorruptError(
                "the header's size is not a number", url=self.url, member=header_name(header), fix=REPAIR
            ) from error

    def _pax_size(self, at: int, size: int, before: int | None) -> int | None:
        payload = self.data[at + BLOCK : at + BLOCK + size].tobytes()
        if b"size=" not in payload:
            return before
        try:
            value = parse_pax(payload).get("size")
            if value is not None and not value.isdigit():
                raise ValueError("not a decimal number")
            return before if value is None else int(value)
        except ValueError as error:
            raise CorruptError(f"malformed pax header at byte {self.base + at}", url=self.url, fix=REPAIR) from error


REPAIR = "fetch or make the shard again"


def _bad_header(url: str | None, offset: int) -> CorruptError:
    return CorruptError(f"the header checksum at byte {offset} is wrong", url=url, fix=REPAIR)


def _without_member(url: str | None, offset: int) -> CorruptError:
    return CorruptError(f"no member follows the extension header at byte {offset}", url=url, fix=REPAIR)


def own_name(header: bytes) -> bytes:
    """Return the name that a header block itself gives to its member, which an extension header may replace."""
    name, prefix = (header[at].split(b"\0", 1)[0] for at in (slice(100), slice(345, 500)))
    return prefix + b"/" + name if prefix and header[MAGIC_AT : MAGIC_AT + 6] == b"ustar\0" else name


def show_name(name: bytes) -> str:
    """Return a member's name for messages."""
    return name.decode("utf-8", "surrogateescape")


def header_name(header: bytes) -> str:
    """Return a header block's own name for messages."""
    return show_name(own_name(header))


def _check_end(data: Bytes, found: Located, ended: bool, base: int, url: str | None) -> None:
    """Raise unless the shard, which ends with the buffer, is complete; ``ended`` says that it had its end mark."""
    offset = base + len(data)
    if ended:
        if data[len(data) // BLOCK * BLOCK :].any():
            raise CorruptError(
                f"unexpected data after the end of the archive, before byte {offset}", url=url, fix=REPAIR
            )
        return
    if found.incomplete is not None:
        name = show_name(found.incomplete.name)
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
    field = headers[:, _CHECKSUM]
    total += 8 * 32 - field.sum(axis=1, dtype=np.int64)
    digits = field[:, :6] - np.uint8(48)
    usual = (digits <= 7).all(axis=1) & ((field[:, 6] & 0xDF) == 0)
    stored = digits.astype(np.int64) @ _POWERS[-6:]
    for i in np.flatnonzero(~usual | (stored != total)):
        if not checksum_holds(headers[i].tobytes()):
            raise _bad_header(url, base + int(start[i]))


def is_extension(kind: Bytes) -> npt.NDArray[np.bool_]:
    """Return which type flags are those of headers that describe the next member, or all (pax ``g``)."""
    found: npt.NDArray[np.bool_] = _EXTENSIONS[kind]
    return found


def is_regular(kind: Bytes) -> npt.NDArray[np.bool_]:
    """Return which type flags are those of regular files."""
    found: npt.NDArray[np.bool_] = (kind == ord("0")) | (kind == 0) | (kind == ord("7"))
    return found


def extended_name(kind: int, payload: bytes, *, offset: int, url: str | None) -> bytes | None:
    """Return the name that an extension header gives to the next member, None if it gives none.

    Raises:
        CorruptError: the extension is malformed, or one that would change what the data mean.
    """
    if kind == _LONG_NAME:
        return payload.split(b"\0", 1)[0]
    if kind == _LONG_LINK:
        return None
    try:
        records = parse_pax(payload)
    except ValueError as error:
        raise CorruptError(f"malformed pax header at byte {offset}", url=url, fix=REPAIR) from error
    if any(name.startswith("GNU.sparse") for name in records):
        raise CorruptError(
            "sparse members are not supported",
            url=url,
            member=records.get("GNU.sparse.name", b"").decode("utf-8", "replace") or None,
            fix="make the shard again with tar without --sparse",
        )
    if kind == PAX_GLOBAL and not {"path", "size"}.isdisjoint(records):
        raise CorruptError(f"a global pax header at byte {offset} renames or resizes members", url=url, fix=REPAIR)
    return records.get("path")


def only_times(data: Bytes, start: Ints, size: Ints) -> npt.NDArray[np.bool_]:
    """Return which pax payloads, given by their offsets and sizes, hold one ``mtime`` record and nothing else.

    webdataset's writer puts such a header before every member, so they must cost little.
    """
    begin = data[np.minimum(start[:, None] + np.arange(9), len(data) - 1)]
    length = (begin[:, 0].astype(np.int64) - 48) * 10 + begin[:, 1] - 48
    plain: npt.NDArray[np.bool_] = (begin[:, 2:9] == np.frombuffer(b" mtime=", np.uint8)).all(axis=1)
    plain &= length == size
    return plain


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
