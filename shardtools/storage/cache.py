"""A local copy of what is read from servers, bounded in bytes, shared by all processes of a machine, and never stale.

    open, read     stat -> the whole object from the folder; else downloaded into it once, whoever asks meanwhile waits
    read_ranges    stat -> the spans that the folder has, and one request for the others, which it has from then on

Every call asks the server for the object's current version, so that only bytes of this version are returned. Only for
ranges of objects that are known to be immutable it does not.
`CachedStorage` wraps the storage of any scheme; ``cache_folder.py`` manages the files in the folder.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from shardtools.errors import (
    AccessError,
    ChangedError,
    NotFoundError,
    RefusedError,
    SpecError,
    StorageError,
)
from shardtools.spec import parse_size
from shardtools.storage import ByteRange, Sink, Stat, Storage, Stream, check_stop, count
from shardtools.storage.cache_account import charge
from shardtools.storage.cache_folder import CacheFolder, Draft, Version
from shardtools.storage.cache_sums import SUMMED, SummedFile, stored_size
from shardtools.storage.files import storage_error
from shardtools.storage.ranges import cut, merge, past_end
from shardtools.urls import scheme_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 10_000_000_000
"""The bytes that a cache may hold when nobody says how many."""

GAP = 1 << 11
"""Bytes between two ranges that are read with them: few, as the folder may have both but not what lies between."""

FETCH_GAP = 1 << 12
"""Bytes between two missing ranges that are fetched too, rather than making two entries, each with a block's rest."""

_ATTEMPTS = 2  # at an object that keeps changing, before it is read past the cache
_PIECE = 1 << 20
_MENDED = 8 << 20  # bytes that are fetched anew where one is damaged


def parse_cache(text: str) -> tuple[str, int]:
    """Return the folder and the number of bytes that ``DIR`` or ``DIR:SIZE`` names.

    What follows the last colon is the SIZE if it is empty or begins with a digit, a sign or a dot, and has no slash;
    otherwise it is a part of DIR. For a SIZE see `parse_size`. Without it the cache holds 10 GB.

    Raises:
        SpecError: the SIZE is none, or DIR is empty or no folder of this machine.

    >>> parse_cache("/data/cache"), parse_cache("cache:123"), parse_cache("cache:1.5tb")
    (('/data/cache', 10000000000), ('cache', 123), ('cache', 1500000000000))
    >>> parse_cache("run:a/b:c"), parse_cache("a:b:20G"), parse_cache("2024:01/")
    (('run:a/b:c', 10000000000), ('a:b', 20000000000), ('2024:01/', 10000000000))
    >>> parse_cache("d:10 apples")
    Traceback (most recent call last):
    shardtools.errors.SpecError: d:10 apples: '10 apples' is not a valid cache size; write it as in d:500M or d:10GB
    """
    folder, colon, size = text.rpartition(":")
    if not colon or "/" in size or not re.match(r"[0-9.+-]|$", size):
        folder, size = text, str(DEFAULT_SIZE)
    limit = parse_size(size)
    if limit <= 0:
        fix = f"write it as in {folder}:500M or {folder}:10GB"
        raise SpecError(f"'{size}' is not a valid cache size", url=text, fix=fix)
    if not folder or "\0" in folder or scheme_of(folder):
        raise SpecError("this cannot be the folder of a cache", url=text, fix="name one on this machine")
    return folder, limit


