"""What the tasks of an extraction return.

task -> RowBuffer, in memory or a file -> ExtractedRows -> the command, shard after shard
"""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from shardtools.jobs.extraction.spill import Spill
from shardtools.query.condition import Seen
from shardtools.storage.files import os_errors

MEMORY = 1 << 18
"""Bytes of one shard's rows that are returned in memory; more are in a file, if all tasks run on one machine."""


class RowBuffer:
    """Encoded rows of a task: in memory, or above `MEMORY` bytes in a file of ``spill``, if there is one."""

    def __init__(self, spill: Spill | None):
        self._spill = spill
        self._file: BinaryIO = io.BytesIO()
        self._path: str | None = None

    def write(self, data: bytes) -> None:
        """Add bytes."""
        if self._path is None and self._spill is not None and self._file.tell() + len(data) > MEMORY:
            self._leave_memory()
        with os_errors(self._path or ""):
            self._file.write(data)

    def tell(self) -> int:
        """Return how many bytes there are."""
        return self._file.tell()

    def take(self) -> bytes | str:
        """Return all bytes, or the path of the file that holds them."""
        if isinstance(self._file, io.BytesIO):
            return self._file.getvalue()
        with os_errors(self._path or ""):
            self._file.close()
        return self._path or ""

    def _leave_memory(self) -> None:
        held, folder = self._file, self._spill.path() if self._spill else None
        with os_errors(folder or ""):
            fd, self._path = tempfile.mkstemp(dir=folder)
            self._file = os.fdopen(fd, "wb")
        if isinstance(held, io.BytesIO):
            self.write(held.getvalue())


@dataclass(frozen=True)
class ExtractedRows:
    """What a task has extracted from the shard at ``url``.

    ``content`` has ``rows`` rows, as bytes or as the path of a file, from ``samples`` samples; ``fields`` are those
    that any sample has. ``ends`` has the offset at which each row ends, if there is a limit of rows. ``skipped`` has
    the key and reason of each skipped sample. ``failure`` says why the shard could not be read; then all else is empty.
    ``seen`` says which columns of a condition any sample has.
    """

    url: str
    rows: int = 0
    samples: int = 0
    size: int = 0
    content: bytes | str = b""
    schema: tuple[Any, ...] | None = None
    ends: tuple[int, ...] = ()
    fields: frozenset[str] = frozenset()
    skipped: tuple[tuple[str, str], ...] = ()
    failure: str | None = None
    seen: Seen = Seen()  # noqa: RUF009 - it is frozen

    def open(self) -> BinaryIO:
        """Return the content as a file."""
        if isinstance(self.content, bytes):
            return io.BytesIO(self.content)
        with os_errors(self.content):
            return open(self.content, "rb")

    def drop(self) -> None:
        """Delete the file that holds the content."""
        if isinstance(self.content, str):
            with suppress(FileNotFoundError):
                os.unlink(self.content)
