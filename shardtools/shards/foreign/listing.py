"""The members of a shard as the index of another program lists them, and the sidecar made from that.

    Listing -> samples, as scanning would find them -> does it match the shard as it is now? -> Sidecar

Such an index has no checksum of its shard. It must not be used if it describes an older shard, or only a part of it. So
some members are checked: the headers of the first, the last and some between must be where the index says, with the
right name and size; no member of a sample may come before them unlisted; and the archive must end after the last one.
If anything is wrong, the index is ignored, and the shard is scanned. If a few members were replaced by others with as
many blocks, this check may not notice it; reading them does, since each is compared with its header
(``member_header.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shardtools.errors import RefusedError, ShardError
from shardtools.shards.columns import Texts, with_zero
from shardtools.shards.member_header import last_member
from shardtools.shards.names import decode_name, split_name, wrong_fields
from shardtools.shards.scan import scan
from shardtools.shards.sidecar import Sidecar
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK, padded
from shardtools.storage import ByteRange, get_storage
from shardtools.types import Ints

MAX_SAMPLES = 1 << 40
"""No shard has more samples: a larger number in an index is wrong, and the sum over all shards might overflow."""

SPREAD = 16
"""The number of members to check, from the first to the last."""

SUSPECT = 6
"""The number of suspect members to check besides, of each kind: those with the widest gaps before them, which may hide
a member; those with the longest names, for which indexes have been wrong (wds2idx takes GNU tar's offset, which is that
of the extension header); and those with names that an index may escape."""

MAX_GAP, MAX_END = 1 << 16, 1 << 20
"""The most bytes to read between two members, and after the last one. If there are more, the shard is scanned."""


@dataclass(frozen=True)
class Listing:
    """Members of a plain shard: their names, and where their data are and how many bytes, in the order of the shard."""

    names: Sequence[bytes]
    offset: Ints
    size: Ints

    @property
    def stop(self) -> Ints:
        """Where the blocks of each member's data end."""
        return self.offset + padded(self.size)


def sidecar_of(url: str, filesize: int, listing: Listing) -> Sidecar | None:
    """Return the sidecar of the plain shard at ``url``, without checksums; None if ``listing`` does not match it.

    Raises:
        StorageError: the shard cannot be read.
    """
    if not _is_orderly(listing, filesize):
        return None
    table = _table(listing)
    if table is None or not _holds(url, filesize, listing):
        return None
    return Sidecar(filesize, "", table, np.empty((0, 2), np.int64), {}, "tar")


def _is_orderly(listing: Listing, filesize: int) -> bool:
    """Return whether the members follow each other, with room for their headers, inside the shard."""
    offset, size, stop = listing.offset, listing.size, listing.stop
    before = with_zero(stop)[:-1]
    return bool(
        len(offset)
        and (size >= 0).all()
        and max(int(size.max()), int(offset.max())) <= filesize
        and (offset % BLOCK == 0).all()
        and (offset >= before + BLOCK).all()
        and stop[-1] <= filesize
    )


def _table(listing: Listing) -> ShardTable | None:
    """Return the samples that the members make; None if a scan would refuse them."""
    groups = _group(listing.names)
    if groups is None:
        return None
    members, first = np.array(groups.rows, np.int64), np.array([*groups.first, len(groups.rows)], np.int64)
    stop = listing.stop[members][first[1:] - 1]
    return ShardTable(
        keys=Texts(np.frombuffer(b"".join(groups.keys), np.uint8), np.cumsum([*map(len, groups.keys)], dtype=np.int64)),
        start=with_zero(stop)[:-1],
        stop=stop,
        first=first,
        fields=tuple(map(decode_name, groups.fields)),
        field=np.array(groups.field, np.int64),
        offset=listing.offset[members],
        size=listing.size[members],
        other=len(listing.names) - len(members),
    )


@dataclass
class _Groups:
    """Samples: the ``keys``; where among ``rows``, the members that are parts of samples, each begins (``first``).

    ``field`` has the number of each member's field in ``fields``.
    """

    keys: dict[bytes, None] = field(default_factory=dict)
    first: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    fields: dict[bytes, int] = field(default_factory=dict)
    field: list[int] = field(default_factory=list)


def _group(names: Sequence[bytes]) -> _Groups | None:
    """Return the samples that members with these names make; None if a key or field comes twice, or is not allowed."""
    groups = _Groups()
    last: bytes | None = None
    taken: set[int] = set()
    for row, name in enumerate(names):
        found = split_name(name)
        if found is None:
            continue
        if found[0] != last:
            last = found[0]
            if last in groups.keys:
                return None
            groups.keys[last] = None
            groups.first.append(len(groups.rows))
            taken = set()
        code = groups.fields.setdefault(found[1], len(groups.fields))
        if code in taken:
            return None
        taken.add(code)
        groups.rows.append(row)
        groups.field.append(code)
    refused = wrong_fields(map(decode_name, groups.fields)) or any(b"\0" in name for name in groups.keys)
    return None if refused else groups


def _holds(url: str, filesize: int, listing: Listing) -> bool:
    """Return whether the members that are checked are as listed, and the shard ends after the last one."""
    offset, size, stop = listing.offset, listing.size, listing.stop
    before = with_zero(stop)[:-1]
    gaps, end = offset - before, ByteRange(int(stop[-1]), filesize)
    if gaps.max() > MAX_GAP or end.stop - end.start > MAX_END:
        return False
    spread = np.linspace(0, len(offset) - 1, min(SPREAD, len(offset))).astype(np.int64)
    widest = np.unique(gaps, return_index=True)[1][-SUSPECT:]
    longest = np.argsort([-len(name) for name in listing.names], kind="stable")[:SUSPECT]
    escaped = [row for row, name in enumerate(listing.names) if b"\\" in name][:SUSPECT]
    rows = np.unique(np.concatenate((spread, widest, longest, np.array(escaped, np.int64)))).tolist()
    ranges = [ByteRange(int(before[row]), int(offset[row])) for row in rows]
    try:
        *heads, rest = get_storage(url).read_ranges(url, [*ranges, end])
        for row, head in zip(rows, heads, strict=True):
            if last_member(head) != (listing.names[row], int(size[row])):
                return False
        return len(scan(np.frombuffer(rest, np.uint8), base=end.start).table) == 0
    except (ShardError, RefusedError, ValueError):  # nothing of a tar file, or an end that is not where it was
        return False
