"""A folder on a server as a store of the zarr library, to read: what a hub imports.

get -> one object, in a thread; list -> the folders below it, many at a time
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from shardtools.arrays.chunk_reader import THREADS, run_each
from shardtools.errors import JobError, NotFoundError, RefusedError
from shardtools.forks import PerProcess
from shardtools.storage import StorageOptions, get_storage, using
from shardtools.storage.limited import read_limited
from shardtools.urls import name_of

T = TypeVar("T")

_pool = PerProcess(lambda: ThreadPoolExecutor(THREADS, "shardtools-import"))


class UrlStore(Store):
    """The objects below a URL by their names. It is read-only."""

    supports_writes = False
    supports_deletes = False

    def __init__(self, url: str, options: StorageOptions):
        super().__init__(read_only=True)
        self._root = url.rstrip("/") + "/"
        self._options = options
        self._lists: bool | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UrlStore) and self._root == other._root

    def __hash__(self) -> int:
        return hash(self._root)

    def __str__(self) -> str:
        return self._root

    @property
    def supports_listing(self) -> bool:
        """Whether the server lists. One that shows nothing in a folder which has a document does not."""
        if self._lists is None:
            with using(self._options):
                try:
                    self._lists = any(self._folder(""))
                except RefusedError:
                    self._lists = False
        return self._lists

    # --- reading

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return what an object has, or a part of it; None if there is none.

        Raises:
            StorageError: it cannot be read.
        """
        data = await self._run(self._read, key)
        return None if data is None else prototype.buffer.from_bytes(data[_part(byte_range, len(data))])

    def _read(self, key: str) -> bytes | None:
        try:
            return read_limited(self._root + key, "value")
        except NotFoundError:
            return None

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects, None for those that there are not."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return await self._run(lambda: get_storage(self._root).exists(self._root + key))

    # --- listing

    def list(self) -> AsyncIterator[str]:
        """Yield the names of all objects."""
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of all objects in a folder, and in those that it has; its name ends with a slash."""
        folders = [prefix]
        while folders:
            found = await self._run(self._folders, folders)
            for names, _ in found:
                for name in names:
                    yield name
            folders = [f"{folder}/" for _, inside in found for folder in inside]

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of the objects and folders in a folder."""
        path = prefix.strip("/")
        names, folders = await self._run(self._folder, f"{path}/" if path else "")
        for name in (*names, *folders):
            yield name.rpartition("/")[2]

    def _folders(self, paths: Sequence[str]) -> Sequence[tuple[Sequence[str], Sequence[str]]]:
        return [*run_each(self._folder, paths, THREADS)]

    def _folder(self, path: str) -> tuple[Sequence[str], Sequence[str]]:
        """Return the names of objects and of folders in a folder."""
        storage, url = get_storage(self._root), self._root + path
        names = [path + name_of(found) for found in storage.list(url)]
        return names, [path + name_of(found[:-1]) for found in storage.folders(url)]

    # --- writing

    async def set(self, key: str, value: Buffer) -> None:
        """Raise, since it is read-only."""
        raise self._refusal()

    async def delete(self, key: str) -> None:
        """Raise, since it is read-only."""
        raise self._refusal()

    def _refusal(self) -> JobError:
        return JobError("it is read-only", url=self._root, fix="write by other means")

    async def _run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return what a call does in a thread of the stores."""

        def run() -> T:
            with using(self._options):
                return call(*arguments)

        return await asyncio.get_running_loop().run_in_executor(_pool.get(), run)


def _part(wanted: ByteRequest | None, size: int) -> slice:
    match wanted:
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, None)
        case SuffixByteRequest(suffix):
            return slice(max(size - suffix, 0), None)
    return slice(None)
