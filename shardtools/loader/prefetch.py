"""Samples in the order of their positions, read ahead by threads, in bounded memory.

    positions -> planner thread: sample indexes -> shards and rows -> sizes -> a read window that fits in the memory
              -> reader threads: pieces of the window, one call for the rows of a shard -> the window, complete

Read windows start small, so that the first sample comes soon, grow, and end where a window of the order ends: the rows
of one range are then read together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from itertools import pairwise
from queue import Empty, SimpleQueue

import numpy as np

from shardtools.errors import (
    AccessError,
    ChangedError,
    NotFoundError,
    ShardError,
    ShardtoolsError,
    SpecError,
    StorageError,
    UnavailableError,
    redact,
)
from shardtools.loader.order import Order
from shardtools.loader.places import Places
from shardtools.loader.read_window import Addresses, LazyWindow, ReadWindow
from shardtools.loader.shard import FieldShard, Shards
from shardtools.loader.split import Share
from shardtools.loader.stats import Stats
from shardtools.shards.open_shard import keep_freed_memory
from shardtools.storage import StorageOptions, using
from shardtools.types import Ints

NEAR_THREADS = 2
"""Threads that read files of this machine: more of them wait for each other."""

FAR_THREADS = 32
"""Threads that read from servers."""

NEAR_PIECE = 8 << 20
FAR_PIECE = 8 << 20
"""Bytes that a thread reads at a time."""

OVERHEAD = 200
"""Bytes of memory that a sample takes beside its data."""

LARGEST_WINDOW = 1 << 16
"""Samples in a read window."""

SHARDS = 64
"""Files of this machine from which the samples of a read window come, at most."""

_WHOLE_SHARD = (NotFoundError, AccessError, ChangedError, SpecError)


Task = list[tuple[int, Ints]]
"""Numbers of shards and, for each, places in a read window."""


class Prefetch:
    """Reads the samples of a share of positions; iterate over it once for its read windows."""

    def __init__(
        self,
        shards: Shards,
        places: Places,
        order: Order,
        share: Share,
        names: tuple[str, ...],
        *,
        memory: int,
        threads: int | None,
        options: StorageOptions,
        stats: Stats,
    ):
        self._shards, self._places, self._order, self._share = shards, places, order, share
        self._names, self._options, self._stats = names, options, stats
        self._near = shards.is_near(0)
        self._memory = memory
        threads = threads or (NEAR_THREADS if self._near else FAR_THREADS)
        self._pool = None if threads == 1 else ThreadPoolExecutor(threads, "shardtools-read")
        self._windows: SimpleQueue[ReadWindow | BaseException | None] = SimpleQueue()
        self._room = threading.Condition()
        self._held = 0
        self._stopped = False
        self._failed: dict[int, ShardtoolsError] = {}

    # --- the consumer

    def __iter__(self) -> Generator[ReadWindow, None, None]:
        keep_freed_memory()
        planner = threading.Thread(target=self._plan, name="shardtools-plan", daemon=True)
        planner.start()
        try:
            while (window := self._next()) is not None:
                with closing(window):
                    yield window
                with self._room:
                    self._held -= window.nbytes
                    self._room.notify()
        finally:
            with self._room:
                self._stopped = True
                self._room.notify()
            if can_wait():
                planner.join()
            with suppress(Empty):
                while True:
                    if isinstance(left := self._windows.get_nowait(), ReadWindow):
                        left.close()
            if self._pool is not None:
                shut_down(self._pool)
            self._shards.close()

    def _next(self) -> ReadWindow | None:
        """Return the next read window, once it is complete."""
        begin = time.perf_counter()
        window = self._windows.get()
        if isinstance(window, BaseException):
            raise window
        for piece in window.pieces if window else ():
            piece.result()
        self._stats.add(waited=time.perf_counter() - begin)
        return window

    # --- the planner

    def _plan(self) -> None:
        try:
            with self._context():
                for window in self._make_windows():
                    if not self._reserve(window.nbytes):
                        return
                    self._submit(window)
                    self._windows.put(window)
            self._windows.put(None)
        except BaseException as error:  # noqa: BLE001 - raised where the samples are asked for
            self._windows.put(error)

    def _make_windows(self) -> Iterator[ReadWindow]:
        at, length = 0, self._share.length
        count = self._share.split.batch_size
        limit = self._memory // 2
        while at < length and not self._stopped:
            addresses = self._addresses(self._share.positions(at, min(at + count, length)))
            opened = self._open_all(addresses)
            held = np.cumsum(_sizes(addresses, opened) + OVERHEAD)
            fitting = max(1, int(np.searchsorted(held, limit, side="right")))
            if self._near and len(opened) > SHARDS:
                fitting = min(fitting, int(np.sort(np.unique(addresses.shards, return_index=True)[1])[SHARDS]))
            some = addresses.first(fitting)
            nbytes = int(held[:fitting][-1])
            readable = [shard for shard in opened.values() if isinstance(shard, FieldShard)]
            is_lazy = {shard.is_lazy for shard in readable}
            window = ReadWindow(some, self._names, nbytes)
            if True in is_lazy and None not in is_lazy:
                window = LazyWindow(some, self._names, nbytes, self._stats, self.name)
            yield window
            at += len(window)
            count = min(count * 4, LARGEST_WINDOW, max(4 * len(window), self._share.split.batch_size))

    def _addresses(self, positions: Ints) -> Addresses:
        """Return where the samples at positions are, as far as these are in one window of the order."""
        total = self._order.total
        if positions[0] < total:
            stop = self._order.window_stop(int(positions[0]))
            positions = positions[: max(1, int(np.searchsorted(positions, stop)))]
        indexes = self._order.at(positions % total)
        return Addresses(indexes, *self._places.of(indexes), self._order.repeats(positions))

    def _open_all(self, addresses: Addresses) -> dict[int, FieldShard | ShardtoolsError]:
        """Return the shards that samples are in, by number, or why one cannot be opened."""
        wanted = np.unique(addresses.shards).tolist()
        if self._pool is None or self._near or len(wanted) == 1:
            opened = [self._open(number) for number in wanted]
        else:
            opened = list(self._pool.map(self._open, wanted))
        return dict(zip(wanted, opened, strict=True))

    def _open(self, number: int) -> FieldShard | ShardtoolsError:
        """Return a shard, or why it cannot be opened; after a transient failure it is tried again later."""
        if (failed := self._failed.get(number)) is not None:
            return failed
        if (known := self._shards.known(number)) is not None:
            return known
        try:
            with self._context():
                return self._shards.get(number)
        except (StorageError, ShardError, SpecError) as error:
            named = error.at(url=self._shards.url(number))
            if not isinstance(error, UnavailableError):
                self._failed[number] = named
            return named

    def _reserve(self, size: int) -> bool:
        """Wait until there is room for a read window; return whether it is still wanted."""
        with self._room:
            self._room.wait_for(lambda: self._stopped or not self._held or self._held + size <= self._memory)
            self._held += size
            self._stats.peak(self._held)
            return not self._stopped

    def _submit(self, window: ReadWindow) -> None:
        """Give the pieces of a window to the readers: the rows of a shard, or of several where reading is cheap."""
        places = np.argsort(window.addresses.indexes, kind="stable")
        shards = window.addresses.shards[places]
        bounds = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(window)]
        if isinstance(window, LazyWindow):
            self._read_all(window, [(int(shards[a]), places[a:b]) for a, b in pairwise(bounds)])
            return
        mean = window.nbytes / len(window)
        most = max(1, int((NEAR_PIECE if self._near else FAR_PIECE) / mean))
        parts = [(at, min(at + most, stop)) for start, stop in pairwise(bounds) for at in range(start, stop, most)]
        task: Task = []
        size = 0
        for start, stop in parts:
            task.append((int(shards[start]), places[start:stop]))
            size += stop - start
            if not self._near or size >= most:
                self._hand_out(window, task)
                task, size = [], 0
        if task:
            self._hand_out(window, task)

    def _hand_out(self, window: ReadWindow, task: Task) -> None:
        if self._pool is None:
            self._read_all(window, task)
        else:
            window.pieces.append(self._pool.submit(self._read_all, window, task))

    # --- the readers

    def _read_all(self, window: ReadWindow, task: Task) -> None:
        parts = []
        with self._context():
            for number, places in task:
                shard = self._open(number)
                if isinstance(shard, FieldShard):
                    parts.append((number, shard, places))
                else:
                    window.errors.update(dict.fromkeys(places.tolist(), shard))
            if parts:
                self._read(window, parts)

    def _context(self) -> AbstractContextManager[None]:
        """A context in which storage uses the options, counts, and stops once the iteration has ended."""
        return using(self._options, self._check, self._stats.count)

    def _check(self) -> None:
        if self._stopped:
            raise StoppedError

    def _read(self, window: ReadWindow, parts: list[tuple[int, FieldShard, Ints]]) -> None:
        """Read some samples of shards; of those that cannot be read, note why."""
        self._check()
        places = np.concatenate([places for _, _, places in parts])
        wanted = [(shard, window.addresses.rows[at]) for _, shard, at in parts]
        try:
            window.read(places, wanted)
        except (StorageError, ShardError, SpecError) as error:
            for smaller in self._smaller(window, parts, error):
                self._read(window, smaller)
            return
        size = sum(int(shard.sizes[rows].sum()) for shard, rows in wanted)
        self._stats.add(samples=len(places), bytes=size)

    def _smaller(
        self, window: ReadWindow, parts: list[tuple[int, FieldShard, Ints]], error: ShardtoolsError
    ) -> list[list[tuple[int, FieldShard, Ints]]]:
        """Return what to read by itself, to find out which samples an error is about; note it if that is known."""
        if len(parts) > 1:
            return [[part] for part in parts]
        [(number, shard, places)] = parts
        is_whole = isinstance(error, _WHOLE_SHARD)
        if is_whole and error.url in (None, redact(self._shards.url(number))):
            self._failed[number] = error
        elif len(places) > 1 and not isinstance(error, UnavailableError):
            half = len(places) // 2
            return [[(number, shard, places[:half])], [(number, shard, places[half:])]]
        elif len(places) == 1 and not is_whole:
            error = error.at(member=shard.keys([int(window.addresses.rows[places[0]])])[0])
        window.errors.update(dict.fromkeys(places.tolist(), error))
        return []

    def name(self, index: int) -> tuple[str, str]:
        """Return the URL of a sample's shard, and the sample's key, or its row if the shard is not at hand."""
        [shard], [row] = self._places.of(np.array([index]))
        return self._shards.name(int(shard), int(row))


def can_wait() -> bool:
    """Return whether this thread may wait for a loader's own: it is none of them.

    The garbage collector may close an iterator in any thread, also in one of these.
    """
    return not threading.current_thread().name.startswith("shardtools-")


def shut_down(pool: ThreadPoolExecutor) -> None:
    """End the threads of a pool, and wait for them where that is possible."""
    pool.shutdown(wait=can_wait(), cancel_futures=True)


def _sizes(addresses: Addresses, opened: Mapping[int, FieldShard | ShardtoolsError]) -> Ints:
    """Return the bytes of each sample."""
    shards, rows = addresses.shards, addresses.rows
    sizes = np.zeros(len(rows), np.int64)
    order = np.argsort(shards, kind="stable")
    start, stop = (np.searchsorted(shards[order], list(opened), side=side).tolist() for side in ("left", "right"))
    for shard, a, b in zip(opened.values(), start, stop, strict=True):
        if isinstance(shard, FieldShard):
            sizes[order[a:b]] = shard.sizes[rows[order[a:b]]]
    return sizes


class StoppedError(Exception):
    """The iteration has ended, and its readers must stop."""
