"""Several datasets as one iterable dataset of PyTorch: each batch comes from one of them, drawn by weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import IterableDataset

from shardtools.loader.choices import Stop
from shardtools.loader.mixing import MixedBatches
from shardtools.torch.iterable import ShardIterable
from shardtools.torch.workers import SharedControl


def mix(
    sources: Sequence[ShardIterable], weights: Sequence[float] | None = None, *, stop: Stop = "first", seed: int = 0
) -> Mixture:
    """Return a dataset whose batches come from ``sources``, in a seeded order.

    ``weights`` say how often each is drawn; the default is as many samples as it has. An epoch ends when a source is
    drawn that has no more batches ("first"); when none has, those that have going on alone ("all"); or never, sources
    beginning their next epoch when one is over ("never").

    Raises:
        JobError: the weights are no positive numbers, or not as many as sources.
    """
    return Mixture(sources, weights, stop, seed)


class Mixture(MixedBatches, IterableDataset[Any]):
    """What `mix` returns: for a DataLoader with ``batch_size=None``, as its sources are."""

    def __init__(self, sources: Sequence[ShardIterable], weights: Sequence[float] | None, stop: Stop, seed: int):
        super().__init__(sources, weights, stop, seed, SharedControl(len(sources)))
