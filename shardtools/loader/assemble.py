"""From the bytes of a batch's samples to the batch: decoded, transformed, collated, without those that are bad.

raw columns -> slices, each decoded and transformed by a thread -> the slice that is last collates -> ReadyBatch
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from shardtools.errors import FieldError, SampleError, ShardtoolsError
from shardtools.shards.fields import decode as decode_field
from shardtools.shards.names import is_special, name_hint

Collate = Callable[[list[Any]], Any]

SLICE = 8
"""Samples that a thread decodes at a time."""


@dataclass(frozen=True)
class RawBatch:
    """The samples of a batch as they were read: a list for each name, the samples' indexes, and errors by place."""

    columns: list[list[Any]]
    indexes: list[int]
    errors: dict[int, ShardtoolsError]

    def __len__(self) -> int:
        return len(self.indexes)

    def some(self, places: Sequence[int]) -> RawBatch:
        """Return the samples at some places."""
        columns = [[column[place] for place in places] for column in self.columns]
        errors = {at: self.errors[place] for at, place in enumerate(places) if place in self.errors}
        return RawBatch(columns, [self.indexes[place] for place in places], errors)


@dataclass
class ReadyBatch:
    """A batch that is ready: its ``value``, and what went wrong, by place. Without a good sample there is no value."""

    raw: RawBatch
    value: Any = None
    good: int = 0
    errors: dict[int, ShardtoolsError] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How batches are made of samples of the fields and special names ``names``.

    ``name`` returns the URL and the key of a sample by its index, for errors, and ``known`` the fields of the dataset
    as far as they are known.
    """

    names: tuple[str, ...]
    decode: bool
    transform: Callable[..., Any] | None
    collate: Collate | None
    name: Callable[[int], tuple[str, str]]
    known: Callable[[], Sequence[str]] = tuple

    @property
    def needs_decoding(self) -> bool:
        """Whether there is anything to do with samples."""
        return self.decode or self.transform is not None

    def assemble(self, raw: RawBatch, pool: Executor) -> Future[ReadyBatch]:
        """Return the batch, which ``pool`` makes."""
        done: Future[ReadyBatch] = Future()
        batch = ReadyBatch(raw, errors=dict(raw.errors))
        slices = [range(at, min(at + SLICE, len(raw))) for at in range(0, len(raw), SLICE)]
        found: list[Any] = [None] * len(raw)
        left = [len(slices)]
        lock = threading.Lock()

        def work(places: range) -> None:
            try:
                for place in places:
                    if place not in raw.errors:
                        try:
                            found[place] = self.sample(raw, place)
                        except ShardtoolsError as error:
                            batch.errors[place] = error
                with lock:
                    left[0] -= 1
                    is_last = not left[0]
                if is_last:
                    self._finish(batch, found)
                    done.set_result(batch)
            except BaseException as error:  # noqa: BLE001 - raised where the batch is asked for
                if not done.done():
                    done.set_exception(error)

        for places in slices:
            pool.submit(work, places)
        return done

    def plain(self, raw: RawBatch) -> ReadyBatch:
        """Return a batch of which nothing is decoded."""
        batch = ReadyBatch(raw, errors=dict(raw.errors))
        lacking = [name for name, column in self._data(raw) if any(value is None for value in column)]
        if not lacking and not batch.errors and self.collate is None:
            batch.value, batch.good = tuple(raw.columns), len(raw)
            return batch
        found = []
        for place in range(len(raw)):
            try:
                found.append(self._checked(raw, place) if place not in batch.errors else None)
            except ShardtoolsError as error:
                batch.errors[place] = error
                found.append(None)
        self._finish(batch, found)
        return batch

    def repeat(self, raw: RawBatch) -> Any:
        """Return a batch of samples that were delivered before."""
        pads = [
            [True] * len(raw) if name == "__pad__" else column
            for name, column in zip(self.names, raw.columns, strict=True)
        ]
        again = ReadyBatch(RawBatch(pads, raw.indexes, {}))
        self._finish(again, [self.sample(again.raw, place) for place in range(len(raw))])
        return again.value

    def _data(self, raw: RawBatch) -> Iterator[tuple[str, list[Any]]]:
        for name, column in zip(self.names, raw.columns, strict=True):
            if not is_special(name):
                yield name, column

    def _checked(self, raw: RawBatch, place: int) -> tuple[Any, ...]:
        values = tuple(column[place] for column in raw.columns)
        for name, value in zip(self.names, values, strict=True):
            if value is None:
                url, key = self.name(raw.indexes[place])
                fix = name_hint(name, self.known()) or "leave the field out, or skip such samples by on_error"
                raise SampleError(f"the sample has no field {name}", url=url, member=key, fix=fix)
        return values

    def sample(self, raw: RawBatch, place: int) -> Any:
        """Return one sample, decoded and transformed.

        Raises:
            ShardtoolsError: it lacks a field, is not what its extension says, or the transform failed.
        """
        values = self._checked(raw, place)
        if self.decode:
            values = tuple(
                self._decoded(name, v, raw.indexes[place]) for name, v in zip(self.names, values, strict=True)
            )
        if self.transform is None:
            return values
        try:
            return self.transform(*values)
        except Exception as error:
            url, key = self.name(raw.indexes[place])
            what = f"transform failed: {type(error).__name__}: {error}"
            raise SampleError(what, url=url, member=key) from error

    def _decoded(self, name: str, value: Any, index: int) -> Any:
        if is_special(name):
            return value
        try:
            return decode_field(name, value)
        except FieldError as error:
            url, key = self.name(index)
            raise FieldError(error.what, url=url, member=f"{key}.{name}", fix=error.fix) from error

    def _finish(self, batch: ReadyBatch, found: Sequence[Any]) -> None:
        good = [sample for place, sample in enumerate(found) if place not in batch.errors]
        batch.good = len(good)
        if not good:
            return
        if self.collate is not None:
            try:
                batch.value = self.collate(good)
            except Exception as error:
                url, key = self.name(batch.raw.indexes[0])
                what = f"the batch that begins with this sample cannot be collated: {error}"
                raise SampleError(what, url=url, member=key, fix="give transform= or collate=") from error
        elif all(isinstance(sample, tuple) for sample in good):
            batch.value = tuple(map(list, zip(*good, strict=True)))
        else:
            batch.value = good


def stack(samples: list[Any]) -> Any:
    """Return samples as numpy arrays: tuples and dicts by item, arrays and numbers stacked, all else as lists.

    >>> stack([(1, "a"), (2, "b")])
    (array([1, 2]), ['a', 'b'])
    """
    import numpy as np

    first = samples[0]
    if isinstance(first, tuple):
        return tuple(stack(list(column)) for column in zip(*samples, strict=True))
    if isinstance(first, dict):
        return {name: stack([sample[name] for sample in samples]) for name in first}
    if isinstance(first, np.ndarray | np.generic | bool | int | float | complex):
        return np.stack([np.asarray(sample) for sample in samples])
    return samples
