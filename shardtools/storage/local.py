"""Files on a disk: paths, and ``file://`` followed by a path as it is.

    create(url): folder made -> file without a name -> writes -> fsync -> linked under its name -> folder synced

A file that is being written has no name (Linux O_TMPFILE), so that not even SIGKILL leaves anything of it. Where the
file system has no such files it is a hidden one in the same folder, renamed at the end. Replacing a file always goes
through a rename, hence readers see the old object or the new one. What is no regular file is not read, since it may
never end; ``/dev/stdin``, ``/dev/stdout``, and a device to write to, such as ``/dev/null``, are the exceptions.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat as modes
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING

from shardtools.errors import ChangedError, NotFoundError, RefusedError
from shardtools.storage import ByteRange, Coalescing, Stat, Storage, Stream
from shardtools.storage.files import (
    FileSink,
    irregular,
    open_regular,
    os_errors,
    storage_error,
    stream_number,
)
from shardtools.storage.open_files import OpenFile
from shardtools.storage.pipe import results
from shardtools.urls import path_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

COALESCING = Coalescing(gap=1 << 12, largest=1 << 18)
"""A page more costs less than a call, and so few bytes stay in the processor's cache until they are cut."""

_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)

_HIDDEN = 40
"""So much of a file's name is in that of its draft: a name that just fits into 255 bytes must still fit."""

_DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)


class FileStream(Stream):
    """A file read from start to end, unbuffered: a large read goes straight into the caller's buffer."""

    def __init__(self, file: FileIO, url: str):
        super().__init__()
        self._file = file
        self._url = url
        self.stat = _describe(os.fstat(file.fileno()))

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        try:
            count = self._file.readinto(buffer) or 0
            if count == 0 and memoryview(buffer).nbytes:
                self._check_unchanged()
        except OSError as error:
            if isinstance(error, ChangedError):
                raise
            raise storage_error(error, self._url) from error
        return count

    def readall(self) -> bytes:
        with os_errors(self._url):
            data = self._file.readall()
            self._check_unchanged()
        return data

    def close(self) -> None:
        self._file.close()
        super().close()

    def _check_unchanged(self) -> None:
        """A file that was replaced is still read whole; one that was written over in place is not what it was."""
        _check_same(self.stat, _describe(os.fstat(self._file.fileno())), self._url)


class LocalStorage(Storage):
    """Files. Stateless, hence safe in threads and after a fork."""

    coalescing = COALESCING

    def open(self, url: str) -> FileStream:
        fd = open_regular(path_of(url), url, streams=True)
        return FileStream(FileIO(fd, "r"), url)

    def read_ranges(self, url: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        with OpenFile(open_regular(path_of(url), url, streams=True), url) as file:
            before = file.status()
            parts = [file.read(part.start, part.stop) for part in ranges]
            _check_same(_describe(before), _describe(file.status()), url)
        return parts

    def read_into(self, url: str, starts: Sequence[int], buffers: Sequence[memoryview]) -> None:
        with OpenFile(open_regular(path_of(url), url, streams=True), url) as file:
            before = file.status()
            for start, buffer in zip(starts, buffers, strict=True):
                file.read_into(start, buffer)
            _check_same(_describe(before), _describe(file.status()), url)

    @contextmanager
    def create(self, url: str) -> Iterator[FileSink]:
        if (fd := _open_device(url)) is not None:
            try:
                yield FileSink(fd, url)
            finally:
                os.close(fd)
            return
        with _draft(url) as draft:
            yield FileSink(draft.fd, url)
            with os_errors(url):
                draft.publish()

    def create_exclusive(self, url: str, data: bytes) -> None:
        with _draft(url) as draft:
            FileSink(draft.fd, url).write(data)
            with os_errors(url):
                draft.publish_new()

    def stat(self, url: str) -> Stat:
        with os_errors(url):
            status = os.stat(path_of(url))
        if modes.S_ISDIR(status.st_mode):
            raise RefusedError("this is a folder", url=url, fix="name a file")
        if not modes.S_ISREG(status.st_mode) and not _is_device(path_of(url), status.st_mode):
            raise irregular(status.st_mode, url)
        return _describe(status)

    def exists(self, url: str) -> bool:
        """Return whether there is a file; a device such as ``/dev/null`` holds nothing."""
        try:
            with os_errors(url):
                if _is_device(path_of(url), os.stat(path_of(url)).st_mode):
                    return False
        except NotFoundError:
            return False
        return super().exists(url)

    def folders(self, folder: str) -> list[str]:
        return [url + "/" for url in _names(folder, os.DirEntry.is_dir)]

    def list(self, prefix: str) -> list[str]:
        return _names(prefix, os.DirEntry.is_file)

    def delete(self, url: str) -> None:
        with suppress(NotFoundError), os_errors(url):
            os.unlink(path_of(url))


def _names(prefix: str, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """Return the sorted URLs of the entries of a folder whose URL starts with ``prefix``, and that are ``wanted``."""
    folder, slash, start = path_of(prefix).rpartition("/")
    head = prefix[: len(prefix) - len(start)]
    try:
        with os_errors(prefix), os.scandir(folder + slash or ".") as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.startswith(start) and not entry.name.startswith(".") and wanted(entry)
            ]
    except NotFoundError:
        return []
    return sorted(head + name for name in names)


def _is_device(path: str, mode: int) -> bool:
    """Return whether what is written to a path goes away at once: to a device, or where this process writes anyway."""
    return modes.S_ISCHR(mode) or stream_number(path) is not None


def _open_device(url: str) -> int | None:
    """Return the descriptor of a device to write to; None if this is none.

    What this process has open is not opened again: it would be written from its beginning.
    """
    path = path_of(url)
    with os_errors(url):
        if (number := stream_number(path)) is not None:
            stream = results() if number == 1 else None  # which programs keep apart from what is printed
            return os.dup(number if stream is None else stream.fileno())
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            return None
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY) if modes.S_ISCHR(mode) else None


