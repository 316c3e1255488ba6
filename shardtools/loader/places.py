"""Which row of which shard a sample is, by its index: of all samples of a dataset, or of those that were chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardtools.dataset.sharded import ShardedDataset
from shardtools.loader.rows import RowDataset
from shardtools.types import Ints


@dataclass(frozen=True)
class Places:
    """The samples of a dataset: ``ends[i]`` is how many shards 0 to i have of them.

    ``chosen`` has their indexes among all samples of the shards, which begin with those in ``starts``. It is None if
    they are all of these.
    """

    ends: Ints
    starts: Ints
    chosen: Ints | None = None

    def of(self, indexes: Ints) -> tuple[Ints, Ints]:
        """Return the number of the shard, and the row in it, of samples with these indexes."""
        shards = np.searchsorted(self.ends, indexes, side="right")
        return shards, (indexes if self.chosen is None else self.chosen[indexes]) - self.starts[shards]

    def rows_in(self, shard: int) -> Ints:
        """Return the rows of a shard that are samples of the dataset."""
        indexes = np.arange(self.ends[shard - 1] if shard else 0, self.ends[shard])
        return self.of(indexes)[1]


def find_places(dataset: ShardedDataset | RowDataset, counts: Sequence[int]) -> Places:
    """Return where the samples of a dataset are, of which each shard has so many."""
    ends = np.cumsum(np.array(counts, np.int64))
    if isinstance(dataset, RowDataset) or dataset.chosen is None:
        return Places(ends, np.concatenate(([0], ends)))
    return Places(ends, np.concatenate(([0], np.array(dataset.ends, np.int64))), dataset.chosen)
