"""Bytes at a URL: one small contract, one backend per scheme.

    url -> get_storage(url) -> Storage -> open, read, read_ranges, read_into, stat, list, folders
                                          create, create_exclusive, delete

A backend is a module of this package that subclasses `Storage`; `get_storage` imports it when the first URL of its
scheme is seen, so that a scheme's SDK costs nothing to those who do not use it. Every backend passes the tests in
``tests/contract``. All methods are safe to call from many threads and after a fork.
"""

from __future__ import annotations

import importlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

from shardtools.errors import NotFoundError, RefusedError, SpecError
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.spec import servers_of
from shardtools.urls import scheme_of

Buffer = bytes | bytearray | memoryview
"""What a sink accepts."""


@dataclass(frozen=True)
class Stat:
    """What storage knows about an object.

    ``size`` is in bytes, None where the storage does not say (a pipe, a chunked answer). ``validator`` is a text that
    changes whenever the object does (an ETag, a generation, a modification time), None where there is none. It is not
    ``settled`` as long as another version might still get the same one: a time in whole seconds cannot tell what was
    written first in a second from what was written last. ``modified`` is when it was written, in seconds since 1970,
    None where the storage does not say.
    """

    size: int | None
    validator: str | None
    settled: bool = field(default=True, compare=False)
    modified: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ByteRange:
    """The bytes ``start`` (included) to ``stop`` (excluded) of an object."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a byte range: {self.start}:{self.stop}")


@dataclass(frozen=True)
class Coalescing:
    """Which byte ranges of one object are worth reading together, in bytes: a fact of each storage, see `coalesce`.

    Ranges at most ``gap`` apart are read as one span, with what lies between them. ``largest`` is how much is read
    together: by one call from a local file, by one request for several spans from a server.
    """

    gap: int
    largest: int


_READALL_PIECE = 1 << 22


class Stream(io.RawIOBase):
    """An open object, read from its start to its end; `stat` describes it. Closing early is fine.

    As with every raw stream, ``readinto`` may give less than asked for, and only 0 means the end. It is fastest with
    buffers of a megabyte and more, which it fills without another copy where it can. A stream is for one thread at a
    time, in the process that opened it.
    """

    stat: Stat

    def readall(self) -> bytes:
        """Return all bytes that are left."""
        pieces = []
        while piece := self.read(_READALL_PIECE):
            pieces.append(piece)
        return b"".join(pieces)


class Sink(Protocol):
    """Where an object's bytes go, in order. Only the context that gave it out commits it.

    Each call takes all that it is given, and the buffers can be used again when it returns.
    """

    def write(self, data: Buffer, /) -> Any: ...

    def writelines(self, parts: Iterable[Buffer], /) -> None: ...


@dataclass(frozen=True)
class StorageOptions:
    """How storage is used.

    ``retries`` is how often a request is repeated after transient failures in a row, ``timeout`` how many seconds to
    wait for the next bytes from a server. ``cache``, as ``DIR`` or ``DIR:SIZE``, is a folder that keeps what is read
    from servers (see ``cache.py``); of several the first is asked first. With ``verify`` every shard that is read whole
    must have a sidecar and match its checksum; without it, those that come from a server and have one. ``limits`` says
    how large things from outside may be. ``index`` is the place of index files that do not lie beside their shards (see
    ``index_place.py``). ``named`` are the web servers that the user has named, as `server_of` writes
    them: a header of SHARDTOOLS_HTTP_HEADERS without a URL is sent to these only, never to a server that only a file
    names.

    Raises:
        ValueError: ``retries`` is negative, or ``timeout`` is not positive.
        SpecError: ``cache`` is not valid.
    """

    retries: int = 5
    timeout: float = 60.0
    cache: str | tuple[str, ...] | None = None
    verify: bool = False
    limits: Limits = DEFAULT_LIMITS
    named: frozenset[str] = frozenset()
    index: str | None = None

    def __post_init__(self) -> None:
        if self.retries < 0 or not self.timeout > 0:
            raise ValueError(f"retries must not be negative and timeout above zero: {self.retries}, {self.timeout}")
        if self.caches:
            from shardtools.storage.cache import parse_cache

            for cache in self.caches:
                parse_cache(cache)

    @property
    def caches(self) -> tuple[str, ...]:
        """The caches, the one that is asked first first."""
        return () if self.cache is None else (self.cache,) if isinstance(self.cache, str) else self.cache

    def naming(self, *specs: str | Iterable[str] | None) -> StorageOptions:
        """Return these options, with the web servers in ``specs``, which the user wrote, added to ``named``.

        >>> StorageOptions().naming("http://host/a-@3.tar", None).named
        frozenset({'http://host'})
        """
        servers = self.named.union(*(servers_of(spec) for spec in (*specs, self.index) if spec))
        return self if servers == self.named else replace(self, named=servers)


DEFAULT_OPTIONS = StorageOptions()


class Storage(ABC):
    """Objects of one scheme. A URL is passed whole to every method; errors are `StorageError`\\ s that name it."""

    coalescing: Coalescing = Coalescing(gap=1 << 11, largest=1 << 24)
    """Which ranges are worth reading together. A caller may join them before it asks for them, but need not."""

    @classmethod
    def with_options(cls, options: StorageOptions) -> Self:
        """Return a storage that follows ``options``, as far as they apply to it."""
        return cls()

    @abstractmethod
    def open(self, url: str) -> Stream:
        """Return the object as a stream of all its bytes.

        A dropped connection is resumed where it stopped.

        Raises:
            NotFoundError: there is no such object.
            RefusedError: the URL names a folder.
            ChangedError: the object changed while it was read (raised by a later read).
            UnavailableError: reading kept failing (raised by a later read, too).
        """

    def read(self, url: str) -> bytes:
        """Return all bytes of the object."""
        with self.open(url) as stream:
            return stream.readall()

    @abstractmethod
    def read_ranges(self, url: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each of ``ranges``, in their order; they may overlap, repeat and be empty.

        Raises:
            NotFoundError: there is no such object.
            RefusedError: a range reaches past the object's end.
            ChangedError: the object changed between two parts of the answer.
        """

    def read_into(self, url: str, starts: Sequence[int], buffers: Sequence[memoryview]) -> None:
        """Fill each of ``buffers``, which are of bytes, with those of the object from its ``start`` on.

        It does what `read_ranges` does and raises what that raises, and saves a copy or two of large parts where it
        can. After an error nobody knows what the buffers hold.
        """
        ranges = [ByteRange(start, start + len(buffer)) for start, buffer in zip(starts, buffers, strict=True)]
        for buffer, data in zip(buffers, self.read_ranges(url, ranges), strict=True):
            buffer[:] = data

    @abstractmethod
    def create(self, url: str) -> AbstractContextManager[Sink]:
        """Return a context whose sink receives a new object's bytes.

        Leaving the context normally commits: the object appears whole, replacing what was there. Leaving it by an
        exception, or being killed inside it, leaves what was there before. Missing folders are made. Errors come from
        entering, from the sink, or from leaving, whichever finds out first.

        Raises:
            AccessError: it may not be written.
            RefusedError: the URL names a folder, or the storage does not write.
            FullError: there is no space left.
        """

    @abstractmethod
    def create_exclusive(self, url: str, data: bytes) -> None:
        """Create the object, only if there is none; of many that try at once, exactly one succeeds.

        A writer that dies half-way may leave it to the next one that tries to finish its work; that one then raises
        ExistsError. An object that was created so is deleted by `delete` only, never behind the storage's back.

        Raises:
            ExistsError: there is one already, and it can be read.
        """

    @abstractmethod
    def stat(self, url: str) -> Stat:
        """Return the object's size and validator, without reading it.

        Raises:
            NotFoundError: there is no such object.
            RefusedError: the URL names a folder.
        """

    @abstractmethod
    def folders(self, folder: str) -> list[str]:
        """Return the sorted URLs, which end with ``/``, of the folders in ``folder``, which ends with ``/``, too.

        Where folders are only parts of names, those are returned that have objects below them; elsewhere empty ones
        may be among them. A folder that does not exist gives an empty list; hidden ones are left out.

        Raises:
            RefusedError: this server does not list.
        """

    @abstractmethod
    def list(self, prefix: str) -> list[str]:
        """Return the sorted URLs of the objects whose URL starts with ``prefix`` and has no further ``/`` after it.

        ``prefix`` ends with ``/`` for all of a folder, or with the beginning of a name. A folder that does not exist
        gives an empty list; folders and hidden objects (names that begin with a dot) are left out. Every URL returned
        can be read back, whatever characters the name has.

        Raises:
            RefusedError: this server does not list.
        """

    def stats(self, prefix: str, most: int) -> Mapping[str, Stat]:
        """Return what `stat` says of each object that `list` returns, in as few requests as a listing.

        Raises:
            RefusedError: the storage does not list, its listings do not say so much, or there are more than ``most``
                objects.
        """
        raise RefusedError("listings do not say enough here", url=prefix)

    @abstractmethod
    def delete(self, url: str) -> None:
        """Delete the object; it is no error if there is none."""

    def exists(self, url: str) -> bool:
        """Return whether there is an object at ``url``."""
        try:
            self.stat(url)
        except NotFoundError:
            return False
        return True