class CachedStream(Stream):
    """An object as its copy in the cache, unbuffered: a large read goes straight into the caller's buffer.

    What does not match its checksums comes from ``repair``, which is given a range.
    """

    def __init__(self, file: SummedFile, stat: Stat, repair: Callable[[ByteRange], bytes]):
        super().__init__()
        self._file = file
        self._repair = repair
        self._position = 0
        self._ahead = memoryview(b"")  # bytes that follow, and were read already
        self.stat = stat

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self.closed:
            raise ValueError("read of a closed stream")
        view = memoryview(buffer).cast("B")
        left = self._file.size - self._position
        count = len(view) // SUMMED * SUMMED if len(view) < left else left
        if self._ahead or not count:
            if not self._ahead and left and len(view):
                self._ahead = memoryview(self._next(min(SUMMED, left)))
            count = min(len(view), len(self._ahead))
            view[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
        elif not self._file.read_into(view[:count], self._position):
            self._ahead = memoryview(self._mend())
            return self.readinto(buffer)
        self._position += count
        return count

    def readall(self) -> bytes:
        if self.closed:
            raise ValueError("read of a closed stream")
        pieces = [bytes(self._ahead)] if self._ahead else []
        self._position += len(self._ahead)
        self._ahead = memoryview(b"")
        while left := self._file.size - self._position:
            pieces.append(self._next(left))
            self._position += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _next(self, count: int) -> bytes:
        """Return the ``count`` bytes that follow, or others of those that follow where these are damaged."""
        data = self._file.read(self._position, self._position + count)
        return self._mend() if data is None else data

    def _mend(self) -> bytes:
        """Return some of the bytes that follow, from where they are not damaged."""
        return self._repair(ByteRange(self._position, min(self._position + _MENDED, self._file.size)))


class CachedStorage(Storage):
    """The storage ``inner`` with a cache for what is read from it. What it cannot keep is read directly from ``inner``.

    ``cache`` is ``DIR`` or ``DIR:SIZE``. A process that downloads an object and has not written any of it for
    ``patience`` seconds is no longer waited for. With ``immutable`` it takes every object for one that never changes,
    and asks ``inner`` only for ranges that it does not have.

    Raises, when something is read:
        JobError: the folder cannot be made or written.
    """

    def __init__(self, inner: Storage, cache: str, patience: float = 60.0, immutable: bool = False):
        self._inner = inner
        self._immutable = immutable
        self.coalescing = replace(inner.coalescing, gap=min(GAP, inner.coalescing.gap))
        self._fetch_gap = max(FETCH_GAP, inner.coalescing.gap)
        self._folder = CacheFolder(*parse_cache(cache))
        self._patience = patience
        self._warned: set[int | None] = set()

    def open(self, url: str) -> Stream:
        return self._open_copy(url) or self._inner.open(url)

    def read(self, url: str) -> bytes:
        copy = self._open_copy(url)
        if copy is None:
            return self._inner.read(url)
        with copy:
            return copy.readall()

    def read_ranges(self, url: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        for _ in range(_ATTEMPTS if ranges else 0):
            stat = self._only() if self._immutable else self._settled(url)
            if stat is None:
                break
            last = max(ranges, key=lambda part: part.stop)
            if stat.size is not None and last.stop > stat.size:
                raise past_end(last, stat.size, url)
            try:
                return self._assemble(url, stat, ranges)
            except ChangedError:
                continue
            except OSError as error:
                self._warn(error)
                break
        return self._inner.read_ranges(url, ranges)

    def _is_ready(self) -> bool:
        """Return whether the folder can be used."""
        try:
            self._folder.prepare()
        except OSError as error:
            self._warn(error)
            return False
        return True

    def _only(self) -> Stat | None:
        """Return what stands for the only version of an object, None if the folder cannot be used."""
        return Stat(None, None) if self._is_ready() else None

    def _settled(self, url: str) -> Stat | None:
        """Return size and validator of an object; None if it is empty, or its versions cannot be told apart."""
        if not self._is_ready():
            return None
        try:
            stat = self._inner.stat(url)
        except NotFoundError:
            raise
        except (AccessError, RefusedError):  # of HEAD, say, by a URL that is signed for GET
            return None
        return stat if stat.settled and stat.size and stat.validator is not None else None

    def _warn(self, error: OSError) -> None:
        """Log once for each errno why the cache is not used; raise errors of the storage behind it."""
        if isinstance(error, StorageError):
            raise error
        if error.errno not in self._warned:
            self._warned.add(error.errno)
            logger.warning("%s: read past the cache: %s", self._folder.path, storage_error(error, "").what)
        self._folder.forget()

    # --- whole objects

    def _open_copy(self, url: str) -> CachedStream | None:
        """Return an object's copy, which is made if there is none; None if there can be none."""
        for _ in range(_ATTEMPTS):
            stat = self._settled(url)
            if stat is None or stat.size is None or charge(stored_size(stat.size)) > self._folder.limit:
                break
            try:
                file = self._copy(url, stat)
            except ChangedError:
                continue
            except OSError as error:
                self._warn(error)
                break
            if file is None:
                return None
            return CachedStream(file, stat, partial(self._repair, url, stat, self._folder.version(url, stat)))
        return None

    def _repair(self, url: str, stat: Stat, version: Version, span: ByteRange) -> bytes:
        """Return the bytes of a range that are damaged in the copy of an object, which is removed."""
        self._folder.discard(version, ByteRange(0, version.size))
        [data] = self._inner.read_ranges(url, [span])
        if self._inner.stat(url) != stat:
            raise ChangedError("the object was replaced while it was read", url=url, fix="run again")
        return data

    def _copy(self, url: str, stat: Stat) -> SummedFile | None:
        version = self._folder.version(url, stat)
        file = self._folder.open_whole(version)
        count("cache_misses" if file is None else "cache_hits")
        if file is not None:
            return file
        with self._folder.draft(version, self._patience) as draft:
            return self._folder.open_whole(version) if draft is None else self._download(url, stat, draft)

    def _download(self, url: str, stat: Stat, draft: Draft) -> SummedFile | None:
        """Fill the draft and return it as a file; None if there is no room for it."""
        if not draft.reserve():
            return None
        size = 0
        buffer = memoryview(bytearray(_PIECE))
        with self._inner.open(url) as source:
            while source.stat == stat and (count := source.readinto(buffer)):
                check_stop()
                draft.write(buffer[:count])
                size += count
        if source.stat != stat or size != stat.size:
            raise ChangedError("the object was replaced before it was read", url=url, fix="run again")
        return draft.publish()

    # --- ranges

    def _assemble(self, url: str, stat: Stat, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of ``ranges``, from the folder as far as it has them."""
        version = self._folder.version(url, stat)
        spans = merge(ranges)
        parts = [divide(span, known) for known in [self._folder.spans(version)] for span in spans]
        found = self._folder.read(version, [(part, entry) for some in parts for part, entry in some if entry])
        missing = [part for some in parts for part, _ in some if part not in found]
        count("cache_hits", len(found))
        count("cache_misses", len(missing))
        if missing:
            found |= self._fetch(url, stat, version, missing)
        return cut(ranges, spans, [_join([found[part] for part, _ in some]) for some in parts])

    def _fetch(self, url: str, stat: Stat, version: Version, missing: Sequence[ByteRange]) -> dict[ByteRange, bytes]:
        spans = merge(missing, self._fetch_gap)
        bodies = self._inner.read_ranges(url, spans)
        if not self._immutable and self._inner.stat(url) != stat:  # then nobody knows whose bytes these are
            raise ChangedError("the object was replaced while it was read", url=url, fix="run again")
        try:
            self._folder.store(version, spans, bodies)
        except OSError as error:
            self._warn(error)
        return dict(zip(missing, cut(missing, spans, bodies), strict=True))

    # --- what is not cached

    def stat(self, url: str) -> Stat:
        return self._inner.stat(url)

    def folders(self, folder: str) -> list[str]:
        return self._inner.folders(folder)

    def list(self, prefix: str) -> list[str]:
        return self._inner.list(prefix)

    def stats(self, prefix: str, most: int) -> Mapping[str, Stat]:
        return self._inner.stats(prefix, most)

    def create(self, url: str) -> AbstractContextManager[Sink]:
        return self._inner.create(url)

    def create_exclusive(self, url: str, data: bytes) -> None:
        self._inner.create_exclusive(url, data)

    def delete(self, url: str) -> None:
        self._inner.delete(url)


def divide(span: ByteRange, entries: Sequence[ByteRange]) -> list[tuple[ByteRange, ByteRange | None]]:
    """Return a span in parts, each with the entry that has it, None for what no entry has.

    Starts and stops of ``entries`` rise.

    >>> for part, entry in divide(ByteRange(5, 30), [ByteRange(0, 10), ByteRange(8, 15), ByteRange(20, 40)]):
    ...     print(part, entry)
    ByteRange(start=5, stop=10) ByteRange(start=0, stop=10)
    ByteRange(start=10, stop=15) ByteRange(start=8, stop=15)
    ByteRange(start=15, stop=20) None
    ByteRange(start=20, stop=30) ByteRange(start=20, stop=40)
    """
    parts: list[tuple[ByteRange, ByteRange | None]] = []
    position = span.start
    number = bisect_right(entries, position, key=lambda entry: entry.stop)
    while position < span.stop:
        entry = entries[number] if number < len(entries) else None
        if entry is None or entry.start >= span.stop:
            parts.append((ByteRange(position, span.stop), None))
            break
        if entry.start > position:
            parts.append((ByteRange(position, entry.start), None))
            position = entry.start
        parts.append((ByteRange(position, min(entry.stop, span.stop)), entry))
        position = entry.stop
        number += 1
    return parts


def _join(bodies: Sequence[bytes]) -> bytes:
    return bodies[0] if len(bodies) == 1 else b"".join(bodies)
