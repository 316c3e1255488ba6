"""Chunks within a chunk, as zarr's sharding codec packs them: unpacked one by one, each to its size at most.

chunk of a shard -> index -> packed inner chunks -> unpacked inner chunks -> index -> chunk of a shard
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import google_crc32c
import numpy as np

_NONE = 2**64 - 1
"""What the index has for an inner chunk that was never written."""


@dataclass(frozen=True)
class InnerChunks:
    """How ``count`` inner chunks lie in a chunk; ``unpack`` is called with the bytes of one."""

    count: int
    is_index_last: bool
    is_index_checked: bool
    unpack: Callable[[bytes], bytes]

    def unpacked(self, data: bytes) -> bytes:
        """Return a chunk of the same inner chunks, which are not packed.

        Raises:
            ValueError: it is none.
        """
        size = 16 * self.count + 4 * self.is_index_checked
        if len(data) < size:
            raise ValueError(f"{len(data):,} bytes, fewer than its index of {size:,}")
        index = data[-size:] if self.is_index_last else data[:size]
        if self.is_index_checked and struct.unpack("<I", index[-4:])[0] != google_crc32c.value(index[:-4]):
            raise ValueError("the CRC-32C of its index does not match")
        places = np.frombuffer(index, "<u8", 2 * self.count).reshape(-1, 2).copy()
        bodies, at = [], 0 if self.is_index_last else size
        for number, (offset, length) in enumerate(places.tolist()):
            if offset == length == _NONE:
                continue
            if offset + length > len(data):
                raise ValueError("an inner chunk lies outside of it")
            bodies.append(self.unpack(data[offset : offset + length]))
            places[number] = at, len(bodies[-1])
            at += len(bodies[-1])
        index = places.tobytes()
        if self.is_index_checked:
            index += struct.pack("<I", google_crc32c.value(index))
        return b"".join([*bodies, index] if self.is_index_last else [index, *bodies])
