"""One job at a time: a mark beside what a job writes, which no other job puts there meanwhile.

    create_exclusive(mark) -> written again every few seconds -> deleted

What is guaranteed: of several jobs with one mark, one works and the others end with an error at once, provided that
the storage can create an object only if there is none; where it cannot, all of them work. A mark that a killed job has
left does not stop others: one of a process of this machine that is gone is replaced, and with ``take_over`` any other
that is not written again for a minute. No clocks are compared. A job that was held up for longer than that, so that
another one took its mark, notices it and ends with an error; until then, for some seconds, both may write.
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
from shardtools.storage import check_stop, current_options, get_storage, read_limited, using

PERIOD_SECONDS = 10.0
"""How often a mark is written again."""

PATIENCE_SECONDS = 60.0
"""For how long nobody has to write a mark again before it is taken over."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who has a mark: process ``pid`` of ``host``, as the random text ``run``.

    ``beats`` counts how often it has written the mark again.
    ``machine`` is the same for processes that see each other's numbers, "" where that is not known.
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
        except OSError:  # it is somebody else's
            return False
        return False


class Held:
    """A mark that this job has. Any thread may use it."""

    def __init__(self, url: str, holder: Holder):
        self._url = url
        self._holder = holder
        self._lost: OutputBusyError | None = None
        self._ended = threading.Event()

    def check(self) -> None:
        """Raise if another job has taken over.

        Raises:
            OutputBusyError: one has, as it seems.
        """
        if self._lost is not None:
            raise self._lost

    def keep(self) -> None:
        """Write the mark again and again, until `release`."""
        with using(current_options(), self._check_end), suppress(_Ended):
            while not self._ended.wait(PERIOD_SECONDS):
                try:
                    self._beat()
                except StorageError:
                    logger.debug("%s could not be written again", redact(self._url), exc_info=True)

    def _beat(self) -> None:
        found = _read(self._url)
        if found is None or found.run != self._holder.run:
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
        """Delete the mark, when the thread that writes it has ended. What was done is done, if that fails."""
        self._ended.set()
        keeper.join()
        if self._lost is None:
            try:
                get_storage(self._url).delete(self._url)
            except StorageError as error:
                logger.warning("%s (it marked that this job was writing; delete it)", error)


class _Ended(Exception):
    """Ends what storage does for a mark that is not wanted any more."""


@contextmanager
def exclusive(url: str, *, take_over: bool) -> Iterator[Held | None]:
    """A context for the work of the one job that has the mark at ``url``; the mark is deleted at its end.

    It gives None where the storage has no such marks. ``take_over`` takes one that nobody writes again.

    Raises:
        OutputBusyError: another job has it.
    """
    holder = Holder(socket.gethostname(), _machine(), os.getpid(), uuid.uuid4().hex, _now())
    if not _acquire(url, holder, take_over):
        yield None
        return
    held = Held(url, holder)
    keeper = threading.Thread(target=copy_context().run, args=(held.keep,), name="shardtools-mark", daemon=True)
    keeper.start()
    try:
        yield held
    finally:
        held.release(keeper)


def _acquire(url: str, holder: Holder, take_over: bool) -> bool:
    """Write a mark; return whether the storage can."""
    storage = get_storage(url)
    while True:
        try:
            storage.create_exclusive(url, _dump(holder))
        except ExistsError:
            found = _read(url)
        except (UnavailableError, FullError):
            raise
        except StorageError:  # it does not create exclusively, or not here; some disks have no hard links
            logger.debug("%s cannot be created exclusively", redact(url), exc_info=True)
            return False
        else:
            return True
        if found is None or (found.is_gone() or (take_over and _is_left(url, found))):
            storage.delete(url)
            continue
        raise OutputBusyError(
            f"another job is writing here: process {found.pid} on {found.host}, since {found.since}",
            url=url,
            fix="wait for it; if it was killed, run again with --resume, or --overwrite, which see whether it is alive",
        )


def _is_left(url: str, holder: Holder) -> bool:
    """Return whether nobody writes a mark again for so long that its job must be dead."""
    logger.warning("%s: waiting for up to %d seconds to see whether process %d on %s, which wrote this, is alive",
                   redact(url), PATIENCE_SECONDS, holder.pid, holder.host)  # fmt: skip
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        check_stop()
        time.sleep(min(1.0, PERIOD_SECONDS))
        found = _read(url)
        if found != holder:
            return found is None
    return True


def _read(url: str) -> Holder | None:
    """Return who has the mark, None if there is none."""
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
        pass  # as one that says nothing
    return Holder("an unknown machine", "", 0, text[:64].hex(), "an unknown time")


def _dump(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode() + b"\n"


def _machine() -> str:
    """Return what the processes share that see each other's numbers: this boot, and this container, of this machine."""
    if sys.platform != "linux":
        return sys.platform
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()}-{os.stat('/proc/self/ns/pid').st_ino}"
    return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
