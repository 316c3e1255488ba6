"""Training on shards: the inputs for PyTorch and others.

order.py      which sample stands where in an epoch        split.py      which rank and worker delivers it
shard.py      the bytes of samples of one shard            prefetch.py   samples in order, read ahead by threads
run.py        what was read, until it is in batches        files.py      open files of this machine
assemble.py   decoded, transformed, collated               loader.py     the batches of one pass; errors; state
batches.py    ShardBatches: numpy, without PyTorch         iterable.py   ShardIterable, for a DataLoader
mapping.py    ShardMap, map-style                          mixing.py     mix: several datasets as one
choices.py    which of them gives each batch               wds.py        our storage for webdataset
control.py    what processes share: epoch, start, stats    state.py      where a loader stands, as JSON
tf.py         to_tf, a tf.data.Dataset

PyTorch itself is imported when a name that needs it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardtools.torch.order import Window

if TYPE_CHECKING:
    from shardtools.torch.batches import ShardBatches
    from shardtools.torch.iterable import ShardIterable
    from shardtools.torch.mapping import ShardMap
    from shardtools.torch.mixing import Mixture, mix
    from shardtools.torch.wds import wds_opener

__all__ = ["Mixture", "ShardBatches", "ShardIterable", "ShardMap", "Window", "mix", "wds_opener"]

_LAZY = {
    "ShardBatches": "shardtools.torch.batches",
    "ShardIterable": "shardtools.torch.iterable",
    "ShardMap": "shardtools.torch.mapping",
    "Mixture": "shardtools.torch.mixing",
    "mix": "shardtools.torch.mixing",
    "wds_opener": "shardtools.torch.wds",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
