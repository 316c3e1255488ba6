"""The file of a shard and the columns of its sidecar, as they grow; used by all writers of shards.

    parts of the tar file -> packer -> sink, checksum          tables of samples -> Sidecar

`SpanWriter` takes samples of other shards as they are, headers included; ``writer.py`` composes new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.shards import tar
from shardtools.shards.columns import join
from shardtools.shards.compression import crc32
from shardtools.shards.packers import packer_for
from shardtools.shards.sidecar import Sidecar, from_columns, narrow, to_columns
from shardtools.shards.table import ShardTable
from shardtools.storage import Sink, count
from shardtools.types import Ints

_COLUMNS = ("key_data", "key_length", "members", "head", "size", "field", "crc32")

_SMALL = 1 << 10
"""Spans of fewer bytes on average are joined before they are written."""


class ShardOutput:
    """Takes the samples of a shard in order: their tables, and their parts of the tar file.

    The samples follow each other without a gap. Parts that have fewer than ``small`` bytes on average are joined before
    they are written.
    """

    def __init__(self, sink: Sink, url: str, small: int):
        self._small = small
        self._codes: dict[str, int] = {}
        self._sink = sink
        self._packer = packer_for(url)
        self._columns: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in _COLUMNS}
        self._tar_size = self._filesize = self._checksum = 0

    @property
    def by_sample(self) -> bool:
        """Whether the parts of each sample must be written by themselves, because the shard is packed."""
        return self._packer.by_sample

    def describe(self, table: ShardTable) -> None:
        """Append samples to the columns of the sidecar. Their CRC-32 must be known."""
        for name, column in {**to_columns(table), "field": self._renumber(table)}.items():
            self._columns[name].append(narrow(column))

    def _renumber(self, table: ShardTable) -> Ints:
        """Return the column ``field`` with fields numbered in the order in which the shard has them first."""
        first = np.full(len(table.fields), -1, np.int64)
        first[table.field[::-1]] = np.arange(len(table.field) - 1, -1, -1)  # the last assignment wins
        numbers = np.zeros(len(table.fields), np.int64)
        for code in sorted(np.flatnonzero(first >= 0).tolist(), key=first.__getitem__):
            numbers[code] = self._codes.setdefault(table.fields[code], len(self._codes))
        renumbered: Ints = numbers[table.field]
        return renumbered

    def write(self, parts: Sequence[Any]) -> None:
        """Append parts of the tar file, the last of which ends with a sample."""
        size = sum(map(len, parts))
        self._tar_size += size
        self._emit(self._packer.pack(parts))
        count("bytes_written", size)

    def finish(self, job: Mapping[str, Any]) -> Sidecar:
        """Write the end and return the sidecar to be written once the shard is committed."""
        self._emit(self._packer.finish(tar.END + bytes(-(self._tar_size + len(tar.END)) % tar.RECORD)))
        columns = {name: _joined(self._columns.pop(name)) for name in _COLUMNS}
        return Sidecar(
            filesize=self._filesize,
            checksum=f"crc32:{self._checksum:08x}",
            table=from_columns(columns, tuple(self._codes), 0),
            entries=np.array(self._packer.entries, np.int64).reshape(-1, 2),
            job=job,
            packing=self._packer.packing,
        )

    def _emit(self, parts: Sequence[Any]) -> None:
        if not parts:
            return
        size = sum(map(len, parts))
        if size < self._small * len(parts):
            parts = [b"".join(parts)]
        for part in parts:
            self._checksum = crc32(part, self._checksum)
        self._filesize += size
        self._sink.writelines(parts)


def _joined(columns: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the parts of a column as one, in the widest of their types."""
    return join(columns, np.result_type(*columns) if columns else np.uint8)


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

    def add(self, table: ShardTable, spans: Sequence[Any]) -> None:
        """Append samples, whose keys are those of no others; several ``spans`` may be one piece unless `by_sample`."""
        self._output.describe(table)
        self.count += len(table)
        for some in ([span] for span in spans) if self.by_sample else [spans]:
            self._output.write(some)

    def finish(self, job: Mapping[str, Any]) -> Sidecar:
        """Write the end and return the sidecar to be written once the shard is committed."""
        return self._output.finish(job)
