"""A dataset as a sequence of samples, of which only what is asked for is fetched.

    ShardedDataset(spec) -> manifest, or sidecars -> which shard -> its table -> ranges -> records

What an operation costs, in requests: to open it one (the manifest); the first sample of a shard two more (the shard's
size and its sidecar); a sample one; a slice one for each shard (for `.tgz` and `.tar.zst`, from the entry point before
it). Where there are no manifest and sidecars, what other programs have left may take their place, at one request more
each (see ``shards/foreign/``); shards without any are read once, from their start. By key: the sidecars of the
shards up to the one that has it.
"""

from __future__ import annotations

import logging
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import Context, copy_context
from itertools import accumulate, chain, islice
from typing import Any, overload

import numpy as np

from shardtools.errors import SpecError, redact
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.lru import LRU
from shardtools.processors import processors
from shardtools.shards.foreign import wids
from shardtools.shards.foreign.energon import INFO
from shardtools.shards.manifest import find_manifest
from shardtools.shards.members import IndexedShard
from shardtools.shards.open_shard import OpenShard, keep_freed_memory
from shardtools.shards.reader import ShardReader
from shardtools.shards.samples import Record, records
from shardtools.shards.tables import Tables
from shardtools.spec import is_local, name_of
from shardtools.storage import StorageOptions, using
from shardtools.storage.expansion import expand_sources
from shardtools.types import Ints

logger = logging.getLogger(__name__)

THREADS = 16
"""Shards that are asked at a time."""

SHARDS = 256
"""Shards to keep open."""

PATIENCE = 20.0
"""Seconds after which it is said that all shards are being asked."""


