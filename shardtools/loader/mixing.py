"""Several datasets as one: each batch comes from one of them, drawn by weight.

    choices of a block of batches -> this worker's -> for each source, which of its batches -> in turn

Which source gives batch i of a mixture, and which of its batches that is, depends on the seed, the epoch, the weights
and the sources alone, so that all ranks take the same turn.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shardtools.errors import JobError
from shardtools.loader.batches import EpochBatches
from shardtools.loader.choices import Choices, Stop, choose
from shardtools.loader.control import Control, Origin

VERSION = 1


class MixedBatches:
    """The batches of several sources, each iteration over which is one epoch; see `shardtools.torch.mix`."""

    def __init__(
        self,
        sources: Sequence[EpochBatches],
        weights: Sequence[float] | None,
        stop: Stop,
        seed: int,
        control: Control,
    ):
        """``control`` is one for as many sources."""
        if not sources or stop not in ("first", "all", "never"):
            raise JobError("mix needs datasets, and stop must be first, all or never", fix="see its documentation")
        self.sources = list(sources)
        weights = [float(source.samples) for source in sources] if weights is None else list(weights)
        if len(weights) != len(sources) or not all(weight > 0 for weight in weights):
            raise JobError(
                f"weights={weights} do not fit {len(sources)} datasets", fix="give a positive weight for each dataset"
            )
        self.weights = [weight / sum(weights) for weight in weights]
        self._whole: list[Origin] = [(0, 0)] * len(sources)
        self._stop, self._seed, self._control = stop, seed, control
        self._loaded: Mapping[str, Any] | None = None
        self._done: tuple[int, bool] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_done": None}

    # --- epochs

    @property
    def epoch(self) -> int:
        """The epoch of the next pass."""
        return self._control.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, of the mixture and of its sources."""
        if epoch != self.epoch:
            self._set(epoch, 0, self._whole)

    def _set(self, epoch: int, start: int, origins: Sequence[Sequence[int]]) -> None:
        self._control.set(epoch, start, origins)
        self._done = self._loaded = None

    def __len__(self) -> int:
        """Return how many batches an epoch has on each rank.

        Raises:
            TypeError: it has no end.
        """
        if self._stop == "never":
            raise TypeError("a mixture that never stops has no length")
        return sum(len(some.sources) for some in self._choices(0, self._whole, self.epoch))

    # --- iteration

    def _choices(self, first: int, origins: list[Origin], epoch: int) -> Iterator[Choices]:
        counts = [source.split(at).count for source, (_, at) in zip(self.sources, origins, strict=True)]
        return choose(counts, self.weights, self._stop, self._seed, epoch, first)

    def _now(self) -> tuple[int, int, list[Origin]]:
        """Return the epoch, the next batch and the origins of the next pass."""
        return self._control.epoch, self._control.start, self._control.origins

    def __iter__(self) -> Iterator[Any]:
        worker, workers = self.sources[0].worker()
        self._control.enter(worker)
        epoch, first, origins = self._now()
        turn = worker or 0
        if self._loaded is not None:
            epoch, first, origins = self._loaded["epoch"], self._loaded["batches"], list(self._loaded["origins"])
            turn = 0 if "worker" in self._loaded else turn
        self._loaded = None
        self._current = epoch, first + turn, origins
        self._done = 0, False
        generation = self._control.begin(first, 0 if worker is None else workers)
        return self._run(epoch, first, turn, origins, generation)

    def _run(
        self, epoch: int, first: int, turn: int, origins: list[Origin], generation: int
    ) -> Generator[Any, None, None]:
        worker, workers = self.sources[0].worker()
        done = 0
        for some in self._choices(first, origins, epoch):
            mine = (some.first + np.arange(len(some.sources)) - first) % workers == turn
            for batch in self._batches(some.sources[mine], some.batches[mine], origins, epoch):
                done += 1
                self._done = done, False
                yield batch
        self._done = done, True
        self._control.finish(worker or 0, generation)

    def _batches(self, sources: Any, batches: Any, origins: list[Origin], epoch: int) -> Generator[Any, None, None]:
        """Yield some batches, given their sources and which of their sources' batches they are."""
        passes, within = self._passes(sources, batches, origins)
        running: dict[tuple[int, int], Generator[Any, None, None]] = {}
        try:
            for source, turn in zip(sources.tolist(), passes.tolist(), strict=True):
                if (source, turn) not in running:
                    for other in [key for key in running if key[0] == source]:
                        running.pop(other).close()
                    base, start = origins[source]
                    chosen = within[(sources == source) & (passes == turn)]
                    begin = self.sources[source].some(chosen, epoch + base + turn, 0 if turn else start)
                    running[source, turn] = begin
                yield next(running[source, turn])
        finally:
            for generator in running.values():
                generator.close()

    def _passes(self, sources: Any, batches: Any, origins: list[Origin]) -> tuple[Any, Any]:
        """Return in which pass over its source each batch is, and which one of that pass."""
        passes, within = np.zeros_like(batches), batches.copy()
        for source, (_, start) in enumerate(origins):
            first, whole = self.sources[source].split(start).count, self.sources[source].split().count
            later = (sources == source) & (batches >= first)
            if later.any():
                if not whole:
                    raise JobError("a source of the mixture has no batches", fix="leave it out")
                passes[later] = 1 + (batches[later] - first) // whole
                within[later] = (batches[later] - first) % whole
        return passes, within

    # --- state

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Return where the latest pass stands, as JSON data; see `ShardIterable.state_dict`.

        Raises:
            JobError: ``batches`` is missing, as worker processes deliver them.
        """
        worker, workers = self.sources[0].worker()
        epoch, first, origins = self._now()
        if worker is not None:
            return self._worker_state(worker, workers)
        if self._done is not None:
            epoch, first, origins = self._current
            batches = self._done[0] if batches is None else batches
            if self._done[1] and batches == self._done[0]:
                return self._state(epoch + 1, 0, self._whole)
        elif batches is None and self._control.workers:
            raise JobError(
                "worker processes read the batches, so this process does not know how many were taken",
                fix="give state_dict(batches=...)",
            )
        elif batches is not None:
            first = self._control.begun
        return self._state(epoch, first + (batches or 0), origins)

    def _worker_state(self, worker: int, workers: int) -> dict[str, Any]:
        if self._loaded is not None:
            return dict(self._loaded)
        epoch, first, origins = self._now()
        first += worker
        if self._done is not None:
            epoch, first, origins = self._current
            first += self._done[0] * workers
        return {**self._state(epoch, first, origins), "worker": [worker, workers]}

    def _state(self, epoch: int, batches: int, origins: list[Origin]) -> dict[str, Any]:
        return {
            "version": VERSION,
            "mixture": [source.identity() for source in self.sources],
            "weights": self.weights,
            "stop": self._stop,
            "seed": self._seed,
            "epoch": epoch,
            "origins": [list(origin) for origin in origins],
            "batches": batches,
            "steps": [source.split().step for source in self.sources],
            "delivered": self._delivered(epoch, batches, origins),
        }

    def _delivered(self, epoch: int, batches: int, origins: list[Origin]) -> list[list[int]]:
        """Return the pass over each source and the position in it that so many batches have come to."""
        taken = np.zeros(len(self.sources), np.int64)
        for some in self._choices(0, origins, epoch):
            inside = some.sources[: max(0, batches - some.first)]
            taken += np.bincount(inside, minlength=len(taken))
            if some.first + len(some.sources) >= batches:
                break
        origins_reached = []
        for source, (count, (base, start)) in enumerate(zip(taken.tolist(), origins, strict=True)):
            split, whole = self.sources[source].split(start), self.sources[source].split()
            if count < split.count or self._stop != "never":
                origins_reached.append([base, split.delivered(count)])
            else:
                turn, rest = divmod(count - split.count, whole.count)
                origins_reached.append([base + 1 + turn, whole.delivered(rest)])
        return origins_reached

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Start the next pass where a state stands.

        With as many samples in the global batches of each source as when it was saved, what comes is the rest of the
        epoch, exactly. Otherwise it is the rest of each source, mixed anew.

        Raises:
            JobError: it is of another mixture.
        """
        mine = self._state(0, 0, self._whole)
        if not isinstance(state, Mapping) or set(mine) - set(state):
            raise JobError("this is not the state of a mixture", fix="give what state_dict() returned")
        for name in ("version", "mixture", "weights", "stop", "seed"):
            if state[name] != mine[name]:
                raise JobError(f"the state was saved with another {name}", fix=f"load it with the same {name}")
        worker, workers = self.sources[0].worker()
        if "worker" in state and (list(state["worker"]) != [worker, workers] or state["steps"] != mine["steps"]):
            what = "the state was saved in a worker process, and this is not the same one"
            raise JobError(what, fix="use as many workers and ranks and the same batch_size as when it was saved")
        if worker is not None:
            self._loaded, self._done = state, None
        elif state["steps"] == mine["steps"]:
            self._set(state["epoch"], state["batches"], state["origins"])
        elif any("buckets" in identity for identity in mine["mixture"]):
            what = "the state was saved with other global batches, which bucket_by depends on"
            raise JobError(what, fix="use as many ranks, and the same batch_size, as when it was saved")
        else:
            self._set(state["epoch"], 0, state["delivered"])

    def stats(self) -> dict[str, float]:
        """Return what was done so far for all sources together; see `ShardIterable.stats`."""
        each = [source.stats() for source in self.sources]
        return {name: sum(stats[name] for stats in each) for name in each[0]}
