"""The checksums of what a cache keeps: a CRC-32 for each block of an entry, after its bytes.

    bytes … | CRC-32 of the first block | … of the last one

Disks corrupt a byte now and then, and a cache would return it as long as the object exists. So each block is checked
whenever it is read. Of a large entry only the blocks that are needed are read.
"""

from __future__ import annotations

import os
from struct import Struct

from isal import isal_zlib

SUMMED = 1 << 14
"""Bytes of a block: small ones cost room, large ones time where little of them is wanted."""

_ONE = Struct("<I")
_SUM = _ONE.size


def stored_size(size: int) -> int:
    """Return how many bytes an entry of ``size`` bytes takes with its checksums.

    >>> stored_size(1), stored_size(16384), stored_size(16385)
    (5, 16388, 16393)
    """
    return size + _SUM * -(-size // SUMMED)


class Sums:
    """The checksums of bytes that come in pieces."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._filled = 0
        self._crc = 0

    def add(self, data: memoryview) -> None:
        """Take the bytes that follow."""
        while len(data):
            part = data[: SUMMED - self._filled]
            self._crc = isal_zlib.crc32(part, self._crc)
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled == SUMMED:
                self._done.append(self._crc)
                self._filled = self._crc = 0

    def finish(self) -> bytes:
        """Return what stands after the bytes."""
        if self._filled:
            self._done.append(self._crc)
        return b"".join(map(_ONE.pack, self._done))


def sums_of(data: memoryview) -> bytes:
    """Return what stands after some bytes."""
    sums = Sums()
    sums.add(data)
    return sums.finish()


class SummedFile:
    """An entry of ``size`` bytes, open as ``fd``, of which only bytes are given that match their checksums."""

    def __init__(self, fd: int, size: int):
        self.size = size
        self._fd = fd

    def read(self, start: int, stop: int) -> bytes | None:
        """Return some of the bytes, None if they do not match."""
        first = start - start % SUMMED
        last = min(-(-stop // SUMMED) * SUMMED, self.size)
        data = self._read(first, last)
        if data is None or not self._match(memoryview(data), first):
            return None
        return data if (first, last) == (start, stop) else data[start - first : stop - first]

    def read_into(self, view: memoryview, start: int) -> bool:
        """Fill ``view`` with whole blocks from ``start`` on, up to the end; return whether they match."""
        filled = 0
        try:
            while filled < len(view):
                count = os.preadv(self._fd, [view[filled:]], start + filled)
                if not count:
                    return False
                filled += count
        except OSError:
            return False
        return self._match(view, start)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _read(self, start: int, stop: int) -> bytes | None:
        """Return bytes as they are, None if they cannot be read."""
        pieces = []
        while start < stop:  # Linux reads at most 2 GiB at once
            try:
                piece = os.pread(self._fd, stop - start, start)
            except OSError:
                return None
            if not piece:
                return None
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _match(self, data: memoryview, start: int) -> bool:
        """Return whether blocks match; ``start`` is where the first one begins."""
        crc32, sums = isal_zlib.crc32, self._sums_from(start, len(data))
        return sums is not None and all(
            crc32(data[at : at + SUMMED]) == wanted
            for at, wanted in zip(range(0, len(data), SUMMED), sums, strict=True)
        )

    def _sums_from(self, start: int, size: int) -> list[int] | None:
        """Return the checksums of the blocks of ``size`` bytes from ``start`` on, None if they cannot be read."""
        first, count = start // SUMMED, -(-size // SUMMED)
        text = self._read(self.size + first * _SUM, self.size + (first + count) * _SUM) if size else b""
        if text is None:
            return None
        return [value for (value,) in _ONE.iter_unpack(text)]
