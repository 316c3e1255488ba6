"""From spans of other shards to a committed shard: samples are copied as they are, headers included.

spans, and what is known of their members -> packer -> sink -> commit -> sidecar
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.shards import tar
from shardtools.shards.compression import crc32
from shardtools.shards.names import encode_name
from shardtools.shards.output import ShardOutput
from shardtools.shards.samples import Members
from shardtools.shards.sidecar import Sidecar
from shardtools.storage import Sink
from shardtools.types import Bytes, Ints

_SMALL = 1 << 10
"""Mean bytes of a span below which a batch is joined rather than given to the system in parts."""


@dataclass(frozen=True)
class SpanBatch:
    """Some samples: their ``spans``, and the columns of a sidecar, where ``field`` numbers ``fields``.

    Spans may come several in one piece, where the writer is not `SpanWriter.by_sample`.
    """

    spans: Sequence[Any]
    key_data: Bytes
    key_length: Ints
    members: Ints
    head: npt.NDArray[Any]
    size: npt.NDArray[Any]
    field: npt.NDArray[Any]
    crc32: npt.NDArray[Any]
    fields: Sequence[str]


class SpanWriter:
    """Writes spans into the sink of a shard; `finish` returns the shard's sidecar, not yet written.

    The shard and its sidecar depend on the samples alone, not on how many come at a time. ``count`` is the number of
    samples so far.
    """

    def __init__(self, sink: Sink, url: str):
        self._output = ShardOutput(sink, url, _SMALL)
        self.count = 0

    @property
    def by_sample(self) -> bool:
        """Whether each sample must be given by itself, because the shard is packed."""
        return self._output.by_sample

    def add(self, batch: SpanBatch) -> None:
        """Append samples, whose keys are those of no others."""
        self._output.describe(
            {
                "key_data": batch.key_data,
                "key_length": batch.key_length,
                "members": batch.members,
                "head": batch.head,
                "size": batch.size,
                "field": self._recode(batch),
                "crc32": batch.crc32.astype(np.uint32),
            }
        )
        self.count += len(batch.members)
        for spans in ([span] for span in batch.spans) if self.by_sample else [batch.spans]:
            self._output.write(spans)

    def _recode(self, batch: SpanBatch) -> npt.NDArray[Any]:
        """Return the numbers of fields in the order in which the shard has them first."""
        codes = self._output.codes
        found, first = np.unique(batch.field, return_index=True)
        mapping = np.zeros(len(batch.fields), np.uint32)
        for code in found[np.argsort(first)].tolist():
            mapping[code] = codes.setdefault(batch.fields[code], len(codes))
        numbers: npt.NDArray[Any] = mapping[batch.field]
        return numbers

    def finish(self, job: Mapping[str, Any]) -> Sidecar:
        """Write the end and return the sidecar to be written once the shard is committed."""
        return self._output.finish(job)


def batch_of(samples: Sequence[tuple[str, Members]]) -> SpanBatch:
    """Return samples, composed anew, as a batch; the same that a `ShardWriter` would write."""
    codes: dict[str, int] = {}
    keys = [encode_name(key) for key, _ in samples]
    names = [key + suffix for key, (_, (layout, _)) in zip(keys, samples, strict=True) for suffix in layout.suffixes]
    values = [value for _, (_, some) in samples for value in some]
    headers = tar.build_headers(names, list(map(len, values)))
    parts = iter(zip(headers, values, strict=True))
    spans = [
        b"".join(
            piece
            for _ in layout.fields
            for header, value in [next(parts)]
            for piece in (header, value, bytes(-len(value) % tar.BLOCK))
        )
        for _, (layout, _) in samples
    ]
    return SpanBatch(
        spans,
        np.frombuffer(b"".join(keys), np.uint8),
        np.array(list(map(len, keys)), np.int64),
        np.array([len(layout.fields) for _, (layout, _) in samples], np.int64),
        np.array(list(map(len, headers)), np.int64),
        np.array(list(map(len, values)), np.int64),
        np.array(
            [codes.setdefault(name, len(codes)) for _, (layout, _) in samples for name in layout.fields], np.int64
        ),
        np.array(list(map(crc32, values)), np.uint32),
        tuple(codes),
    )
