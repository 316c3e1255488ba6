"""Batches for whoever trains without PyTorch: numpy arrays, or what ``collate`` makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from shardtools.dataset import ShardedDataset, storage_options
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.loader.assemble import Collate, stack
from shardtools.loader.control import Control
from shardtools.loader.loader import MEMORY, Loader, OnError, Settings
from shardtools.loader.order import Shuffle
from shardtools.loader.split import Uneven
from shardtools.shards.names import names_of

Source = str | Sequence[str]


class ShardBatches:
    """The batches of one rank, read and decoded by threads of this process; each iteration is one epoch.

    The arguments are those of `ShardIterable`. Decoded values are stacked to numpy arrays, where they are arrays or
    numbers; ``rank`` and ``world_size`` are not looked up anywhere.
    """

    def __init__(
        self,
        source: Source,
        *,
        fields: str | Sequence[str],
        decode: bool = False,
        transform: Callable[..., Any] | None = None,
        collate: Collate | Literal["auto"] | None = "auto",
        shuffle: Shuffle = False,
        seed: int = 0,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
        uneven: Uneven = "uneven",
        on_error: OnError = "raise",
        max_skips: tuple[int, int] = (100, 10_000),
        memory: int = MEMORY,
        threads: int | None = None,
        cache: str | None = None,
        retries: int = 5,
        timeout: float = 60.0,
        trust_index: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ):
        if collate == "auto":
            collate = stack if decode or transform is not None else None
        settings = Settings(
            names_of(fields), decode, transform, collate, shuffle, seed, batch_size, uneven,
            on_error, max_skips, memory, threads,
        )  # fmt: skip
        options = storage_options(cache, retries, timeout, limits)
        self._loader = Loader(ShardedDataset(source, options, trust_index=trust_index), settings, Control())
        self._rank, self._world_size = rank, world_size

    @property
    def epoch(self) -> int:
        """The epoch of the next pass."""
        return self._loader.control.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, on which the order depends."""
        self._loader.set_epoch(epoch)

    def __len__(self) -> int:
        """Return how many batches an epoch has; the shards are asked where there is no manifest."""
        return self._loader.split(self._rank, self._world_size).count

    def __iter__(self) -> Iterator[Any]:
        return self._loader.begin(self._rank, self._world_size)

    def state_dict(self) -> dict[str, Any]:
        """Return where the latest pass stands, as JSON data."""
        return self._loader.state(self._rank, self._world_size, None, None, 1).dump()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next pass where a state stands."""
        self._loader.load(state, None, 1, 0)

    def stats(self) -> dict[str, float]:
        """Return what was done so far; see `ShardIterable.stats`."""
        return self._loader.control.totals()
