"""Compress the tar file of a shard while it is written, so that it can be read from the middle.

    name -> packer_for -> Packer -> packed bytes, and entry points

An **entry point** is a pair of offsets, in the tar file and in the compressed file, of the beginning of a sample. The
compressed file can be read from there without the bytes before. A ``.tgz`` is one gzip member that starts afresh at
each entry point: for every gzip reader it is an ordinary file, and ``zlib.decompressobj(-15)`` inflates from there.
(Several gzip members would also work, but Python's tarfile silently stops after the first one.) A ``.tar.zst`` is a
sequence of independent frames.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from isal import isal_zlib

from shardtools.errors import SpecError
from shardtools.shards.compression import GZIP_HEADER, Packing, crc32
from shardtools.urls import name_of

ENTRY_EVERY = 256 << 10
"""Bytes of the tar file between entry points, at least."""

_PIECE = 4 << 20
"""Bytes that are compressed at a time, at most, so that a large sample does not need twice its size in memory."""

# Level 1 of isal compresses about as well as zlib's default at five to ten times its speed; level 3 of zstd is its own
# default.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 3

_WINDOW = 1 << 15
_LAST_BLOCK = b"\x03\x00"
"""An empty deflate block, marked as the last one."""


class Packer:
    """Compresses a tar file, sample by sample; this base class leaves it as it is.

    ``entries`` are the entry points so far, and ``by_sample`` says whether there will be any: a plain tar file can be
    entered anywhere, and its samples may come many at a time.
    """

    packing: Packing = "tar"
    by_sample = False

    def __init__(self) -> None:
        self.entries: list[tuple[int, int]] = []

    def pack(self, parts: Sequence[Any]) -> list[Any]:
        """Take ``parts``, the next bytes of the tar file, which end with a sample; return the bytes to write now."""
        return list(parts)

    def finish(self, end: bytes) -> list[Any]:
        """Take ``end``, the last bytes of the tar file, which belong to no sample; return the last bytes to write."""
        return [end]


class _EntryPacker(Packer):
    """Compresses samples together until there are enough of them for an entry point."""

    by_sample = True

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[Any] = []
        self._size = 0
        self._done = 0
        self._packed = 0

    def pack(self, parts: Sequence[Any]) -> list[Any]:
        self._waiting += parts
        self._size += sum(map(len, parts))
        return self._flush() if self._size >= ENTRY_EVERY else []

    def finish(self, end: bytes) -> list[Any]:
        parts = self._flush() if self._size else []
        entries = len(self.entries)
        self._waiting, self._size = [end], len(end)
        parts += self._flush()
        del self.entries[entries:]  # no sample follows the last entry point
        return parts

    def _flush(self) -> list[Any]:
        data = memoryview(b"".join(self._waiting))
        self._waiting, self._size = [], 0
        header = b"" if self._done else self._header()
        self.entries.append((self._done, self._packed + len(header)))
        parts = [header, *(self._compress(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)), self._cut()]
        self._done += len(data)
        self._packed += sum(map(len, parts))
        return parts

    def _header(self) -> bytes:
        """Return the first bytes of the compressed file."""
        return b""

    def _compress(self, data: memoryview) -> bytes:
        raise NotImplementedError

    def _cut(self) -> bytes:
        """Return the bytes that make the next piece independent of those before it."""
        return b""


class GzipPacker(_EntryPacker):
    """Writes one gzip member, whose deflate stream begins anew at each entry point."""

    packing = "gzip"

    def __init__(self) -> None:
        super().__init__()
        self._deflate: Any = None
        self._crc = 0

    def _header(self) -> bytes:
        return GZIP_HEADER

    def _compress(self, data: memoryview) -> bytes:
        if self._deflate is None:
            self._deflate = _deflate_for(data)
        self._crc = crc32(data, self._crc)
        packed: bytes = self._deflate.compress(data)
        return packed

    def _cut(self) -> bytes:
        flushed: bytes = self._deflate.flush(zlib.Z_FULL_FLUSH)
        self._deflate = None
        return flushed

    def finish(self, end: bytes) -> list[Any]:
        parts = super().finish(end)
        tail = self._crc.to_bytes(4, "little") + (self._done & 0xFFFFFFFF).to_bytes(4, "little")
        return [*parts, _LAST_BLOCK, tail]


def _deflate_for(data: memoryview) -> Any:
    """Return a compressor that always gives the same bytes for a piece that begins with ``data``.

    Without a dictionary isal does not: its levels 1 and 2 hash an address instead of the data at the third position
    (``.write_first_byte`` of igzip_icf_body_h1_gr_bt.asm uses a register that holds no data, in isa-l 2.32), and so
    find another match, about once in a thousand megabytes. With a dictionary that code does not run. The dictionary
    here is a single byte, chosen so that no data can match it: a match has at least four bytes, and data more than a
    window after the dictionary cannot refer to it.
    """
    start = bytes(data[: _WINDOW + 4])
    for value in range(255, -1, -1):
        byte = bytes([value])
        if byte + start[:3] not in start:
            return isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, -15, zdict=byte)
    return zlib.compressobj(1, zlib.DEFLATED, -15)


class ZstdPacker(_EntryPacker):
    """Writes independent zstd frames with checksums."""

    packing = "zstd"

    def __init__(self) -> None:
        super().__init__()
        import zstandard

        self._zstd = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)

    def _compress(self, data: memoryview) -> bytes:
        return self._zstd.compress(data)


_PACKERS: dict[str, type[Packer]] = {
    ".tar": Packer,
    ".tgz": GzipPacker,
    ".tar.gz": GzipPacker,
    ".tar.zst": ZstdPacker,
}


ENDINGS = tuple(_PACKERS)
"""How the names of shards end."""


def packer_for(url: str) -> Packer:
    """Return a new packer for the ending of a shard's name; standard output gets a plain tar file.

    Raises:
        SpecError: the name has none of the known endings.
    """
    if url == "-":
        return Packer()
    name = name_of(url)
    for ending, packer in _PACKERS.items():
        if name.endswith(ending):
            return packer()
    raise SpecError("this is not the name of a shard", url=url, fix=f"end it with one of {', '.join(ENDINGS)}")
