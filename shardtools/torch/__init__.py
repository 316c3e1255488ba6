"""Training on shards: the inputs for PyTorch and others.

iterable.py   ShardIterable, for a DataLoader       mapping.py   ShardMap, map-style
mixing.py     mix: several datasets as one          ranks.py     which rank this process is
workers.py    what worker processes share           wds.py       our storage for webdataset
array_rows.py  the rows of an array, map-style

The work is done by ``shardtools.loader``, which does without PyTorch.
PyTorch itself is imported when a name that needs it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardtools.loader.order import Window

if TYPE_CHECKING:
    from shardtools.loader.batches import ShardBatches
    from shardtools.torch.iterable import ShardIterable
    from shardtools.torch.mapping import ShardMap
    from shardtools.torch.mixing import Mixture, mix
    from shardtools.torch.wds import wds_opener

__all__ = ["Mixture", "ShardBatches", "ShardIterable", "ShardMap", "Window", "mix", "wds_opener"]

_LAZY = {
    "ShardBatches": "shardtools.loader.batches",
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
