"""The arrays of a ``.npy`` or ``.npz`` file, mapped into memory.

    path -> headers -> arrays, mapped where they lie in the file
    URL, or a packed member of an .npz -> temporary file -> the same

Temporary files have no name, so that nothing is left of them, however the process ends. All parts that read a file in
one process share its maps, and the last few files stay open for the next parts.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from shardtools.errors import ChangedError, CorruptError, ShardtoolsError
from shardtools.lru import LRU
from shardtools.shards.npy import Header, read_header
from shardtools.sources.zip_header import FIXED_SIZE, local_header_size
from shardtools.storage import Stat, check_stop, get_storage
from shardtools.storage.files import open_regular, os_errors
from shardtools.urls import absolute, is_local, name_of, split_path

Array = npt.NDArray[Any]

_PIECE = 1 << 22
_KEPT = 4


@dataclass(frozen=True)
class ArrayFile:
    """A file of arrays, as it was when it was listed."""

    url: str
    stat: Stat


class OpenArrayFile:
    """A file of arrays that this process has open. Its methods can be called from many threads.

    Use `opened` to get one. Every error except those of storage is a `CorruptError`.
    """

    def __init__(self, file: ArrayFile):
        self._url = file.url
        self._stat = file.stat
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._headers: dict[str, Header] | None = None
        self._maps: dict[str, mmap.mmap] = {}
        self._arrays: dict[str, Array] = {}

    def headers(self) -> dict[str, Header]:
        """Return the headers of the arrays by their names; the array of a ``.npy`` has the name of its file.

        Raises:
            CorruptError: the file is damaged, or not a file of arrays.
            ChangedError: it was changed since it was listed.
            StorageError: it cannot be read.
        """
        with self._lock, self._reading() as file:
            return self._read_headers(file)

    def array(self, name: str) -> Array:
        """Return an array, which must not be written to.

        Raises:
            CorruptError, ChangedError, StorageError: as for `headers`.
        """
        with self._lock:
            if name not in self._arrays:
                with self._reading() as file:
                    self._arrays[name] = self._map(file, name, self._read_headers(file)[name])
            return self._arrays[name]

    def forget_pages(self) -> None:
        """Remove the mapped pages from the memory of this process; they are read again when needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in list(self._maps.values()):
                mapped.madvise(mmap.MADV_DONTNEED)

    @contextmanager
    def _reading(self) -> Iterator[IO[bytes]]:
        """A context with the file, or a copy of it, at its start."""
        if self._fd is None:
            self._fd = _open(self._url, self._stat)
            weakref.finalize(self, os.close, self._fd)
        with open(self._fd, "rb", closefd=False) as file, _damaged(self._url):
            file.seek(0)
            yield file

    def _read_headers(self, file: IO[bytes]) -> dict[str, Header]:
        if self._headers is None:
            if _is_npz(self._url):
                with zipfile.ZipFile(file) as archive:
                    self._headers = {name: _member_header(archive, info) for name, info in _members(archive).items()}
            else:
                name = name_of(self._url)[: -len(".npy")]
                self._headers = {name: _checked(read_header(file), os.fstat(file.fileno()).st_size, name)}
        return self._headers

    def _map(self, file: IO[bytes], name: str, header: Header) -> Array:
        if not header.nbytes:
            return np.zeros(header.shape, header.dtype)
        if not _is_npz(self._url):
            return self._view(file, "", header, header.size)
        with zipfile.ZipFile(file) as archive:
            info = _members(archive)[name]
            if info.compress_type == zipfile.ZIP_STORED:
                return self._view(file, "", header, _start(file, info) + header.size)
            with archive.open(info) as member, _temporary() as copy:
                _copy(member, copy)
                return self._view(copy, name, header, header.size)

    def _view(self, file: IO[bytes], name: str, header: Header, offset: int) -> Array:
        """Return an array in ``file``, which is mapped under ``name`` unless it is already."""
        if name not in self._maps:
            self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        order: Literal["C", "F"] = "F" if header.fortran else "C"
        return np.ndarray(header.shape, header.dtype, self._maps[name], offset, order=order)


_open_files: LRU[ArrayFile, OpenArrayFile] = LRU(_KEPT)


def opened(file: ArrayFile) -> OpenArrayFile:
    """Return a file that this process has open already, or a new one, which is opened when it is first read."""
    return _open_files.get(file) or _open_files.put(file, OpenArrayFile(file))


def close(file: ArrayFile) -> None:
    """Forget a file; it is closed when it is no longer used."""
    _open_files.pop(file)


def _is_npz(url: str) -> bool:
    return split_path(url)[1].lower().endswith(".npz")


def _open(url: str, stat: Stat) -> int:
    """Return a descriptor of the file, or of a copy of what is not on this machine."""
    if is_local(url):
        _check_same(stat, get_storage(url).stat(url), url)
        return open_regular(absolute(url), url)
    with get_storage(url).open(url) as stream, _temporary() as copy:
        _check_same(stat, stream.stat, url)
        _copy(stream, copy)
        return os.dup(copy.fileno())


def _check_same(before: Stat, now: Stat, url: str) -> None:
    """Raise if the file was changed, as far as the storage can say."""
    for old, new in ((before.size, now.size), (before.validator, now.validator)):
        if old != new and None not in (old, new):
            raise ChangedError("the file has changed since it was listed", url=url, fix="run again")


@contextmanager
def _temporary() -> Iterator[IO[bytes]]:
    """A context with a temporary file. It has no name, and exists as long as it is open or mapped."""
    with os_errors(tempfile.gettempdir()):
        file = tempfile.TemporaryFile(prefix="shardtools-", buffering=0)  # noqa: SIM115 - closed below
    with file:
        yield file


def _copy(source: Any, target: IO[bytes]) -> None:
    while piece := source.read(_PIECE):
        check_stop()
        view = memoryview(piece)
        with os_errors(tempfile.gettempdir()):
            while view:
                view = view[target.write(view) :]


# members of an .npz


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {info.filename[: -len(".npy")]: info for info in archive.infolist() if info.filename.endswith(".npy")}


def _member_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    if info.flag_bits & 1:
        raise ValueError(f"{info.filename} is encrypted")
    with archive.open(info) as member:
        return _checked(read_header(member), info.file_size, info.filename)


def _checked(header: Header, size: int, name: str) -> Header:
    """Return a header; raise if the array does not fit into ``size`` bytes with its header."""
    if not header.dtype.hasobject and header.size + header.nbytes > size:
        raise ValueError(f"{name} ends too early: {size:,} bytes, not {header.size + header.nbytes:,}")
    return header


def _start(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member begin: after its local header."""
    file.seek(info.header_offset)
    header_size = local_header_size(file.read(FIXED_SIZE))
    if header_size is None:
        raise ValueError(f"{info.filename} is not where the directory says")
    return info.header_offset + header_size


@contextmanager
def _damaged(url: str) -> Iterator[None]:
    """A context in which what numpy, zipfile and mmap raise for a damaged file becomes a `CorruptError`."""
    try:
        yield
    except ShardtoolsError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, TypeError, EOFError, NotImplementedError, OSError) as error:
        kind = "npz" if _is_npz(url) else "npy"
        raise CorruptError(
            f"this is not an .{kind} file, or it is damaged: {error}", url=url, fix="save it again"
        ) from error
