"""A dataset as a sequence of samples, of which only what is asked for is fetched.

    ShardedDataset(spec) -> manifest, or sidecars -> which shard -> its table -> ranges -> records

What an operation costs, in requests: to open it one (the manifest); the first sample of a shard two more (the shard's
size and its sidecar); a sample one; a slice one for each shard (for `.tgz` and `.tar.zst`, from the entry point before
it). Where there are no manifest and sidecars, what other programs have left may take their place, at one request more
each (see ``shards/foreign.py``); shards without any are read once, from their start. By key: the sidecars of the
shards up to the one that has it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import Context, copy_context
from itertools import accumulate, chain, islice
from typing import Any, overload

import numpy as np

from shardtools.errors import NotFoundError, RefusedError, SpecError
from shardtools.jobs.options import expand_sources
from shardtools.processors import processors
from shardtools.shards import wids
from shardtools.shards.energon import INFO
from shardtools.shards.json_text import parse_json
from shardtools.shards.members import IndexedShard
from shardtools.shards.open_shard import OpenShard, keep_freed_memory
from shardtools.shards.reader import ShardReader
from shardtools.shards.samples import Record, records
from shardtools.shards.tables import Tables
from shardtools.shards.tar import Ints
from shardtools.spec import Destination, is_local, name_of
from shardtools.storage import StorageOptions, read_limited, using

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
        self._options = options
        with using(options):
            index = wids.read_index(spec, trusted=trust_index) if wids.is_index(spec) else None
            self._urls = index.urls if index else expand_sources(spec)
            self._start()
            self._told_by = name_of(index.url) if index else "the manifest"
            self._counts, self._fields = (index.counts, index.fields) if index else self._told()
        self._ends = None if self._counts is None else list(accumulate(self._counts))

    def _start(self) -> None:
        """Begin with nothing, in a process that is new to this."""
        self._tables = Tables(self._urls, self._options)
        self._reopen()

    def _reopen(self) -> None:
        """Begin with no shard open."""
        self._lock = threading.Lock()
        self._shards: OrderedDict[int, OpenShard] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        names = ("spec", "_options", "_urls", "_counts", "_fields", "_ends", "_told_by")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        shards = f"{len(self._urls)} shard{'s' * (len(self._urls) != 1)}"
        return f"<{type(self).__name__} {self.spec!r}: {shards}{f', {self._ends[-1]:,} samples' if self._ends else ''}>"

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

        Raises:
            StorageError: it cannot be read.
            ShardError: it is damaged.
            SpecError: the manifest is about another one.
        """
        shard = self._tables.get(number)
        if self._counts is not None and len(shard.table) != self._counts[number]:
            what = f"it has {len(shard.table):,} samples, and {self._counts[number]:,} in {self._told_by}"
            fix = "delete the manifest, or make it again with htindex"
            if self._told_by != "the manifest":
                fix = "name the shards, and make their manifest with htindex"
            raise SpecError(what, url=self._urls[number], fix=fix)
        return shard

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
        if len(specs) == 1:
            try:
                url = Destination(specs[0]).manifest
                manifest = parse_json(read_limited(url, "manifest"), url)
                entries = manifest["shardlist"]
                if [name_of(entry["url"]) for entry in entries] == list(map(name_of, self._urls)):
                    return [int(entry["nsamples"]) for entry in entries], tuple(manifest.get("fields", ())) or None
            except (SpecError, NotFoundError, RefusedError, ValueError, KeyError, TypeError):
                pass  # the shards tell it as well
        if (counts := self._tables.energon.counts()) is not None:
            self._told_by = INFO
        return counts, None

    def _bounds(self) -> list[int]:
        """Return where each shard ends among the samples."""
        if self._ends is None:
            self._counts = self._of_all(lambda shard: len(shard.table))
            self._ends = list(accumulate(self._counts))
        return self._ends

    def _of_all(self, call: Callable[[IndexedShard], Any]) -> list[Any]:
        """Return what ``call`` gives for each shard; log what takes long."""
        total, told, found = len(self._urls), time.monotonic() + PATIENCE, []
        # Of this machine, more threads than it has processors would wait for each other.
        threads = processors() if all(map(is_local, self._urls)) else THREADS
        with closing(self._each(lambda number: call(self.indexed(number)), range(total), threads)) as results:
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
        if self._pid != os.getpid():  # after a fork another process may hold the lock
            self._reopen()
        with self._lock:
            if (shard := self._shards.get(number)) is not None:
                self._shards.move_to_end(number)
                return shard
        with using(self._options):
            shard = OpenShard(self.indexed(number), self._options)
        with self._lock:
            self._shards[number] = shard
            while len(self._shards) > SHARDS:
                self._shards.popitem(last=False)
        return shard

    # --- samples

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that any sample has, sorted."""
        if self._fields is None:
            self._fields = tuple(sorted(set(chain.from_iterable(self._of_all(lambda shard: shard.table.fields)))))
        return self._fields

    @property
    def keys(self) -> list[str]:
        """The keys of all samples, in order."""
        return list(chain.from_iterable(self._of_all(lambda shard: shard.table.keys.tolist())))

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
        """Yield all samples, in order, shard by shard from the start of each."""
        for url in self._urls:
            with using(self._options):
                reader = ShardReader(url, ahead=True)
            with reader:
                for block in reader:
                    yield from records(block)

    def _locate(self, index: int) -> tuple[int, int]:
        ends = self._ends or self._bounds()
        total = ends[-1] if ends else 0
        if not 0 <= index < total:
            if not -total <= index < 0:
                raise IndexError(f"there is no sample {index}: they are {total:,}")
            index += total
        shard = bisect_right(ends, index)
        return shard, index - (ends[shard - 1] if shard else 0)

    def _find(self, key: str) -> tuple[int, int] | None:
        """Return shard and row of the first sample with a key."""
        for first in range(0, len(self._urls), THREADS):
            numbers = range(first, min(first + THREADS, len(self._urls)))
            for number, shard in zip(numbers, self._map(self._shard, numbers), strict=True):
                if shard.rows_of_keys is None:
                    shard.rows_of_keys = {name: row for row, name in reversed(list(enumerate(shard.keys)))}
                if (row := shard.rows_of_keys.get(key)) is not None:
                    return number, row
        return None

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
            raise IndexError(f"a mask of shape {numbers.shape} for {size} samples")
        return np.flatnonzero(numbers)
    if numbers.size == 0:
        return numbers.astype(np.int64)
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"samples are numbered, which {numbers.dtype} is not for")
    numbers = numbers.astype(np.int64)
    if numbers.min() < -size or numbers.max() >= size:
        wrong = numbers[(numbers < -size) | (numbers >= size)].flat[0]
        raise IndexError(f"there is no sample {wrong}: they are {size:,}")
    return np.where(numbers < 0, numbers + size, numbers)


def storage_options(cache: str | None, retries: int, timeout: float) -> StorageOptions:
    """Return options for storage in which the cache's folder is the same from whatever working folder."""
    if cache is not None:
        from shardtools.storage.cache import parse_cache

        folder, size = parse_cache(cache)
        cache = f"{os.path.abspath(folder)}:{size}"
    return StorageOptions(retries=retries, timeout=timeout, cache=cache)
