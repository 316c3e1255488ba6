"""Chunks as bytes: by a short path for the usual codecs, by the zarr library for all others.

    numpy -> bytes -> zstd, gzip, crc32c -> bytes, and back

The zarr library takes about 0.6 ms for a chunk of 12 kB, the short path a hundredth of it. What unpacks bytes is ours
for all codecs: it is told how many there may be.
"""

from __future__ import annotations

import json
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, ClassVar, Protocol

import google_crc32c
import numpy as np
import numpy.typing as npt
import zstandard

from shardtools.arrays.inner_chunks import InnerChunks
from shardtools.arrays.unpacking import Undo, check_count, unpacker_of

Array = npt.NDArray[Any]

Pack = Callable[[bytes], bytes]
"""Packs bytes as one codec does."""

_PLAIN = frozenset(
    [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    + ["bool", "float16", "float32", "float64", "complex64", "complex128"]
)
"""Data types of Zarr whose bytes are those of numpy."""


_MAX_UNPACKED = 1 << 30
"""Bytes of a chunk of texts, whose size is not known before."""


class ChunkCodec(Protocol):
    """How the chunks of an array become bytes."""

    @property
    def is_raw(self) -> bool:
        """Whether the bytes of a chunk are those of numpy in this machine's memory."""

    def decode(self, data: bytes) -> Array:
        """Return a chunk, which may be read-only.

        Raises:
            ValueError: the bytes are none.
        """

    def encode(self, chunk: Array) -> bytes:
        """Return the bytes of a chunk."""


def codec_of(document: bytes, chunks: tuple[int, ...], dtype: np.dtype[Any]) -> ChunkCodec:
    """Return the codec of an array, given its document, the shape of its chunks and their type."""
    body = json.loads(document)
    rest, packers = _split_packers(body["codecs"])
    plain = isinstance(body["data_type"], str) and body["data_type"] in _PLAIN
    if plain and len(rest) == 1 and rest[0]["name"] == "bytes":
        is_big = rest[0].get("configuration", {}).get("endian") == "big"
        _, unpackers = _split_unpackers(body["codecs"], dtype, prod(chunks))
        return PlainCodec(chunks, dtype.newbyteorder(">" if is_big else "<"), tuple(packers), tuple(unpackers))
    limit = _MAX_UNPACKED if dtype.kind == "T" else _packed_limit(prod(chunks) * max(dtype.itemsize, 16))
    unpacked, unpackers = _split_unpackers(body["codecs"], dtype, prod(chunks))
    unpacked, inner = _split_inner(unpacked, chunks, dtype)
    documents = [json.dumps({**body, "codecs": codecs}).encode() for codecs in (rest, unpacked)]
    return ZarrCodec(documents[0], documents[1], chunks, tuple(packers), tuple(unpackers), limit, inner)


def _split_inner(
    codecs: list[Mapping[str, Any]], chunks: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[list[Mapping[str, Any]], InnerChunks | None]:
    """Return codecs whose inner chunks are not packed, and how these are unpacked; None if they are not or cannot."""
    last = codecs[-1]
    if last["name"] != "sharding_indexed":
        return codecs, None
    options = last["configuration"]
    size = prod(options["chunk_shape"])
    rest, unpackers = _split_unpackers(options["codecs"], dtype, size)
    how = [(codec["name"], codec.get("configuration", {}).get("endian")) for codec in options["index_codecs"]]
    if not unpackers or how not in ([("bytes", "little")], [("bytes", "little"), ("crc32c", None)]):
        return codecs, None
    limit = _MAX_UNPACKED if dtype.kind == "T" else _packed_limit(size * dtype.itemsize)
    inner = InnerChunks(
        prod(chunks) // size,
        options.get("index_location", "end") == "end",
        len(how) > 1,
        partial(_unpack, unpackers=tuple(unpackers), limit=limit),
    )
    return [*codecs[:-1], {**last, "configuration": {**options, "codecs": rest}}], inner


def _split_packers(codecs: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Pack]]:
    """Return codecs without the last ones that pack bytes in a way that is short, and what those do, in order."""
    rest = list(codecs)
    packers: list[Pack] = []
    while len(rest) > 1 and (pack := _packer_of(rest[-1]["name"], rest[-1].get("configuration", {}))) is not None:
        rest.pop()
        packers.insert(0, pack)
    return rest, packers


def _split_unpackers(
    codecs: Sequence[Mapping[str, Any]], dtype: np.dtype[Any], count: int
) -> tuple[list[Mapping[str, Any]], list[Undo]]:
    """Return codecs without the last ones that only pack bytes, and what undoes those, for ``count`` values."""
    rest = list(codecs)
    unpackers: list[Undo] = []
    while len(rest) > 1:
        undo = unpacker_of(rest[-1]["name"], rest[-1].get("configuration", {}), dtype.itemsize)
        if undo is None:
            break
        rest.pop()
        unpackers.append(undo)
    if rest[-1]["name"] in ("vlen-utf8", "vlen-bytes"):
        unpackers.append(partial(check_count, count))
    return rest, unpackers


def _packer_of(name: str, configuration: Mapping[str, Any]) -> Pack | None:
    if name == "zstd":
        return partial(_zstd, configuration["level"], configuration["checksum"])
    if name == "gzip":
        return partial(_gzip, configuration["level"])
    return _add_crc32c if name == "crc32c" else None


def _packed_limit(nbytes: int) -> int:
    """Return how many bytes a packing of so many may have: what cannot be packed becomes a little larger."""
    return nbytes + nbytes // 64 + 1024


def _unpack(data: bytes, unpackers: Sequence[Undo], limit: int) -> bytes:
    for undo in unpackers:
        data = undo(data, limit)
    return data


def _pack(data: bytes, packers: Sequence[Pack]) -> bytes:
    for pack in packers:
        data = pack(data)
    return data


@dataclass(frozen=True)
class PlainCodec:
    """Numbers in C order, perhaps packed. ``dtype`` has the byte order that is stored."""

    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    packers: tuple[Pack, ...]
    unpackers: tuple[Undo, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of a chunk."""
        return prod(self.chunks) * self.dtype.itemsize

    @property
    def is_raw(self) -> bool:
        return not self.packers and self.dtype.isnative

    def decode(self, data: bytes) -> Array:
        nbytes = self.nbytes
        data = _unpack(data, self.unpackers, _packed_limit(nbytes))
        if len(data) != nbytes:
            raise ValueError(f"{len(data):,} bytes, not {nbytes:,}")
        return np.frombuffer(data, self.dtype).reshape(self.chunks)

    def encode(self, chunk: Array) -> bytes:
        return _pack(np.ascontiguousarray(chunk, self.dtype).tobytes(), self.packers)


class _Zstd(threading.local):
    """What one thread packs with: no two may use it at a time."""

    def __init__(self) -> None:
        self.packers: dict[tuple[int, bool], zstandard.ZstdCompressor] = {}


_local = _Zstd()


def _zstd(level: int, checksum: bool, data: bytes) -> bytes:
    packers = _local.packers
    if (level, checksum) not in packers:
        packers[level, checksum] = zstandard.ZstdCompressor(level=level, write_checksum=checksum)
    return packers[level, checksum].compress(data)


def _gzip(level: int, data: bytes) -> bytes:
    packer = zlib.compressobj(level, wbits=31)
    return packer.compress(data) + packer.flush()


def _add_crc32c(data: bytes) -> bytes:
    return data + struct.pack("<I", google_crc32c.value(data))


@dataclass(frozen=True)
class ZarrCodec:
    """All other arrays: zarr reads and writes an array of one chunk in memory.

    ``document`` is that of the array without the last codecs, which the ``packers`` are. ``plain`` is it without those
    that the ``unpackers`` undo, to ``limit`` bytes at most, and when ``inner`` has unpacked the chunks within a chunk.
    """

    document: bytes
    plain: bytes
    chunks: tuple[int, ...]
    packers: tuple[Pack, ...]
    unpackers: tuple[Undo, ...]
    limit: int
    inner: InnerChunks | None
    is_raw: ClassVar[bool] = False

    def decode(self, data: bytes) -> Array:
        data = _unpack(data, self.unpackers, self.limit)
        array, store, key = self._array(self.plain)
        store._store_dict[key] = _buffer(data if self.inner is None else self.inner.unpacked(data))
        try:
            return np.asarray(array[...])
        except Exception as error:  # of any codec
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def encode(self, chunk: Array) -> bytes:
        array, store, key = self._array(self.document)
        array[...] = chunk
        return _pack(store._store_dict[key].to_bytes(), self.packers)

    def _array(self, document: bytes) -> tuple[Any, Any, str]:
        import zarr
        from zarr.storage import MemoryStore

        body = {**json.loads(document), "shape": list(self.chunks)}
        store = MemoryStore({"zarr.json": _buffer(json.dumps(body).encode())})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = zarr.open_array(store, mode="r+").with_config({"write_empty_chunks": True})
        return array, store, array.metadata.encode_chunk_key((0,) * len(self.chunks))


def _buffer(data: bytes) -> Any:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(data)
