"""The table of a plain tar file on this machine, of which little more than the headers is read.

    a header, and what follows it up to a page -> its size tells where the next one is -> all headers, end to end
      -> the tables that scan.py makes of them -> offsets in the file

It is for large members. Whatever is unusual is left to those who read all of the file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from shardtools.errors import ShardError
from shardtools.shards import tar
from shardtools.shards.reader import SeenKeys
from shardtools.shards.samples import repeated_key
from shardtools.shards.scan import scan_located
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK, TYPE_AT
from shardtools.storage.files import os_errors

PAGE = 4096
"""Bytes that are read at a time: the headers of the small members beside a large one are often among them."""

FIRST = 128
"""Headers after which it is known whether the members are large."""

LARGE = 1 << 15
"""The mean size of members up to which all is read more quickly, by threads that need not wait for each other."""

_OCTAL = re.compile(rb"[0-7]{11}").fullmatch

LONGEST_END = 1 << 20
"""Zeros that may follow the last member."""

LONGEST, MOST = 1 << 20, 256 << 20
"""Bytes of one extension header, and of all, that are kept; who has more is read whole."""


def scan_headers(url: str) -> ShardTable | None:
    """Return the table of the tar file at ``url``; None where all of it must be read to tell it, or what is wrong.

    Raises:
        StorageError: it cannot be read.
        DuplicateKeyError: a key comes again after other samples.
    """
    with os_errors(url):
        descriptor = os.open(url.removeprefix("file://"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = _Headers(descriptor, os.fstat(descriptor).st_size)
            if not found.walk():
                return None
        finally:
            os.close(descriptor)
    try:
        table = found.table(url)
    except ShardError:  # its offsets are others than those of the file
        return None
    keys = table.keys.decode()
    if repeated := SeenKeys().add(keys):
        raise repeated_key(url, keys[repeated[0]])
    return table


@dataclass
class _Headers:
    """The headers of an open file, and the data of those that are extension headers; ``starts`` in the file."""

    descriptor: int
    filesize: int
    starts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    kept: int = 0

    def walk(self) -> bool:
        """Take all headers; return whether that is possible."""
        at, kind = 0, 0
        resized: int | None = None
        window, base, end = b"", 0, 0
        while at < self.filesize:
            if at + BLOCK > end or at < base:
                window, base = os.pread(self.descriptor, PAGE, at), at
                end = at + len(window)
            header = window[at - base : at - base + BLOCK]
            if len(header) < BLOCK:
                return False
            if not header[0]:
                break
            kind, size = header[TYPE_AT], _size_of(header)
            if size is None:
                return False
            if resized is not None and kind not in tar.BEFORE_A_MEMBER:
                size, resized = 0 if kind in tar.EMPTY else resized, None
            stop = at + BLOCK + -(-size // BLOCK) * BLOCK
            if kind in tar.BEFORE_A_MEMBER:
                self.kept += stop - at
                if size > LONGEST or self.kept > MOST:
                    return False
                header = os.pread(self.descriptor, stop - at, at)
                if len(header) < stop - at:
                    return False
                if kind == tar.PAX and b"size=" in header[BLOCK:]:
                    resized = _resized(header[BLOCK : BLOCK + size])
                    if resized is None:
                        return False
            self.starts.append(at)
            self.sizes.append(size)
            self.blocks.append(header)
            at = stop
            if len(self.starts) == FIRST and at < FIRST * LARGE:
                return False
        return kind not in tar.BEFORE_A_MEMBER and self._ends(at)

    def _ends(self, at: int) -> bool:
        """Return whether nothing but zeros follows, and at least one block of them."""
        size = self.filesize - at
        if size < BLOCK or size % BLOCK or size > LONGEST_END:
            return False
        return os.pread(self.descriptor, size, at) == bytes(size)

    def table(self, url: str) -> ShardTable:
        """Return the table of the samples."""
        ends = list(accumulate(map(len, self.blocks), initial=0))
        buffer = np.frombuffer(b"".join(self.blocks), np.uint8)
        table = scan_located(buffer, np.array(ends[:-1], np.int64), np.array(self.sizes, np.int64), url)
        start_of = np.zeros(len(buffer) // BLOCK, np.int64)
        start_of[np.array(ends[:-1], np.int64) // BLOCK] = self.starts
        offset = start_of[table.offset // BLOCK - 1] + BLOCK
        last = table.first[1:] - 1
        stop = offset[last] + (table.size[last] + BLOCK - 1) // BLOCK * BLOCK
        return replace(table, start=start_of[table.start // BLOCK], stop=stop, offset=offset)


def _size_of(header: bytes) -> int | None:
    """Return the size that a header gives, in octal or, from 8 GiB on, base 256; None if it is unusual."""
    digits, kind = header[124:135], header[TYPE_AT]
    if kind not in tar.USUAL:
        return None
    if kind in tar.EMPTY:
        return 0
    if header[124] == 0x80:
        return tar.parse_number(header[124:136])
    return int(digits, 8) if header[135] in b"\0 " and _OCTAL(digits) else None


def _resized(payload: bytes) -> int | None:
    """Return the size that a pax header gives to the next member, None if it gives none."""
    try:
        value = tar.parse_pax(payload).get("size")
    except ValueError:
        return None
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else None
