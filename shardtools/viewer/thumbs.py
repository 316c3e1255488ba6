"""Make thumbnails of fields: those of a page from joined ranges, each once, some at a time.

a page -> its members, shard by shard, some megabytes at a time -> read together -> thumbnails -> kept
one    -> kept, or being made, or made now
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import groupby

import numpy as np

from shardtools.errors import FieldError
from shardtools.processors import processors
from shardtools.shards.fields import decode_by, kind_of
from shardtools.shards.open_shard import OpenShard
from shardtools.shards.thumbnails import thumbnail
from shardtools.storage import StorageOptions, using
from shardtools.urls import identity
from shardtools.viewer.thumb_cache import Picture, ThumbCache

LARGEST = 64 << 20
"""Bytes of a field of which a thumbnail is made at most."""

PIXELS = 96 << 20
"""Bytes of an unpacked picture at most."""

_DRAWN = ("image", "array")
_THREADS = 8
_BATCH = 4 << 20  # bytes that are read together
_WAITING = 2000  # thumbnails that are being made at most

Member = tuple[OpenShard, int]


def thumb_key(shard: OpenShard, member: int, side: int) -> str:
    """Return a name for the thumbnail of a member, which is another one if the shard is."""
    sidecar, table = shard.indexed.sidecar, shard.table
    parts = (identity(shard.indexed.url), sidecar.filesize, sidecar.checksum)
    place = (int(table.offset[member]), int(table.size[member]), side, 1)
    return blake2b(repr((*parts, *place)).encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


class Thumbs:
    """Thumbnails of the fields of a dataset."""

    def __init__(self, options: StorageOptions, cache: ThumbCache):
        limits = options.limits
        small = replace(limits, value=min(limits.value, PIXELS), sample=min(limits.sample, LARGEST))
        self._options, self._cache = replace(options, limits=small), cache
        self._pool = ThreadPoolExecutor(_THREADS, "shardtools-thumbs")
        self._unpacking = threading.Semaphore(max(processors(), 1))
        self._making: dict[str, Future[Picture]] = {}
        self._lock = threading.Lock()

    def get(self, shard: OpenShard, member: int, name: str, side: int) -> Picture:
        """Return the thumbnail of a member.

        Raises:
            FieldError: it is no picture, or too large.
            StorageError, ShardError: it cannot be read.
        """
        key = thumb_key(shard, member, side)
        if (known := self._cache.get(key)) is not None:
            return known
        size = int(shard.table.size[member])
        if size > LARGEST:
            raise FieldError(f"no thumbnail: it has {size:,} bytes, and {LARGEST:,} are read at most", member=name)
        if kind_of(name) not in _DRAWN:
            raise FieldError("it is no picture", member=name)
        with self._lock:
            if (making := self._making.get(key)) is None:
                making = self._making[key] = Future()
                self._pool.submit(self._make, shard, [(member, key, making)], name, side)
        return making.result()

    def begin(self, members: Sequence[Member], side: int) -> None:
        """Begin to make thumbnails of members that have one field, as far as they are not kept."""
        for shard, group in groupby(members, key=lambda one: one[0]):
            some = [member for _, member in group]
            name = shard.table.fields[int(shard.table.field[some[0]])]
            if kind_of(name) not in _DRAWN:
                continue
            wanted: list[tuple[int, str, Future[Picture]]] = []
            for member in some:
                key = thumb_key(shard, member, side)
                if int(shard.table.size[member]) > _BATCH or self._cache.get(key) is not None:
                    continue
                with self._lock:
                    if key not in self._making and len(self._making) < _WAITING:
                        wanted.append((member, key, self._making.setdefault(key, Future())))
            for batch in _batches(shard, wanted):
                self._pool.submit(self._make, shard, batch, name, side)

    def _make(self, shard: OpenShard, wanted: Sequence[tuple[int, str, Future[Picture]]], name: str, side: int) -> None:
        """Read members together, and make their thumbnails; where that fails, one by one."""
        with using(self._options):
            try:
                values: Sequence[bytes | None] = shard.read_members(np.array([one[0] for one in wanted]))
            except Exception:  # noqa: BLE001  # each is then read by itself, and says what is wrong
                values = [None] * len(wanted)
            for (member, key, making), data in zip(wanted, values, strict=True):
                try:
                    picture = self._draw(shard, member, name, side, data)
                    self._cache.put(key, picture)
                    making.set_result(picture)
                except Exception as error:  # noqa: BLE001  # it is raised in the thread that waits for it
                    making.set_exception(error)
                finally:
                    with self._lock:
                        self._making.pop(key, None)

    def _draw(self, shard: OpenShard, member: int, name: str, side: int, data: bytes | None) -> Picture:
        if data is None:
            [data] = shard.read_members(np.array([member]))
        with self._unpacking:
            return draw(name, data, side)

    def close(self) -> None:
        """Start nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def draw(name: str, data: bytes, side: int) -> Picture:
    """Return a small picture of the data of a field.

    Raises:
        FieldError: it is no picture or array, or too large.
    """
    if kind_of(name) == "array":
        from shardtools.viewer.drawing import draw_array

        return "png", decode_by(partial(draw_array, name=name, side=side), name, data)
    kind, small, _ = decode_by(partial(thumbnail, side=side), name, data)
    return kind, small


def _batches(
    shard: OpenShard, wanted: Sequence[tuple[int, str, Future[Picture]]]
) -> Iterator[list[tuple[int, str, Future[Picture]]]]:
    """Yield members in parts of some megabytes."""
    if not wanted:
        return
    sizes = shard.table.size[np.array([one[0] for one in wanted])]
    for _, group in groupby(zip((np.cumsum(sizes) // _BATCH).tolist(), wanted, strict=True), key=lambda pair: pair[0]):
        yield [one for _, one in group]
