"""Files of this machine that stay open, to be read by ranges again and again.

    url -> open_file -> OpenFile: ranges by pread, hints to the system, maps -> closed when nobody has it any more

Nothing here moves the position of a descriptor. So it needs no lock, and a child process may use it after a fork.

Elsewhere in this package a descriptor is opened only to write, to lock a file (``file_lock.py``), and to read an entry
of the cache (``cache_sums.py``), where bytes that cannot be read are no error but are fetched again.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from itertools import repeat
from types import TracebackType
from typing import Self

from shardtools.errors import ChangedError, StorageError
from shardtools.lru import LRU
from shardtools.storage import ByteRange
from shardtools.storage.files import open_regular, os_errors, storage_error
from shardtools.storage.ranges import past_end
from shardtools.urls import path_of


class OpenFile:
    """An open file. It may be used by many threads, and is closed when nothing refers to it any more.

    So a cache that drops it never closes it for those who still read it. As a context manager it is closed at the end,
    even if something still refers to it, such as a traceback.
    """

    def __init__(self, descriptor: int, url: str):
        """Take over a ``descriptor``; ``url`` is what errors name."""
        self.descriptor, self.url = descriptor, url
        self.size = self.status().st_size
        """Bytes that it had when it was opened."""

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close it. Nobody may be reading it."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def status(self) -> os.stat_result:
        """Return what the system knows about it now.

        Raises:
            StorageError: the system refuses.
        """
        with os_errors(self.url):
            return os.fstat(self.descriptor)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to ``stop``.

        Raises:
            RefusedError: it never had so many.
            StorageError: it cannot be read, or was cut off.
        """
        if stop > self.size:  # before room is made for what some index says
            raise past_end(ByteRange(start, stop), self.size, self.url)
        try:
            data = os.pread(self.descriptor, stop - start, start)
            if len(data) != stop - start:
                data = self._read_rest(data, start, stop)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise storage_error(error, self.url) from error
        return data

    def _read_rest(self, data: bytes, start: int, stop: int) -> bytes:
        """Go on after a short read: Linux reads at most 2 GiB at once."""
        pieces, at = [data], start + len(data)
        while at < stop and pieces[-1]:
            pieces.append(os.pread(self.descriptor, stop - at, at))
            at += len(pieces[-1])
        if at < stop:
            raise _cut_off(self.url)
        return b"".join(pieces)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes from ``start`` on. Raises as `read` does."""
        stop = start + len(buffer)
        if stop > self.size:
            raise past_end(ByteRange(start, stop), self.size, self.url)
        with os_errors(self.url):
            while buffer:
                if not (count := os.preadv(self.descriptor, [buffer], stop - len(buffer))):
                    raise _cut_off(self.url)
                buffer = buffer[count:]

    def read_many(self, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
        """Return the bytes of some ranges, as they are: none are joined. Raises as `read` does."""
        return read_each(repeat(self), starts, stops)

    def advise(self, starts: Iterable[int], stops: Iterable[int]) -> None:
        """Let the system fetch some ranges, which will be read soon."""
        if hasattr(os, "posix_fadvise"):
            for start, stop in zip(starts, stops, strict=True):
                os.posix_fadvise(self.descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)

    def map(self, start: int, stop: int) -> memoryview:
        """Return the bytes from ``start`` to ``stop``, fetched at once and mapped rather than copied.

        Raises:
            StorageError: they cannot be mapped.
        """
        before = start % mmap.ALLOCATIONGRANULARITY
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        with os_errors(self.url):
            mapped = mmap.mmap(self.descriptor, stop - start + before, flags, mmap.PROT_READ, offset=start - before)
        return memoryview(mapped)[before:]


def _cut_off(url: str) -> StorageError:
    return StorageError("the file was cut off", url=url, fix="let its writer finish, then run again")


def open_file(url: str, path: str | None = None, *, size: int | None = None) -> OpenFile:
    """Return the file at ``url`` of this machine, open; ``path`` is its real path where that differs from ``url``.

    Raises:
        StorageError: it cannot be opened, or is no regular file.
        ChangedError: it does not have the expected ``size``.
    """
    file = OpenFile(open_regular(path_of(url) if path is None else path, url), url)
    if size is not None and file.size != size:
        file.close()
        raise ChangedError("the file was replaced while it was read", url=url, fix="run again")
    return file


def read_each(files: Iterable[OpenFile], starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
    """Return the bytes of ranges, each of its own file. Raises as `OpenFile.read` does, for the first that fails."""
    pread = os.pread
    try:
        data = [pread(file.descriptor, b - a, a) for file, a, b in zip(files, starts, stops, strict=False)]
    except (OSError, OverflowError, MemoryError):
        data = []
    if sum(map(len, data)) == sum(stops) - sum(starts):
        return data
    return [file.read(a, b) for file, a, b in zip(files, starts, stops, strict=False)]


class OpenFiles:
    """The files of this machine that were used lately, of which at most ``limit`` are kept open. Safe for threads."""

    def __init__(self, limit: int = 128):
        self._files: LRU[str, OpenFile] = LRU(limit)

    def get(self, url: str, size: int) -> OpenFile:
        """Return a file, which stays open as long as it is referred to. Raises as `open_file` does."""
        return self._files.get(url) or self._files.put(url, open_file(url, size=size))

    def clear(self) -> None:
        """Drop all of them; each is closed when nothing else refers to it."""
        self._files.clear()
