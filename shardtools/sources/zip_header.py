"""The local header of a member of a zip file: it stands before the data, and may differ from the directory's entry."""

from __future__ import annotations

import struct

_LOCAL = struct.Struct("<4s22xHH")
_MAGIC = b"PK\x03\x04"

FIXED_SIZE = _LOCAL.size
"""Bytes of a local header before the name."""


def local_header_size(head: bytes) -> int | None:
    """Return how many bytes a local header has, name and extra fields included, given its first `FIXED_SIZE` bytes.

    None if these are not the beginning of a local header.

    >>> local_header_size(b"PK\\x03\\x04" + bytes(22) + b"\\x05\\0\\x02\\0"), local_header_size(b"")
    (37, None)
    """
    if len(head) < FIXED_SIZE or not head.startswith(_MAGIC):
        return None
    _, name, extra = _LOCAL.unpack_from(head)
    return FIXED_SIZE + int(name) + int(extra)
