"""Find the entry points of a compressed shard whose sidecar was lost, while it is read.

packed bytes -> cut after each full flush, or frame -> unpacked one by one -> offsets, if all of them fit together

A full flush leaves the bytes 00 00 FF FF (RFC 1951, an empty stored block), but these may also be data, or come of a
flush that does not start afresh. So each part is unpacked by itself, and the checksum of all must be the one at the
end of the file: else there are no entry points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from isal import isal_zlib

from shardtools.shards.compression import GZIP_HEADER, ZSTD_MAGIC, crc32
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK
from shardtools.types import Ints

_DAMAGE: Any = isal_zlib.error
_FLUSH = b"\x00\x00\xff\xff"
_TRAILER = 8
_STEP = 1 << 20
"""Bytes to unpack at a time."""

_ZSTD_STEP = 1 << 12
"""Packed bytes of zstd to unpack at a time, which make 128 MB at most."""


class EntryFinder:
    """Finds where a compressed file can be entered; ``take`` is called with all of its bytes, in order."""

    def __init__(self) -> None:
        self._head = b""
        self._parts: _GzipParts | _ZstdParts | None = None
        self._is_over = False

    def take(self, data: memoryview) -> None:
        """Look at the next bytes of the file."""
        if self._is_over:
            return
        if self._parts is None:
            self._head += data
            if len(self._head) < len(GZIP_HEADER):
                return
            self._parts, data, self._head = _parts_of(self._head), memoryview(self._head), b""
        self._is_over = self._parts is None or not self._parts.take(data.tobytes())
        if self._is_over:
            self._parts = None

    def entries(self, table: ShardTable) -> Ints:
        """Return the entry points of the file, whose table is ``table``, as a sidecar has them; none if in doubt."""
        found = [] if self._parts is None else self._parts.found()
        entries = np.array(found, np.int64).reshape(-1, 2)
        entries = entries[np.isin(entries[:, 0], table.start)]
        return entries if len(entries) and entries[0, 0] == 0 else entries[:0]


def _parts_of(head: bytes) -> _GzipParts | _ZstdParts | None:
    if head.startswith(ZSTD_MAGIC):
        return _ZstdParts()
    return _GzipParts() if head.startswith(GZIP_HEADER) else None


class _GzipParts:
    """The parts between the full flushes of one gzip member; ``take`` returns False if there can be none."""

    def __init__(self) -> None:
        self._skip = len(GZIP_HEADER)
        self._starts = [(0, self._skip)]
        self._inflate: Any = isal_zlib.decompressobj(-15)
        self._packed = self._unpacked = self._crc = 0
        self._last = b""  # the last bytes, with which a flush may have begun
        self._end = b""

    def take(self, data: bytes) -> bool:
        self._packed, data, self._skip = self._packed + self._skip, data[self._skip :], 0
        while data:
            at = (self._last + data).find(_FLUSH)
            stop = len(data) if at < 0 else at + len(_FLUSH) - len(self._last)
            part, data = data[:stop], data[stop:]
            self._last = (self._last + part)[1 - len(_FLUSH) :] if at < 0 else b""
            if not self._unpack(part):
                return False
            self._packed += len(part)
            if at >= 0 and self._unpacked % BLOCK == 0 and not self._inflate.eof:
                self._starts.append((self._unpacked, self._packed))
                self._inflate = isal_zlib.decompressobj(-15)
        return True

    def _unpack(self, part: bytes) -> bool:
        """Unpack bytes that follow; return whether they can be."""
        if self._inflate.eof:
            self._end += part
            return len(self._end) <= _TRAILER
        try:
            while True:
                data = self._inflate.decompress(part, _STEP)
                self._crc = crc32(data, self._crc)
                self._unpacked += len(data)
                part = self._inflate.unconsumed_tail
                if self._inflate.eof or not (part or data):
                    break
        except _DAMAGE:
            return False
        self._end = self._inflate.unused_data
        return len(self._end) <= _TRAILER

    def found(self) -> list[tuple[int, int]]:
        tail = self._crc.to_bytes(4, "little") + (self._unpacked & 0xFFFFFFFF).to_bytes(4, "little")
        return self._starts if self._inflate.eof and self._end == tail else []


class _ZstdParts:
    """The frames of a zstd file; ``take`` returns False if they cannot be unpacked."""

    def __init__(self) -> None:
        self._starts = [(0, 0)]
        self._packed = self._unpacked = 0
        self._frame: Any = None

    def take(self, data: bytes) -> bool:
        import zstandard

        view, at = memoryview(data), 0
        while at < len(view):
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            part = view[at : at + _ZSTD_STEP]
            try:
                self._unpacked += len(self._frame.decompress(part))
            except zstandard.ZstdError:
                return False
            taken = len(part) - len(self._frame.unused_data)
            at += taken
            self._packed += taken
            if self._frame.eof:
                self._starts.append((self._unpacked, self._packed))
                self._frame = None
        return True

    def found(self) -> list[tuple[int, int]]:
        return self._starts if self._frame is None else []
