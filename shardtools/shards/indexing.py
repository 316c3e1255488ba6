"""The sidecar of a shard that has none, by reading all of it.

blocks -> tables, checksums of members -> Sidecar
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from shardtools.shards.compression import crc32
from shardtools.shards.reader import Block, ShardReader
from shardtools.shards.samples import repeated_key
from shardtools.shards.sidecar import Sidecar, columns_of
from shardtools.shards.table import concatenate

JOB: Mapping[str, Any] = {"program": "htindex"}


def index_shard(url: str, check: Callable[[], object] = lambda: None, *, checksums: bool = True) -> Sidecar:
    """Return the sidecar of the shard at ``url``, which is read from its start to its end.

    One that is packed gets no entry points: others write none. ``check`` is called often, and may raise. Without
    ``checksums``, neither the shard's nor its members' are taken, which takes a third of the time.

    Raises:
        DuplicateKeyError: a key comes again after other samples.
        ShardError: the shard is damaged.
        StorageError: it cannot be read.
    """
    tables, found = [], []
    with ShardReader(url, measure=checksums) as reader:
        for block in reader:
            check()
            if block.repeated:
                raise repeated_key(block.url, block.keys[block.repeated[0]])
            tables.append(block.table)
            if checksums:
                found.append(_checksums(block))
        filesize, checksum = reader.measured() if checksums else (reader.stat.size or 0, "")
    table = concatenate(tables)
    columns = columns_of(table)
    if checksums:
        columns["crc32"] = np.concatenate([np.empty(0, np.uint32), *found])
    return Sidecar(filesize, checksum, table.fields, table.other, columns, np.empty((0, 2), np.int64), JOB)


def _checksums(block: Block) -> Any:
    starts = (block.table.offset - block.base).tolist()
    stops = (block.table.offset - block.base + block.table.size).tolist()
    found = [crc32(block.buffer[start:stop]) for start, stop in zip(starts, stops, strict=True)]
    return np.array(found, np.uint32)
