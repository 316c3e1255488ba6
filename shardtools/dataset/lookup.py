"""Find samples by their keys in the dataset's file of keys, and read one of them without its shard's sidecar.

key -> hash -> entry: index, span -> the bytes of the span -> scan -> a record, if it is the one
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shardtools.dataset.choosing import Choosing
from shardtools.dataset.shard_set import THREADS, ShardSet
from shardtools.errors import CorruptError, RefusedError, ShardError
from shardtools.query.key_file import Entries, hash_keys, longest, texts_of
from shardtools.shards.locate import LocatedHeaders, locate_headers
from shardtools.shards.names import decode_name, split_name
from shardtools.shards.reader import Block
from shardtools.shards.samples import Record, records
from shardtools.shards.scan import scan_located
from shardtools.shards.tar import BLOCK
from shardtools.storage import ByteRange, current_options, get_storage, using
from shardtools.types import Ints
from shardtools.urls import is_local, name_of

_AFTER = 4 * BLOCK
"""Bytes that are read after a sample, to see that the next one begins there: an extension header and a header."""


def read_sample(url: str, filesize: int, row: int, entry: Entries, key: str) -> Record | None:
    """Return the sample with a key, from the plain shard of ``filesize`` bytes whose row ``row`` it is by its entry.

    None if there is something else, or if the entry does not say about how long the sample is.

    Raises:
        StorageError: the shard cannot be read.
    """
    start, blocks = int(entry["block"]) * BLOCK, longest(int(entry["word"]) & 0xFF)
    if blocks is None:
        return None
    stop = min(start + blocks * BLOCK + _AFTER, filesize)
    current_options().limits.check("sample", stop - start, url=url)
    try:
        [data] = get_storage(url).read_ranges(url, [ByteRange(start, stop)])
        buffer = np.frombuffer(data, np.uint8)
        found = locate_headers(buffer, final=False, url=url)
        table = scan_located(buffer, found.start, found.size, url)
    except (ShardError, RefusedError):  # the shard is another one, is packed, or ends before
        return None
    if not len(table) or table.keys[0] != key or not (len(table) > 1 or found.ended or _is_next(found, key)):
        return None
    [record] = records(Block(url, memoryview(data), 0, table.slice(0, 1), row))
    return record


def _is_next(found: LocatedHeaders, key: str) -> bool:
    """Return whether a member that is incomplete belongs to another sample than the one with ``key``."""
    name = None if found.incomplete is None else split_name(found.incomplete.name)
    return name is not None and decode_name(name[0]) != key


@dataclass(frozen=True)
class SamplePlace:
    """Where a sample is: the number of its shard, its row there, and its entry in the file of keys, if that has it."""

    shard: int
    row: int
    entry: Entries | None = None


class KeyLookup:
    """Finds samples of the shards of a dataset by their keys: in the file of keys if it fits, else in all tables."""

    def __init__(self, shards: ShardSet, choosing: Choosing):
        self._shards, self._choosing = shards, choosing

    def find(self, key: str) -> Iterator[SamplePlace]:
        """Yield, for each shard that has the key, the place of the first such sample.

        Raises:
            StorageError, ShardError: the file of keys, or a table, cannot be read.
        """
        keys = self._choosing.keys()
        if keys is None:
            yield from self._find_in_tables(key)
            return
        with using(self._shards.options):
            [entries] = keys.find(hash_keys(texts_of([key])))
        numbers, rows = self._shards.places(entries["index"].astype(np.int64))
        for at in np.unique(numbers, return_index=True)[1].tolist():
            yield SamplePlace(int(numbers[at]), int(rows[at]), entries[at])

    def find_all(self, keys: Sequence[str]) -> Ints:
        """Return the index of the first sample with each key, -1 for none.

        Raises:
            StorageError, ShardError: the file of keys, or a table, cannot be read.
        """
        file = self._choosing.keys()
        if file is None:
            first = {key: index for index, key in reversed(list(enumerate(self._shards.keys())))}
            return np.array([first.get(key, -1) for key in keys], np.int64)
        with using(self._shards.options):
            found = file.find(hash_keys(texts_of(keys)))
        return np.array([int(entries["index"][0]) if len(entries) else -1 for entries in found], np.int64)

    def _find_in_tables(self, key: str) -> Iterator[SamplePlace]:
        shards = self._shards
        for first in range(0, len(shards.urls), THREADS):
            numbers = range(first, min(first + THREADS, len(shards.urls)))
            for number, shard in zip(numbers, shards.map(shards.open, numbers), strict=True):
                if shard.rows_of_keys is None:
                    shard.rows_of_keys = {name: row for row, name in reversed(list(enumerate(shard.keys)))}
                if (row := shard.rows_of_keys.get(key)) is not None:
                    yield SamplePlace(number, row)

    def record(self, place: SamplePlace, key: str) -> Record:
        """Return the sample at a place, which has the key.

        Of a plain shard on a server its span alone is read, without the sidecar, unless the shard is open already. Of
        others the sidecar is read, but the shard is not asked for its size: checksums tell whether it is still the one.

        Raises:
            StorageError, ShardError: it cannot be read.
            KeyError: the shard has another sample there now.
        """
        if place.entry is not None and not is_local(self._shards.urls[place.shard]):
            with using(self._shards.options):
                found = self._record_by_entry(place, place.entry, key)
            if found is not None:
                return found
        record = self._shards.open(place.shard).record(place.row)
        if record["key"] != key:
            raise KeyError(key)
        return record

    def _record_by_entry(self, place: SamplePlace, entry: Entries, key: str) -> Record | None:
        """Return the sample at a place without asking its shard for its size; None if that does not lead to it."""
        number, shards = place.shard, self._shards
        url = shards.urls[number]
        if shards.sizes is not None and not shards.is_open(number) and name_of(url).endswith(".tar"):
            return read_sample(url, shards.sizes[number], place.row, entry, key)
        if (shard := shards.open_listed(number)) is None or shard.table.keys[place.row] != key:
            return None
        try:
            record = shard.record(place.row)
        except (CorruptError, RefusedError):  # the shard is another one
            return None
        shards.keep(number, shard)
        return record
