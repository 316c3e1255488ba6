"""Make the sidecar of a shard by reading all of it.

blocks -> tables, checksums of members -> Sidecar
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.shards.columns import join
from shardtools.shards.compression import crc32
from shardtools.shards.entries import EntryFinder
from shardtools.shards.headers import scan_headers
from shardtools.shards.reader import Block, ShardReader, refuse_repeated
from shardtools.shards.sidecar import Sidecar
from shardtools.shards.table import ShardTable
from shardtools.storage import get_storage

JOB: Mapping[str, Any] = {"program": "htindex"}


def index_shard(url: str, check: Callable[[], object] = lambda: None, *, entries: bool = True) -> Sidecar:
    """Return the sidecar of the shard at ``url``, which is read from its start to its end.

    A packed shard that shardtools wrote has entry points, which are found again unless ``entries`` is false: they take
    unpacking it once more. ``check`` is called often, and may raise.

    Raises:
        DuplicateKeyError: a key is repeated after other samples.
        ShardError: the shard is damaged.
        StorageError: it cannot be read.
    """
    tables, checksums, finder = [], [], EntryFinder()
    with ShardReader(url, measure=True, watch=finder.take if entries else None) as reader:
        for block in _blocks(reader):
            check()
            tables.append(block.table)
            checksums.append(checksums_of(block))
        size, checksum = reader.measured()
    table = replace(ShardTable.join(tables), crc32=join(checksums, np.uint32))
    return Sidecar(size, checksum, table, finder.entries(table), JOB, reader.packing)


def quick_index(url: str) -> Sidecar:
    """Return the sidecar of a plain local tar file, without checksums; faster than `index_shard`.

    Raises:
        DuplicateKeyError, ShardError, StorageError: as `index_shard` does.
    """
    size = get_storage(url).stat(url).size or 0
    table = scan_headers(url)
    if table is None:
        with ShardReader(url) as reader:
            table = replace(ShardTable.join([block.table for block in _blocks(reader)]), crc32=None)
    return Sidecar(size, "", table, np.empty((0, 2), np.int64), JOB, "tar")


def _blocks(reader: ShardReader) -> Iterator[Block]:
    """Yield the blocks of a shard; a repeated key is an error."""
    for block in reader:
        refuse_repeated(block)
        yield block


def checksums_of(block: Block) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of the data of each member of a block."""
    starts = (block.table.offset - block.base).tolist()
    stops = (block.table.offset - block.base + block.table.size).tolist()
    found = [crc32(block.buffer[start:stop]) for start, stop in zip(starts, stops, strict=True)]
    return np.array(found, np.uint32)