class ShardedDataset(Sequence[Record]):
    """The samples of all shards, in order: ``ds[712_345]``, ``ds["some/key"]``, ``ds[10:20]``, ``for record in ds``.

    A slice, or a list or array of numbers, gives a list of records. It can be pickled, holds no connection then, works
    after a fork, and may be used by many threads.
    """

    def __init__(self, spec: str | Sequence[str], options: StorageOptions, *, trust_index: bool = False):
        """See `shardtools.open`, which makes one."""
        self.spec = spec
        self._options = options = options.naming(spec)
        with using(options):
            index = wids.read_index(spec, trusted=trust_index) if wids.is_index(spec) else None
            self._urls = index.urls if index else expand_sources(spec)
            self._start()
            self._told_by = name_of(index.url) if index else "the manifest"
            self._classes: list[str] | None = None
            self._counts, self._fields = (index.counts, index.fields) if index else self._told()
        self._ends = None if self._counts is None else list(accumulate(self._counts))

    def _start(self) -> None:
        """Begin with nothing, in a process that is new to this."""
        self._tables = Tables(self._urls, self._options)
        self._shards: LRU[int, OpenShard] = LRU(SHARDS)
        self._seen_empty: set[int] = set()
        self._seen_fields: frozenset[str] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        names = ("spec", "_options", "_urls", "_counts", "_fields", "_classes", "_ends", "_told_by")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        shards = f"{len(self._urls)} shard{'s' * (len(self._urls) != 1)}"
        spec = redact(self.spec) if isinstance(self.spec, str) else [redact(spec) for spec in self.spec]
        return f"<{type(self).__name__} {spec!r}: {shards}{f', {self._ends[-1]:,} samples' if self._ends else ''}>"

    # --- what is known of the shards

    @property
    def options(self) -> StorageOptions:
        """How its storage is used."""
        return self._options

    @property
    def urls(self) -> list[str]:
        """The URLs of the shards."""
        return list(self._urls)

    @property
    def counts(self) -> list[int] | None:
        """How many samples each shard has; None as long as nothing told it, which ``len`` changes."""
        return None if self._counts is None else list(self._counts)

    def indexed(self, number: int) -> IndexedShard:
        """Return the URL of a shard and its table.

        Shards beside it that have no samples, as the manifest says, are looked at as well: nobody else would open them.

        Raises:
            StorageError: it cannot be read.
            ShardError: it is damaged.
            SpecError: the manifest is about another one.
        """
        self._check_empty(self._empty_beside(number))
        return self._checked(number)

    def _checked(self, number: int) -> IndexedShard:
        """Return a shard and its table, if it has as many samples as it is said to have."""
        shard = self._tables.get(number)
        self._compare(number, len(shard.table))
        if not self._seen_fields.issuperset(shard.table.fields):
            self._seen_fields |= frozenset(shard.table.fields)
        return shard

    def _compare(self, number: int, count: int) -> None:
        """Raise if a shard, which has ``count`` samples, is said to have another number of them."""
        if self._counts is None or count == self._counts[number]:
            return
        what = f"it has {count:,} samples, and {self._counts[number]:,} in {self._told_by}"
        fix = "delete the manifest, or make it again with htindex"
        if self._told_by != "the manifest":
            fix = "name the shards, and make their manifest with htindex"
        raise SpecError(what, url=self._urls[number], fix=fix)

    def _empty_beside(self, number: int) -> list[int]:
        """Return the empty shards right before one that has samples; and those after it, if it is the last.

        Whoever goes through all samples opens every shard that has some, and so has all others looked at.
        """
        counts = self._counts
        if counts is None or not counts[number]:
            return []
        found = []
        for step in (-1, 1):
            at = number + step
            while 0 <= at < len(counts) and not counts[at]:
                found.append(at)
                at += step
            if step == 1 and at < len(counts):  # the next one that has samples will look
                found = [other for other in found if other < number]
        return found

    def _check_empty(self, numbers: Sequence[int]) -> None:
        """Raise if a shard has samples that is said to have none; each is looked at once."""
        if unseen := [number for number in numbers if number not in self._seen_empty]:
            self._map(self._checked, unseen)
            self._seen_empty.update(unseen)

    def shard(self, number: int) -> OpenShard:
        """Return a shard, open.

        Raises:
            StorageError, ShardError, SpecError: as `indexed` does.
        """
        return self._shard(number)

    def _told(self) -> tuple[list[int] | None, tuple[str, ...] | None]:
        """Return the samples of each shard and the names of the fields, as the manifest has them; None without one.

        Without a manifest, Energon may have counted the samples.
        """
        specs = [self.spec] if isinstance(self.spec, str) else list(self.spec)
        if len(specs) == 1 and (manifest := find_manifest(specs[0], self._urls)) is not None:
            self._classes = manifest.classes
            return list(manifest.counts), tuple(manifest.fields) if manifest.fields else None
        if (counts := self._tables.energon.counts()) is not None:
            self._told_by = INFO
        return counts, None

    def _bounds(self) -> list[int]:
        """Return where each shard ends among the samples."""
        if self._ends is None:
            self._counts = self._of_all(lambda shard: len(shard.table))
            self._seen_empty.update(range(len(self._counts)))
            self._ends = list(accumulate(self._counts))
        if not self._ends[-1]:  # no shard will be opened that has samples
            self._check_empty(range(len(self._ends)))
        return self._ends

    def _of_all(self, call: Callable[[IndexedShard], Any]) -> list[Any]:
        """Return what ``call`` gives for each shard; log what takes long."""
        total, told, found = len(self._urls), time.monotonic() + PATIENCE, []
        # Of this machine, more threads than it has processors would wait for each other.
        threads = processors() if all(map(is_local, self._urls)) else THREADS
        with closing(self._each(lambda number: call(self._checked(number)), range(total), threads)) as results:
            for result in results:
                found.append(result)
                if time.monotonic() > told:
                    told = time.monotonic() + PATIENCE
                    logger.warning(
                        "%d of %d shards were asked for their samples; a manifest, which htindex makes, spares that",
                        len(found), total,
                    )  # fmt: skip
        return found

    def _map(self, call: Any, arguments: Iterable[Any]) -> list[Any]:
        """Return what ``call`` gives for each argument, some at a time; errors are raised."""
        return list(self._each(call, list(arguments)))

    def _each(self, call: Any, given: Sequence[Any], threads: int = THREADS) -> Generator[Any, None, None]:
        """Yield what ``call`` gives for each argument, in order."""
        if len(given) < 2:
            yield from map(call, given)
            return

        def inside(context: Context, argument: Any) -> Any:
            return context.run(call, argument)

        pool = ThreadPoolExecutor(min(threads, len(given)), "shardtools-dataset")
        try:
            with using(self._options):
                results = pool.map(inside, [copy_context() for _ in given], given)
            yield from results
        finally:
            pool.shutdown(cancel_futures=True)

    def _shard(self, number: int) -> OpenShard:
        """Return a shard, open."""
        if (shard := self._shards.get(number)) is not None:
            return shard
        with using(self._options):
            return self._shards.put(number, OpenShard(self.indexed(number), self._options))

    # --- samples

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that any sample has, sorted."""
        if self._fields is None:
            self._fields = tuple(sorted(set(chain.from_iterable(self._of_all(lambda shard: shard.table.fields)))))
        return self._fields

    @property
    def known_fields(self) -> tuple[str, ...]:
        """The names of the fields as far as they are known by the manifest, or the shards used so far."""
        return tuple(sorted(self._seen_fields.union(self._fields or ())))

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes that the numbers in the field ``cls`` stand for, None if the manifest has none."""
        return None if self._classes is None else list(self._classes)

    @property
    def keys(self) -> list[str]:
        """The keys of all samples, in order."""
        return list(chain.from_iterable(self._of_all(lambda shard: shard.table.keys.decode())))

    def __len__(self) -> int:
        ends = self._bounds()
        return ends[-1] if ends else 0

    def __contains__(self, key: object) -> bool:
        """Return whether there is a sample with this key."""
        return isinstance(key, str) and self._find(key) is not None

    @overload
    def __getitem__(self, index: int | str) -> Record: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | Ints) -> list[Record]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return a sample by its number or key, or a list of some.

        Raises:
            IndexError: there is no such number.
            KeyError: there is no such key.
        """
        if type(index) is int:
            shard, row = self._locate(index)
            return self._shard(shard).record(row)
        if isinstance(index, str):
            found = self._find(index)
            if found is None:
                raise KeyError(index)
            return self._shard(found[0]).record(found[1])
        if isinstance(index, slice):
            return self.records(np.arange(*index.indices(len(self))))
        if isinstance(index, int | np.integer):
            shard, row = self._locate(int(index))
            return self._shard(shard).record(row)
        return self.records(normalize(index, len(self)))

    def __iter__(self) -> Iterator[Record]:
        """Yield all samples, in order, shard by shard from the start of each.

        Raises:
            SpecError: a shard has another number of samples than its manifest says.
        """
        for number, url in enumerate(self._urls):
            found = 0
            with using(self._options):
                reader = ShardReader(url, ahead=True)
            with reader:
                for block in reader:
                    found += len(block)
                    yield from records(block)
            self._compare(number, found)

    def _locate(self, index: int) -> tuple[int, int]:
        ends = self._ends or self._bounds()
        total = ends[-1] if ends else 0
        if not 0 <= index < total:
            if not -total <= index < 0:
                raise IndexError(f"index {index} is out of range: the dataset has {total:,} samples")
            index += total
        shard = bisect_right(ends, index)
        return shard, index - (ends[shard - 1] if shard else 0)

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the number of the first sample whose key is ``value``, from ``start`` up to ``stop``.

        Raises:
            ValueError: there is none.
        """
        first, last, _ = slice(start, stop).indices(len(self))
        for shard, row in self._find_all(value) if isinstance(value, str) else ():
            number = row + (self._bounds()[shard - 1] if shard else 0)
            if first <= number < last:
                return number
        raise ValueError(f"no sample has the key {value!r}")

    def count(self, value: Any) -> int:
        """Return how many samples have the key ``value``; for those of each shard see `counts`."""
        return sum(1 for _ in self._find_all(value)) if isinstance(value, str) else 0

    def _find(self, key: str) -> tuple[int, int] | None:
        """Return shard and row of the first sample with a key."""
        return next(self._find_all(key), None)

    def _find_all(self, key: str) -> Iterator[tuple[int, int]]:
        """Yield shard and row of the first sample with a key of each shard that has any."""
        for first in range(0, len(self._urls), THREADS):
            numbers = range(first, min(first + THREADS, len(self._urls)))
            for number, shard in zip(numbers, self._map(self._shard, numbers), strict=True):
                if shard.rows_of_keys is None:
                    shard.rows_of_keys = {name: row for row, name in reversed(list(enumerate(shard.keys)))}
                if (row := shard.rows_of_keys.get(key)) is not None:
                    yield number, row

    def records(self, rows: Ints) -> list[Record]:
        """Return the samples with these numbers, in this order; none is negative."""
        return self._gather(rows, None, lambda shard, some: shard.records(some))

    def values(self, field: str, rows: Ints) -> list[bytes | None]:
        """Return the bytes of one field of the samples with these numbers, None where a sample has none."""
        return self._gather(rows, field, lambda shard, some: shard.values(some, field))

    def _gather(self, rows: Ints, field: str | None, read: Callable[[OpenShard, Ints], list[Any]]) -> list[Any]:
        if not len(rows):
            return []
        keep_freed_memory()
        ends = np.array(self._bounds())
        shards = np.searchsorted(ends, rows, side="right")
        starts = np.concatenate(([0], ends))

        def plan(number: int) -> tuple[Ints, Ints, list[tuple[OpenShard, Ints]]]:
            at = np.flatnonzero(shards == number)
            unique, places = np.unique(rows[at] - starts[number], return_inverse=True)
            shard = self._shard(number)
            return at, places, [(shard, some) for some in shard.pieces(unique, field)]

        plans = self._map(plan, np.unique(shards).tolist())
        parts = iter(self._map(lambda part: read(*part), [part for _, _, parts in plans for part in parts]))
        results: list[Any] = [None] * len(rows)
        for at, places, pieces in plans:
            found = list(chain.from_iterable(islice(parts, len(pieces))))
            for row, place in zip(at.tolist(), places.tolist(), strict=True):
                results[row] = found[place]
        return results


