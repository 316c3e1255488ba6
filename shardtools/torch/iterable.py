"""A dataset of shards as an iterable dataset of PyTorch, whose items are batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from shardtools.dataset import ShardedDataset, storage_options
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.loader.assemble import Collate
from shardtools.loader.control import Control
from shardtools.loader.loader import MEMORY, Loader, OnError, Pass, Settings
from shardtools.loader.order import Shuffle
from shardtools.loader.split import Split, Stream, Uneven
from shardtools.shards.names import names_of
from shardtools.torch.ranks import find_rank
from shardtools.types import Ints

Auto = Literal["auto"]


class ShardIterable(IterableDataset[Any]):
    """The samples of a dataset in batches, for ``DataLoader(train, batch_size=None, num_workers=...)``.

    Each pass is one epoch, in an order that depends on ``seed``, the epoch, ``shuffle`` and the dataset alone: the
    same for any number of ranks and workers. A batch is a tuple in the order of ``fields``.

    Args:
        source: the spec of the shards, or a list of such.
        fields: names of the samples' fields, and of "__key__", "__shard__" (the file's name), "__index__" (the row in
            it) and "__pad__" (whether the sample is a repeat). A single one may be given as it is.
        decode: whether to decode each field by its extension. Else they are bytes.
        transform: called with a sample's values, in the order of ``fields``; returns the sample.
        collate: makes a batch of a list of samples. "auto" is PyTorch's own where samples are decoded or transformed,
            and None, which gives a list for each field, where they are not.
        shuffle: True; False; "full", any permutation, where single samples can be read quickly; or a `Window`.
        seed: what the orders of all epochs depend on.
        batch_size: samples in a batch of one rank.
        rank, world_size: the default is torch.distributed's, else that of the environment (RANK, WORLD_SIZE).
        uneven: what happens to the last samples if they make no whole batch on all ranks: they are left out ("drop"),
            filled up with samples from the epoch's beginning ("pad"), or a smaller batch ("uneven", see `Split`). All
            ranks get the same number of batches in any case.
        on_error: "raise"; "skip"; or a function that is called with each error. A sample that is skipped makes its
            batch smaller; a batch that would be empty repeats the one before.
        max_skips: how many errors are too many, in a row and in one pass of one process.
        memory: bytes of samples that are read ahead in each process.
        threads: threads that read, and threads that decode, in each process; the default depends on the storage.
        cache, retries, timeout, trust_index: see `shardtools.open`.

    Raises:
        JobError: arguments contradict each other.
        SpecError: the spec is wrong or names nothing.
    """

    def __init__(
        self,
        source: str | Sequence[str],
        *,
        fields: str | Sequence[str],
        decode: bool = False,
        transform: Callable[..., Any] | None = None,
        collate: Collate | Auto | None = "auto",
        shuffle: Shuffle = False,
        seed: int = 0,
        batch_size: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        uneven: Uneven = "drop",
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
        super().__init__()
        if collate == "auto":
            collate = _collate if decode or transform is not None else None
        settings = Settings(
            names_of(fields), decode, transform, collate, shuffle, seed, batch_size, uneven,
            on_error, max_skips, memory, threads,
        )  # fmt: skip
        options = storage_options(cache, retries, timeout, limits)
        self._rank = find_rank(rank, world_size) if rank is not None or world_size is not None else None
        numbers, stats = Control.SHAPES
        self._numbers = shared(torch.zeros(numbers, dtype=torch.int64))
        self._stats = shared(torch.zeros(stats, dtype=torch.float64))
        control = Control(self._numbers.numpy(), self._stats.numpy())
        self._loader = Loader(ShardedDataset(source, options, trust_index=trust_index), settings, control)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker that is started anew gets: it may not be able to ask torch.distributed itself."""
        state = self.__dict__.copy()
        state["_rank"], state["_copied"] = self._place(), self._loader.control.copy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        copied = state.pop("_copied")
        self.__dict__.update(state)
        self._loader.control = Control(self._numbers.numpy(), self._stats.numpy(), copied)

    def _place(self) -> tuple[int, int]:
        return self._rank or find_rank(None, None)

    # --- epochs

    @property
    def epoch(self) -> int:
        """The epoch of the next pass; after `load_state_dict` that of the state."""
        return self._loader.control.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, on which the order depends; workers that persist hear of it, too.

        To set the epoch that a state was loaded of changes nothing: the next pass is the rest of it.
        """
        self._loader.set_epoch(epoch)

    def __len__(self) -> int:
        """Return how many batches an epoch has on each rank.

        Raises:
            TypeError: there is no manifest, and nothing was read yet. htindex writes one.
        """
        if self._loader.dataset.counts is None:
            raise TypeError(
                f"the number of samples of {self._loader.dataset!r} is not known: write a manifest with htindex"
            )
        return self._loader.split(*self._place()).count

    def __iter__(self) -> Iterator[Any]:
        return self._loader.begin(*self._place(), *this_worker())

    # --- state

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Return where the latest pass stands, as a small dict of JSON data.

        Where worker processes deliver the batches, say how many ``batches`` of the pass this rank has taken from its
        DataLoader; torchdata's StatefulDataLoader counts by itself.

        Raises:
            JobError: ``batches`` is missing, or is more than there are.
        """
        return self._loader.state(*self._place(), batches, *this_worker()).dump()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next pass where a state stands, whatever the number of ranks and workers, and the batch size.

        That takes no time. The pass after it is a whole epoch again. A state that was taken when a pass was over is
        that of the next epoch.

        Raises:
            JobError: it was saved with other shards, another seed or another shuffle, or it is no state.
        """
        step = self._loader.settings.batch_size * self._place()[1]
        self._loader.load(state, *this_worker(), step)

    # --- as a part of a mixture

    def split(self, start: int = 0) -> Split:
        """Return what this rank gets of an epoch from a position on."""
        return self._loader.split(*self._place(), start)

    def some(self, numbers: Ints, epoch: int, start: int) -> Generator[Any, None, None]:
        """Yield those of the rank's batches, from position ``start`` of an epoch on, whose numbers are given."""
        worker, workers = this_worker()
        return self._loader.run(Pass(epoch, Stream(self.split(start), numbers), worker, workers, -1))

    def identity(self) -> dict[str, Any]:
        """Return what tells this dataset and its orders apart from others."""
        return self._loader.identity()

    def stats(self) -> dict[str, float]:
        """Return what was done so far, by this process and the workers together.

        ``batches``; ``samples`` and ``bytes`` that were read; ``waited``, the seconds that iterations waited for them;
        ``skipped`` and ``repeated`` samples; ``shards``, how often one was opened; ``peak_bytes``, the most that was
        read ahead, summed over processes; ``retries`` of requests; and ``cache_hits`` and ``cache_misses``, objects
        and parts of them that the cache had and had not.
        """
        return self._loader.control.totals()


def shared(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose memory the processes that get it share."""
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor


def this_worker() -> tuple[int | None, int]:
    """Return the number of this worker process, None if it is none, and how many there are."""
    info = get_worker_info()
    return (None, 1) if info is None else (info.id, info.num_workers)


def _collate(samples: list[Any]) -> Any:
    """Return what PyTorch's own function does, with tuples as tuples."""
    batch = default_collate(samples)
    return tuple(batch) if isinstance(samples[0], tuple) else batch
