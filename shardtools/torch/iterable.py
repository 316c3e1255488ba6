"""A dataset of shards as an iterable dataset of PyTorch, whose items are batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import IterableDataset, default_collate

from shardtools.dataset.joined import Join, Sources
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.loader.assemble import Collate
from shardtools.loader.batches import EpochBatches
from shardtools.loader.loader import Loader
from shardtools.loader.order import Shuffle
from shardtools.loader.rows import Arrays, open_source
from shardtools.loader.settings import BUCKETS, MAX_SKIPS, MEMORY, Auto, OnError, Settings
from shardtools.loader.split import Uneven
from shardtools.storage.options import storage_options
from shardtools.torch.ranks import find_rank
from shardtools.torch.workers import SharedControl, this_worker


class ShardIterable(EpochBatches, IterableDataset[Any]):
    """The samples of a dataset in batches, for ``DataLoader(train, batch_size=None, num_workers=...)``.

    A batch is a tuple in the order of ``fields``; decoded values are collated as PyTorch does.

    Args:
        source: the spec of the shards, or a list of such; a dataset that is open, such as ``ds.where("cls = 7")``; or
            an array, of which rows are samples, or several by name: ``{"image": images, "label": labels}``. With
            ``join``, datasets to join, as for `shardtools.open`.
        fields … threads: see `shardtools.loader.settings.Settings`. ``fields`` may be a single name. Of
            arrays, all are the fields by default.
        rank, world_size: the default is torch.distributed's, else that of the environment (RANK, WORLD_SIZE).
        uneven: the default is "drop", as gradients are averaged over ranks: each batch then has as many samples as any
            other, on all ranks. Of other inputs, which may be used for testing, the default delivers all samples.
        cache, index, retries, timeout, trust_index, limits, join: see `shardtools.open`.

    Raises:
        JobError: arguments contradict each other.
        SpecError: the spec is wrong or names nothing.
    """

    def __init__(
        self,
        source: Sources | Arrays,
        *,
        fields: str | Sequence[str] | None = None,
        decode: bool = True,
        transform: Callable[..., Any] | None = None,
        collate: Collate | Auto | None = "auto",
        shuffle: Shuffle = False,
        seed: int = 0,
        batch_size: int = 1,
        bucket_by: str | None = None,
        buckets: int | Sequence[float] = BUCKETS,
        rank: int | None = None,
        world_size: int | None = None,
        uneven: Uneven = "drop",
        on_error: OnError = "fail",
        max_skips: tuple[int, int] = MAX_SKIPS,
        memory: int = MEMORY,
        threads: int | None = None,
        cache: str | None = None,
        index: str | None = None,
        retries: int = 5,
        timeout: float = 60.0,
        trust_index: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        join: Join | None = None,
    ):
        if collate == "auto":
            collate = _collate if decode or transform is not None else None
        options = storage_options(cache, retries, timeout, limits, index)
        dataset, names = open_source(source, fields, options, join=join, trust_index=trust_index)
        settings = Settings(
            names, decode, transform, collate, shuffle, seed, batch_size, bucket_by, buckets, uneven,
            on_error, max_skips, memory, threads,
        )  # fmt: skip
        self._rank = find_rank(rank, world_size) if rank is not None or world_size is not None else None
        self._loader = Loader(dataset, settings, SharedControl())

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker that is started anew gets: it may not be able to ask torch.distributed itself."""
        return {**self.__dict__, "_rank": self.place()}

    def place(self) -> tuple[int, int]:
        """Return the rank and the number of ranks."""
        return self._rank or find_rank(None, None)

    def worker(self) -> tuple[int | None, int]:
        """Return the number of this worker process, None if it is none, and how many there are."""
        return this_worker()

    def __len__(self) -> int:
        """Return how many batches an epoch has on each rank.

        Raises:
            TypeError: there is no manifest, and nothing was read yet. htindex writes one.
        """
        if self._loader.dataset.counts is None:
            raise TypeError(
                f"the number of samples of {self._loader.dataset!r} is not known: write a manifest with htindex"
            )
        return super().__len__()


def _collate(samples: list[Any]) -> Any:
    """Return what PyTorch's own function does, with tuples as tuples."""
    batch = default_collate(samples)
    return tuple(batch) if isinstance(samples[0], tuple) else batch
