"""The chosen fields of a shard's samples, a batch of rows at a time.

sidecar -> members -> ranges of the shard -> RowBatch
no sidecar, or most of the shard is needed -> blocks, read from the start -> RowBatch
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shardtools.engine import check_cancelled
from shardtools.errors import AccessError, RefusedError
from shardtools.jobs.batches import batches
from shardtools.query.condition import Answer, Seen, Where, find_rows
from shardtools.query.values import Samples, samples_of
from shardtools.shards.columns import pick
from shardtools.shards.compression import crc32
from shardtools.shards.indexing import checksums_of
from shardtools.shards.members import IndexedShard
from shardtools.shards.reader import Block, ShardReader, refuse_repeated
from shardtools.shards.samples import field_values
from shardtools.shards.sidecar import find_sidecar
from shardtools.storage import current_options, get_storage
from shardtools.types import Ints

BATCH_ROWS = 8192
BATCH_BYTES = 8 << 20

_WORTH_RANGES = 0.5
"""If more than this part of a shard is needed, all of it is read, instead of ranges."""


@dataclass(frozen=True)
class Blob:
    """The size and checksum of bytes that were not read, or should not be shown."""

    size: int
    crc32: int

    def __str__(self) -> str:
        return f"<{self.size} bytes {self.crc32:08x}>"


Value = bytes | Blob | None
"""A field of a sample; None if it has none of that name."""


@dataclass(frozen=True)
class RowBatch:
    """Some rows of a shard: the ``keys`` of their samples, and columns.

    The values of a column are those of a field, `Value`, or what a script returned.
    """

    url: str
    keys: Sequence[str]
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.keys)

    def head(self, limit: int | None, before: int) -> RowBatch:
        """Return the first rows, so that they are at most ``limit`` with the rows ``before``."""
        if limit is None or before + len(self) <= limit:
            return self
        rows = slice(max(limit - before, 0))
        return RowBatch(self.url, self.keys[rows], {name: column[rows] for name, column in self.columns.items()})


@dataclass(frozen=True)
class Needs:
    """What to read of the samples that ``where`` picks: ``fields`` as bytes, ``described`` fields as `Blob`."""

    fields: tuple[str, ...] = ()
    described: tuple[str, ...] = ()
    where: Where | None = None


def indexed(url: str) -> IndexedShard | None:
    """Return a shard with its sidecar; None if it has no matching sidecar, or if all shards must be verified.

    Raises:
        NotFoundError: there is no such shard.
    """
    if url == "-" or current_options().verify:
        return None
    try:
        sidecar = find_sidecar(url, get_storage(url).stat(url))
    except (AccessError, RefusedError):  # of HEAD, say, by a URL that is signed for GET
        return None
    return None if sidecar is None else IndexedShard(url, sidecar)


class RowBatches:
    """The rows of one shard, which is ``number`` of a dataset, a batch at a time.

    When all were read, ``fields`` are the fields that any sample has, ``samples`` is the number of samples, and
    ``seen`` says which columns of the condition they have.
    """

    def __init__(self, url: str, needs: Needs, number: int = 0):
        self._url = url
        self._needs = needs
        self._number = number
        self.fields: set[str] = set()
        self.samples = 0
        self.seen = Seen()

    def __iter__(self) -> Iterator[RowBatch]:
        """Yield the samples that the condition picks, in their order.

        Raises:
            ShardtoolsError: the shard cannot be read.
        """
        shard = indexed(self._url)
        if shard is None or not self._is_worth_ranges(shard):
            return self._from_blocks()
        return self._from_ranges(shard)

    # --- by ranges

    def _is_worth_ranges(self, shard: IndexedShard) -> bool:
        needs, fields = self._needs, shard.table.fields
        asked = needs.where.fields(fields) if needs.where else ()
        needs_checksums = needs.described or (needs.where is not None and needs.where.needs_checksums(fields))
        if needs_checksums and shard.checksums is None:
            return False
        wanted = [*asked, *needs.fields]
        rows = [shard.table.members_of(name) for name in dict.fromkeys(wanted)]
        members = np.concatenate([row[row >= 0] for row in rows]) if rows else np.empty(0, np.int64)
        if not len(members):
            return True
        return shard.can_enter and shard.cost(members) <= _WORTH_RANGES * shard.sidecar.filesize

    def _from_ranges(self, shard: IndexedShard) -> Iterator[RowBatch]:
        table, needs = shard.table, self._needs
        self.fields.update(table.fields)
        self.samples += len(table)
        keys = table.keys.decode()
        of_field = {name: table.members_of(name) for name in (*needs.fields, *needs.described)}
        picked = np.arange(len(table))
        if needs.where is not None:
            picked = self._answer(find_rows(needs.where, samples_of(shard, self._number)))
        sizes = np.zeros(len(picked), np.int64)
        for name in needs.fields:
            sizes += pick(table.size, of_field[name][picked], 0)
        for start, stop in batches(sizes, BATCH_BYTES, BATCH_ROWS):
            check_cancelled()
            some = picked[start:stop]
            columns = dict(
                zip(needs.fields, _read(shard, [of_field[name][some] for name in needs.fields]), strict=True)
            )
            for name in needs.described:
                columns[name] = _describe(shard, of_field[name][some])
            yield RowBatch(self._url, [keys[row] for row in some.tolist()], columns)

    def _answer(self, answer: Answer) -> Ints:
        self.seen |= answer.seen
        return answer.rows

    # --- from the start

    def _from_blocks(self) -> Iterator[RowBatch]:
        with closing(ShardReader(self._url)) as reader:
            for block in reader:
                check_cancelled()
                refuse_repeated(block)
                self.fields.update(block.table.fields)
                self.samples += len(block)
                yield self._batch_of(block)

    def _batch_of(self, block: Block) -> RowBatch:
        needs, keys = self._needs, block.keys
        picked: Sequence[int] = range(len(block))
        if needs.where is not None:
            samples = samples_of_block(block, needs.where, self._number, self.samples - len(block))
            picked = self._answer(find_rows(needs.where, samples)).tolist()
        columns: dict[str, list[Value]] = {
            name: [*field_values(block, name, picked)] for name in (*needs.fields, *needs.described)
        }
        for name in needs.described:
            columns[name] = [describe(value) for value in columns[name]]
        return RowBatch(self._url, [keys[row] for row in picked], columns)


def samples_of_block(block: Block, where: Where, number: int, first: int) -> Samples:
    """Return the samples of a block that was read, which begins with row ``first`` of the shard ``number``."""
    table = block.table
    if table.crc32 is None and where.needs_checksums(table.fields):
        table = replace(table, crc32=checksums_of(block))

    def read(fields: Sequence[str], rows: slice) -> list[list[bytes | None]]:
        return [field_values(block, field, range(len(block))[rows]) for field in fields]

    return Samples(table, read, number, first)


def describe(value: Value) -> Blob | None:
    """Return what describes the bytes of a field."""
    return Blob(len(value), crc32(value)) if isinstance(value, bytes) else value


def _read(shard: IndexedShard, columns: Sequence[Ints]) -> list[list[Value]]:
    """Return the data of the members in each column, None for those that are -1; the shard is read once."""
    wanted = [rows[rows >= 0] for rows in columns]
    parts = iter(shard.read(np.concatenate(wanted)) if columns else ())
    return [[next(parts) if row >= 0 else None for row in rows.tolist()] for rows in columns]


def _describe(shard: IndexedShard, rows: Ints) -> list[Value]:
    assert shard.checksums is not None
    sizes, checksums = pick(shard.table.size, rows, -1).tolist(), pick(shard.checksums, rows, -1).tolist()
    return [Blob(*pair) if pair[0] >= 0 else None for pair in zip(sizes, checksums, strict=True)]
