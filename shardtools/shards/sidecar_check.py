"""The check of a sidecar before anything in it is used: can it describe a shard?

    facts and columns, parsed -> numbers in range, columns of the right lengths -> names that a scan could have found
      -> Sidecar -> spans inside the shard, one after the other -> no fault

The columns hold distances. If none is negative, spans cannot overlap.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shardtools.shards.columns import with_zero
from shardtools.shards.names import wrong_fields
from shardtools.shards.table import repeated_fields
from shardtools.shards.tar import BLOCK
from shardtools.types import Bytes, Ints

if TYPE_CHECKING:
    from shardtools.shards.sidecar import Sidecar

_CHECKSUM = re.compile(r"(crc32:[0-9a-f]{8})?")
_MOST = 1 << 60
"""More bytes than any tar file has; sums of sizes below it do not overflow."""

_NO_SAMPLE = "an entry point is not where a sample begins"

_SLASH, _DOT = b"/."


def fault_of_facts(facts: Mapping[str, Any]) -> str:
    """Return what is wrong with the facts of a sidecar, or ""; ``fields`` must be a list."""
    for name in ("filesize", "other"):
        value = facts[name]
        if type(value) is not int or not 0 <= value < _MOST:
            return f"{name} is not a whole number, or out of range"
    if not isinstance(facts["checksum"], str) or not _CHECKSUM.fullmatch(facts["checksum"]):
        return "its checksum is not valid"
    if facts["packing"] not in (None, "tar", "gzip", "zstd"):
        return "its packing is unknown"
    if not isinstance(facts["job"], Mapping):
        return "its job is not an object"
    fields = facts["fields"]
    if not all(isinstance(name, str) for name in fields) or len({*fields}) < len(fields):
        return "its fields are not distinct names"
    if wrong := wrong_fields(fields):
        return f"a field cannot be called {wrong[0]!r}"
    return ""


def fault_of_columns(columns: Mapping[str, npt.NDArray[Any]], fields: int) -> str:
    """Return what is wrong with the columns of a sidecar with so many fields, or "".

    The columns must be whole numbers of one dimension.
    """
    return _fault_of_numbers(columns, fields) or _fault_of_keys(columns)


def _fault_of_numbers(columns: Mapping[str, npt.NDArray[Any]], fields: int) -> str:
    for name, column in columns.items():
        if len(column) and (column.min() < 0 or float(column.max()) * len(column) >= _MOST):
            return f"a number in {name} is out of range"
    samples, members = len(columns["members"]), len(columns["field"])
    if not len(columns["key_length"]) == len(columns["lead"]) == samples:
        return "its columns of samples differ in length"
    if not len(columns["head"]) == len(columns["size"]) == len(columns.get("crc32", columns["field"])) == members:
        return "its columns of members differ in length"
    counts = columns["members"].astype(np.int64)
    if (samples and counts.min() < 1) or int(counts.sum()) != members:
        return "its samples do not have as many members as there are"
    if members and int(columns["field"].max()) >= fields:
        return "the number of a field is out of range"
    if "crc32" in columns and members and int(columns["crc32"].max()) >> 32:
        return "a number in crc32 is out of range"
    head, lead = columns["head"].astype(np.int64), columns["lead"].astype(np.int64)
    if members and (head.min() < BLOCK or (head & (BLOCK - 1)).any() or (lead & (BLOCK - 1)).any()):
        return "its headers are not whole tar blocks"
    again = repeated_fields(counts, columns["field"].astype(np.int64), fields)
    return "a sample has a field twice" if len(again) else ""


def _fault_of_keys(columns: Mapping[str, npt.NDArray[Any]]) -> str:
    data, lengths = columns["key_data"], columns["key_length"].astype(np.int64)
    if int(lengths.sum()) != len(data) or (len(lengths) and lengths.min() < 1):
        return "its keys do not have the lengths that it says"
    return "" if are_keys(data, np.cumsum(lengths)) else "a key is not valid"


def are_keys(data: Bytes, ends: Ints) -> bool:
    """Return whether all keys, which end at ``ends`` in ``data``, are valid (`shardtools.shards.names.is_key`).

    >>> ends = np.array([1, 4])
    >>> are_keys(np.frombuffer(b"a.x/", np.uint8), ends), are_keys(np.frombuffer(b"a.xy", np.uint8), ends)
    (False, False)
    >>> are_keys(np.frombuffer(b"a.x/b", np.uint8), np.array([5]))
    True
    """
    if not len(ends):
        return True
    if (data == 0).any() or (data[ends - 1] == _SLASH).any():
        return False
    if not (data == _DOT).any():
        return True
    starts = with_zero(ends)[:-1]
    positions = np.arange(len(data))
    last_slash = np.maximum.reduceat(np.where(data == _SLASH, positions, -1), starts)
    last_dot = np.maximum.reduceat(np.where(data == _DOT, positions, -1), starts)
    if (last_dot > last_slash).any():
        return False
    second = np.minimum(starts + 1, len(data) - 1)
    return not ((data[starts] == _DOT) & (data[second] == _SLASH)).any()


def fault_of_ends(sidecar: Sidecar) -> str:
    """Return what is wrong with the ends of samples and with the entry points, or "".

    The samples of a shard that is not packed must be inside it.
    """
    table, entries = sidecar.table, sidecar.entries
    stop = int(table.stop[-1]) if len(table) else 0
    if sidecar.packing == "tar" and (stop > sidecar.filesize or len(entries)):
        return (
            "its samples are not all inside the shard" if stop > sidecar.filesize else "a plain shard has entry points"
        )
    if not len(entries):
        return ""
    inside = (entries >= 0).all() and entries[-1, 0] < stop and entries[-1, 1] < sidecar.filesize
    if not inside or (np.diff(entries, axis=0) <= 0).any():
        return "its entry points are out of order, or not inside the shard"
    start = table.start
    rows = np.minimum(np.searchsorted(start, entries[:, 0]), len(start) - 1)
    return "" if entries[0, 0] == 0 and (start[rows] == entries[:, 0]).all() else _NO_SAMPLE
