"""The bytes of a snapshot: keys -> where they lie -> ranges of data shards, joined and checked.

    keys -> log -> entries, by object -> open file or ranges of a server -> CRC-32C -> bytes

What is listed and cannot be read, or is not what was written, is an error. It is never taken for what was not written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import google_crc32c

from shardtools.errors import CorruptError, NotFoundError, RefusedError, StorageError
from shardtools.log.place import Place
from shardtools.log.segment import Entry
from shardtools.lru import LRU
from shardtools.storage import ByteRange, current_options, follow, get_storage
from shardtools.storage.open_files import OpenFile, open_file
from shardtools.urls import is_local

T = TypeVar("T")
R = TypeVar("R")

THREADS = 16
"""Objects of a server that are read at the same time."""

_FIX = "restore it from a copy, or read an earlier version"

_files: LRU[str, OpenFile] = LRU(128)


def read_entries(place: Place, entries: Mapping[str, Entry]) -> dict[str, bytes]:
    """Return the bytes of keys, checked against their CRC-32C.

    Raises:
        CorruptError: an object is gone, too short, or damaged.
        StorageError: it cannot be read.
    """
    found: dict[str, bytes] = {}
    for (key, entry), data in zip(entries.items(), read_parts(place, list(entries.items())), strict=True):
        if google_crc32c.value(data) != entry.crc32c:
            url = place.root + entry.name
            _files.pop(url)
            raise CorruptError("it is damaged: its CRC-32C does not match", url=url, member=key, fix=_FIX)
        found[key] = data
    return found


def read_parts(place: Place, parts: Sequence[tuple[str, Entry]]) -> list[bytes]:
    """Return parts of what keys have, given as keys and where the parts lie. They have no checksum of their own.

    Raises:
        CorruptError: an object is gone or too short.
        StorageError: it cannot be read.
    """
    by_object: defaultdict[str, list[int]] = defaultdict(list)
    for number, (_, entry) in enumerate(parts):
        by_object[entry.name].append(number)
    found = [b""] * len(parts)
    with place.using():

        def read(job: tuple[str, Sequence[int]]) -> list[bytes]:
            name, numbers = job
            keys, entries = zip(*(parts[number] for number in numbers), strict=True)
            return _read_object(place.root + name, entries, keys)

        jobs = list(by_object.items())
        for (_, numbers), values in zip(jobs, run_each(read, jobs, _threads(place)), strict=True):
            for number, value in zip(numbers, values, strict=True):
                found[number] = value
    return found


def _threads(place: Place) -> int:
    return 1 if is_local(place.root) else THREADS


def run_each(call: Callable[[T], R], jobs: Sequence[T], threads: int) -> Iterable[R]:
    """Return the results of calls, in order; in threads if there are several."""
    if len(jobs) < 2 or threads < 2:
        return map(call, jobs)
    with ThreadPoolExecutor(min(threads, len(jobs)), "shardtools-hub", follow, (current_options(),)) as pool:
        return list(pool.map(call, jobs))


def _read_object(url: str, entries: Sequence[Entry], keys: Sequence[str]) -> list[bytes]:
    starts, stops = [entry.offset for entry in entries], [entry.offset + entry.size for entry in entries]
    try:
        if is_local(url):
            return _open(url).read_many(starts, stops)
        return get_storage(url).read_ranges(url, list(map(ByteRange, starts, stops)))
    except StorageError as error:
        _files.pop(url)
        if isinstance(error, NotFoundError):
            what = "a data shard is gone"
        elif isinstance(error, RefusedError):
            what = "the data shard is shorter than when it was written"
        else:
            raise
        raise CorruptError(what, url=url, member=keys[0], fix=_FIX) from error


def _open(url: str) -> OpenFile:
    return _files.get(url) or _files.put(url, open_file(url))