Counter = Callable[[str, int], object]
"""Called with ``retries``, ``slow_requests``, ``cache_hits`` or ``cache_misses``, and how many there were.

Readers of shards add ``samples_read`` and ``bytes_read``, writers ``bytes_written``.
"""

_BACKENDS = {
    "": ("shardtools.storage.local", "LocalStorage"),
    "file": ("shardtools.storage.local", "LocalStorage"),
    "-": ("shardtools.storage.pipe", "PipeStorage"),
    "http": ("shardtools.storage.http", "HttpStorage"),
    "https": ("shardtools.storage.http", "HttpStorage"),
    "s3": ("shardtools.storage.s3", "S3Storage"),
    "gs": ("shardtools.storage.gs", "GsStorage"),
}
_UNCACHED = ("", "file", "-")
_instances: dict[tuple[str, StorageOptions, bool], Storage] = {}
_options: ContextVar[StorageOptions] = ContextVar("shardtools_storage_options", default=DEFAULT_OPTIONS)
_check: ContextVar[Callable[[], object] | None] = ContextVar("shardtools_storage_check", default=None)
_count: ContextVar[Counter | None] = ContextVar("shardtools_storage_count", default=None)


def current_options() -> StorageOptions:
    """Return the options of the storage that `get_storage` gives out here."""
    return _options.get()


