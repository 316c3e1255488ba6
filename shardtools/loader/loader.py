"""An epoch's batches of one rank, as plain Python: what the inputs for PyTorch, TensorFlow and JAX are built on.

    order -> split -> Prefetch -> read windows -> cut into batches -> decode, transform, collate (in threads) -> batches

Nothing here needs PyTorch.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shardtools.dataset.joined import JoinedSamples
from shardtools.dataset.sharded import ShardedDataset
from shardtools.errors import JobError, SampleError, ShardtoolsError
from shardtools.loader.assemble import RawBatch, ReadyBatch, Recipe
from shardtools.loader.buckets import Bucketed, Buckets, find_buckets
from shardtools.loader.control import Control
from shardtools.loader.order import Order, describe_shuffle, make_order
from shardtools.loader.places import find_places
from shardtools.loader.prefetch import Prefetch, shut_down
from shardtools.loader.read_window import ReadWindow
from shardtools.loader.rows import RowDataset, open_shards
from shardtools.loader.settings import Settings
from shardtools.loader.shard import data_fields
from shardtools.loader.split import Share, Split, worker_share
from shardtools.loader.state import State, check_same, describe_choice, digest, parse_state
from shardtools.loader.stats import Stats
from shardtools.processors import processors
from shardtools.storage import StorageOptions, follow

logger = logging.getLogger(__name__)


@dataclass
class Pass:
    """One pass over an epoch by one worker of one rank: how many batches it has delivered."""

    epoch: int
    share: Share
    worker: int | None = None
    workers: int = 1
    generation: int = -1
    batches: int = 0
    is_finished: bool = False

    @property
    def delivered(self) -> int:
        """Where the next batch begins; in a worker, its own next one."""
        return self.share.split.delivered(self.share.number(self.batches))


class Loader:
    """The batches of a dataset, an epoch at a time; what `ShardBatches` and `ShardIterable` have in common."""

    def __init__(self, dataset: ShardedDataset | RowDataset, settings: Settings, control: Control):
        if isinstance(dataset, RowDataset):  # whose values need no decoding
            dataset.check(data_fields(settings.fields))
            settings = replace(settings, decode=False, shuffle=dataset.shuffle(settings.shuffle))
        self.dataset, self.settings, self.control = dataset, settings, control
        self._options = dataset.options
        self._counts: list[int] | None = None
        self._identity: State | None = None
        self.buckets: Buckets | None = None
        if settings.bucket_by is not None:
            if isinstance(dataset, RowDataset):
                raise JobError("bucket_by is not for arrays, which have no columns in SQL", fix="leave it out")
            self.buckets = find_buckets(dataset, settings.bucket_by, settings.buckets)
        self._pass: Pass | None = None
        self._loaded: State | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pass": None, "_loaded": None}

    def counts(self) -> list[int]:
        """Return how many of the samples each shard has; without a manifest all shards are read."""
        if self._counts is None:
            len(self.dataset)
            self._counts = self.dataset.counts
            assert self._counts is not None
        return self._counts

    def split(self, rank: int, world_size: int, start: int = 0) -> Split:
        """Return what a rank gets of an epoch."""
        settings = self.settings
        if self.buckets is not None:
            step = settings.batch_size * world_size
            total = self.buckets.batches(step, is_dropped=settings.uneven == "drop") * step
            return Split(total, settings.batch_size, rank, world_size, "drop", start)
        return Split(sum(self.counts()), settings.batch_size, rank, world_size, settings.uneven, start)

    # --- state

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        if epoch != self.control.epoch:
            self.control.set(epoch, 0)
            self._pass = self._loaded = None

    def _state(self, epoch: int, delivered: int, step: int | None, worker: Sequence[int] | None = None) -> State:
        if self._identity is None:
            self._identity = self._identify()
        step = None if self.buckets is None else step
        return replace(self._identity, epoch=epoch, delivered=delivered, worker=worker, step=step)

    def _identify(self) -> State:
        """Return the state at the beginning of epoch 0, which says what the order depends on."""
        dataset, settings = self.dataset, self.settings
        counts, where = self.counts(), None
        if isinstance(dataset, ShardedDataset) and dataset.chosen is not None:
            counts = np.diff([0, *dataset.ends]).tolist()
            where = describe_choice(dataset.conditions, dataset.chosen)
        joined = dataset.digest if isinstance(dataset, JoinedSamples) else ""
        made = digest(dataset.urls, counts, joined)
        buckets = None if self.buckets is None else self.buckets.describe()
        shuffle = describe_shuffle(settings.shuffle)
        return State(made, settings.seed, 0, shuffle, 0, where=where, buckets=buckets)

    def state(self, rank: int, world_size: int, batches: int | None, worker: int | None, workers: int) -> State:
        """Return where the latest pass stands, or where it stood after so many ``batches``."""
        split = self.split(rank, world_size, self.control.begun)
        if worker is not None:
            return self._worker_state(split, worker, workers)
        if batches is not None:
            if not 0 <= batches <= split.count:
                raise JobError(
                    f"batches={batches} is out of range: the epoch has {split.count}",
                    fix="give the number of batches that the loop has taken",
                )
            is_finished, delivered = batches == split.count > 0, split.delivered(batches)
        elif self._pass is not None:
            is_finished, delivered = self._pass.is_finished, self._pass.delivered
        elif self.control.workers:
            what = "worker processes read the batches, so this process does not know how many were taken"
            raise JobError(what, fix="give state_dict(batches=...), or use torchdata's StatefulDataLoader")
        else:
            is_finished, delivered = False, self.control.start
        epoch = self._pass.epoch if self._pass is not None else self.control.epoch
        step = split.step
        return self._state(epoch + 1, 0, step) if is_finished else self._state(epoch, delivered, step)

    def _worker_state(self, split: Split, worker: int, workers: int) -> State:
        if self._pass is not None:
            return self._state(self._pass.epoch, self._pass.delivered, split.step, (worker, workers, split.step))
        if self._loaded is not None:
            return self._loaded
        first = self.split(split.rank, split.world_size, self.control.start).delivered(worker)
        return self._state(self.control.epoch, first, split.step, (worker, workers, split.step))

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a state to fit, as JSON data."""
        return self._state(0, 0, None).identity()

    def load(self, data: Mapping[str, Any], worker: int | None, workers: int, step: int) -> None:
        """Start the next pass where a state stands.

        Raises:
            JobError: it is of another dataset, another order, or of a worker that this is not.
        """
        state = parse_state(data)
        check_same(state, self._state(0, 0, step))
        mine = None if worker is None else (worker, workers, step)
        if state.worker is not None and (mine is None or tuple(state.worker) != mine):
            what = "the state was saved in a worker process, and this is not the same one"
            raise JobError(what, fix="use as many workers and ranks and the same batch_size as when it was saved")
        self._pass = None
        if worker is None:
            self.control.set(state.epoch, state.delivered)
        else:
            self._loaded = state

    # --- iteration

    def begin(self, rank: int, world_size: int, worker: int | None = None, workers: int = 1) -> Iterator[Any]:
        """Return the batches of one worker of a rank, from where the epoch stands."""
        self.control.enter(worker)
        epoch, start, loaded = self.control.epoch, self.control.start, self._loaded
        first, stride = worker or 0, workers
        if loaded is not None:
            epoch, start = loaded.epoch, loaded.delivered
            first = 0 if loaded.worker is not None else first
        self._loaded = None
        split = self.split(rank, world_size, start)
        if not split.total and not first:
            logger.warning("%r: there are no samples, so that there are no batches", self.dataset)
        if split.total and not start and not split.count and not first:
            logger.warning(
                "%d samples do not fill one batch of %d on %d ranks, so that there are no batches; use a smaller "
                "batch_size, or uneven='uneven'", split.total, split.batch_size, split.world_size,
            )  # fmt: skip
        share = worker_share(split, first, stride)
        generation = self.control.begin(start, 0 if worker is None else workers)
        self._pass = Pass(epoch, share, worker, workers, generation)
        return self.run(self._pass)

    def _order(self, epoch: int, step: int) -> Order:
        """Return the order of an epoch. Of chosen samples, it does not depend on shards that have none."""
        counts, settings = self.counts(), self.settings
        if isinstance(self.dataset, ShardedDataset) and self.dataset.chosen is not None:
            counts = [count for count in counts if count]
        order = make_order(counts, settings.shuffle, settings.seed, epoch)
        if self.buckets is None:
            return order
        return Bucketed(order, self.buckets, step, settings.uneven)

    def run(self, current: Pass) -> Generator[Any, None, None]:
        """Yield the batches of a pass, which counts them."""
        settings, stats = self.settings, self.control.stats(current.worker)
        counts = self.counts()
        shards = open_shards(self.dataset, data_fields(settings.fields), self._options, stats)
        prefetch = Prefetch(
            shards,
            find_places(self.dataset, counts),
            self._order(current.epoch, current.share.split.step),
            current.share,
            settings.fields,
            memory=settings.memory,
            threads=settings.threads,
            options=self._options,
            stats=stats,
        )
        recipe = Recipe(
            settings.fields, settings.decode, settings.transform, settings.collate, prefetch.name,
            lambda: self.dataset.known_fields,
        )  # fmt: skip
        judge = Judge(settings, stats)
        with closing(iter(prefetch)) as windows:
            raws = _cut(windows, current.share, keeps_repeats=self.buckets is None or settings.uneven == "pad")
            made = (recipe.plain(raw) for raw in raws)
            if recipe.needs_decoding:
                made = _decoded(recipe, raws, settings, current.workers, self._options)
            with closing(made), closing(_filled(judge, recipe, made)) as values:
                for value in values:
                    current.batches += 1
                    stats.add(batches=1)
                    yield value
        current.is_finished = True
        self.control.finish(current.worker or 0, current.generation)


