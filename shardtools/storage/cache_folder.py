"""The folder of a cache: what lies in it, and who may change it when.

    DIR/account                          how many bytes are taken, see cache_account.py
    DIR/objects/UU/URL/VERSION-0-500     bytes 0 to 500 of one version of an object, and their checksums
    DIR/drafts/VERSION                   an object that somebody downloads

``URL`` and ``VERSION`` are hashes, so that nothing secret can be read from a name. An entry comes by a rename, whole,
and never changes; its modification time is that of its last use. To add or
remove one takes the lock of the account. A download holds the lock of its draft; a draft without a lock was left by a
process that was killed.

Methods raise OSError when the folder cannot do what is asked. The caller can always do without.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby

from shardtools.errors import FullError, JobError
from shardtools.storage import ByteRange, Stat, check_stop
from shardtools.storage.cache_account import ENTRY, Account, charge, held
from shardtools.storage.cache_sums import SummedFile, Sums, stored_size, sums_of
from shardtools.storage.file_lock import close_lock, open_lock, release, wait_for_lock
from shardtools.storage.files import storage_error
from shardtools.urls import identity

logger = logging.getLogger(__name__)

_TOUCH_SECONDS = 60  # how old the mark of an entry's last use may be
_MOST_LISTINGS = 256


@dataclass(frozen=True)
class Version:
    """One version of an object: the ``folder`` of its entries, their ``key``, and the object's ``size`` in bytes."""

    folder: str
    key: str
    size: int

    def name(self, span: ByteRange) -> str:
        """Return the name of the entry that holds the bytes of ``span``."""
        return f"{self.key}-{span.start}-{span.stop}"

    def entry(self, span: ByteRange) -> str:
        """Return the path of that entry."""
        return f"{self.folder}/{self.name(span)}"

    @property
    def whole(self) -> str:
        """The path of the entry that holds all of the object."""
        return self.entry(ByteRange(0, self.size))


class Draft:
    """A file for an object that nobody else downloads meanwhile."""

    def __init__(self, folder: CacheFolder, version: Version, fd: int, path: str):
        self._folder = folder
        self._version = version
        self._fd = fd
        self._path = path
        self._reserved = 0
        self._sums = Sums()

    def reserve(self) -> bool:
        """Take room for all of the object; return whether there is enough."""
        size = stored_size(self._version.size)
        with self._folder.held() as account:
            if not account.make_room(charge(size)):
                return False
            self._reserved = charge(size)
            os.ftruncate(self._fd, size)  # a count takes it for what it is going to be
        return True

    def write(self, data: memoryview) -> None:
        """Write the bytes that follow."""
        self._sums.add(data)
        _write(self._fd, data)

    def publish(self) -> SummedFile:
        """Make the draft an entry, in place of all others of its URL, and return it as a file to read."""
        _write(self._fd, memoryview(self._sums.finish()))
        with self._folder.held() as account:
            os.makedirs(self._version.folder, exist_ok=True)
            os.rename(self._path, self._version.whole)
            self._reserved = 0
            whole = os.path.basename(self._version.whole)
            _drop(account, self._version.folder, [name for name in os.listdir(self._version.folder) if name != whole])
        release(self._fd)
        fd, self._fd = self._fd, -1
        return SummedFile(fd, self._version.size)

    def close(self) -> None:
        """Remove the draft, unless it was published."""
        if self._fd < 0:
            return
        try:
            with suppress(OSError), self._folder.held() as account:  # if not, the next count does it
                os.unlink(self._path)
                account.add(-self._reserved)
        finally:
            close_lock(self._fd)