def normalize(index: Any, size: int) -> Ints:
    """Return numbers, or a mask of ``size`` truth values, as numbers that are not negative.

    Raises:
        IndexError: a number is out of range, or the mask has another length.
        TypeError: it is neither.
    """
    numbers = np.asarray(index)
    if numbers.dtype == bool:
        if numbers.shape != (size,):
            raise IndexError(f"the mask has shape {numbers.shape}, and the dataset {size} samples")
        return np.flatnonzero(numbers)
    if numbers.size == 0:
        return numbers.astype(np.int64)
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"an index must be of integers or truth values, not of {numbers.dtype}")
    numbers = numbers.astype(np.int64)
    if numbers.min() < -size or numbers.max() >= size:
        wrong = numbers[(numbers < -size) | (numbers >= size)].flat[0]
        raise IndexError(f"index {wrong} is out of range: the dataset has {size:,} samples")
    return np.where(numbers < 0, numbers + size, numbers)


def storage_options(cache: str | None, retries: int, timeout: float, limits: Limits = DEFAULT_LIMITS) -> StorageOptions:
    """Return options for storage in which the cache's folder is the same from whatever working folder."""
    if cache is not None:
        from shardtools.storage.cache import parse_cache

        folder, size = parse_cache(cache)
        cache = f"{os.path.abspath(folder)}:{size}"
    return StorageOptions(retries=retries, timeout=timeout, cache=cache, limits=limits)
