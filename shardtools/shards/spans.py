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
from shardtools.shards.compression import crc32, packer_for
from shardtools.shards.samples import Members
from shardtools.shards.sidecar import Sidecar, narrow
from shardtools.shards.table import encode_name, join
from shardtools.shards.tar import Bytes, Ints
from shardtools.storage import Sink

_SMALL = 1024


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
        self._sink = sink
        self._packer = packer_for(url)
        self._columns: dict[str, list[npt.NDArray[Any]]] = {}
        self._codes: dict[str, int] = {}
        self._tar_size = self._filesize = self._checksum = 0
        self.count = 0

    @property
    def by_sample(self) -> bool:
        """Whether each sample must be given by itself, because the shard is packed."""
        return self._packer.by_sample

    def add(self, batch: SpanBatch) -> None:
        """Append samples, whose keys are those of no others."""
        columns: dict[str, npt.NDArray[Any]] = {
            "key_data": batch.key_data,
            "key_length": batch.key_length,
            "members": batch.members,
            "lead": np.zeros(len(batch.members), np.uint8),
            "head": batch.head,
            "size": batch.size,
            "field": self._recode(batch),
            "crc32": batch.crc32.astype(np.uint32),
        }
        for name, column in columns.items():
            self._columns.setdefault(name, []).append(column if column.dtype.itemsize < 8 else narrow(column))
        self.count += len(batch.members)
        self._tar_size += sum(map(len, batch.spans))
        if self._packer.by_sample:
            for span in batch.spans:
                self._emit(self._packer.pack([span]))
        else:
            self._emit(self._packer.pack(batch.spans))

    def _recode(self, batch: SpanBatch) -> npt.NDArray[Any]:
        """Return the numbers of fields in the order in which the shard has them first."""
        found, first = np.unique(batch.field, return_index=True)
        mapping = np.zeros(len(batch.fields), np.uint32)
        for code in found[np.argsort(first)].tolist():
            mapping[code] = self._codes.setdefault(batch.fields[code], len(self._codes))
        codes: npt.NDArray[Any] = mapping[batch.field]
        return codes

    def finish(self, job: Mapping[str, Any]) -> Sidecar:
        """Write the end and return the sidecar to be written once the shard is committed."""
        end = tar.END + bytes(-(self._tar_size + len(tar.END)) % tar.RECORD)
        self._emit(self._packer.finish(end))
        names = ("key_data", "key_length", "members", "lead", "head", "size", "field", "crc32")
        return Sidecar(
            filesize=self._filesize,
            checksum=f"crc32:{self._checksum:08x}",
            fields=tuple(self._codes),
            other=0,
            columns={name: _joined(self._columns.pop(name, [])) for name in names},
            entries=np.array(self._packer.entries, np.int64).reshape(-1, 2),
            job=job,
        )

    def _emit(self, parts: Sequence[Any]) -> None:
        if not parts:
            return
        size = sum(map(len, parts))
        if size < _SMALL * len(parts):
            parts = [b"".join(parts)]
        for part in parts:
            self._checksum = crc32(part, self._checksum)
        self._filesize += size
        self._sink.writelines(parts)


def _joined(columns: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    widest = np.result_type(*columns) if columns else np.dtype(np.uint8)
    return join(columns, widest.type)


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
