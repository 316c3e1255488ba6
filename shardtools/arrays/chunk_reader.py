"""The bytes of a snapshot: keys -> where they lie -> ranges of data shards, joined and checked.

    keys -> log -> entries, by object -> open file or ranges of a server -> CRC-32C -> bytes

What is listed and cannot be read, or is not what was written, is an error. It is never taken for what was not written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from shardtools.errors import CorruptError, NotFoundError, RefusedError, StorageError
from shardtools.log.place import Place
from shardtools.log.segment import Entry
from shardtools.lru import LRU
from shardtools.storage import ByteRange, current_options, follow, get_storage
from shardtools.storage.open_files import OpenFile, open_file
from shardtools.urls import is_local

Array = npt.NDArray[Any]
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
        found[key] = data if _is_right(entry, data) else _read_again(place, key, entry)
    return found


def read_parts(place: Place, parts: Sequence[tuple[str, Entry]]) -> list[bytes]:
    """Return parts of what keys have, given as keys and where the parts lie. They have no checksum of their own.

    Raises:
        CorruptError: an object is gone or too short.
        StorageError: it cannot be read.
    """
    found = [b""] * len(parts)

    def read(url: str, numbers: Sequence[int]) -> None:
        entries = [parts[number][1] for number in numbers]
        starts, stops = [entry.offset for entry in entries], [entry.offset + entry.size for entry in entries]
        with _meaning(url, parts[numbers[0]][0]):
            if is_local(url):
                values = _open(url).read_many(starts, stops)
            else:
                values = get_storage(url, immutable=True).read_ranges(url, list(map(ByteRange, starts, stops)))
        for number, value in zip(numbers, values, strict=True):
            found[number] = value

    _each_object(place, [entry for _, entry in parts], read)
    return found


def fill_arrays(place: Place, parts: Sequence[tuple[str, Entry, Array]]) -> None:
    """Read the bytes of keys, checked against their CRC-32C, into arrays of as many bytes, which lie in one piece.

    Raises as `read_entries` does.
    """

    def read(url: str, numbers: Sequence[int]) -> None:
        keys, entries, targets = zip(*(parts[number] for number in numbers), strict=True)
        bodies = [target.reshape(-1).view(np.uint8) for target in targets]
        with _meaning(url, keys[0]):
            if is_local(url):
                file = _open(url)
                for entry, body in zip(entries, bodies, strict=True):
                    file.read_into(entry.offset, body.data)
            else:
                storage = get_storage(url, immutable=True)
                storage.read_into(url, [entry.offset for entry in entries], [body.data for body in bodies])
        for key, entry, body in zip(keys, entries, bodies, strict=True):
            if not _is_right(entry, body):
                body[:] = np.frombuffer(_read_again(place, key, entry), np.uint8)

    _each_object(place, [entry for _, entry, _ in parts], read)


def _each_object(place: Place, entries: Sequence[Entry], read: Callable[[str, Sequence[int]], None]) -> None:
    """Call ``read`` with the URL of each object and the numbers of its entries, for several at a time on a server."""
    by_object: defaultdict[str, list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        by_object[entry.name].append(number)
    with place.using():
        jobs = list(by_object.items())
        for _ in run_each(lambda job: read(place.root + job[0], job[1]), jobs, _threads(place)):
            pass


def _is_right(entry: Entry, data: bytes | Array) -> bool:
    return bool(google_crc32c.value(data) == entry.crc32c)


def _read_again(place: Place, key: str, entry: Entry) -> bytes:
    """Return bytes that were damaged when they were read. A cache may have kept them so: it asks the server this time.

    Raises:
        CorruptError: they are damaged there.
    """
    url = place.root + entry.name
    _files.pop(url)
    if not is_local(url):
        with place.using(), _meaning(url, key):
            [data] = get_storage(url).read_ranges(url, [ByteRange(entry.offset, entry.offset + entry.size)])
        if _is_right(entry, data):
            return data
    raise CorruptError("it is damaged: its CRC-32C does not match", url=url, member=key, fix=_FIX)


def _threads(place: Place) -> int:
    return 1 if is_local(place.root) else THREADS


def run_each(call: Callable[[T], R], jobs: Sequence[T], threads: int) -> Iterable[R]:
    """Return the results of calls, in order; in threads if there are several."""
    if len(jobs) < 2 or threads < 2:
        return map(call, jobs)
    with ThreadPoolExecutor(min(threads, len(jobs)), "shardtools-hub", follow, (current_options(),)) as pool:
        return list(pool.map(call, jobs))


@contextmanager
def _meaning(url: str, key: str) -> Iterator[None]:
    """A context that says what it means for a key that the object at ``url`` cannot be read."""
    try:
        yield
    except StorageError as error:
        _files.pop(url)
        if isinstance(error, NotFoundError):
            what = "a data shard is gone"
        elif isinstance(error, RefusedError):
            what = "the data shard is shorter than when it was written"
        else:
            raise
        raise CorruptError(what, url=url, member=key, fix=_FIX) from error


def _open(url: str) -> OpenFile:
    return _files.get(url) or _files.put(url, open_file(url))
