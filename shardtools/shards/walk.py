"""The one walk over the headers of a tar file, given a function that reads bytes at an offset.

    read(start, stop) -> header, its data skipped, the next header -> TarHeader: start, kind, size, name

It handles every kind of tar: pax headers, GNU tar's long names, numbers in base 256, concatenated archives. For a
buffer of usual headers, ``locate.py`` finds all of them at once with numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from shardtools.errors import CorruptError
from shardtools.shards.names import decode_name
from shardtools.shards.tar import (
    BLOCK,
    EMPTY,
    EXTENSIONS,
    PAX_GLOBAL,
    SIZE,
    SPARSE,
    TYPE_AT,
    bad_header,
    checksum_holds,
    member_size,
    own_name,
    parse_number,
    read_extension,
    repair,
    sparse,
)
from shardtools.types import Bytes

Read = Callable[[int, int], bytes]
"""Returns the bytes of a tar file from one offset to another."""

END_MARK = -1
"""The kind of the zeros that end an archive; another archive may follow."""

_ZEROS = bytes(BLOCK)


class TarHeader(NamedTuple):
    """One header of a tar file, or, if ``kind`` is `END_MARK`, a run of zeros, of which ``block`` is the first.

    It begins at ``start``; its data have ``size`` bytes and end, with their padding, at ``stop``. ``kind`` is its type
    flag. ``size`` and ``name`` take account of the extension headers before it, which are yielded, too.
    ``extended_name`` is the name from an extension header, or None.
    """

    start: int
    stop: int
    size: int
    kind: int
    block: bytes
    extended_name: bytes | None

    @property
    def offset(self) -> int:
        """Where its data begin."""
        return self.start + BLOCK

    @property
    def name(self) -> bytes:
        """The member's whole name; for an extension header, the name that those before it give to the member."""
        return own_name(self.block) if self.extended_name is None else self.extended_name

    @property
    def is_extension(self) -> bool:
        """Whether it describes the member that follows, or all of them."""
        return self.kind in EXTENSIONS


def walk(
    read: Read, size: int, *, at: int = 0, verify: bool = True, url: str | None = None, what: str = "shard"
) -> Iterator[TarHeader]:
    """Yield the headers of a tar file of ``size`` bytes from ``at`` on, where a header is or an archive ends.

    The last one may claim more data than there are: then its ``stop`` is beyond ``size``. Only the data of extension
    headers are read, and only when the next header is asked for, so that the caller can refuse large ones before.
    Without ``verify`` the caller must check checksums. ``what`` is the kind of file, for messages.

    Raises:
        CorruptError: there is no header where one must be, no member follows an extension header, or a header is of a
            kind that is not supported.
    """
    pending: int | None = None
    name: bytes | None = None
    resized: int | None = None
    ended = False
    while at + BLOCK <= size:
        block = read(at, at + BLOCK)
        if not block[0] and block == _ZEROS:
            if pending is not None:
                problem = f"no member follows the extension header at byte {pending}"
                raise CorruptError(problem, url=url, fix=repair(what))
            if not ended:
                yield TarHeader(at, at + BLOCK, 0, END_MARK, block, None)
            at, ended = at + BLOCK, True
            continue
        if verify and not checksum_holds(block):
            raise bad_header(url, at, what)
        ended, kind = False, block[TYPE_AT]
        is_extension = kind in EXTENSIONS
        length = 0 if kind in EMPTY else _size_of(block, kind, url, what)
        if resized is not None and not is_extension and kind not in EMPTY:
            length = resized
        stop = at + member_size(length)
        yield TarHeader(at, stop, length, kind, block, name)
        if not is_extension:
            pending = name = resized = None
        elif stop <= size:
            if kind != PAX_GLOBAL or pending is not None:
                pending = at
            payload = read(at + BLOCK, at + BLOCK + length)
            new_name, new_size = read_extension(kind, payload, offset=at, url=url, what=what)
            name = name if new_name is None else new_name
            resized = resized if new_size is None else new_size
        at = stop


def _size_of(block: bytes, kind: int, url: str | None, what: str) -> int:
    """Return the size of the data in the header itself."""
    if kind == SPARSE:
        raise sparse(url, decode_name(own_name(block)), what)
    try:
        return parse_number(block[SIZE])
    except ValueError as error:
        member = decode_name(own_name(block))
        raise CorruptError("the header's size is not a number", url=url, member=member, fix=repair(what)) from error


def buffer_reader(data: Bytes, base: int = 0) -> Read:
    """Return a function that reads from a buffer, which holds the bytes of a file from offset ``base`` on."""
    return lambda start, stop: data[start - base : stop - base].tobytes()


def page_reader(read: Read, size: int, page: int) -> Read:
    """Return a function that reads at least ``page`` bytes at a time: the next header may be among them."""
    window, low, high = b"", 0, 0

    def read_pages(start: int, stop: int) -> bytes:
        nonlocal window, low, high
        if start < low or stop > high:
            low, high = start, start + page
            if high > size:  # conditions, not min and max: this is called for every header
                high = size
            if high < stop:
                high = stop
            window = read(low, high)
        return window[start - low : stop - low]

    return read_pages
