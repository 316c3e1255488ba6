"""The files of a folder and its subfolders, or the files of a list, as samples."""

from __future__ import annotations

import os
import stat as modes
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from shardtools.errors import JobError, StorageError
from shardtools.sources.files import FileRules, FileSource, by_folder, ordered
from shardtools.storage import check_stop, current_options
from shardtools.storage.files import irregular, open_regular, os_errors, storage_error
from shardtools.types import Ints


@dataclass
class FolderFiles:
    """Files below the folder ``root``."""

    root: str
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict, init=False, repr=False)

    def place(self, path: str) -> tuple[str, None]:
        return f"{self.root}/{path}", None

    def take(self, rows: Ints) -> FolderFiles:
        return FolderFiles(self.root)

    def sizes(self, paths: Sequence[str]) -> Ints:
        sizes = np.zeros(len(paths), np.int64)
        for i, path in enumerate(paths):
            full = f"{self.root}/{path}"
            with os_errors(full):
                sizes[i] = os.stat(full).st_size
        return sizes

    def read(self, row: int, path: str, taken: int = 0) -> bytes:
        full = f"{self.root}/{path}"
        try:
            fd = os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                status = os.fstat(fd)
                if not modes.S_ISREG(status.st_mode):
                    raise irregular(status.st_mode, full)
                size = status.st_size
                self._seen[path] = (size, status.st_mtime_ns)
                current_options().limits.check("sample", taken + size, url=full)
                data = os.read(fd, size + 1) if size < _MOST else b""
                return data if len(data) == size else _read_rest(fd, data, full, taken)
            finally:
                os.close(fd)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise storage_error(error, full) from error

    def facts(self, paths: Sequence[str]) -> Sequence[Any]:
        """Return the paths, sizes and times of the files: from when they were read, or else as they are now."""
        seen = [self._seen.get(path) or self._look(path) for path in paths]
        return [list(paths), [size for size, _ in seen], [time for _, time in seen]]

    def close(self) -> None:
        self._seen.clear()

    def _look(self, path: str) -> tuple[int, int]:
        try:
            status = os.stat(f"{self.root}/{path}")
        except OSError:  # reading it will raise an error
            return -1, -1
        return status.st_size, status.st_mtime_ns


def read_file(path: str, taken: int = 0) -> bytes:
    """Return the bytes of a file; faster than `open` for small ones. Its sample has ``taken`` bytes already.

    Raises:
        LimitError: with this file the sample is too large.
        StorageError: it cannot be read.
    """
    with os_errors(path):
        fd = open_regular(path, path)
        try:
            return _read_rest(fd, b"", path, taken)
        finally:
            os.close(fd)


def _read_rest(fd: int, data: bytes, url: str, taken: int) -> bytes:
    """Return ``data`` and the rest of an open file, if that is not too large for a sample."""
    pieces, size = [data], taken + len(data)
    limits = current_options().limits
    while data := os.read(fd, _MOST):
        size += len(data)
        limits.check("sample", size, url=url)
        pieces.append(data)
    return b"".join(pieces)


_MOST = 1 << 24


def list_folder(name: str, rules: FileRules) -> FileSource:
    """Return the files of a folder and its subfolders as a source. Hidden files and folders are left out.

    Raises:
        NotFoundError: there is no such folder.
        JobError: there is nothing in it, or the rules do not fit.
        DuplicateKeyError: two samples would have one key.
    """
    root = os.path.abspath(name)
    left_out: list[tuple[str, str]] = []
    paths = ordered(_walk(root, left_out, rules.follow_links), rules, left_out)
    if not paths:
        if any(reason == LEADS_OUT for _, reason in left_out):
            fix = "take what they lead to with --follow-links"
            raise JobError("there are no files to upload, but links that lead out of the folder", url=root, fix=fix)
        raise JobError("there are no files to upload", url=root, fix="check the folder, and --include and --exclude")
    return FileSource(root, paths, FolderFiles(root.rstrip("/")), rules, left_out)


def list_paths(name: str, text: bytes, rules: FileRules) -> FileSource:
    """Return the files of a list as a source: one path a line or, if there are NUL bytes, paths separated by these.

    Raises:
        JobError: there are no paths, a path is repeated, or a relative path leads out of this folder.
        DuplicateKeyError: two samples would have one key.
    """
    entries = text.split(b"\0") if b"\0" in text else text.split(b"\n")
    paths = [os.path.normpath(os.fsdecode(entry)) for entry in entries if entry]
    root = os.getcwd()
    if any(path.startswith("/") for path in paths):
        paths = [os.path.join(root, path).lstrip("/") for path in paths]
        root = ""
    if stray := next((path for path in paths if path.startswith("../")), None):
        raise JobError("the path leads out of this folder", url=stray, fix="give absolute paths")
    left_out: list[tuple[str, str]] = []
    paths = ordered(by_folder(paths), rules, left_out)
    if not paths:
        raise JobError("the list names no files", url=name, fix="give one path a line, such as find writes")
    if twice := next((path for path, following in pairwise(paths) if path == following), None):
        raise JobError("the list names this file twice", url=f"{root}/{twice}", fix="name it once")
    return FileSource(name, paths, FolderFiles(root), rules, left_out)


LEADS_OUT = "this link leads out of the folder"
"""Why a link is left out, unless all links are followed: it may lead to files that were not meant to be uploaded."""

MOST_WAYS = 100
"""The most links to one folder. Folders with links to each other could be walked through in millions of ways."""


def _walk(root: str, left_out: list[tuple[str, str]], follow: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield the folders below ``root``, each with the names of its files.

    Links are followed, unless they lead in a circle, or without ``follow`` out of ``root``. ``waiting`` has for each
    folder its path, its real path, and the real paths of the folders whose links led to it.
    """
    top = os.path.realpath(root)
    inside = f"{top.rstrip('/')}/"
    ways: Counter[str] = Counter()
    waiting: list[tuple[str, str, tuple[str, ...]]] = [("", top, ())]
    while waiting:
        check_stop()
        prefix, real, followed = waiting.pop()
        names: list[str] = []
        with os_errors(f"{root}/{prefix}"), os.scandir(f"{root}/{prefix}") as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                kind = _kind(entry)
                target = os.path.realpath(entry.path) if entry.is_symlink() else ""
                if kind in ("file", "link") and target and not (follow or f"{target}/".startswith(inside)):
                    left_out.append((prefix + name, LEADS_OUT))
                elif kind == "file":
                    names.append(name)
                elif kind == "folder":
                    waiting.append((f"{prefix}{name}/", f"{real}/{name}", followed))
                elif kind == "link":
                    ways[target] += 1
                    if any(f"{place}/".startswith(f"{target}/") for place in (real, *followed)):
                        left_out.append((prefix + name, "this link leads back to a folder that it is in"))
                    elif ways[target] > MOST_WAYS:
                        what = f"links lead to this folder in more than {MOST_WAYS} ways"
                        raise JobError(what, url=target, fix="remove such links from the source")
                    else:
                        waiting.append((f"{prefix}{name}/", target, (real, *followed)))
                else:
                    left_out.append((prefix + name, kind))
        yield prefix, names


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "file", "folder" or "link" (to a folder); or why it is none of these."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "link" if entry.is_symlink() else "folder"
    except OSError:
        return "the link cannot be followed"
    return "the link leads nowhere" if entry.is_symlink() else "it is not a regular file"
