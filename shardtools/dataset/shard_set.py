"""The shards of a dataset: where they are, how many samples each has, and their tables, fetched when needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import Context, copy_context
from itertools import accumulate, chain
from typing import Any, TypeVar

import numpy as np

from shardtools.errors import SpecError
from shardtools.lru import LRU
from shardtools.processors import processors
from shardtools.shards.foreign import wids
from shardtools.shards.foreign.energon import INFO
from shardtools.shards.manifest import find_manifest
from shardtools.shards.members import IndexedShard
from shardtools.shards.open_shard import OpenShard
from shardtools.shards.sidecar import find_sidecar
from shardtools.shards.tables import Tables
from shardtools.storage import Stat, StorageOptions, current_options, get_storage, using
from shardtools.storage.expansion import expand_sources
from shardtools.types import Ints
from shardtools.urls import is_local, name_of

logger = logging.getLogger(__name__)

THREADS = 16
"""Shards whose tables are fetched at the same time."""

SHARDS = 256
"""The number of shards to keep open."""

PATIENCE = 20.0
"""Seconds between two warnings while the tables of all shards are fetched."""

A = TypeVar("A")
R = TypeVar("R")


class ShardSet:
    """The shards that ``spec`` names. It can be pickled, without its connections, and may be used by many threads.

    ``ends[i]`` is the number of samples in shards 0 to i. ``ends`` is None until known; `known_ends` computes it.
    ``sizes``, ``checksums`` and ``validators`` are those of the shards as stored; None if the manifest does not say.
    """

    def __init__(self, spec: str | Sequence[str], options: StorageOptions, *, trust_index: bool = False):
        self.options = options.naming(spec)
        self.counts: list[int] | None
        self._fields: tuple[str, ...] | None
        self._classes: list[str] | None = None
        self.sizes: tuple[int, ...] | None = None
        self.checksums: tuple[str, ...] | None = None
        self.validators: tuple[str | None, ...] | None = None
        self._counted_by = "the manifest"
        with using(self.options):
            index = wids.read_index(spec, trusted=trust_index) if wids.is_index(spec) else None
            self.urls = index.urls if index else expand_sources(spec)
            get_storage(self.urls[0])  # an unknown scheme is named by a shard, not by an index that may lie beside
            self._start()
            if index:
                self._counted_by = name_of(index.url)
                self.counts, self._fields = index.counts, index.fields
            else:
                self.counts, self._fields = self._read_manifest(spec)
        self.ends = None if self.counts is None else list(accumulate(self.counts))

    def _start(self) -> None:
        """Start with empty caches, in a new process too."""
        self._tables = Tables(self.urls, self.options)
        self._open: LRU[int, OpenShard] = LRU(SHARDS)
        self._checked_empty: set[int] = set()
        self._seen_fields: frozenset[str] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        names = ("options", "urls", "counts", "sizes", "checksums", "validators", "ends")
        return {name: self.__dict__[name] for name in (*names, "_fields", "_classes", "_counted_by")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def _read_manifest(self, spec: str | Sequence[str]) -> tuple[list[int] | None, tuple[str, ...] | None]:
        """Return the number of samples of each shard and the names of the fields, from the manifest.

        Either is None if unknown. Without a manifest, the counts may come from an index of Energon.
        """
        specs = [spec] if isinstance(spec, str) else list(spec)
        if len(specs) == 1 and (manifest := find_manifest(specs[0], self.urls)) is not None:
            self._classes, self.sizes, self.checksums = manifest.classes, manifest.sizes, manifest.checksums
            self.validators = manifest.validators
            return list(manifest.counts), tuple(manifest.fields) if manifest.fields else None
        if (counts := self._tables.energon.counts()) is not None:
            self._counted_by = INFO
        return counts, None

    # --- one shard

    def indexed(self, number: int) -> IndexedShard:
        """Return the URL of a shard and its table.

        Neighbouring shards that are empty according to the manifest are checked too: no sample would lead to them.

        Raises:
            StorageError: the shard cannot be read.
            ShardError: the shard is damaged.
            SpecError: the shard does not match the manifest.
        """
        self._check_empty(self._empty_beside(number))
        return self._checked(number)

    def open(self, number: int) -> OpenShard:
        """Return an open shard.

        Raises:
            StorageError, ShardError, SpecError: as `indexed` does.
        """
        if (shard := self._open.get(number)) is not None:
            return shard
        with using(self.options):
            return self._open.put(number, OpenShard(self.indexed(number), self.options))

    def open_listed(self, number: int) -> OpenShard | None:
        """Return a shard as the manifest describes it, whose size is not asked for; None if its sidecar does not fit.

        It is open from then on if `keep` is called with it.

        Raises:
            StorageError: the sidecar cannot be read.
        """
        if (shard := self._open.get(number)) is not None or self.sizes is None or self.checksums is None:
            return shard
        url = self.urls[number]
        with using(self.options):
            sidecar = find_sidecar(url, Stat(self.sizes[number], None))
            if sidecar is None or sidecar.checksum != self.checksums[number] or sidecar.table.crc32 is None:
                return None
            self.compare(number, len(sidecar))
            return OpenShard(IndexedShard(url, sidecar), self.options)

    def keep(self, number: int, shard: OpenShard) -> None:
        """Keep a shard open, which is now known to be as its sidecar says."""
        self._open.put(number, shard)

    def is_open(self, number: int) -> bool:
        """Return whether a shard is open already, so that a sample costs one read."""
        return self._open.get(number) is not None

    def peek(self, number: int) -> OpenShard | None:
        """Return an open shard if its table is in memory or stored; None if the shard would have to be read.

        This uses `current_options` instead of the dataset's options, so that a caller can choose shorter timeouts.

        Raises:
            StorageError, ShardError, SpecError: as `indexed` does.
        """
        if (shard := self._tables.stored(number)) is None:
            return None
        self.compare(number, len(shard.table))
        return OpenShard(shard, current_options())

    def compare(self, number: int, count: int) -> None:
        """Raise if a shard with ``count`` samples does not match the manifest.

        Raises:
            SpecError: the manifest has another number.
        """
        if self.counts is None or count == self.counts[number]:
            return
        what = f"it has {count:,} samples, and {self.counts[number]:,} in {self._counted_by}"
        fix = "delete the manifest, or make it again with htindex"
        if self._counted_by != "the manifest":
            fix = "name the shards themselves, and make their manifest with htindex"
        raise SpecError(what, url=self.urls[number], fix=fix)

    def _checked(self, number: int) -> IndexedShard:
        """Return a shard and its table, whose number of samples has been compared with the manifest."""
        shard = self._tables.get(number)
        self.compare(number, len(shard.table))
        if not self._seen_fields.issuperset(shard.table.fields):
            self._seen_fields |= frozenset(shard.table.fields)
        return shard

    def _empty_beside(self, number: int) -> list[int]:
        """Return the empty shards directly before a shard with samples; for the last such shard, also those after it.

        So whoever reads all samples also checks all empty shards.
        """
        counts = self.counts
        if counts is None or not counts[number]:
            return []
        empty = []
        for step in (-1, 1):
            at = number + step
            while 0 <= at < len(counts) and not counts[at]:
                empty.append(at)
                at += step
            if step == 1 and at < len(counts):  # the next shard with samples checks these
                empty = [other for other in empty if other < number]
        return empty

    def _check_empty(self, numbers: Sequence[int]) -> None:
        """Raise if a shard that should be empty has samples. Each shard is checked once."""
        if unchecked := [number for number in numbers if number not in self._checked_empty]:
            self.map(self._checked, unchecked)
            self._checked_empty.update(unchecked)

    # --- all shards

    def known_ends(self) -> list[int]:
        """Return `ends`. Without a manifest, the tables of all shards are fetched."""
        if self.ends is None:
            self.counts = self.of_all(lambda shard: len(shard.table))
            self._checked_empty.update(range(len(self.counts)))
            self.ends = list(accumulate(self.counts))
        if not self.ends[-1]:  # no sample will lead to any shard
            self._check_empty(range(len(self.ends)))
        return self.ends

    def starts(self, number: int) -> int:
        """Return the index of the first sample of a shard."""
        return self.known_ends()[number - 1] if number else 0

    def places(self, indexes: Ints) -> tuple[Ints, Ints]:
        """Return the number of the shard, and the row in it, of samples with these indexes."""
        ends = np.array(self.known_ends(), np.int64)
        numbers = np.searchsorted(ends, indexes, side="right")
        return numbers, indexes - np.concatenate(([0], ends))[numbers]

    def numbers_of(self, indexes: Ints) -> list[int]:
        """Return the numbers of the shards that have samples with these indexes; they rise."""
        numbers: list[int] = np.unique(self.places(indexes)[0]).tolist()
        return numbers

    def keys(self) -> list[str]:
        """Return the keys of all samples, in order. The tables of all shards are fetched."""
        return list(chain.from_iterable(self.of_all(lambda shard: shard.table.keys.decode())))

    @property
    def fields(self) -> tuple[str, ...]:
        """The sorted names of all fields. Without a manifest, the tables of all shards are fetched."""
        if self._fields is None:
            self._fields = tuple(sorted(set(chain.from_iterable(self.of_all(lambda shard: shard.table.fields)))))
        return self._fields

    @property
    def known_fields(self) -> tuple[str, ...]:
        """The sorted names of the fields that the manifest or the shards used so far have. Nothing is fetched."""
        return tuple(sorted(self._seen_fields.union(self._fields or ())))

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes; None if the manifest has none."""
        return None if self._classes is None else list(self._classes)

    def of_all(self, call: Callable[[IndexedShard], R]) -> list[R]:
        """Return what ``call`` returns for each shard; log a warning if that takes long."""
        return self.of_some(lambda number, shard: call(shard), range(len(self.urls)))

    def of_some(self, call: Callable[[int, IndexedShard], R], numbers: Sequence[int]) -> list[R]:
        """Return what ``call`` returns for the number and the table of some shards; log a warning if it takes long."""
        total, next_warning, results = len(numbers), time.monotonic() + PATIENCE, []
        # For local shards, more threads than processors would wait for each other.
        threads = processors() if all(map(is_local, self.urls)) else THREADS
        with closing(self._each(lambda number: call(number, self._checked(number)), numbers, threads)) as each:
            for result in each:
                results.append(result)
                if time.monotonic() > next_warning:
                    next_warning = time.monotonic() + PATIENCE
                    logger.warning(
                        "read the tables of %d of %d shards; make a manifest with htindex to avoid this",
                        len(results), total,
                    )  # fmt: skip
        return results

    def map(self, call: Callable[[A], R], arguments: Sequence[A]) -> list[R]:
        """Return what ``call`` returns for each argument, in order. The calls run in threads."""
        return list(self._each(call, arguments))

    def _each(self, call: Callable[[A], R], arguments: Sequence[A], threads: int = THREADS) -> Generator[R, None, None]:
        """Yield what ``call`` returns for each argument, in order."""
        if len(arguments) < 2:
            yield from map(call, arguments)
            return

        def inside(context: Context, argument: A) -> R:
            return context.run(call, argument)

        pool = ThreadPoolExecutor(min(threads, len(arguments)), "shardtools-dataset")
        try:
            with using(self.options):
                results = pool.map(inside, [copy_context() for _ in arguments], arguments)
            yield from results
        finally:
            pool.shutdown(cancel_futures=True)
