"""What the tasks of an extraction return.

task -> RowBuffer, in memory, a file or an object in storage -> ExtractedRows -> the command, shard after shard
"""

from __future__ import annotations

import io
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from shardtools.errors import CorruptError
from shardtools.jobs.extraction.spill import Spill
from shardtools.query.condition import Seen
from shardtools.storage import Sink, get_storage
from shardtools.storage.files import os_errors

MEMORY = 1 << 18
"""Bytes of one shard's rows that are returned in memory; more are in a file or an object, if there can be one."""

HELD = 1 << 26
"""Bytes of rows that wait in memory for those before them; more wait in files."""


class RowBuffer:
    """Encoded rows of a task: in memory, or above `MEMORY` bytes in a file of ``spill``, or the object at that URL.

    It is a context: what was not taken at its end is thrown away.
    """

    def __init__(self, spill: Spill | str | None):
        self._spill = spill
        self._held = io.BytesIO()
        self._sink: Sink | None = None
        self._place = ""
        self._size = 0
        self._stack = ExitStack()

    def __enter__(self) -> RowBuffer:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def write(self, data: bytes) -> None:
        """Add bytes."""
        if self._sink is None and self._spill is not None and self._size + len(data) > MEMORY:
            self._sink = self._leave_memory(self._spill)
            self._put(self._sink, self._held.getvalue())
            self._held = io.BytesIO()
        self._size += len(data)
        if self._sink is None:
            self._held.write(data)
        else:
            self._put(self._sink, data)

    def _put(self, sink: Sink, data: bytes) -> None:
        if isinstance(self._spill, Spill):
            with os_errors(self._place):
                sink.write(data)
        else:
            sink.write(data)

    def tell(self) -> int:
        """Return how many bytes there are."""
        return self._size

    def take(self) -> bytes | str:
        """Return all bytes, or the path of the file, or the URL of the object, that holds them."""
        if self._sink is None:
            return self._held.getvalue()
        with os_errors(self._place):
            self._stack.close()
        return self._place

    def _leave_memory(self, spill: Spill | str) -> Sink:
        if isinstance(spill, str):
            self._place = spill
            return self._stack.enter_context(get_storage(spill).create(spill))
        self._place, file = spill.new_file()
        return self._stack.enter_context(file)


@dataclass(frozen=True)
class ExtractedRows:
    """What a task has extracted from the shard at ``url``.

    ``content`` has ``rows`` rows, as bytes, or as the path of a file or the URL of an object, from ``samples`` samples;
    ``fields`` are those that any sample has. ``ends`` has the offset at which each row ends, if there is a limit of
    rows. ``skipped`` has the key and reason of each skipped sample. ``failure`` says why the shard could not be read;
    then all else is empty. ``seen`` says which columns of a condition any sample has.
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

    @property
    def is_object(self) -> bool:
        """Whether the content is an object in storage, to be deleted by whoever has read it."""
        return isinstance(self.content, str) and not self.content.startswith("/")

    def open(self) -> BinaryIO:
        """Return the content as a file.

        Raises:
            StorageError: it is not there any more.
            CorruptError: it has another size.
        """
        if isinstance(self.content, bytes):
            return io.BytesIO(self.content)
        if not self.is_object:
            with os_errors(self.content):
                return open(self.content, "rb")
        stream = get_storage(self.content).open(self.content)
        if stream.stat.size not in (None, self.size):
            stream.close()
            raise CorruptError("these are not the rows that were written", url=self.content, fix="run again")
        return io.BufferedReader(stream, 1 << 20)

    def moved(self, spill: Spill) -> ExtractedRows:
        """Return the same rows in a file of ``spill``."""
        path, file = spill.new_file()
        with os_errors(path), file:
            file.write(self.content)  # type: ignore[arg-type]
        return replace(self, content=path)

    def drop(self) -> None:
        """Delete the file that holds the content, if it is one."""
        if isinstance(self.content, str) and not self.is_object:
            with suppress(FileNotFoundError):
                os.unlink(self.content)


class Waiting:
    """Bounds the memory of rows that wait for those before them: above `HELD` bytes they are moved to ``spill``."""

    def __init__(self, spill: Spill):
        self._spill = spill
        self._sizes: dict[str, int] = {}
        self._total = 0

    def hold(self, part: ExtractedRows) -> ExtractedRows:
        """Return a part that will wait: itself, or in a file."""
        if not isinstance(part.content, bytes) or part.url in self._sizes:
            return part
        if self._total + len(part.content) > HELD:
            return part.moved(self._spill)
        self._sizes[part.url] = len(part.content)
        self._total += len(part.content)
        return part

    def release(self, part: ExtractedRows) -> None:
        """Count a part no longer."""
        self._total -= self._sizes.pop(part.url, 0)
