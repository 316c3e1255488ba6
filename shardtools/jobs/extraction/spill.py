"""A folder for rows that wait for those before them: made when it is first needed, removed at the end.

A process that is killed cannot remove its folder, so the next process does. A process that uses a folder holds a lock
on it (flock), which the operating system releases when the process ends, in whatever way.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from typing import BinaryIO

from shardtools.storage.files import os_errors

PREFIX = "shardtools-rows-"
"""The beginning of the names of these folders."""


class Spill:
    """A folder of this process for temporary files. Its threads share it; a copy that was pickled only uses it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._path: str | None = None
        self._fd: int | None = None

    def __getstate__(self) -> str:
        return self.path()

    def __setstate__(self, path: str) -> None:
        self.__init__()  # type: ignore[misc]
        self._path = path

    def path(self) -> str:
        """Return the path of the folder, which is made if need be.

        Raises:
            StorageError: it cannot be made.
        """
        with self._guard:
            while self._path is None:
                self._make()
            return self._path

    def new_file(self) -> tuple[str, BinaryIO]:
        """Return the path of a new file, and the file itself.

        Raises:
            StorageError: it cannot be made.
        """
        folder = self.path()
        with os_errors(folder):
            fd, path = tempfile.mkstemp(dir=folder)
            return path, os.fdopen(fd, "wb")

    def close(self) -> None:
        """Remove the folder, if there is one."""
        with self._guard:
            if self._path is not None:
                shutil.rmtree(self._path, ignore_errors=True)
                self._path = None
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _make(self) -> None:
        with os_errors(tempfile.gettempdir()):
            path = tempfile.mkdtemp(prefix=PREFIX)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # as below
                return
        if _lock(fd) is not False and _is_at(fd, path):
            self._path, self._fd = path, fd
        else:  # a process that sweeps was faster, and removes it
            os.close(fd)


def sweep() -> None:
    """Remove the folders that killed processes of this user have left."""
    folder = tempfile.gettempdir()
    with suppress(OSError):  # nothing depends on it
        for name in os.listdir(folder):
            if name.startswith(PREFIX):
                _remove_unused(os.path.join(folder, name))


def _remove_unused(path: str) -> None:
    with suppress(OSError):  # it is gone, or belongs to another user
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_uid == os.geteuid() and _lock(fd):
                shutil.rmtree(path)
        finally:
            os.close(fd)


def _lock(fd: int) -> bool | None:
    """Return whether this process has got the lock; None if the file system has no such locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
