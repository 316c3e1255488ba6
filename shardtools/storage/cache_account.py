"""How many bytes the folder of a cache holds, and which entries are removed when there are too many.

Room is reserved before bytes are written, and released after they are removed. A process that is killed in between
leaves too much reserved, never too little, until all files are counted the next time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from shardtools.storage.file_lock import close_lock, locked, open_lock, try_lock

BLOCK = 4096
"""What an entry takes on the disk is counted in blocks of so many bytes."""

KEPT_PERCENT = 90
"""How full the folder is after entries had to be removed, so that this is not needed each time."""

ENTRY = re.compile(r"([0-9a-f]{32})-([0-9]+)-([0-9]+)")
"""The name of an entry: the version, where its bytes start, and where they stop."""

_DIGITS = 20


def charge(size: int) -> int:
    """Return how many bytes of the limit a file of ``size`` bytes takes.

    >>> charge(0), charge(1), charge(4096), charge(4097)
    (4096, 4096, 4096, 8192)
    """
    return max(1, -(-size // BLOCK)) * BLOCK


@dataclass(frozen=True)
class _Entry:
    """An entry of the folder: when it was last used, what it is charged, and its path."""

    used: float
    charge: int
    path: str


class Account:
    """The bytes that the folder ``path`` holds, and may hold; used only while its lock is held."""

    def __init__(self, fd: int, path: str, limit: int):
        self._fd = fd
        self._path = path
        self._limit = limit

    def add(self, change: int) -> None:
        """Note that so many more bytes are taken, or fewer."""
        if (taken := self._read()) is not None:
            self._write(taken + change)

    def make_room(self, need: int) -> bool:
        """Remove the entries that were not used for longest, as far as ``need`` bytes ask for it, and take these.

        Return whether they could be had: not if they are more than the limit, or than the disk has free.
        """
        disk = os.statvfs(self._path)
        if need > min(self._limit, disk.f_bavail * disk.f_frsize):
            return False
        taken = self._read()
        if taken is None or taken + need > self._limit:
            taken = self._evict(need)
        has_room = taken + need <= self._limit
        self._write(taken + need * has_room)
        return has_room

    def sweep(self) -> int:
        """Remove the drafts that the dead have left, and return how many bytes those of the living take."""
        living = 0
        for name in os.listdir(f"{self._path}/drafts"):
            path = f"{self._path}/drafts/{name}"
            with suppress(FileNotFoundError):  # it has become an entry
                fd = open_lock(path, flags=0)
                try:
                    size = os.fstat(fd).st_size
                    taken = charge(size) if size else 0  # an empty one has not taken anything yet
                    if not try_lock(fd):
                        living += taken
                    else:
                        os.unlink(path)
                        self.add(-taken)
                finally:
                    close_lock(fd)
        return living

    def _read(self) -> int | None:
        """Return how many bytes are taken, None if nobody knows."""
        text = os.pread(self._fd, _DIGITS, 0)
        return int(text) if len(text) == _DIGITS and text.isdigit() else None

    def _write(self, taken: int) -> None:
        os.pwrite(self._fd, b"%0*d" % (_DIGITS, max(taken, 0)), 0)

    def _evict(self, need: int) -> int:
        """Count what is really there, remove what is too much, and return how many bytes are left."""
        living = self.sweep()  # before the entries: a draft that becomes one meanwhile is counted twice, not never
        entries = list(self._entries())
        taken = living + sum(entry.charge for entry in entries)
        if living + need > self._limit or taken + need <= self._limit:
            return taken
        goal = min(self._limit * KEPT_PERCENT // 100, self._limit - need)
        emptied = set()
        for entry in sorted(entries, key=lambda entry: entry.used):
            if taken <= goal:
                break
            with suppress(FileNotFoundError):  # it was cut off, and whoever wanted to read it has removed it
                os.unlink(entry.path)
            taken -= entry.charge
            emptied.add(os.path.dirname(entry.path))
        for folder in emptied:
            with suppress(OSError):  # others are still in it
                os.rmdir(folder)
        return taken

    def _entries(self) -> Iterator[_Entry]:
        for group in _folders(f"{self._path}/objects"):
            for folder in _folders(group):
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if ENTRY.fullmatch(entry.name):
                            status = entry.stat()
                            yield _Entry(status.st_mtime, charge(status.st_size), entry.path)


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


@contextmanager
def held(path: str, limit: int) -> Iterator[Account]:
    """A context for changes of the folder ``path``: nobody else makes any meanwhile."""
    with locked(f"{path}/account") as fd:
        yield Account(fd, path, limit)
