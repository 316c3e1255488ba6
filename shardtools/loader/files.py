"""Open files of this machine, shared by threads and closed when nobody has used them for long."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shardtools.errors import ChangedError
from shardtools.storage.files import os_errors

FILES = 128
"""Files to keep open."""


class Files:
    """Open files, the least recently used of which are closed when there are too many."""

    def __init__(self, limit: int = FILES):
        self._limit = limit
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()

    @contextmanager
    def opened(self, url: str, size: int) -> Iterator[int]:
        """A context that gives the descriptor of a file of ``size`` bytes.

        Raises:
            ChangedError: it has another size.
        """
        with self._lock:
            file = self._files.get(url) or self._open(url, size)
            file.users += 1
            self._files.move_to_end(url)
            while len(self._files) > self._limit:
                self._drop(self._files.popitem(last=False)[1])
        try:
            yield file.fd
        finally:
            with self._lock:
                file.users -= 1
                if file.is_dropped:
                    self._drop(file)

    def close(self) -> None:
        """Close those that nobody uses now, and the others when they are left."""
        with self._lock:
            while self._files:
                self._drop(self._files.popitem()[1])

    def _open(self, url: str, size: int) -> _File:
        with os_errors(url):
            fd = os.open(url.removeprefix("file://"), os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(fd).st_size != size:
                os.close(fd)
                raise ChangedError("the file was replaced while it was read", url=url, fix="run again")
        self._files[url] = file = _File(fd)
        return file

    @staticmethod
    def _drop(file: _File) -> None:
        file.is_dropped = True
        if not file.users:
            os.close(file.fd)


@dataclass
class _File:
    """A descriptor and how many use it."""

    fd: int
    users: int = 0
    is_dropped: bool = False
