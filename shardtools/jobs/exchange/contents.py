"""Samples that change in an exchange: spans become records, and records become spans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.jobs.exchange.run_table import RunTable, assemble, sums_of
from shardtools.shards.columns import Texts, with_zero
from shardtools.shards.reader import Block
from shardtools.shards.samples import Composer, Members, Record, records
from shardtools.shards.table import ShardTable
from shardtools.shards.writer import NewSamples, parts_of_samples


def records_of(
    samples: RunTable, first: int, spans: Sequence[memoryview], shards: Sequence[str] | Mapping[int, str]
) -> Iterator[tuple[bytes, Record]]:
    """Yield order and record of the samples from row ``first`` on."""
    stop = first + len(spans)
    table = samples.table.slice(first, stop)
    keys, orders = table.keys.decode(), samples.orders.slice(first, stop).tolist()
    places, bounds = samples.places[first:stop].tolist(), table.first.tolist()
    starts, names = table.start.tolist(), [table.fields[code] for code in table.field.tolist()]
    offsets, sizes = table.offset.tolist(), table.size.tolist()
    for i, span in enumerate(spans):
        record = Record(key=keys[i])
        for member in range(bounds[i], bounds[i + 1]):
            at = offsets[member] - starts[i]
            record[names[member]] = span[at : at + sizes[member]].tobytes()
        record.url, record.index = shards[places[i][0]], places[i][1]
        yield orders[i], record


def compose(samples: Sequence[tuple[str, Members]]) -> tuple[ShardTable, list[bytes]]:
    """Return the table and the spans of new samples."""
    composed = NewSamples()
    for key, members in samples:
        composed.add(key, members)
    table, parts = composed.build()
    return table, [b"".join(some) for some in parts_of_samples(table, parts)]


def compacted(block: Block, *, changed: bool) -> Block:
    """Return a block whose buffer has the spans of its samples alone: as they are, or ``changed`` by their table.

    A sample that lost fields, or got other names of them, is written anew.
    """
    table = block.table
    if changed:
        composer = Composer()
        made, spans = compose([composer.compose(record) for record in records(block)])
        data = memoryview(b"".join(spans))
        return replace(block, buffer=data, base=0, table=replace(made, other=table.other), rows=block.positions)
    if len(block.buffer) == int(table.spans.sum()):
        return block
    buffer = assemble(np.frombuffer(block.buffer, np.uint8), table.start - block.base, table.spans)
    starts = with_zero(np.cumsum(table.spans))[:-1]
    offset = table.offset + np.repeat(starts - table.start, table.counts)
    table = replace(table, start=starts, stop=starts + table.spans, offset=offset)
    return replace(block, buffer=buffer.data, base=0, table=table)


def as_run(table: ShardTable, spans: Sequence[bytes], orders: Sequence[bytes], places: npt.NDArray[Any]) -> RunTable:
    """Return new samples as those of a run."""
    sums = sums_of(np.frombuffer(b"".join(spans), np.uint8), table.start, table.spans)
    return RunTable(table, Texts.of(orders), places, sums)
