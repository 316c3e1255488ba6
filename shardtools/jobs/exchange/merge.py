"""Joining: samples with one key, of several sources, become one sample.

spans in the order of their keys -> those with one key -> which of their members -> one span
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import DuplicateKeyError
from shardtools.jobs.exchange.columns import MEMBER, Columns
from shardtools.jobs.exchange.same import Treatment, place
from shardtools.shards.spans import SpanBatch
from shardtools.shards.tar import BLOCK

_BATCH = 1024


@dataclass(frozen=True)
class Piece:
    """One of the samples with a key: its row and span."""

    row: int
    span: memoryview


@dataclass(frozen=True)
class Merged:
    """A sample that came of some pieces: the row that it has its name of, its span, and its members."""

    row: int
    span: Any
    members: npt.NDArray[Any]


class Merger:
    """Makes the samples of one output whole; ``dropped`` counts those whose key not all sources have that must."""

    def __init__(self, columns: Columns, treatment: Treatment, sources: Sequence[int], shards: Sequence[str]):
        self._columns = columns
        self._treatment = treatment
        self._sources = sources
        self._shards = shards
        self.dropped = 0

    def merge(self, spans: Iterator[tuple[int, Sequence[memoryview]]]) -> Iterator[SpanBatch]:
        """Yield the merged samples, in order, some at a time; ``spans`` are given with the row of the first.

        Raises:
            DuplicateKeyError: two samples with one key have the same field, and nothing says which to take.
        """
        columns = self._columns
        names = columns.names.tolist()
        pieces = (Piece(start + i, span) for start, some in spans for i, span in enumerate(some))
        merged: list[Merged] = []
        for _, group in groupby(pieces, lambda piece: names[piece.row]):
            together = list(group)
            if not self._is_wanted(together):
                self.dropped += len(together)
                continue
            merged.append(_join(columns, together, self._treatment, self._shards))
            if len(merged) == _BATCH:
                yield _batch(columns, merged)
                merged = []
        if merged:
            yield _batch(columns, merged)

    def _is_wanted(self, pieces: Sequence[Piece]) -> bool:
        of = {self._sources[int(self._columns.places["ordinal"][piece.row])] for piece in pieces}
        if self._treatment.merge == "inner":
            return len(of) == len(set(self._sources))
        return self._treatment.merge != "left" or 0 in of


def _members(columns: Columns, row: int) -> npt.NDArray[Any]:
    return columns.members[columns.first[row] : columns.first[row + 1]]


def _join(columns: Columns, pieces: Sequence[Piece], treatment: Treatment, shards: Sequence[str]) -> Merged:
    """Return one sample of the members of all pieces."""
    if len(pieces) == 1:
        return Merged(pieces[0].row, pieces[0].span, _members(columns, pieces[0].row))
    taken: dict[int, tuple[int, memoryview, Any]] = {}
    for piece in pieces:
        at = 0
        for member in _members(columns, piece.row):
            stop = at + int(member["head"]) + -(-int(member["size"]) // BLOCK) * BLOCK
            field = int(member["field"])
            if field in taken and treatment.on_conflict == "error":
                raise _conflict(columns, taken[field][0], piece.row, field, shards)
            if field not in taken or treatment.on_conflict == "last":
                taken[field] = piece.row, piece.span[at:stop], member
            at = stop
    span = b"".join(part for _, part, _ in taken.values())
    return Merged(pieces[0].row, span, np.array([member for _, _, member in taken.values()], MEMBER))


def _conflict(columns: Columns, one: int, other: int, field: int, shards: Sequence[str]) -> DuplicateKeyError:
    name = columns.names.take(np.array([one])).tolist()[0].decode("utf-8", "surrogateescape")
    return DuplicateKeyError(
        f"two samples with this key have the field {columns.fields[field]}: "
        f"{place(columns, one, shards)} and {place(columns, other, shards)}",
        member=name,
        fix="say which to take by --on-conflict first or last",
    )


def _batch(columns: Columns, merged: Sequence[Merged]) -> SpanBatch:
    names = columns.names.take(np.array([sample.row for sample in merged]))
    members = np.concatenate([sample.members for sample in merged])
    return SpanBatch(
        [sample.span for sample in merged],
        names.data,
        np.diff(names.ends, prepend=0),
        np.array([len(sample.members) for sample in merged], np.int64),
        members["head"].astype(np.int64),
        members["size"].astype(np.int64),
        members["field"].astype(np.int64),
        members["crc32"],
        columns.fields,
    )
