"""The members of an archive as files of a tree, of which each is a sample's."""

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
    """An archive that is not compressed, in the file ``path`` of this machine.

    ``url`` is what the user called it, and ``version`` a text that changes with it; ``stamp`` is that of the file.
    """

    url: str
    path: str
    stamp: str
    version: str


class Tree:
    """Collects what `list_tar` and `list_zip` find; a member's number is how many were added before it."""

    def __init__(self, archive: Archive):
        self.left_out: list[tuple[str, str]] = []
        self._archive = archive
        self._numbers: dict[str, int] = {}
        self._repeated: set[str] = set()

    def add(self, name: str, irregular: str = "") -> bool:
        """Add a member called ``name``, unless it is hidden, or ``irregular``: why it is no file."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if any(part.startswith(".") and part != ".." for part in parts):
            return False
        path = "/".join(parts)
        if irregular or ".." in parts or not parts:
            self.left_out.append((path or name, irregular or "its path leads out of the archive"))
            return False
        number = len(self._numbers)
        if self._numbers.setdefault(path, number) != number:
            self._repeated.add(path)
            return False
        return True

    def finish(self, rules: FileRules) -> tuple[list[str], Ints]:
        """Return the paths of the files that the rules ask for, those of a sample side by side, and their numbers.

        Raises:
            JobError: there are none.
            DuplicateKeyError: two of them have one name.
        """
        paths = ordered(by_folder(self._numbers), rules, self.left_out)
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
        return paths, np.fromiter(map(self._numbers.__getitem__, paths), np.int64, len(paths))


class ArchiveFile:
    """An open `Archive` that is read at any place."""

    def __init__(self, archive: Archive):
        """Open it.

        Raises:
            StorageError: it cannot be read.
            ChangedError: it is not what it was when its members were listed.
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
        """Return ``size`` bytes from ``offset`` on; a sample has ``taken`` bytes already. Room is made as they come.

        Raises:
            LimitError: with these bytes the sample is too large.
            TruncatedError: there are not so many; it names ``member``.
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
    """Files in an archive: for each an ``offset``, at which it is to be looked for, and its ``size`` in bytes."""

    archive: Archive
    offset: Ints
    size: Ints
    _file: ArchiveFile | None = field(default=None, init=False, repr=False)

    @property
    def file(self) -> ArchiveFile:
        """The archive, which is opened when it is needed first."""
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
    """Return a text that changes with an open file."""
    status = os.fstat(fd)
    return f"{status.st_size}-{status.st_mtime_ns}"


def to_column(values: array[int]) -> Ints:
    """Return an array of 64-bit numbers as numpy's."""
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)
