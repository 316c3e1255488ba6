"""Packed bytes of chunks to plain bytes, never more than a limit: a few bytes can say that they are gigabytes.

name and configuration of a codec -> unpacker_of -> undo(bytes, limit) -> plain bytes
"""

from __future__ import annotations

import bz2
import lzma
import struct
import threading
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import google_crc32c
import zstandard

Undo = Callable[[bytes, int], bytes]
"""Undoes one codec, given the bytes and how many the result may have. It raises a ValueError if they are none."""


_PREFIX = "numcodecs."

_SAME_SIZE = frozenset(["shuffle", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"])
"""Codecs of numcodecs whose results are no larger than what they get."""


def unpacker_of(name: str, configuration: Mapping[str, Any], itemsize: int) -> Undo | None:
    """Return what undoes a codec of bytes, for values of ``itemsize`` bytes; None if the codec is another."""
    known = {"zstd": unzstd, "gzip": ungzip, "crc32c": check_crc32c, "blosc": _unblosc}
    if not name.startswith(_PREFIX):
        return known.get(name)
    name = name.removeprefix(_PREFIX)
    if name in _SAME_SIZE:
        return partial(_undo_by_numcodecs, _numcodecs_config(name, configuration, itemsize))
    if name == "lzma":
        return partial(_unlzma, configuration.get("format", lzma.FORMAT_XZ), configuration.get("filters"))
    return {"zstd": unzstd, "gzip": ungzip, "zlib": _unzlib, "blosc": _unblosc, "lz4": _unlz4, "bz2": _unbz2}.get(name)


class _Unpacker(threading.local):
    """What one thread unpacks with: no two may use it at a time."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_local = _Unpacker()


def check_size(size: int, limit: int) -> None:
    """Raise a ValueError if something would have more than ``limit`` bytes."""
    if size > limit:
        raise ValueError(f"{size:,} bytes, not at most {limit:,}")


def unzstd(data: bytes, limit: int) -> bytes:
    """Undo zstd, whose header has the size, or may have it."""
    try:
        size = zstandard.frame_content_size(data)
        check_size(size, limit)
        return _local.zstd.decompress(data, max_output_size=limit if size < 0 else 0)
    except zstandard.ZstdError as error:
        raise ValueError(f"not zstd: {error}") from error


def ungzip(data: bytes, limit: int) -> bytes:
    """Undo gzip."""
    return _inflate(data, limit, "gzip", 31)


def _unzlib(data: bytes, limit: int) -> bytes:
    return _inflate(data, limit, "zlib", 15)


def _inflate(data: bytes, limit: int, name: str, wbits: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=wbits)
    try:
        plain = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"not {name}: {error}") from error
    return _whole(plain, unpacker.eof, limit)


def _unbz2(data: bytes, limit: int) -> bytes:
    unpacker = bz2.BZ2Decompressor()
    try:
        plain = unpacker.decompress(data, limit + 1)
    except OSError as error:
        raise ValueError(f"not bz2: {error}") from error
    return _whole(plain, unpacker.eof, limit)


def _unlzma(kind: int, filters: list[dict[str, Any]] | None, data: bytes, limit: int) -> bytes:
    try:
        unpacker = lzma.LZMADecompressor(kind, filters=filters)
        plain = unpacker.decompress(data, limit + 1)
    except lzma.LZMAError as error:
        raise ValueError(f"not lzma: {error}") from error
    return _whole(plain, unpacker.eof or kind == lzma.FORMAT_RAW, limit)


def _whole(plain: bytes, is_end: bool, limit: int) -> bytes:
    if not is_end or len(plain) > limit:
        raise ValueError("more or fewer bytes than there should be")
    return plain


def _unblosc(data: bytes, limit: int) -> bytes:
    if len(data) < 16:
        raise ValueError(f"not blosc: {len(data)} bytes, fewer than its header of 16")
    size, _, packed = struct.unpack_from("<4xIII", data)
    check_size(size, limit)
    if packed != len(data):
        raise ValueError(f"not blosc: {len(data):,} bytes, and its header says {packed:,}")
    return _undo_by_numcodecs({"id": "blosc"}, data, limit)


def _unlz4(data: bytes, limit: int) -> bytes:
    if len(data) < 4:
        raise ValueError(f"not lz4: {len(data)} bytes, fewer than its header of 4")
    check_size(int.from_bytes(data[:4], "little"), limit)
    return _undo_by_numcodecs({"id": "lz4"}, data, limit)


def _numcodecs_config(name: str, configuration: Mapping[str, Any], itemsize: int) -> dict[str, Any]:
    if name == "shuffle" and configuration.get("elementsize") is None:
        return {"id": name, **configuration, "elementsize": itemsize}
    return {"id": name, **configuration}


def _undo_by_numcodecs(config: Mapping[str, Any], data: bytes, limit: int) -> bytes:
    from numcodecs.registry import get_codec

    try:
        plain = bytes(memoryview(get_codec(dict(config)).decode(data)).cast("B"))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"not {config['id']}: {error}") from error
    check_size(len(plain), limit)
    return plain


def check_count(count: int, data: bytes, _: int) -> bytes:
    """Return texts or bytes of different lengths as zarr keeps them, if their header says that they are ``count``."""
    if len(data) < 4 or int.from_bytes(data[:4], "little") != count:
        raise ValueError(f"not {count:,} values, or not in the way of zarr")
    return data


def check_crc32c(data: bytes, _: int) -> bytes:
    """Return the bytes before the checksum at the end."""
    body = data[:-4]
    if len(data) < 4 or struct.unpack("<I", data[-4:])[0] != google_crc32c.value(body):
        raise ValueError("the CRC-32C of the codec does not match")
    return body
