"""The widths and heights of images, from the first kilobytes of their data.

members -> their first bytes, by ranges -> head of the image -> width and height
           the whole data, where that is not enough
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shardtools.errors import LimitError
from shardtools.shards.columns import PackedValues
from shardtools.shards.images import open_image
from shardtools.shards.members import IndexedShard
from shardtools.storage import get_storage
from shardtools.storage.ranges import coalesce
from shardtools.types import Ints

HEAD = 4096
"""The first bytes of an image, which have its size unless it begins with large profiles or previews."""

UNKNOWN = -1


def dimensions_of(values: Sequence[bytes | None]) -> Ints:
    """Return width and height of each image, `UNKNOWN` for what is none."""
    return np.array([_shape(value) for value in values], np.int64).reshape(len(values), 2)


def _shape(data: bytes | None) -> tuple[int, int]:
    if data is None:
        return UNKNOWN, UNKNOWN
    try:
        with open_image(data) as image:
            return image.size
    except (ValueError, LimitError):
        return UNKNOWN, UNKNOWN


def read_dimensions(shard: IndexedShard, members: Ints) -> Ints:
    """Return width and height of the images that members of a plain shard are, `UNKNOWN` for what is none, or -1.

    Raises:
        StorageError, CorruptError: the shard cannot be read.
    """
    there = np.flatnonzero(members >= 0)
    found = np.full((len(members), 2), UNKNOWN, np.int64)
    start = shard.table.offset[members[there]]
    stop = start + np.minimum(shard.table.size[members[there]], HEAD)
    storage = get_storage(shard.url)
    spans = coalesce(start, stop, storage.coalescing.gap)
    heads = PackedValues.of_spans(storage.read_ranges(shard.url, spans.ranges), spans, start, stop)
    found[there] = dimensions_of(heads.cut())
    for row in there[found[there, 0] == UNKNOWN].tolist():
        found[row] = dimensions_of(shard.read(members[row : row + 1]))
    return found
