"""Thumbnails that were made: the last ones in memory, more of them in a folder of the user, both of bounded size.

    DIR/KEY.jpeg      one thumbnail; its modification time is that of its last use

Losing one costs nothing but to make it again, so nothing here is an error for who asks.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from pathlib import Path

from shardtools.lru import LRU
from shardtools.storage.index_place import caches_folder

logger = logging.getLogger(__name__)

MEMORY = 32 << 20
"""Bytes of thumbnails in memory."""

DISK = 256 << 20
"""Bytes of thumbnails in the folder."""

_KINDS = ("jpeg", "png")

Picture = tuple[str, bytes]
"""The kind, "jpeg" or "png", and the bytes of a file."""


def default_folder() -> Path:
    """Return the folder for thumbnails of this user."""
    return Path(caches_folder(), "thumbnails")


class ThumbCache:
    """Keeps thumbnails by their keys."""

    def __init__(self, folder: Path | None = None, disk: int = DISK, memory: int = MEMORY):
        self._memory: LRU[str, Picture] = LRU(memory, lambda picture: len(picture[1]) + 300)
        self._folder = default_folder() if folder is None else folder
        self._limit = disk
        self._size: int | None = None
        self._lock = threading.Lock()

    def get(self, key: str) -> Picture | None:
        """Return a thumbnail, None if it is not kept."""
        if (known := self._memory.get(key)) is not None:
            return known
        for kind in _KINDS:
            path = self._folder / f"{key}.{kind}"
            try:
                data = path.read_bytes()
                os.utime(path)
            except OSError:  # the next kind, or none
                continue
            return self._memory.put(key, (kind, data))
        return None

    def put(self, key: str, picture: Picture) -> None:
        """Keep a thumbnail."""
        self._memory.put(key, picture)
        try:
            self._write(key, picture)
        except OSError as error:
            logger.debug("thumbnails are not kept in %s: %s", self._folder, error)

    def _write(self, key: str, picture: Picture) -> None:
        self._folder.mkdir(0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", delete=False) as file:
            file.write(picture[1])
        os.replace(file.name, self._folder / f"{key}.{picture[0]}")
        with self._lock:
            self._size = self._count() if self._size is None else self._size + len(picture[1])
            if self._size > self._limit:
                self._size = self._shrink()

    def _count(self) -> int:
        return sum(entry.stat().st_size for entry in os.scandir(self._folder))

    def _shrink(self) -> int:
        """Remove what was not used for longest, until a fifth is free; return the bytes that are left."""
        entries = sorted((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path) for entry in _files(self._folder))
        size = sum(entry[1] for entry in entries)
        for _, one, path in entries:
            if size <= self._limit * 4 // 5:
                break
            Path(path).unlink(missing_ok=True)
            size -= one
        return size


def _files(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
