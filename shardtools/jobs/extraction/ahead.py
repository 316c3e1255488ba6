"""Rows in storage are read ahead, and deleted behind: else each shard would wait for two requests."""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import BinaryIO

from shardtools.jobs.extraction.extracted import ExtractedRows
from shardtools.jobs.extraction.shared_spill import delete_all

PARTS = 16
"""Shards whose rows are read ahead."""

_SMALL = 1 << 23
"""Rows of more bytes are read as a stream, when it is their turn."""

_DELETED = 256
"""Objects that are deleted together."""


class ReadAhead:
    """The rows of the next shards, on their way from storage. Rows in memory or files are opened as they are."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[str, Future[bytes]] = {}
        self._done: list[str] = []

    def begin(self, parts: Iterable[ExtractedRows]) -> None:
        """Begin to read ``parts``."""
        for part in parts:
            if part.is_object and part.size <= _SMALL and part.url not in self._coming:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(PARTS, "shardtools-rows")
                self._coming[part.url] = self._pool.submit(copy_context().run, _read, part)

    def open(self, part: ExtractedRows) -> BinaryIO:
        """Return the rows as a file; see `ExtractedRows.open`."""
        coming = self._coming.pop(part.url, None)
        return part.open() if coming is None else io.BytesIO(coming.result())

    def drop(self, part: ExtractedRows) -> None:
        """Delete what holds the rows, now or soon."""
        self._coming.pop(part.url, None)
        part.drop()
        if part.is_object:
            self._done.append(str(part.content))
        if len(self._done) >= _DELETED:
            delete_all(self._done)
            self._done = []

    def close(self) -> None:
        """Wait for what is being read."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _read(part: ExtractedRows) -> bytes:
    with part.open() as content:
        return content.read()