class CacheFolder:
    """The folder ``path``, for up to ``limit`` bytes. All state lies there, for threads and forks to share."""

    def __init__(self, path: str, limit: int):
        self.path = os.path.abspath(path)
        self.limit = limit
        self._drafts = f"{self.path}/drafts"
        self._objects = f"{self.path}/objects"
        self._listings: dict[str, tuple[int, list[ByteRange]]] = {}
        self._ready = False

    def prepare(self) -> None:
        """Make the folder if there is none; remove drafts of killed processes, and entries beyond the limit.

        Raises:
            JobError: it cannot be made, or not be used. A full disk is not that; it is an OSError.
        """
        if self._ready:
            return
        try:
            os.makedirs(self.path, 0o700, exist_ok=True)
            os.makedirs(self._drafts, exist_ok=True)
            os.makedirs(self._objects, exist_ok=True)
            with self.held() as account:
                _check_writable(self._drafts, self._objects)
                account.sweep()
                account.make_room(0)
        except OSError as error:
            reason = storage_error(error, self.path)
            if isinstance(reason, FullError):
                raise
            what = f"the cache cannot be kept here: {reason.what}"
            raise JobError(what, url=self.path, fix="name a folder of your own for it on a local disk") from error
        self._ready = True

    def forget(self) -> None:
        """Look again, the next time, whether the folder is there."""
        self._ready = False

    def held(self) -> AbstractContextManager[Account]:
        """Return a context for changes of the folder."""
        return held(self.path, self.limit)

    def version(self, url: str, stat: Stat) -> Version:
        """Return what the folder calls the object of which ``stat`` knows the size and the validator."""
        name = identity(url)
        place, key = _hash(name), _hash(repr((name, stat.validator, stat.size)))
        return Version(f"{self._objects}/{place[:2]}/{place}", key, stat.size or 0)

    # --- reading

    def open_whole(self, version: Version) -> SummedFile | None:
        """Return the file with all of an object, None if there is none."""
        fd = _open_entry(version, ByteRange(0, version.size))
        return None if fd is None else SummedFile(fd, version.size)

    def spans(self, version: Version) -> list[ByteRange]:
        """Return what there is of an object, sorted, without what lies within another: the stops rise as the starts do.

        The list is kept in memory for as long as the folder does not change.
        """
        known = self._listings.get(version.folder + version.key)
        try:
            changed = _changed(version.folder)
            spans = _list_spans(version) if known is None or known[0] != changed else known[1]
        except FileNotFoundError:  # it was never there, or went just now, when its last entry did
            return []
        if known is None or spans is not known[1]:
            known = changed, spans
            if len(self._listings) >= _MOST_LISTINGS:
                self._listings.clear()
            self._listings[version.folder + version.key] = known
        return known[1]

    def read(self, version: Version, parts: Sequence[tuple[ByteRange, ByteRange]]) -> dict[ByteRange, bytes]:
        """Return the bytes of each part, given with the span of the entry that has it, of those that are there.

        An entry that does not match its checksums is removed.
        """
        found: dict[ByteRange, bytes] = {}
        for span, group in groupby(parts, lambda part: part[1]):
            fd = _open_entry(version, span)
            if fd is None:
                continue
            with closing(SummedFile(fd, span.stop - span.start)) as file:
                for part, _ in group:
                    data = file.read(part.start - span.start, part.stop - span.start)
                    if data is None:
                        self.discard(version, span)
                        break
                    found[part] = data
        return found

    def discard(self, version: Version, span: ByteRange) -> None:
        """Remove the entry with the bytes of ``span``, which are not what they were."""
        logger.warning("%s: what it kept was damaged, and is fetched again: see to its disk", self.path)
        with suppress(OSError), self.held() as account:  # it is gone, or another has removed it
            _drop(account, version.folder, [version.name(span)])

    # --- writing

    @contextmanager
    def draft(self, version: Version, patience: float) -> Iterator[Draft | None]:
        """A context that gives out the draft of an object, once nobody else has it.

        None, if the object is there by then, or the other has not written anything for ``patience`` seconds.
        """
        path = f"{self._drafts}/{version.key}"
        fd = _claim(path, patience)
        if fd is None:
            yield None
            return
        draft = Draft(self, version, fd, path)
        try:
            yield None if os.path.exists(version.whole) else draft
        finally:
            draft.close()

    def store(self, version: Version, spans: Sequence[ByteRange], bodies: Sequence[bytes]) -> None:
        """Make entries of some spans of an object, if there is room for all of them."""
        unused = sum(charge(stored_size(len(body))) for body in bodies)
        with self.held() as account:
            if not account.make_room(unused):
                return
            try:
                os.makedirs(version.folder, exist_ok=True)
                names = set(os.listdir(version.folder))
                for span, body in zip(spans, bodies, strict=True):
                    if (name := version.name(span)) not in names:
                        self._create(f"{version.folder}/{name}", body)
                        unused -= charge(stored_size(len(body)))
            finally:
                account.add(-unused)
                # Folders' times are coarse: what came after the listing need not have changed them.
                self._listings.pop(version.folder + version.key, None)
            _drop(account, version.folder, [name for name in names if not name.startswith(version.key)])

    def _create(self, path: str, body: bytes) -> None:
        draft = f"{self._drafts}/{os.path.basename(path)}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            try:
                _write(fd, memoryview(body))
                _write(fd, memoryview(sums_of(memoryview(body))))
            finally:
                os.close(fd)
            os.rename(draft, path)
        except BaseException:
            os.unlink(draft)
            raise


def _drop(account: Account, folder: str, names: Sequence[str]) -> None:
    for name in names:
        if ENTRY.fullmatch(name):
            path = f"{folder}/{name}"
            size = os.stat(path).st_size
            os.unlink(path)
            account.add(-charge(size))


def _hash(text: str) -> str:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _check_writable(*folders: str) -> None:
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _claim(path: str, patience: float) -> int | None:
    """Return a descriptor that holds the lock of the draft at ``path``; None if it cannot be had."""
    while True:
        fd = open_lock(path)
        claimed = False
        try:
            if not wait_for_lock(fd, patience, check_stop):
                return None
            claimed = _is_at(fd, path)  # and not what was there before, and is an entry now, or gone
            if claimed:
                return fd
        finally:
            if not claimed:
                close_lock(fd)


def _changed(folder: str) -> int:
    return os.stat(folder).st_mtime_ns


def _list_spans(version: Version) -> list[ByteRange]:
    with os.scandir(version.folder) as entries:
        matches = [ENTRY.fullmatch(entry.name) for entry in entries]
    bounds = [(int(match[2]), int(match[3])) for match in matches if match and match[1] == version.key]
    spans: list[ByteRange] = []
    for start, stop in sorted(bounds, key=lambda bound: (bound[0], -bound[1])):
        if not spans or stop > spans[-1].stop:
            spans.append(ByteRange(start, stop))
    return spans


def _open_entry(version: Version, span: ByteRange) -> int | None:
    """Return a descriptor of an entry, None if it is not there, and note that it is used."""
    path = version.entry(span)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        # It is of a version of shardtools that kept no checksums, or the machine went down before all of it was there.
        if status.st_size != stored_size(span.stop - span.start):
            with suppress(FileNotFoundError):  # somebody else has seen it too
                os.unlink(path)
            os.close(fd)
            return None
        if abs(time.time() - status.st_mtime) > _TOUCH_SECONDS:
            with suppress(PermissionError):  # another user's
                os.utime(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write(fd: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(fd, data) :]