def _cut(windows: Iterator[ReadWindow], share: Share, *, keeps_repeats: bool) -> Iterator[RawBatch]:
    """Yield the samples of each batch, with or without repeats; of a batch of nothing but repeats, the first."""
    window, at = None, 0
    for batch in range(share.count):
        size = share.sizes(batch)
        raw: RawBatch | None = None
        kept: list[int] = []
        while raw is None or len(raw) < size:
            if window is None or at == len(window):
                window, at = next(windows), 0
            stop = min(len(window), at + size - (len(raw) if raw else 0))
            if not keeps_repeats:
                before = len(raw) if raw else 0
                kept += (before + np.flatnonzero(~window.addresses.repeats[at:stop])).tolist()
            raw = _joined(raw, window, at, stop)
            at = stop
        yield raw if keeps_repeats or len(kept) == size else raw.some(kept or [0])


def _joined(raw: RawBatch | None, window: ReadWindow, start: int, stop: int) -> RawBatch:
    columns = window.cut(start, stop)
    indexes = window.addresses.indexes[start:stop].tolist()
    base = len(raw) - start if raw else -start
    errors = (
        {place + base: error for place, error in window.errors.items() if start <= place < stop}
        if window.errors
        else {}
    )
    if raw is None:
        return RawBatch(columns, indexes, errors)
    joined = [before + column for before, column in zip(raw.columns, columns, strict=True)]
    return RawBatch(joined, raw.indexes + indexes, {**raw.errors, **errors})


