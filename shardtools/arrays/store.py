"""A hub as a store of the zarr library, for all that reads and writes Zarr: xarray, dask.array, zarr itself.

    get, get, get -> those of one turn of the event loop, or more -> one read in a thread -> few requests
    set, delete -> a transaction, in a thread

Threads of its own do the reading and writing: those of zarr wait for others of zarr when chunks are packed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from shardtools.arrays.keys import Keys, Request
from shardtools.forks import PerProcess

T = TypeVar("T")

THREADS = 16
"""Threads of a process that read and write for all stores."""

READS = 4
"""Reads of a store that run at the same time in an event loop. What is asked for meanwhile is read together then."""

_PAGE = 1000
"""Names that are listed at a time."""

_pool = PerProcess(lambda: ThreadPoolExecutor(THREADS, "shardtools-store"))


class HubStore(Store):
    """A version of a hub, or a transaction, as a store of the zarr library.

    ``hub.store(version)`` and ``t.store()`` return it. What is wanted of many keys at the same time is read together:
    zarr asks for as many as ``zarr.config.set({"async.concurrency": 128})`` allows, by default 10.

    Consolidated metadata is not used, since all documents are read together anyway; what a document has of it stays.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True
    supports_consolidated_metadata = False

    def __init__(self, keys: Keys, *, read_only: bool | None = None):
        """Users call `Hub.store` or `Transaction.store` instead."""
        super().__init__(read_only=not keys.is_writable if read_only is None else read_only)
        self._keys = keys
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_store, (self._keys, self._read_only)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HubStore) and self._keys.identity == other._keys.identity

    def __hash__(self) -> int:
        return hash(self._keys.identity)

    def __dask_tokenize__(self) -> Any:
        return self._keys.identity

    def __str__(self) -> str:
        return str(self._keys)

    def __repr__(self) -> str:
        return f"<HubStore {self._keys}{', read-only' if self._read_only else ''}>"

    def with_read_only(self, read_only: bool = False) -> HubStore:
        """Return the same store, to read alone or to write.

        Raises:
            JobError: it is of a version.
        """
        if not read_only and not self._keys.is_writable:
            raise self._keys.read_only()
        return HubStore(self._keys, read_only=read_only)

    def _check_writable(self) -> None:
        if self._read_only:
            raise self._keys.read_only()

    # --- reading

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what a key has, or a part of it; None if there is no such key.

        Raises:
            CorruptError: there is one, but it cannot be read, or is damaged.
            StorageError: the storage cannot be read.
        """
        request = Request(key, _slice(byte_range))
        await self._ensure_open()
        loop = asyncio.get_running_loop()
        turns = self._turns.setdefault(loop, _Turns())
        future: asyncio.Future[bytes | None] = loop.create_future()
        turns.waiting.append((request, future))
        if len(turns.waiting) == 1:
            loop.call_soon(self._start, loop, turns)
        return _as_buffer(await future, prototype)

    def _start(self, loop: asyncio.AbstractEventLoop, turns: _Turns) -> None:
        """Start to read what is waited for, unless that is done when another read has ended."""
        if not turns.waiting or turns.running >= READS:
            return
        waiting, turns.waiting = turns.waiting, []
        turns.running += 1
        reader = _Tasks(loop) if self._keys.is_writable and not self._read_only else None
        requests = [request for request, _ in waiting]

        def end(job: asyncio.Future[list[bytes | Exception | None]]) -> None:
            turns.running -= 1
            _deliver([future for _, future in waiting], job)
            loop.call_soon(self._start, loop, turns)

        job = loop.run_in_executor(_pool.get(), copy_context().run, _read_each, self._keys, requests, reader)
        job.add_done_callback(end)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of keys, None for keys that there are not; see `get`."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        wanted = list(requests)
        found = await asyncio.gather(*(self.get(*request) for request in wanted))
        for (key, _, _), value in zip(wanted, found, strict=True):
            yield key, value

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what `get` does."""
        reader = _Thread() if self._keys.is_writable and not self._read_only else None
        return _as_buffer(self._keys.read([Request(key, _slice(byte_range))], reader)[0], prototype)

    async def exists(self, key: str) -> bool:
        """Return whether there is a key."""
        return await self._run(self._keys.size, key) is not None

    async def getsize(self, key: str) -> int:
        """Return how many bytes a key has.

        Raises:
            FileNotFoundError: there is no such key.
        """
        size = await self._run(self._keys.size, key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    # --- listing

    def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with ``prefix``."""
        names = self._keys.names(prefix)
        while page := await self._run(_page, names):
            for name in page:
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield what is directly below a path. The chunks of arrays in a group are not looked at."""
        for name in await self._run(self._keys.children, prefix):
            yield name

    async def is_empty(self, prefix: str) -> bool:
        """Return whether nothing is below a path."""
        path = prefix.strip("/")
        names = self._keys.names(f"{path}/" if path else "")
        return await self._run(next, names, None) is None

    # --- writing

    async def set(self, key: str, value: Buffer) -> None:
        """Write what a key has.

        Raises:
            JobError: the store is read-only.
            ConflictError: it was changed after it was read to change a part of it.
        """
        await self._ensure_open()
        self._check_writable()
        await self._run(self._keys.set, key, _as_bytes(value))

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write as `set` does."""
        self._check_writable()
        self._keys.set(key, _as_bytes(value))

    async def delete(self, key: str) -> None:
        """Remove a key, if there is one. Raises as `set` does."""
        self._check_writable()
        await self._run(self._keys.delete, key)

    def delete_sync(self, key: str) -> None:
        """Remove a key, if there is one. Raises as `set` does."""
        self._check_writable()
        self._keys.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all that is below a path; "" is the root of the hub."""
        self._check_writable()
        await self._run(self._keys.delete_all, prefix.strip("/"))

    async def clear(self) -> None:
        """Remove all that there is."""
        await self.delete_dir("")

    async def _run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return what a call does in a thread of the stores."""
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(_pool.get(), partial(context.run, call, *arguments))


@dataclass
class _Turns:
    """What is asked for in an event loop: the keys that are waited for, and how many reads are running."""

    waiting: list[tuple[Request, asyncio.Future[bytes | None]]] = field(default_factory=list)
    running: int = 0


class _Tasks:
    """All that runs in an event loop while a key is read: whoever writes it then is one of them."""

    reads_once = True

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._tasks = WeakSet(asyncio.all_tasks(loop))

    def may_write(self) -> bool:
        return not self.is_done()

    def is_done(self) -> bool:
        return all(task.done() for task in self._tasks)


class _Thread:
    """A thread that reads a key, and writes it, without an event loop."""

    reads_once = False

    def __init__(self) -> None:
        self._thread = threading.current_thread()

    def may_write(self) -> bool:
        return threading.current_thread() is self._thread

    def is_done(self) -> bool:
        return not self._thread.is_alive()


def _read_each(keys: Keys, requests: Sequence[Request], reader: Any) -> list[bytes | Exception | None]:
    """Return what is wanted of each key, or the error that it meets."""
    try:
        return list(keys.read(requests, reader))
    except Exception as error:  # noqa: BLE001 - raised where the key is asked for
        if len(requests) == 1:
            return [error]
        half = len(requests) // 2
        return [found for some in (requests[:half], requests[half:]) for found in _read_each(keys, some, reader)]


def _deliver(
    waiting: Sequence[asyncio.Future[bytes | None]], job: asyncio.Future[list[bytes | Exception | None]]
) -> None:
    failed = asyncio.CancelledError() if job.cancelled() else job.exception()
    if failed is not None:
        for future in waiting:
            if not future.done():
                future.set_exception(failed)
        return
    for future, found in zip(waiting, job.result(), strict=True):
        if future.done():
            continue
        if isinstance(found, Exception):
            future.set_exception(found)
        else:
            future.set_result(found)


def _slice(part: object) -> slice | None:
    """Return the bytes of a key that a request of zarr is for, None for all.

    Raises:
        ValueError: it is no request.
    """
    match part:
        case None:
            return None
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, None)
        case SuffixByteRequest(suffix):
            return slice(-suffix, None) if suffix else slice(0, 0)
    raise ValueError(f"Unexpected byte_range, got {part}.")


def _as_buffer(data: bytes | None, prototype: BufferPrototype | None) -> Buffer | None:
    return None if data is None else (prototype or default_buffer_prototype()).buffer.from_bytes(data)


def _as_bytes(value: object) -> bytes:
    if not isinstance(value, Buffer):
        raise TypeError(f"a value must be a Buffer of zarr, not {type(value).__name__}")
    return value.to_bytes()


def _page(names: Iterator[str]) -> list[str]:
    return list(islice(names, _PAGE))


def _open_store(keys: Keys, read_only: bool) -> HubStore:
    return HubStore(keys, read_only=read_only)
