"""A dataset as a sequence of samples, of which only what is asked for is fetched.

    ShardedDataset(spec) -> manifest, or sidecars -> which shard -> its table -> ranges -> records

What an operation costs, in requests: to open it one (the manifest); the first sample of a shard two more (the shard's
size and its sidecar); a sample one; a slice one for each shard (for `.tgz` and `.tar.zst`, from the entry point before
it). Shards without a sidecar are read once, from their start. By key: the sidecars of the shards up to the one that has
it.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate, islice
from typing import Any, overload

import numpy as np

from shardtools.errors import NotFoundError, RefusedError, SpecError, StorageError
from shardtools.jobs.options import expand_sources
from shardtools.shards.indexing import index_shard
from shardtools.shards.members import IndexedShard
from shardtools.shards.reader import ShardReader
from shardtools.shards.samples import Record, records
from shardtools.shards.sidecar import dump, parse, read_sidecar
from shardtools.shards.table import spread
from shardtools.shards.tar import Ints
from shardtools.spec import Destination, identity, name_of, scheme_of
from shardtools.storage import ByteRange, StorageOptions, get_storage, using
from shardtools.storage.files import os_errors

THREADS = 16
"""Shards that are asked at a time."""

TABLES = 256
"""Tables of shards to keep in memory."""


PIECE = 1 << 18
"""Bytes of a local file to read together."""

LARGE = 1 << 13
"""The mean size of samples from which on the members of a local file are read one by one."""


class _Shard:
    """One shard: its table, and for plain local files an open file, which one ``pread`` gets a sample from.

    A packed shard that cannot be entered in the middle is unpacked, when it is needed first, to a temporary file that
    has no name, and takes its place.
    """

    def __init__(self, shard: IndexedShard, options: StorageOptions):
        table = shard.table
        self.indexed = shard
        self._options = options
        self.table = table
        self.fields = table.fields
        self.rows_of_keys: dict[str, int] | None = None
        self._names = np.array(table.fields, object)
        self._fd = -1
        self._lock = threading.Lock()
        if shard.is_plain and scheme_of(shard.url) in ("", "file"):
            with os_errors(shard.url):
                self._fd = os.open(shard.url.removeprefix("file://"), os.O_RDONLY | os.O_CLOEXEC)

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the samples."""
        return self.table.keys.tolist()

    @cached_property
    def _numbers(self) -> tuple[memoryview, ...]:
        """The columns of the table, as what gives single numbers several times as fast as numpy does."""
        table = self.table
        columns = (table.start, table.stop, table.first, table.offset, table.size, table.field)
        return tuple(np.ascontiguousarray(column).data for column in columns)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _make_enterable(self) -> None:
        """Unpack a shard that cannot be entered."""
        if self._fd >= 0 or self.indexed.can_enter:
            return
        with self._lock:
            if self._fd >= 0:
                return
            with tempfile.TemporaryFile() as file, ShardReader(self.indexed.url) as reader:
                for block in reader:
                    with os_errors(self.indexed.url):
                        os.pwrite(file.fileno(), block.buffer, block.base)
                self._fd = os.dup(file.fileno())

    @property
    def _is_plain(self) -> bool:
        return self._fd >= 0 or self.indexed.is_plain

    def record(self, row: int) -> Record:
        """Return one sample."""
        if self._fd < 0:
            return self.records(np.array([row]))[0]
        starts, stops, first, offsets, sizes, fields = self._numbers
        start = starts[row]
        data = self._pread(start, stops[row])
        record = Record(key=self.keys[row])
        for member in range(first[row], first[row + 1]):
            at = offsets[member] - start
            record[self.fields[fields[member]]] = data[at : at + sizes[member]]
        record.url, record.index = self.indexed.url, row
        return record

    def records(self, rows: Ints) -> list[Record]:
        """Return some samples, whose rows rise."""
        with using(self._options):
            return self._records(rows)

    def _records(self, rows: Ints) -> list[Record]:
        self._make_enterable()
        table = self.table
        counts = (table.first[rows + 1] - table.first[rows]).tolist()
        members = spread(table.first[rows], np.array(counts))
        names = self._names[table.field[members]].tolist()
        if self._is_plain:
            values: Iterable[bytes] = self._from_spans(rows, members)
        else:
            values = self.indexed.read(members)
        parts = iter(zip(names, values, strict=True))
        keys, url = self.keys, self.indexed.url
        found = []
        for row, count in zip(rows.tolist(), counts, strict=True):
            record = Record(key=keys[row])
            for name, data in islice(parts, count):
                record[name] = data
            record.url, record.index = url, row
            found.append(record)
        return found

    def _from_spans(self, rows: Ints, members: Ints) -> list[bytes]:
        """Return the data of all members of some samples of a plain shard: neighbours are read together."""
        table = self.table
        starts, stops = table.start[rows], table.stop[rows]
        if self._fd >= 0 and int((stops - starts).sum()) > LARGE * len(rows):
            return self._read(members)  # straight to where each is to be, which spares a copy
        parted = starts[1:] != stops[:-1]
        if self._fd >= 0:  # pieces that stay in the processor's cache until they are cut
            parted |= starts[1:] // PIECE != starts[:-1] // PIECE
        breaks = np.flatnonzero(parted) + 1
        first, last = np.concatenate(([0], breaks)), np.concatenate((breaks, [len(rows)])) - 1
        ranges = [ByteRange(a, b) for a, b in zip(starts[first].tolist(), stops[last].tolist(), strict=True)]
        if self._fd >= 0:
            bodies = [self._pread(part.start, part.stop) for part in ranges]
        else:
            bodies = get_storage(self.indexed.url).read_ranges(self.indexed.url, ranges)
        of_range = np.searchsorted(starts[first], table.offset[members], side="right") - 1
        at = table.offset[members] - starts[first][of_range]
        ends = (at + table.size[members]).tolist()
        return [bodies[n][a:b] for n, a, b in zip(of_range.tolist(), at.tolist(), ends, strict=True)]

    def _read(self, members: Ints) -> list[bytes]:
        """Return the data of members, each read by itself from the open file."""
        fd, table = self._fd, self.table
        wanted = zip(table.size[members].tolist(), table.offset[members].tolist(), strict=True)
        values = [os.pread(fd, size, at) for size, at in wanted]
        if sum(map(len, values)) != int(table.size[members].sum()):
            raise StorageError("the file was cut off", url=self.indexed.url, fix="open the dataset again")
        return values

    def _pread(self, start: int, stop: int) -> bytes:
        data = os.pread(self._fd, stop - start, start)
        if len(data) != stop - start:
            raise StorageError("the file was cut off", url=self.indexed.url, fix="open the dataset again")
        return data

    def values(self, rows: Ints, field: str) -> list[bytes | None]:
        """Return one field of some samples, None where a sample has none."""
        table = self.table
        if field not in self.fields:
            return [None] * len(rows)
        code = self.fields.index(field)
        members = np.flatnonzero(table.field == code)
        of_sample = np.full(len(table), -1, np.int64)
        of_sample[np.searchsorted(table.first, members, side="right") - 1] = members
        wanted = of_sample[rows]
        members = wanted[wanted >= 0]
        with using(self._options):
            self._make_enterable()
            data = iter(self._read(members) if self._fd >= 0 else self.indexed.read(members))
        return [next(data) if member >= 0 else None for member in wanted.tolist()]


