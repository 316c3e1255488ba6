"""Some samples in order, read by threads, and cut into batches by whoever takes them.

places of samples -> Uncut, from one reader or many -> cut: what a few samples in a row have, by name
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import Any, cast

import numpy as np

from shardtools.errors import ShardtoolsError, StorageError
from shardtools.shards.members import Uncut
from shardtools.shards.tar import Ints
from shardtools.storage.files import os_errors
from shardtools.torch.shard import SPECIAL, LocalShard, Part, by_field, data_fields, joined
from shardtools.torch.stats import Stats

Located = tuple[Ints, Ints, Ints, Any]
"""Of some samples: their numbers, shards, rows in these, and whether they are repeats."""


class Run:
    """Some samples, in order: where they are, what was read of them, and what went wrong, by place.

    ``nbytes`` is what they take in memory. If the system ``is_asked`` for them only, they are read when they are cut,
    from files that are open until then: a context closes them. ``name`` returns the URL and the key of a sample by its
    number, for errors.
    """

    def __init__(
        self,
        located: Located,
        names: Sequence[str],
        nbytes: int,
        stats: Stats,
        name: Callable[[int], tuple[str, str]],
    ):
        self.numbers, self.shards, self.rows, self.pads = located
        fields, size = len(data_fields(names)), len(self.numbers)
        self.nbytes = nbytes
        self.is_asked = False
        self.errors: dict[int, ShardtoolsError] = {}
        self.pieces: list[Future[None]] = []
        self._data = Uncut([], *(np.full((fields, size), start, np.int64) for start in (-1, 0, 0)))
        self._special: list[list[Any]] = [[None] * size for _ in range(len(names) - fields)]
        self._names, self._stats, self._name = names, stats, name
        self._files, self._lock = ExitStack(), threading.Lock()

    def __len__(self) -> int:
        return len(self.numbers)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files that it reads from."""
        self._files.close()

    def ask_for(self, parts: Sequence[Part]) -> Uncut:
        """Open the files of samples of some shards, let the system get what lies around these, and return where.

        Raises:
            StorageError: a file cannot be opened.
        """
        found = []
        for shard, rows in parts:
            with os_errors(shard.url):
                descriptor = self._files.enter_context(cast(LocalShard, shard).opened())
                found.append(cast(LocalShard, shard).ask_for(rows, descriptor))
        return joined(found)

    def add(self, places: Ints, found: Uncut, special: Sequence[list[Any]]) -> None:
        """Take what was read of the samples at some places. It may be called by many threads."""
        data = self._data
        with self._lock:
            shift = len(data.bodies)
            data.bodies.extend(found.bodies)
        for values, column in zip(special, self._special, strict=True):
            for place, value in zip(places.tolist(), values, strict=True):
                column[place] = value
        data.body[:, places] = np.where(found.body >= 0, found.body + shift, -1)
        data.low[:, places], data.high[:, places] = found.low, found.high

    def cut(self, start: int, stop: int) -> list[list[Any]]:
        """Return some of the samples: a list for each of the names asked for."""
        columns = by_field(self._data, slice(start, stop))
        if self.is_asked:
            begin = time.perf_counter()
            found = [self._read(column, start) for column in columns]
            self._stats.add(waited=time.perf_counter() - begin)
        else:
            found = [column.cut() for column in columns]
        data, special = iter(found), iter(column[start:stop] for column in self._special)
        return [next(special if name in SPECIAL else data) for name in self._names]

    def _read(self, column: Uncut, start: int) -> list[bytes | None]:
        """Return the values of a field that lie in files; note what cannot be read."""
        files, pread = column.bodies, os.pread
        places = list(zip(column.body.tolist(), column.low.tolist(), column.high.tolist(), strict=True))
        try:
            values = [pread(files[i], b - a, a) if i >= 0 else None for i, a, b in places]
        except OSError:
            values = []
        if sum(map(len, filter(None, values))) == int((column.high - column.low).sum()):
            return values
        return [self._read_one(start + at, files, *place) for at, place in enumerate(places)]

    def _read_one(self, place: int, files: Sequence[int], i: int, start: int, stop: int) -> bytes | None:
        url, key = self._name(int(self.numbers[place]))
        try:
            with os_errors(url):
                value = os.pread(files[i], stop - start, start) if i >= 0 else None
            if value is not None and len(value) < stop - start:
                raise StorageError("the file was cut off", url=url, fix="start again")
        except StorageError as error:
            self.errors[place] = error.at(member=key)
            return None
        return value
