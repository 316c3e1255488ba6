"""One job at a time: a lock file beside what a job writes.

    create_exclusive(lock file) -> written again every few seconds -> deleted

Of several jobs with one lock file, one runs and the others fail at once, if the storage can create an object only
where there is none. If it cannot, there is no lock, and all of them run.

A lock file that a killed job has left does not stop others. If its process was on this machine and has ended, the file
is replaced; with ``take_over`` any other lock file is, too, if it is not written again for a minute. Clocks are
never compared. A job that was stopped for longer than that, and whose lock was taken over, notices it and fails; until
then, for some seconds, both jobs may write.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from shardtools.engine.interrupt import sigint_held
from shardtools.errors import (
    ExistsError,
    FullError,
    NotFoundError,
    OutputBusyError,
    StorageError,
    UnavailableError,
    redact,
)
from shardtools.json_text import parse_json
from shardtools.storage import check_stop, current_options, get_storage, using
from shardtools.storage.limited import read_limited

PERIOD_SECONDS = 10.0
"""How often a lock file is written again."""

PATIENCE_SECONDS = 60.0
"""A lock file that is not written again for so long is taken over."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who has a lock, which is what its file says: process ``pid`` of ``host``.

    ``machine`` is the same for processes that see each other's process numbers, "" if that is not known. ``run`` is a
    random text for each lock. ``since`` is when it was taken, and ``beats`` how often the file was written again.
    """

    host: str
    machine: str
    pid: int
    run: str
    since: str
    beats: int = 0

    def is_gone(self) -> bool:
        """Return whether it is known that the process has ended."""
        if not self.machine or (self.host, self.machine) != (socket.gethostname(), _machine()):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # it belongs to another user
            return False
        return False


class JobLock:
    """A lock that this job has. Any thread may use it."""

    def __init__(self, url: str, holder: Holder):
        self._url = url
        self._holder = holder
        self._lost: OutputBusyError | None = None
        self._ended = threading.Event()

    def check(self) -> None:
        """Raise if another job has taken over.

        Raises:
            OutputBusyError: the lock file is gone, or that of another job.
        """
        if self._lost is not None:
            raise self._lost

    def keep(self) -> None:
        """Write the lock file again and again, until `release`."""
        with using(current_options(), self._check_end), suppress(_Ended):
            while not self._ended.wait(PERIOD_SECONDS):
                try:
                    self._beat()
                except StorageError:
                    logger.debug("%s could not be written again", redact(self._url), exc_info=True)

    def _beat(self) -> None:
        holder = read_holder(self._url)
        if holder is None or holder.run != self._holder.run:
            fix = "see what runs, and go on with --resume"
            self._lost = OutputBusyError("another job has taken over what this one was writing", url=self._url, fix=fix)
            self._ended.set()
            return
        self._holder = replace(self._holder, beats=self._holder.beats + 1)
        with get_storage(self._url).create(self._url) as sink:
            sink.write(_dump(self._holder))

    def _check_end(self) -> None:
        if self._ended.is_set():
            raise _Ended

    def release(self, keeper: threading.Thread) -> None:
        """Delete the lock file, once the thread that writes it has ended. The job has succeeded even if that fails."""
        self._ended.set()
        keeper.join()
        if self._lost is None:
            try:
                get_storage(self._url).delete(self._url)
            except StorageError as error:
                logger.warning("%s (it is the lock of this job, which has ended; delete it)", error)


class _Ended(Exception):
    """Ends what the storage does for a lock that was released."""


@contextmanager
def locked(url: str, *, take_over: bool) -> Iterator[JobLock | None]:
    """A context in which this job has the lock whose file is at ``url``; the file is deleted at its end.

    It gives None if the storage cannot create objects exclusively, so that there is no lock. ``take_over`` replaces a
    lock file that is not written again.

    Raises:
        OutputBusyError: another job has the lock.
    """
    holder = _new_holder()
    if not _acquire(url, holder, take_over):
        yield None
        return
    with _kept(JobLock(url, holder)) as lock:
        yield lock


@contextmanager
def marked(url: str) -> Iterator[None]:
    """A context in which a file says that this job is alive; no other job has a file of this name.

    Raises:
        StorageError: it cannot be written.
    """
    holder = _new_holder()
    with get_storage(url).create(url) as sink:
        sink.write(_dump(holder))
    with _kept(JobLock(url, holder)):
        yield


@contextmanager
def _kept(lock: JobLock) -> Iterator[JobLock]:
    """A context in which the file of a lock is written again and again; it is deleted at the end."""
    keeper = threading.Thread(target=copy_context().run, args=(lock.keep,), name="shardtools-lock", daemon=True)
    with sigint_held():
        keeper.start()
    try:
        yield lock
    finally:
        lock.release(keeper)


def _new_holder() -> Holder:
    return Holder(socket.gethostname(), _machine(), os.getpid(), uuid.uuid4().hex, _now())


def _acquire(url: str, holder: Holder, take_over: bool) -> bool:
    """Create the lock file; return whether the storage can do so exclusively.

    Raises:
        OutputBusyError: another job has the lock.
    """
    storage = get_storage(url)
    while True:
        try:
            storage.create_exclusive(url, _dump(holder))
        except ExistsError:
            found = read_holder(url)
        except (UnavailableError, FullError):
            raise
        except StorageError:  # it does not create exclusively, or not here; some disks have no hard links
            logger.debug("%s cannot be created exclusively", redact(url), exc_info=True)
            return False
        else:
            return True
        if found is None or found.is_gone() or (take_over and _is_abandoned(url, found)):
            storage.delete(url)
            continue
        raise OutputBusyError(
            f"another job is writing here: process {found.pid} on {found.host}, since {found.since}",
            url=url,
            fix="wait for it; if it was killed, run again with --resume, or --overwrite, which see whether it is alive",
        )


def _is_abandoned(url: str, holder: Holder) -> bool:
    """Return whether a lock file was not written again for so long that its job must be dead."""
    logger.warning("%s: waiting for up to %d seconds to see whether process %d on %s, which wrote this, is alive",
                   redact(url), PATIENCE_SECONDS, holder.pid, holder.host)  # fmt: skip
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        check_stop()
        time.sleep(min(1.0, PERIOD_SECONDS))
        found = read_holder(url)
        if found != holder:
            return found is None
    return True


def read_holder(url: str) -> Holder | None:
    """Return the holder of the lock, None if there is none."""
    try:
        text = read_limited(url, "manifest")
    except NotFoundError:
        return None
    try:
        found = Holder(**parse_json(text, url))
        texts, numbers = (found.host, found.machine, found.run, found.since), (found.pid, found.beats)
        if all(isinstance(text, str) for text in texts) and all(type(n) is int and 0 <= n < 1 << 31 for n in numbers):
            return found
    except (ValueError, TypeError):
        pass  # it is not a lock file, so its holder is not known
    return Holder("an unknown machine", "", 0, text[:64].hex(), "an unknown time")


def _dump(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode() + b"\n"


def _machine() -> str:
    """Return a text for this boot and container: its processes see each other's numbers; "" if it is not known."""
    if sys.platform != "linux":
        return sys.platform
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()}-{os.stat('/proc/self/ns/pid').st_ino}"
    return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
