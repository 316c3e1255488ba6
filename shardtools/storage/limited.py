"""Whole objects of kinds whose size has a limit (see `shardtools.limits`), such as sidecars and manifests."""

from __future__ import annotations

from shardtools.errors import AccessError, NotFoundError, RefusedError
from shardtools.storage import current_options, get_storage

_PIECE = 1 << 22


def read_limited(url: str, kind: str) -> bytes:
    """Return all bytes of an object that is of a ``kind`` with a limit (see `shardtools.limits`).

    Raises:
        NotFoundError: there is no such object.
        StorageError: it cannot be read.
        LimitError: it is larger than its kind may be; no more than that was read of it.
    """
    limits, pieces, size = current_options().limits, [], 0
    with get_storage(url).open(url) as stream:
        if stream.stat.size is not None:
            limits.check(kind, stream.stat.size, url=url)
        while piece := stream.read(_PIECE):
            size += len(piece)
            limits.check(kind, size, url=url)
            pieces.append(piece)
    return b"".join(pieces)


def read_optional(url: str, kind: str) -> bytes | None:
    """Return all bytes of an object that need not be there; None if it is not, or may not be read.

    What is not there is forbidden, say some servers: S3 to those who may not list, and every server to a URL that is
    made of one that was signed for another object. ``kind`` is that of `read_limited`.

    Raises:
        StorageError: it cannot be read for another reason.
        LimitError: it is larger than its kind may be.
    """
    try:
        return read_limited(url, kind)
    except (NotFoundError, AccessError, RefusedError):
        return None