class ShardedDataset(Sequence[Record]):
    """The samples of all shards, in order: ``ds[712_345]``, ``ds["some/key"]``, ``ds[10:20]``, ``for record in ds``.

    A slice, or a list or array of numbers, gives a list of records. It can be pickled, holds no connection then, works
    after a fork, and may be used by many threads.
    """

    def __init__(self, spec: str | Sequence[str], options: StorageOptions):
        """See `shardtools.open`, which makes one."""
        self.spec = spec
        self._options = options
        with using(options):
            self._urls = expand_sources(spec)
            self._counts, self._fields = self._told()
        self._ends = None if self._counts is None else list(accumulate(self._counts))
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        names = ("spec", "_options", "_urls", "_counts", "_fields", "_ends")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        shards = f"{len(self._urls)} shard{'s' * (len(self._urls) != 1)}"
        return f"<ShardedDataset {self.spec!r}: {shards}{f', {self._ends[-1]:,} samples' if self._ends else ''}>"

    # --- what is known of the shards

    def _told(self) -> tuple[list[int] | None, tuple[str, ...] | None]:
        """Return the samples of each shard and the names of the fields, as the manifest has them; None without one."""
        specs = [self.spec] if isinstance(self.spec, str) else list(self.spec)
        if len(specs) == 1:
            try:
                url = Destination(specs[0]).manifest
                manifest = json.loads(get_storage(url).read(url))
                entries = manifest["shardlist"]
                if [name_of(entry["url"]) for entry in entries] == list(map(name_of, self._urls)):
                    return [int(entry["nsamples"]) for entry in entries], tuple(manifest.get("fields", ())) or None
            except (SpecError, NotFoundError, RefusedError, ValueError, KeyError, TypeError):
                pass  # the shards tell it as well
        return None, None

    def _bounds(self) -> list[int]:
        """Return where each shard ends among the samples."""
        if self._ends is None:
            self._counts = [len(shard.table) for shard in self._all_shards()]
            self._ends = list(accumulate(self._counts))
        return self._ends

    def _all_shards(self) -> list[_Shard]:
        return self._map(self._shard, range(len(self._urls)))

    def _map(self, call: Any, arguments: Iterable[Any]) -> list[Any]:
        """Return what ``call`` gives for each argument, some at a time; errors are raised."""
        given = list(arguments)
        if len(given) < 2:
            return [call(argument) for argument in given]

        def inside(argument: Any) -> Any:
            with using(self._options):
                return call(argument)

        with ThreadPoolExecutor(min(THREADS, len(given)), "shardtools-dataset") as pool:
            return list(pool.map(inside, given))

    def _shard(self, number: int) -> _Shard:
        """Return a shard, with its table."""
        if self._pid != os.getpid():  # after a fork another process may hold the lock
            self._start()
        with self._lock:
            if (shard := self._shards.get(number)) is not None:
                self._shards.move_to_end(number)
                return shard
        with using(self._options):
            shard = _Shard(self._index(self._urls[number]), self._options)
        if self._counts is not None and len(shard.table) != self._counts[number]:
            what = f"it has {len(shard.table):,} samples, and {self._counts[number]:,} in the manifest"
            raise SpecError(what, url=self._urls[number], fix="delete the manifest, or make it again with htindex")
        with self._lock:
            self._shards[number] = shard
            while len(self._shards) > TABLES:
                self._shards.popitem(last=False)
        return shard

    def _index(self, url: str) -> IndexedShard:
        storage = get_storage(url)
        stat = storage.stat(url)
        sidecar = read_sidecar(url, stat.size)
        if sidecar is not None:
            return IndexedShard(url, sidecar)
        place = self._table_path(url, f"{stat.size}-{stat.validator}")
        if place is not None and os.path.exists(place):
            with open(place, "rb") as file:
                return IndexedShard(url, parse(file.read(), url))
        sidecar = index_shard(url)
        if place is not None:
            with get_storage(place).create(place) as sink:
                sink.write(dump(sidecar))
        return IndexedShard(url, sidecar)

    def _table_path(self, url: str, version: str) -> str | None:
        """Return where the cache keeps the table of a shard that has no sidecar; None without a cache."""
        if self._options.cache is None:
            return None
        from hashlib import blake2b

        from shardtools.storage.cache import parse_cache

        text = f"{identity(url)} {version}".encode(errors="surrogatepass")
        return f"{parse_cache(self._options.cache)[0]}/tables/{blake2b(text, digest_size=16).hexdigest()}.index.npz"

    # --- samples

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that any sample has, sorted."""
        if self._fields is None:
            self._fields = tuple(sorted({name for shard in self._all_shards() for name in shard.fields}))
        return self._fields

    @property
    def keys(self) -> list[str]:
        """The keys of all samples, in order."""
        return [key for shard in self._all_shards() for key in shard.keys]

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
        return self._gather(rows, lambda shard, some: shard.records(some))

    def values(self, field: str, rows: Ints) -> list[bytes | None]:
        """Return the bytes of one field of the samples with these numbers, None where a sample has none."""
        return self._gather(rows, lambda shard, some: shard.values(some, field))

    def _gather(self, rows: Ints, read: Any) -> list[Any]:
        if not len(rows):
            return []
        ends = np.array(self._bounds())
        shards = np.searchsorted(ends, rows, side="right")
        starts = np.concatenate(([0], ends))

        def of_shard(number: int) -> tuple[Ints, list[Any]]:
            at = np.flatnonzero(shards == number)
            unique, places = np.unique(rows[at] - starts[number], return_inverse=True)
            found = read(self._shard(number), unique)
            return at, [found[place] for place in places.tolist()]

        results: list[Any] = [None] * len(rows)
        for at, found in self._map(of_shard, np.unique(shards).tolist()):
            for place, value in zip(at.tolist(), found, strict=True):
                results[place] = value
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
