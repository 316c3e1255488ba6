"""The table of a shard from an index that another program has written beside it, instead of reading the shard.

    DALI's, or Energon's -> Listing -> Sidecar

Only indexes of plain shards are used: their offsets are those of the tar file.
"""

from __future__ import annotations

from collections.abc import Iterator

from shardtools.errors import AccessError, LimitError, NotFoundError, RefusedError
from shardtools.shards.foreign import dali
from shardtools.shards.foreign.energon import EnergonIndex
from shardtools.shards.foreign.listing import Listing, sidecar_of
from shardtools.shards.sidecar import Sidecar
from shardtools.storage.limited import read_limited
from shardtools.urls import name_of


def read_foreign(url: str, filesize: int | None, energon: EnergonIndex) -> Sidecar | None:
    """Return the sidecar of the shard at ``url`` from an index of another program; None if none matches the shard.

    It has no checksums.

    Raises:
        StorageError: the storage cannot be read.
    """
    if not name_of(url).endswith(".tar") or filesize is None:  # an index beside one that is packed is about another
        return None
    found = (sidecar_of(url, filesize, listing) for listing in _listings(url, filesize, energon))
    return next((sidecar for sidecar in found if sidecar is not None), None)


def _listings(url: str, filesize: int, energon: EnergonIndex) -> Iterator[Listing]:
    try:
        index = read_limited(dali.index_url(url), "index")
    except (NotFoundError, AccessError, RefusedError, LimitError):
        index = b""
    yield from dali.parse_index(index, filesize)
    if (listing := energon.listing(url, filesize)) is not None:
        yield listing