def _describe(status: os.stat_result) -> Stat:
    """Return size and validator. The inode tells two files apart that one tick of the file system's clock made."""
    if not modes.S_ISREG(status.st_mode):
        return Stat(None, None)
    validator = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
    return Stat(status.st_size, validator, modified=status.st_mtime)


def _check_same(before: Stat, after: Stat, url: str) -> None:
    if before != after:
        raise ChangedError("the file was written to while it was read", url=url, fix="let the writer finish first")


@dataclass(frozen=True)
class _Draft:
    """A file that is being written: without a name, or under the name ``hidden`` of the same folder."""

    fd: int
    folder_fd: int
    name: str
    hidden: str | None

    def publish(self) -> None:
        """Make the file appear whole under its name, in place of what is there."""
        os.fsync(self.fd)
        source = self.hidden
        if source is None:
            try:
                self._link(self.name)
            except FileExistsError:
                source = _hidden_name(self.name)
                self._link(source)
        if source is not None:
            try:
                os.replace(source, self.name, src_dir_fd=self.folder_fd, dst_dir_fd=self.folder_fd)
            except BaseException:
                self._unlink(source)
                raise
        _sync_folder(self.folder_fd)

    def publish_new(self) -> None:
        """Make the file appear whole under its name. Raises FileExistsError if there is a file already."""
        os.fsync(self.fd)
        self._link(self.name)
        _sync_folder(self.folder_fd)

    def discard(self) -> None:
        """Remove the hidden name, if there is one left."""
        if self.hidden is not None:
            self._unlink(self.hidden)

    def _link(self, name: str) -> None:
        # Without src_dir_fd Python calls link(2), which does not follow /proc/self/fd and fails with EXDEV.
        source = f"/proc/self/fd/{self.fd}" if self.hidden is None else self.hidden
        os.link(source, name, src_dir_fd=self.folder_fd, dst_dir_fd=self.folder_fd, follow_symlinks=True)

    def _unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.folder_fd)


@contextmanager
def _draft(url: str) -> Iterator[_Draft]:
    """A context that gives out a new draft of the file at ``url`` and discards what was not published."""
    folder, slash, name = path_of(url).rpartition("/")
    folder = folder or slash or "."
    if name in ("", ".", ".."):
        raise RefusedError("this names a folder", url=url, fix="name a file")
    with os_errors(url):
        os.makedirs(folder, exist_ok=True)
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os_errors(url):
            _check_replaceable(folder_fd, name, url)
            fd, hidden = _open_draft(folder_fd, name)
        draft = _Draft(fd, folder_fd, name, hidden)
        try:
            yield draft
        finally:
            os.close(fd)
            draft.discard()
    finally:
        os.close(folder_fd)


def _check_replaceable(folder_fd: int, name: str, url: str) -> None:
    """Refuse what a rename would destroy: a device, a named pipe; and a folder before anything is written."""
    with suppress(FileNotFoundError):
        mode = os.stat(name, dir_fd=folder_fd).st_mode
        if not modes.S_ISREG(mode):
            kind = "a folder" if modes.S_ISDIR(mode) else "not a regular file"
            raise RefusedError(f"this is {kind}", url=url, fix="choose another name")


def _open_draft(folder_fd: int, name: str) -> tuple[int, str | None]:
    """Return the descriptor of a new file and its hidden name, None where it has no name."""
    unnamed = getattr(os, "O_TMPFILE", None)
    if unnamed is not None and os.path.isdir("/proc/self/fd"):
        try:
            return os.open(".", unnamed | os.O_WRONLY | os.O_CLOEXEC, 0o666, dir_fd=folder_fd), None
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
    hidden = _hidden_name(name)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    return os.open(hidden, flags, 0o666, dir_fd=folder_fd), hidden


def _hidden_name(name: str) -> str:
    return f".{name[:_HIDDEN]}.{secrets.token_hex(8)}.tmp"


def find_drafts(folder: str, names: Iterable[str]) -> list[str]:
    """Return the paths of hidden files in a local folder that writers of files with these names have left.

    Files with long names are left out: their drafts have only a part of the name.
    """
    folder = path_of(folder)
    wanted = {name for name in names if len(name) < _HIDDEN}
    with os_errors(folder):
        try:
            found = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
    matches = ((name, _DRAFT.fullmatch(name)) for name in found)
    return sorted(os.path.join(folder, name) for name, match in matches if match and match[1] in wanted)


def _sync_folder(folder_fd: int) -> None:
    try:
        os.fsync(folder_fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some network file systems do not sync folders
            raise