def _decoded(
    recipe: Recipe, raws: Iterable[RawBatch], settings: Settings, workers: int, options: StorageOptions
) -> Generator[ReadyBatch, None, None]:
    """Yield the batches, some of which are made ahead by threads."""
    threads = settings.threads or max(1, processors() // workers)
    ahead = max(2, -(-16 * threads // settings.batch_size))
    pool = ThreadPoolExecutor(threads, "shardtools-decode", follow, (options,))
    waiting: deque[Future[ReadyBatch]] = deque()
    try:
        for raw in raws:
            waiting.append(recipe.assemble(raw, pool))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        shut_down(pool)


class Judge:
    """Decides what happens with samples that cannot be delivered."""

    def __init__(self, settings: Settings, stats: Stats):
        self._on_error, (self._in_a_row, self._in_total) = settings.on_error, settings.max_skips
        self._stats = stats
        self._row = self._total = 0
        self._latest: ShardtoolsError | None = None

    def judge(self, batch: ReadyBatch) -> None:
        """Raise, skip or report the errors of a batch.

        Raises:
            ShardtoolsError: a sample's, if that is what to do, or if there were too many.
        """
        if not batch.errors:
            self._row, self._latest = 0, None
            return
        for place in range(len(batch.raw)):
            error = batch.errors.get(place)
            if error is None:
                self._row, self._latest = 0, None
                continue
            self._stats.add(skipped=1)
            if error is not self._latest:  # a shard that is missing is one error
                self._latest = error
                self._note(error)

    def repeated(self) -> None:
        """Note that a sample is delivered again."""
        self._stats.add(repeated=1)

    def _note(self, error: ShardtoolsError) -> None:
        if self._on_error == "fail":
            raise error
        if callable(self._on_error):
            self._on_error(error)
        self._row += 1
        self._total += 1
        if self._row > self._in_a_row or self._total > self._in_total:
            count = f"{self._row} in a row" if self._row > self._in_a_row else f"{self._total} in all"
            what = f"too many samples failed, {count}; the latest: {error.what}"
            raise SampleError(
                what, url=error.url, member=error.member, fix="correct the samples, or raise max_skips"
            ) from error


def _filled(judge: Judge, recipe: Recipe, batches: Iterable[ReadyBatch]) -> Generator[Any, None, None]:
    """Yield the batches' values; a batch that lost all its samples gets a good one that is delivered twice.

    A batch cannot be left out: the other ranks wait for it, and states count it.
    """
    good: RawBatch | None = None
    empty, latest = 0, None
    for batch in batches:
        judge.judge(batch)
        if batch.good:
            place = next(i for i in reversed(range(len(batch.raw))) if i not in batch.errors)
            good = RawBatch([[column[place]] for column in batch.raw.columns], [batch.raw.indexes[place]], {})
        else:
            empty, latest = empty + 1, next(iter(batch.errors.values()))
        if good is not None:
            for _ in range(empty):
                judge.repeated()
                yield recipe.repeat(good)
            empty = 0
            if batch.good:
                yield batch.value
    if empty:
        raise SampleError("no sample of the epoch could be read", fix="see the error that caused this one") from latest
