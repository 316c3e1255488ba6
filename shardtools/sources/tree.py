"""The members of an archive as a tree of files."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shardtools.errors import ChangedError, DuplicateKeyError, JobError, TruncatedError
from shardtools.sources.files import FileRules, by_folder, ordered
from shardtools.storage import current_options
from shardtools.storage.files import os_errors
from shardtools.types import Ints

REPAIR = "fetch or make the archive again"

_PIECE = 16 << 20


@dataclass(frozen=True)
class Archive:
    """An uncompressed archive in the local file ``path``.

    ``url`` is the user's name for it. ``version`` is a text that changes with the archive, ``stamp`` one that changes
    with the file.
    """

    url: str
    path: str
    stamp: str
    version: str


class Tree:
    """Collects the members that `list_tar` and `list_zip` find; the index of a member counts those added before it."""

    def __init__(self, archive: Archive):
        self.left_out: list[tuple[str, str]] = []
        self._archive = archive
        self._indexes: dict[str, int] = {}
        self._repeated: set[str] = set()

    def add(self, name: str, irregular: str = "") -> bool:
        """Add a member, unless it is hidden, or ``irregular``, which says why; return whether it was added."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if any(part.startswith(".") and part != ".." for part in parts):
            return False
        path = "/".join(parts)
        if irregular or ".." in parts or not parts:
            self.left_out.append((path or name, irregular or "its path leads out of the archive"))
            return False
        index = len(self._indexes)
        if self._indexes.setdefault(path, index) != index:
            self._repeated.add(path)
            return False
        return True

    def finish(self, rules: FileRules) -> tuple[list[str], Ints]:
        """Return the paths of the files that the rules accept, grouped by sample, and their indexes.

        Raises:
            JobError: there are none.
            DuplicateKeyError: two of them have the same name.
        """
        paths = ordered(by_folder(self._indexes), rules, self.left_out)
        if not paths:
            raise JobError(
                "there are no files to upload",
                url=self._archive.url,
                fix="check the archive, and --include and --exclude",
            )
        if self._repeated and (twice := next(filter(self._repeated.__contains__, paths), "")):
            raise DuplicateKeyError(
                "two members have this name",
                url=self._archive.url,
                member=twice,
                fix="make the archive again with each file once, or --exclude it",
            )
        return paths, np.fromiter(map(self._indexes.__getitem__, paths), np.int64, len(paths))


class ArchiveFile:
    """An open `Archive` that can be read at any offset."""

    def __init__(self, archive: Archive):
        """Open it.

        Raises:
            StorageError: it cannot be read.
            ChangedError: it was changed since its members were listed.
        """
        self._archive = archive
        with os_errors(archive.url):
            self._fd = os.open(archive.path, os.O_RDONLY | os.O_CLOEXEC)
        if stamp_of(self._fd) != archive.stamp:
            self.close()
            raise ChangedError(
                "the archive was changed while it was read", url=archive.url, fix="run again when it is complete"
            )

    def read(self, offset: int, size: int, member: str, taken: int = 0) -> bytes:
        """Return ``size`` bytes from ``offset`` on; their sample has ``taken`` bytes already.

        Memory is allocated as they are read.

        Raises:
            LimitError: with these bytes the sample is too large.
            TruncatedError: the file ends before; the error names ``member``.
        """
        current_options().limits.check("sample", taken + size, url=self._archive.url, member=member)
        pieces, left = [], size
        with os_errors(self._archive.url):
            while left and (data := os.pread(self._fd, min(left, _PIECE), offset + size - left)):
                pieces.append(data)
                left -= len(data)
        if left:
            raise TruncatedError("the archive ends early", url=self._archive.url, member=member, fix=REPAIR)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


@dataclass
class ArchiveFiles:
    """Files in an archive: for each its ``offset``, which the kind of archive defines, and its ``size`` in bytes."""

    archive: Archive
    offset: Ints
    size: Ints
    _file: ArchiveFile | None = field(default=None, init=False, repr=False)

    @property
    def file(self) -> ArchiveFile:
        """The archive, opened when it is first needed."""
        if self._file is None:
            self._file = ArchiveFile(self.archive)
        return self._file

    def place(self, path: str) -> tuple[str, str]:
        """Return URL and member that an error is to name for a file."""
        return self.archive.url, path

    def sizes(self, paths: Sequence[str]) -> Ints:
        """Return the size of each file in bytes."""
        return self.size

    def facts(self, paths: Sequence[str]) -> Sequence[Any]:
        """Return what the files depend on, as JSON data."""
        return [self.archive.version, list(paths)]

    def close(self) -> None:
        """Close the archive."""
        if self._file is not None:
            self._file.close()
            self._file = None


def stamp_of(fd: int) -> str:
    """Return a text that changes when an open file changes."""
    status = os.fstat(fd)
    return f"{status.st_size}-{status.st_mtime_ns}"


def to_column(values: array[int]) -> Ints:
    """Return an array of 64-bit numbers as numpy's."""
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)
