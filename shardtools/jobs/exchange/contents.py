"""Samples that change on their way: their members taken out of a span, records of them, spans of records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.jobs.exchange.columns import MEMBER, Columns, sums_of
from shardtools.shards.columns import Texts
from shardtools.shards.samples import Record
from shardtools.shards.spans import SpanBatch
from shardtools.shards.tar import BLOCK


def records_of(
    columns: Columns, first: int, spans: Sequence[memoryview], shards: Sequence[str] | Mapping[int, str]
) -> Iterator[tuple[bytes, Record]]:
    """Yield order and record of the samples from row ``first`` on."""
    rows = slice(first, first + len(spans))
    some = columns.take(np.arange(first, first + len(spans)))
    orders, names = some.orders.tolist(), some.names.tolist()
    places = columns.places[rows].tolist()
    members = columns.members
    bounds = columns.first[first : first + len(spans) + 1].tolist()
    for i, span in enumerate(spans):
        record = Record(key=names[i].decode("utf-8", "surrogateescape"))
        at = 0
        for head, size, field, _ in members[bounds[i] : bounds[i + 1]].tolist():
            at += head
            record[columns.fields[field]] = span[at : at + size].tobytes()
            at += -(-size // BLOCK) * BLOCK
        record.url, record.index = shards[places[i][0]], places[i][1]
        yield orders[i], record


def columns_of_batch(batch: SpanBatch, orders: Sequence[bytes], places: npt.NDArray[Any]) -> Columns:
    """Return what is known of samples that were composed anew."""
    members = np.empty(len(batch.size), MEMBER)
    for name in ("head", "size", "field", "crc32"):
        members[name] = getattr(batch, name)
    sizes = np.fromiter(map(len, batch.spans), np.int64, len(batch.spans))
    sums = sums_of(np.frombuffer(b"".join(batch.spans), np.uint8), np.cumsum(sizes) - sizes, sizes)
    first = np.concatenate((np.zeros(1, np.int64), np.cumsum(batch.members)))
    names = Texts(batch.key_data, np.cumsum(batch.key_length))
    return Columns(Texts.of(orders), names, places, sizes, sums, first, members, tuple(batch.fields))
