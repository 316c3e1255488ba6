"""The tables of a dataset's shards, from wherever one is: memory, sidecar, cache, another program's index, the shard.

shard's number -> the one used lately -> sidecar -> the cache's folder -> foreign index -> the shard, read whole
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from hashlib import blake2b

from shardtools.errors import StaleTableError, redact
from shardtools.forks import PerProcess
from shardtools.lru import LRU
from shardtools.shards.compression import find_packing
from shardtools.shards.foreign.energon import EnergonIndex
from shardtools.shards.foreign.read import read_foreign
from shardtools.shards.indexing import index_shard, quick_index
from shardtools.shards.members import IndexedShard
from shardtools.shards.sidecar import dump, find_sidecar, parse
from shardtools.storage import Stat, StorageOptions, get_storage, using
from shardtools.urls import identity, is_local

logger = logging.getLogger(__name__)

TABLES = 256
"""Tables to keep in memory."""

READ_BYTES = 1 << 28
"""Bytes of tables to keep beside these for which a whole shard had to be read, and would have to be again."""


class Tables:
    """The tables of the shards at ``urls``. It may be used by many threads, and after a fork."""

    def __init__(self, urls: Sequence[str], options: StorageOptions):
        self._urls, self._options = urls, options
        self.energon = EnergonIndex(urls)
        self._read: dict[int, tuple[Stat, IndexedShard]] = {}
        self._read_bytes = 0
        self._lock = PerProcess(threading.Lock)
        self._recent: LRU[int, IndexedShard] = LRU(TABLES)

    def get(self, number: int) -> IndexedShard:
        """Return a shard and its table.

        Raises:
            StorageError: it cannot be read.
            ShardError: it is damaged.
        """
        if (shard := self._recent.get(number)) is not None:
            return shard
        with using(self._options):
            return self._recent.put(number, self._find(number))

    def stored(self, number: int) -> IndexedShard | None:
        """Return a shard and its table, if that is in memory or stored; None if the shard would have to be read.

        Storage is used as `current_options` says.

        Raises:
            StorageError, ShardError: as `get` does.
        """
        if (shard := self._recent.get(number)) is not None:
            return shard
        url = self._urls[number]
        shard = self._find_stored(number, get_storage(url).stat(url))
        return None if shard is None else self._recent.put(number, shard)

    def _find(self, number: int) -> IndexedShard:
        url = self._urls[number]
        stat = get_storage(url).stat(url)
        shard = self._find_stored(number, stat)
        return self._read_shard(number, stat) if shard is None else shard

    def _find_stored(self, number: int, stat: Stat) -> IndexedShard | None:
        url = self._urls[number]
        if (read := self._read.get(number)) is not None and read[0] == stat:
            return read[1]
        if (sidecar := find_sidecar(url, stat)) is not None:
            return IndexedShard(url, sidecar)
        place = self._place(url, stat)
        if place is not None and os.path.exists(place):
            try:
                with open(place, "rb") as file:
                    return IndexedShard(url, parse(file.read(), url))
            except StaleTableError:  # the disk has changed it; it is made again
                logger.warning("%s: the table that the cache has of this shard is damaged", redact(url))
        if (sidecar := read_foreign(url, stat.size, self.energon)) is not None:
            return IndexedShard(url, sidecar, foreign=True)
        return None

    def _read_shard(self, number: int, stat: Stat) -> IndexedShard:
        url = self._urls[number]
        # A plain local file is quick to index again; checksums of all its bytes would cost more than they are worth.
        is_near = is_local(url) and find_packing(url, stat.size or 0) == "tar"
        shard = IndexedShard(url, quick_index(url) if is_near else index_shard(url))
        if (place := self._place(url, stat)) is not None:
            with get_storage(place).create(place) as sink:
                sink.write(dump(shard.sidecar))
        self._keep(number, stat, shard)
        return shard

    def _keep(self, number: int, stat: Stat, shard: IndexedShard) -> None:
        weight = shard.nbytes
        with self._lock.get():
            if self._read_bytes + weight <= READ_BYTES:
                self._read[number] = stat, shard
                self._read_bytes += weight

    def _place(self, url: str, stat: Stat) -> str | None:
        """Return where the cache keeps the table of a shard that has no sidecar; None without a cache."""
        if not self._options.caches:
            return None
        from shardtools.storage.cache import parse_cache

        text = f"{identity(url)} {stat.size}-{stat.validator}".encode(errors="surrogatepass")
        return f"{parse_cache(self._options.caches[0])[0]}/tables/{blake2b(text, digest_size=16).hexdigest()}.index.npz"
