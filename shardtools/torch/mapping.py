"""A dataset of shards as a map-style dataset of PyTorch."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from shardtools.loader.mapping import SampleMap


class ShardMap(SampleMap, Dataset[Any]):
    """The samples of a dataset by their indexes: ``data[5]`` is a tuple in the order of ``fields``.

    A DataLoader gives it the indexes of a whole batch at a time, which are then read together: one request for each
    shard, all at once. Without a sampler of your own, `ShardIterable` is faster, and can resume. The arguments are
    those of `ShardIterable`, without those about order, batches and errors: these are the sampler's and the
    DataLoader's to decide.
    """
