"""Local files and folders that every worker of a cluster must see as the client does.

    client: a token in each folder that is written; size, time and first bytes of files that are read
    worker, before each task: the same token, the same files

A worker that has a disk of its own under these paths would read other files, or none, and write its outputs where
nobody looks for them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from shardtools.engine import Need
from shardtools.errors import JobError
from shardtools.jobs.options import RunOptions
from shardtools.storage.files import os_errors
from shardtools.urls import absolute, is_local

_HEAD = 4096
_FEW = 16
"""Files, and folders, to check at most: one file of each folder."""

_FIX = "use a folder that all machines share, or URLs of a server, or leave out -c"


@dataclass(frozen=True)
class SameFile:
    """A need: the file at ``path`` is the one that the client sees."""

    path: str
    size: int
    seconds: int
    head: bytes

    @classmethod
    def of(cls, path: str) -> SameFile | None:
        """Return what the file at ``path`` is here, None if there is none that can be read."""
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                head = hashlib.blake2b(file.read(_HEAD), digest_size=16).digest()
        except OSError:  # the task that needs it will raise an error
            return None
        return cls(path, status.st_size, int(status.st_mtime), head)

    def __call__(self) -> None:
        """Raise if it is not, in this process.

        Raises:
            JobError: it is another one, or there is none.
        """
        found = SameFile.of(self.path)
        if found != self:
            what = "a worker does not see this file" if found is None else "a worker sees another file here"
            raise JobError(f"{what}, {_place()}", url=self.path, fix=_FIX)


@dataclass(frozen=True)
class SameFolder:
    """A need: ``token`` is there, so that its folder is the one in which the client has written it."""

    token: str

    def __call__(self) -> None:
        """Raise if it is not, in this process.

        Raises:
            JobError: there is no token, or no folder.
        """
        if not os.path.exists(self.token):
            folder = os.path.dirname(self.token)
            raise JobError(f"a worker does not see the same folder here, {_place()}", url=folder, fix=_FIX)


def _place() -> str:
    """Return what process this is, for messages."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def shared(read: Iterable[str], written: Iterable[str], options: RunOptions) -> Iterator[Sequence[Need]]:
    """A context that gives the needs of tasks that read local files, and write to local folders.

    ``read`` has URLs of files, ``written`` of folders; those on servers are ignored. If all tasks run on this machine
    there are no needs. Tokens are removed at the end.

    Raises:
        StorageError: a folder cannot be written to.
    """
    if options.on_this_machine:
        yield ()
        return
    files = [SameFile.of(absolute(url)) for url in _some(filter(is_local, read))]
    with ExitStack() as stack:
        folders = dict.fromkeys(os.path.join(absolute(url), "") for url in written if is_local(url))
        tokens = [stack.enter_context(_token(folder)) for folder in list(folders)[:_FEW]]
        yield (*(file for file in files if file is not None), *map(SameFolder, tokens))


def _some(urls: Iterable[str]) -> list[str]:
    """Return the first of those in each folder, of a few folders."""
    first: dict[str, str] = {}
    for url in urls:
        first.setdefault(os.path.dirname(url), url)
        if len(first) == _FEW:
            break
    return list(first.values())


@contextmanager
def _token(folder: str) -> Iterator[str]:
    """A context that gives the path of a new file in a folder, which is made if need be."""
    made = _missing(folder)
    path = f"{folder}.shardtools-{secrets.token_hex(8)}.token"  # no network file system remembers that it is not there
    with os_errors(folder):
        os.makedirs(folder, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    try:
        yield path
    finally:
        with suppress(OSError):  # it was deleted already
            os.unlink(path)
        with suppress(OSError):  # there is something in it now
            for empty in made:
                os.rmdir(empty)


def _missing(folder: str) -> list[str]:
    """Return the folders that are missing on the way to this one, the deepest first."""
    missing = []
    path = folder.rstrip("/")
    while path and not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing
