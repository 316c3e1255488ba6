"""What every backend that touches the file system shares: errors from errno, and a sink that writes with writev."""

from __future__ import annotations

import errno
import os
import re
import stat as modes
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from shardtools.errors import (
    AccessError,
    ExistsError,
    FullError,
    NotFoundError,
    RefusedError,
    StorageError,
    UnavailableError,
)
from shardtools.storage import Buffer

BATCH = min(1024, os.sysconf("SC_IOV_MAX")) if "SC_IOV_MAX" in os.sysconf_names else 16
"""The most buffers that one writev takes."""


@dataclass(frozen=True)
class _Meaning:
    error: type[StorageError]
    what: str
    fix: str


_NOT_FOUND = _Meaning(NotFoundError, "there is no such file", "check the path")
_NO_ACCESS = _Meaning(AccessError, "permission denied", "check who owns it and its mode")
_NO_SPACE = _Meaning(FullError, "no space left on the disk", "free some space, or write elsewhere")
_NO_LOOP = _Meaning(RefusedError, "too many symbolic links", "check where the links point")

_MEANINGS = {
    errno.ENOENT: _NOT_FOUND,
    errno.ENOTDIR: _NOT_FOUND,
    errno.EEXIST: _Meaning(ExistsError, "there is such a file already", "choose another name"),
    errno.EACCES: _NO_ACCESS,
    errno.EPERM: _NO_ACCESS,
    errno.EROFS: _Meaning(AccessError, "the file system is read-only", "write elsewhere"),
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _Meaning(FullError, "the disk quota is used up", "free some space, or write elsewhere"),
    errno.EFBIG: _Meaning(FullError, "the file grew past the limit on its size", "make the shards smaller"),
    errno.EBADF: _Meaning(RefusedError, "it was not opened for this", "check where it was redirected to"),
    errno.EISDIR: _Meaning(RefusedError, "this is a folder", "name a file"),
    errno.ENAMETOOLONG: _Meaning(RefusedError, "the name is too long", "choose a shorter name"),
    errno.ELOOP: _NO_LOOP,
    errno.ENXIO: _Meaning(RefusedError, "this is a socket, or a device that is not there", "name a regular file"),
    errno.EPIPE: _Meaning(UnavailableError, "whatever read this pipe has closed it", "let it read to the end"),
    errno.EMFILE: _Meaning(
        UnavailableError, "too many files are open", "raise the limit (ulimit -n), or use fewer jobs"
    ),
    errno.ESTALE: _Meaning(UnavailableError, "the network file system lost the file", "run again"),
    errno.EIO: _Meaning(UnavailableError, "the disk failed to read or write", "look at the kernel's log"),
}


def storage_error(error: OSError, url: str) -> StorageError:
    """Return the `StorageError` that says what ``error`` means for ``url``."""
    meaning = _MEANINGS.get(error.errno) if error.errno is not None else None
    if meaning is None:
        return StorageError(error.strerror or type(error).__name__, url=url, fix="check the path")
    return meaning.error(meaning.what, url=url, fix=meaning.fix)


@contextmanager
def os_errors(url: str) -> Iterator[None]:
    """A context that turns an `OSError` of the operating system into the `StorageError` that it means."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, url) from error


_STREAM = re.compile(r"/dev/(?:std(?:in|out|err)|fd/[0-9]+)|/proc/self/fd/[0-9]+")
_KINDS = {
    modes.S_IFIFO: "a named pipe",
    modes.S_IFCHR: "a device",
    modes.S_IFBLK: "a device",
    modes.S_IFSOCK: "a socket",
}
_DESCRIPTORS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def stream_number(path: str) -> int | None:
    """Return the file descriptor that a path names, of those that this process has open; None if it names none.

    >>> stream_number("/dev/stdout"), stream_number("/dev/fd/63"), stream_number("/dev/null")
    (1, 63, None)
    """
    if not _STREAM.fullmatch(path):
        return None
    return _DESCRIPTORS[path] if path in _DESCRIPTORS else int(path.rpartition("/")[2])


def open_regular(path: str, url: str, *, streams: bool = False) -> int:
    """Return a descriptor from which a regular file is read; with ``streams`` also what this process has open already.

    That is standard input, or what a shell passes for ``<(...)``. Other kinds of files may block or never end: a named
    pipe waits for a writer.

    Raises:
        StorageError: it cannot be opened, or is neither.
    """
    with os_errors(url):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(fd).st_mode
            if not modes.S_ISREG(mode):
                if not streams or stream_number(path) is None:
                    raise irregular(mode, url)
                os.set_blocking(fd, True)
        except BaseException:
            os.close(fd)
            raise
    return fd


def irregular(mode: int, url: str) -> RefusedError:
    """Return the error for what is no regular file."""
    if modes.S_ISDIR(mode):
        return RefusedError("this is a folder", url=url, fix="name a file")
    kind = _KINDS.get(modes.S_IFMT(mode), "no regular file")
    return RefusedError(f"this is {kind}, which may never end", url=url, fix="name a regular file")


def batches(parts: Iterable[Buffer]) -> Iterator[list[Buffer]]:
    """Yield ``parts`` in lists that one writev takes."""
    rest = iter(parts)
    while batch := list(islice(rest, BATCH)):
        yield batch


class FileSink:
    """A `Sink` over a file descriptor that it does not own: nothing is copied and nothing held back.

    Errors are `StorageError`\\ s that name ``url``.
    """

    def __init__(self, fd: int, url: str):
        self._fd = fd
        self._url = url

    def write(self, data: Buffer, /) -> int:
        """Write all of ``data`` and return its length in bytes."""
        try:
            written = os.write(self._fd, data)
            size = len(data)
            if written != size:
                size = self._write_rest([data], written)
        except OSError as error:
            raise storage_error(error, self._url) from error
        return size

    def writelines(self, parts: Iterable[Buffer], /) -> None:
        """Write all of ``parts``, in order."""
        for batch in batches(parts):
            try:
                written = os.writev(self._fd, batch)
                if written != sum(map(len, batch)):
                    self._write_rest(batch, written)
            except OSError as error:
                raise storage_error(error, self._url) from error

    def _write_rest(self, batch: Sequence[Buffer], written: int) -> int:
        """Write what is left of ``batch`` after a short write of ``written`` bytes; return the bytes of it all."""
        views = [memoryview(part).cast("B") for part in batch]
        size = sum(map(len, views))
        done = written
        while done < size:
            while written >= len(views[0]):
                written -= len(views.pop(0))
            views[0] = views[0][written:]
            written = os.writev(self._fd, views)
            done += written
        return size
