"""Batches without PyTorch: numpy arrays, or what ``collate`` returns; and the methods that all inputs share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

from shardtools.dataset.joined import Join, Sources
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.loader.assemble import Collate, stack
from shardtools.loader.control import Control
from shardtools.loader.loader import Loader, Pass
from shardtools.loader.order import Shuffle
from shardtools.loader.ranks import check_rank
from shardtools.loader.rows import Arrays, open_source
from shardtools.loader.settings import BUCKETS, MAX_SKIPS, MEMORY, Auto, OnError, Settings
from shardtools.loader.split import Share, Split, Uneven
from shardtools.storage.options import storage_options
from shardtools.types import Ints


class EpochBatches:
    """The batches of one rank, of which each iteration is one epoch, in an order that depends on ``seed``, the epoch,
    ``shuffle`` and the dataset alone: the same for any number of ranks and workers.

    A subclass says by `place` and `worker` which part of an epoch it delivers.
    """

    _loader: Loader

    def place(self) -> tuple[int, int]:
        """Return the rank and the number of ranks."""
        raise NotImplementedError

    def worker(self) -> tuple[int | None, int]:
        """Return the number of this worker process, None if it is none, and how many there are."""
        return None, 1

    # --- epochs

    @property
    def epoch(self) -> int:
        """The epoch of the next pass; after `load_state_dict` that of the state."""
        return self._loader.control.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, on which the order depends; persistent workers see it too.

        Setting the epoch of a state that was loaded changes nothing: the next pass is the rest of that epoch.
        """
        self._loader.set_epoch(epoch)

    def __len__(self) -> int:
        """Return how many batches an epoch has on each rank; without a manifest the shards are read."""
        return self.split().count

    def __iter__(self) -> Iterator[Any]:
        return self._loader.begin(*self.place(), *self.worker())

    # --- state

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Return where the latest pass stands, as a small dict of JSON data.

        Where worker processes deliver the batches, say how many ``batches`` of the pass this rank has taken from its
        DataLoader; torchdata's StatefulDataLoader counts by itself.

        Raises:
            JobError: ``batches`` is missing, or is more than there are.
        """
        return self._loader.state(*self.place(), batches, *self.worker()).dump()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next pass where a state stands, whatever the number of ranks and workers, and the batch size.

        That takes no time. The pass after it is a whole epoch again. A state that was taken when a pass was over is
        that of the next epoch.

        Raises:
            JobError: it was saved with other shards, another seed or another shuffle, or it is no state.
        """
        self._loader.load(state, *self.worker(), self._loader.settings.batch_size * self.place()[1])

    # --- as a source of a mixture

    def split(self, start: int = 0) -> Split:
        """Return what this rank gets of an epoch from a position on."""
        return self._loader.split(*self.place(), start)

    @property
    def samples(self) -> int:
        """How many samples there are to draw from."""
        return sum(self._loader.counts())

    def some(self, batches: Ints, epoch: int, start: int) -> Generator[Any, None, None]:
        """Yield those of the rank's batches, from position ``start`` of an epoch on, that are ``batches``."""
        return self._loader.run(Pass(epoch, Share(self.split(start), batches), *self.worker()))

    def identity(self) -> dict[str, Any]:
        """Return what identifies this dataset and its orders."""
        return self._loader.identity()

    def stats(self) -> dict[str, float]:
        """Return what was done so far, by this process and the workers together.

        ``batches``; ``samples`` and ``bytes`` that were read; ``waited``, the seconds that iterations waited for them;
        ``skipped`` and ``repeated`` samples; ``shards``, how often one was opened; ``peak_bytes``, the most that was
        read ahead, summed over processes; ``retries`` of requests; and ``cache_hits`` and ``cache_misses``, objects
        and parts of them that the cache had and had not.
        """
        return self._loader.control.totals()


class ShardBatches(EpochBatches):
    """The batches of one rank as numpy arrays, read and decoded by threads of this process.

    A batch is a tuple in the order of ``fields``; decoded values are stacked to arrays, where they are arrays or
    numbers. It needs no framework.

    Args:
        source: the spec of the shards, or a list of such; a dataset that is open, such as ``ds.where("cls = 7")``; or
            an array, of which rows are samples, or several by name: ``{"image": images, "label": labels}``. With
            ``join``, datasets to join, as for `shardtools.open`.
        fields … threads: see `shardtools.loader.settings.Settings`. ``fields`` may be a single name. Of
            arrays, all are the fields by default.
        rank, world_size: which part of each batch this process gets. Nothing is looked up: unlike `ShardIterable`, this
            one may well be used for all samples in a process that happens to be a rank.
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
        rank: int = 0,
        world_size: int = 1,
        uneven: Uneven = "uneven",
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
            collate = stack if decode or transform is not None else None
        options = storage_options(cache, retries, timeout, limits, index)
        dataset, names = open_source(source, fields, options, join=join, trust_index=trust_index)
        settings = Settings(
            names, decode, transform, collate, shuffle, seed, batch_size, bucket_by, buckets, uneven,
            on_error, max_skips, memory, threads,
        )  # fmt: skip
        self._place = check_rank(rank, world_size)
        self._loader = Loader(dataset, settings, Control())

    def place(self) -> tuple[int, int]:
        """Return the rank and the number of ranks."""
        return self._place