def check_stop() -> None:
    """Raise an exception if this thread is to stop its work. Long loops and waits call it often."""
    if (check := _check.get()) is not None:
        check()


def count(what: str, amount: int = 1) -> None:
    """Report what storage did to the counter of this context, if it has one."""
    if amount and (counter := _count.get()) is not None:
        counter(what, amount)


@contextmanager
def using(
    options: StorageOptions, check: Callable[[], object] | None = None, counter: Counter | None = None
) -> Iterator[None]:
    """A context in which `get_storage`, called in this thread, follows ``options``, and `check_stop` calls ``check``.

    ``counter`` is called with what storage did. Without a ``check`` or a ``counter`` they remain what they were.

    >>> with using(StorageOptions(retries=0)):
    ...     current_options().retries
    0
    """
    options_before, check_before = _options.set(options), _check.set(check or _check.get())
    count_before = _count.set(counter or _count.get())
    try:
        yield
    finally:
        _count.reset(count_before)
        _check.reset(check_before)
        _options.reset(options_before)


def follow(options: StorageOptions) -> None:
    """Follow ``options`` in this thread from now on: what a pool of threads begins each of them with."""
    _options.set(options)


def get_storage(url: str, *, immutable: bool = False) -> Storage:
    """Return the storage that ``url`` lives in; the same instance for every URL of a scheme and the same options.

    With ``immutable`` the caller says that its objects never change, and that it finds out by itself if bytes of them
    are damaged: then a cache does not ask the server about ranges that it has.

    Raises:
        SpecError: no backend knows the scheme.
    """
    scheme, options = scheme_of(url), current_options()
    immutable = immutable and bool(options.caches)
    storage = _instances.get((scheme, options, immutable))
    if storage is None:
        if scheme not in _BACKENDS:
            known = ", ".join(f"{name}:" for name in sorted(_BACKENDS) if name.isalnum())
            raise SpecError(f"unknown scheme {scheme}:", url=url, fix=f"use a path or one of {known}")
        module, name = _BACKENDS[scheme]
        backend: type[Storage] = getattr(importlib.import_module(module), name)
        made = backend.with_options(options)
        if options.caches and scheme not in _UNCACHED:
            from shardtools.storage.cache import CachedStorage

            for cache in reversed(options.caches):
                made = CachedStorage(made, cache, patience=options.timeout, immutable=immutable)
        # setdefault: of two threads that get here at once, both return the same instance.
        storage = _instances.setdefault((scheme, options, immutable), made)
    return storage
