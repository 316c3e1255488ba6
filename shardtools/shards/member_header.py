"""Check that the header before the data of each member is that of this member, for tables without checksums.

    bytes before the data of members -> one plain block each: numpy; otherwise header by header -> name and size

When members are read through the index of another program, the bytes before them are read, too. So an index that was
made for an older shard is noticed at every sample for which it is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shardtools.errors import ShardError, StaleTableError
from shardtools.shards.locate import has_prefix, is_regular, only_times, sizes_of, verify_checksums
from shardtools.shards.names import decode_name, encode_name, split_name
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK, CHECKSUM, PAX, PREFIX, PREFIX_AT, REGULAR, SIZE, TYPE_AT
from shardtools.shards.walk import END_MARK, walk
from shardtools.types import Bytes, Ints

FEW = 24
"""The number of members from which on numpy is faster than one by one."""

_NAME = 100


def check_headers(url: str, table: ShardTable, members: Ints, heads: Sequence[bytes]) -> None:
    """Raise unless each of ``heads`` ends with the header of its member; ``members`` are rows of ``table``.

    A head is the part of the tar file between the end of the member before, or the beginning of the file, and the
    member's data: its header, its extension headers, and anything that belongs to no sample, such as folders.

    Raises:
        StaleTableError: one does not: the table does not describe the shard as it is now.
    """
    names, sizes = _names(table, members), table.size[members]
    if len(heads) < FEW:
        plain = np.array([_is_plain(*each) for each in zip(heads, names, sizes.tolist(), strict=True)], bool)
    else:
        plain = _are_plain(names, sizes, heads)
    for row in np.flatnonzero(~plain).tolist():
        found = last_member(heads[row])
        if found is None or found[1] != sizes[row] or split_name(found[0]) != split_name(names[row]):
            raise _stale(url, names[row], int(sizes[row]), found)


def _names(table: ShardTable, members: Ints) -> list[bytes]:
    """Return the names of members as in a tar file, without a prefix such as ``./``."""
    data, ends, fields = table.keys.data, table.keys.ends, [encode_name(name) for name in table.fields]
    samples = np.searchsorted(table.first, members, side="right") - 1
    starts = np.where(samples > 0, ends[samples - 1], 0)
    rows = zip(starts.tolist(), ends[samples].tolist(), table.field[members].tolist(), strict=True)
    return [data[start:stop].tobytes() + b"." + fields[code] for start, stop, code in rows]


def _stale(url: str, name: bytes, size: int, found: tuple[bytes, int] | None) -> StaleTableError:
    there = "is no header" if found is None else f"is that of {decode_name(found[0])} with {found[1]:,} bytes"
    return StaleTableError(
        f"the index beside the shard does not match it: before the {size:,} bytes of this member {there}",
        url=url,
        member=decode_name(name),
        fix="delete the index (.idx, or .nv-meta), or make sidecars with htindex",
    )


# many at a time


def _are_plain(names: Sequence[bytes], sizes: Ints, heads: Sequence[bytes]) -> npt.NDArray[np.bool_]:
    """Return which heads are one plain header of their member, perhaps after a time; False if in doubt."""
    lengths = np.fromiter(map(len, heads), np.int64, len(heads))
    plain = np.zeros(len(heads), bool)
    for blocks in (1, 3):  # webdataset puts two blocks with a time before each header
        rows = np.flatnonzero(lengths == blocks * BLOCK)
        if not len(rows):
            continue
        data = np.frombuffer(b"".join([heads[row] for row in rows.tolist()]), np.uint8).reshape(-1, blocks * BLOCK)
        if blocks == 3:
            timed = _is_time(data)
            rows, data = rows[timed], data[timed]
        header = np.ascontiguousarray(data[:, -BLOCK:])
        if len(rows) and _checksums_hold(header):
            found = is_regular(header[:, TYPE_AT]) & _has_size(header, sizes[rows])
            plain[rows] = found & _has_name(header, [names[row] for row in rows.tolist()])
    return plain


def _is_time(data: Bytes) -> npt.NDArray[np.bool_]:
    """Return which rows begin with a pax header that holds a time only."""
    flat = np.ascontiguousarray(data).reshape(-1)
    header = np.ascontiguousarray(data[:, :BLOCK])
    if not _checksums_hold(header):
        return np.zeros(len(data), bool)
    size = sizes_of(header[:, SIZE])
    start = np.arange(len(data)) * data.shape[1] + BLOCK
    small: npt.NDArray[np.bool_] = (header[:, TYPE_AT] == PAX) & (size > 0) & (size <= BLOCK)
    return small & only_times(flat, start, size)


def _checksums_hold(header: Bytes) -> bool:
    try:
        verify_checksums(header, np.zeros(len(header), np.int64), base=0, url=None)
    except ShardError:
        return False
    return True


def _has_size(header: Bytes, sizes: Ints) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = sizes_of(header[:, SIZE]) == sizes
    return found


def _has_name(header: Bytes, names: Sequence[bytes]) -> npt.NDArray[np.bool_]:
    """Return which headers have these names, perhaps after ``./``, and followed by NULs only."""
    prefix = header[:, PREFIX]
    lengths = np.where(has_prefix(header), (prefix == 0).argmax(axis=1), 0)
    found = np.zeros(len(header), bool)
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        full = np.zeros((len(rows), length + bool(length) + _NAME + 1), np.uint8)
        if length:
            full[:, :length], full[:, length] = prefix[rows, :length], ord("/")
        full[:, -_NAME - 1 : -1] = header[rows, :_NAME]
        dotted = np.flatnonzero((full[:, 0] == ord(".")) & (full[:, 1] == ord("/")))
        full[dotted, :-2], full[dotted, -2:] = full[dotted, 2:], 0
        found[rows] = (full == _as_rows([names[row] for row in rows.tolist()], full.shape[1])).all(axis=1)
    return found


def _as_rows(names: Sequence[bytes], width: int) -> Bytes:
    """Return names as rows of ``width`` bytes. The row of a name that is too long matches no header."""
    text = np.array(names, f"S{max(max(map(len, names)), width)}").view(np.uint8).reshape(len(names), -1)
    text[(text[:, width - 1 :] != 0).any(axis=1), 0] = 0
    return text[:, :width]


# one at a time


def _is_plain(head: bytes, name: bytes, size: int) -> bool:
    """Return whether a head is one plain header of its member; False if in doubt."""
    return (
        len(head) == BLOCK
        and head[:_NAME].rstrip(b"\0") == name
        and not head[PREFIX_AT]
        and head[TYPE_AT] in b"0\0"
        and head[SIZE] in (b"%011o\0" % size, b"%011o " % size)
        and head[CHECKSUM][:6] == b"%06o" % (sum(head) - sum(head[CHECKSUM]) + 8 * 32)
    )


def last_member(head: bytes) -> tuple[bytes, int] | None:
    """Return the name and size of the member whose header is at the end of ``head``.

    None if there is no header, if it is not that of a regular file, or if a member of a sample comes before it.
    """
    try:
        for header in walk(lambda start, stop: head[start:stop], len(head)):
            if header.kind == END_MARK or header.is_extension:
                continue
            is_file = header.kind in REGULAR
            if header.offset == len(head):
                return (header.name, header.size) if is_file else None
            if is_file and split_name(header.name) is not None:
                return None
    except ShardError:
        pass
    return None
