"""Merging: samples of several sources that have the same key become one sample.

spans sorted by key -> those with one key -> the members to take -> one span
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from shardtools.errors import DuplicateKeyError
from shardtools.jobs.exchange.duplicates import DuplicatePolicy, place
from shardtools.jobs.exchange.run_table import RunTable
from shardtools.shards.table import ShardTable, lay_out
from shardtools.shards.tar import padded
from shardtools.types import Ints

_BATCH = 1024


@dataclass(frozen=True)
class Piece:
    """One of the samples with a key: its row and span."""

    row: int
    span: memoryview


@dataclass(frozen=True)
class Merged:
    """A sample made of pieces: the ``row`` of its key, its span, and the rows of its members."""

    row: int
    span: Any
    members: Ints


class Merger:
    """Merges the samples of one output; ``dropped`` counts those without a sample of the same key in a source."""

    def __init__(self, samples: RunTable, policy: DuplicatePolicy, sources: Sequence[int], shards: Sequence[str]):
        self._samples = samples
        self._table, self._heads = samples.table, samples.table.heads
        self._policy = policy
        self._sources = sources
        self._shards = shards
        self.dropped = 0

    def merge(self, spans: Iterator[tuple[int, Sequence[memoryview]]]) -> Iterator[tuple[ShardTable, list[Any]]]:
        """Yield table and spans of the merged samples, in order, some at a time; ``spans`` have their first row.

        Raises:
            DuplicateKeyError: two samples with one key have the same field, and the policy does not say which to take.
        """
        keys = self._table.keys.tolist()
        pieces = (Piece(start + i, span) for start, some in spans for i, span in enumerate(some))
        merged: list[Merged] = []
        for _, group in groupby(pieces, lambda piece: keys[piece.row]):
            together = list(group)
            if not self._is_wanted(together):
                self.dropped += len(together)
                continue
            merged.append(self._join(together))
            if len(merged) == _BATCH:
                yield self._lay_out(merged)
                merged = []
        if merged:
            yield self._lay_out(merged)

    def _is_wanted(self, pieces: Sequence[Piece]) -> bool:
        of = {self._sources[int(self._samples.places["ordinal"][piece.row])] for piece in pieces}
        if self._policy.merge == "inner":
            return len(of) == len(set(self._sources))
        return self._policy.merge != "left" or 0 in of

    def _members(self, row: int) -> Ints:
        return np.arange(self._table.first[row], self._table.first[row + 1])

    def _join(self, pieces: Sequence[Piece]) -> Merged:
        """Return one sample of the members of all pieces."""
        if len(pieces) == 1:
            return Merged(pieces[0].row, pieces[0].span, self._members(pieces[0].row))
        table = self._table
        taken: dict[int, tuple[Piece, int]] = {}
        for piece in pieces:
            for member in self._members(piece.row).tolist():
                field = int(table.field[member])
                if field in taken and self._policy.on_conflict == "error":
                    raise self._conflict(taken[field][0].row, piece.row, field)
                if field not in taken or self._policy.on_conflict == "last":
                    taken[field] = piece, member
        span = b"".join(self._bytes_of(piece, member) for piece, member in taken.values())
        return Merged(pieces[0].row, span, np.array([member for _, member in taken.values()], np.int64))

    def _bytes_of(self, piece: Piece, member: int) -> memoryview:
        """Return a member with its headers, as it is in a span."""
        table = self._table
        at = int(table.offset[member] - table.start[piece.row])
        return piece.span[at - int(self._heads[member]) : at + padded(int(table.size[member]))]

    def _conflict(self, one: int, other: int, field: int) -> DuplicateKeyError:
        return DuplicateKeyError(
            f"two samples with this key have the field {self._table.fields[field]}: "
            f"{place(self._samples, one, self._shards)} and {place(self._samples, other, self._shards)}",
            member=self._table.keys[one],
            fix="say which one to take with --on-conflict first or last",
        )

    def _lay_out(self, merged: Sequence[Merged]) -> tuple[ShardTable, list[Any]]:
        """Return the table of merged samples, end to end, and their spans."""
        table, members = self._table, np.concatenate([sample.members for sample in merged])
        assert table.crc32 is not None
        together = lay_out(
            table.keys.take(np.array([sample.row for sample in merged])),
            np.array([len(sample.members) for sample in merged], np.int64),
            table.fields,
            table.field[members],
            self._heads[members],
            table.size[members],
            crc32=table.crc32[members],
        )
        return together, [sample.span for sample in merged]
