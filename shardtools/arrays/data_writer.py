"""Chunks and documents into tar shards, ``data/ID/0000.tar`` and so on: members, and where the bytes of each lie.

    key, bytes -> header, data, padding -> sink of the open shard -> Entry

GNU tar and others extract these shards to a directory that any Zarr library opens.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

import google_crc32c

from shardtools.arrays.names import member_name
from shardtools.errors import JobError
from shardtools.log.place import Place
from shardtools.log.segment import Entry
from shardtools.shards import tar
from shardtools.storage import Sink, get_storage

_AGAIN = "begin another one, and write all of it again"

SHARD_SIZE = 256 << 20
"""Bytes after which the next shard is begun."""


class DataWriter:
    """Writes shards of one write. Not safe for threads.

    A shard appears whole when it is full, or by `finish`. As a context manager it finishes the last one, and lets go of
    it after an exception.
    """

    def __init__(self, place: Place, id: str, prefix: str = "", shard_size: int = SHARD_SIZE):
        self._place, self._id, self._prefix, self._shard_size = place, id, prefix, shard_size
        self._context = ExitStack()
        self._sink: Sink | None = None
        self._count = self._position = 0
        self._failed = False
        self.nbytes = 0
        """Bytes that were written."""

    @property
    def shards(self) -> int:
        """The number of shards that were begun."""
        return self._count

    @property
    def open_object(self) -> str | None:
        """The name of the shard that is being written, which cannot be read yet."""
        return None if self._sink is None else self._name(self._count - 1)

    def _name(self, number: int) -> str:
        return f"data/{self._id}/{self._prefix}{number:04d}.tar"

    def add(self, key: str, data: bytes) -> Entry:
        """Append what a key has, and return where it lies.

        Raises:
            JobError: an earlier write has failed, so that it is not known what the shard consists of.
            StorageError: it cannot be written.
        """
        if self._failed:
            raise JobError("an earlier write of this transaction has failed", url=self._place.root, fix=_AGAIN)
        self._failed = True
        if self._sink is not None and self._position + len(data) > self._shard_size:
            self.finish()
        sink = self._open()
        name = member_name(key).encode()
        [header] = tar.build_headers([name], [len(data)])
        offset = self._position + len(header)
        padding = bytes(tar.padded(len(data)) - len(data))
        with self._place.using():
            sink.writelines((header, data, padding))
        self._failed = False
        self._position = offset + len(data) + len(padding)
        self.nbytes += len(header) + len(data) + len(padding)
        return Entry(self._name(self._count - 1), offset, len(data), google_crc32c.value(data))

    def _open(self) -> Sink:
        if self._sink is None:
            url = self._place.root + self._name(self._count)
            with self._place.using():
                self._sink = self._context.enter_context(get_storage(url).create(url))
            self._position = 0
            self._count += 1
        return self._sink

    def finish(self) -> None:
        """Finish the open shard, if there is one: from then on it can be read."""
        if self._sink is None:
            return
        sink, self._sink, self._failed = self._sink, None, True
        with self._place.using(), self._context:
            sink.write(tar.END + bytes(-(self._position + len(tar.END)) % tar.RECORD))
        self._failed = False

    def abort(self, error: BaseException) -> None:
        """Let go of the open shard, which will not appear. Shards that were finished stay."""
        self._sink, self._failed = None, True
        with self._place.using():
            self._context.__exit__(type(error), error, error.__traceback__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.finish()
        else:
            self.abort(error)
