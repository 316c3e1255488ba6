"""``-``: standard input and standard output, as one object each.

Standard output has no commit: what was written has gone to its reader, so that leaving `PipeStorage.create` by an
exception cannot take it back. Whoever reads the pipe learns it from the exit status of this process alone. When the
reader goes away early, as ``head`` does, the next write raises `UnavailableError` from `BrokenPipeError`.

What a user's script, or a library, prints must not get into it. A program therefore keeps standard output apart, for
results alone (`results_apart`).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, TextIO

from shardtools.errors import RefusedError
from shardtools.storage import Buffer, ByteRange, Sink, Stat, Storage, Stream
from shardtools.storage.files import FileSink, os_errors, storage_error

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


_results: TextIO | None = None


def results() -> TextIO | None:
    """Return the stream for results: standard output, as it was before `results_apart`; None if that is closed."""
    return _results or (None if _apart else sys.stdout)


_apart = False


@contextmanager
def results_apart() -> Iterator[None]:
    """A context in which standard output is for results alone: what `results` gives, and the object ``-``.

    All else that is printed, by Python, by libraries in C or by processes that are started, goes to standard error.
    It is for programs: it concerns the whole process.
    """
    global _results, _apart
    before, printed = (_results, _apart), sys.stdout
    moved = _move_away(printed)
    _results, _apart, sys.stdout = moved or printed, True, sys.stderr
    try:
        yield
    finally:
        (_results, _apart), sys.stdout = before, printed
        if moved is not None:
            printed.flush()  # what was printed to it all the same
            os.dup2(moved.fileno(), printed.fileno())
            with suppress(BrokenPipeError):
                moved.close()


def _move_away(stream: TextIO | None) -> TextIO | None:
    """Let the descriptor of standard output lead to standard error; return a stream to where it led before.

    Return None if it led nowhere, or if ``stream`` is not it: a test or a notebook puts another in its place.
    """
    if stream is None:
        _take_descriptor()
        return None
    try:
        fd = stream.fileno()
        stream.flush()
    except (AttributeError, io.UnsupportedOperation):
        return None
    moved = os.fdopen(os.dup(fd), "w", encoding=stream.encoding, errors=stream.errors)
    try:
        os.dup2(sys.stderr.fileno(), fd)
    except (AttributeError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
    return moved


def _take_descriptor() -> None:
    """Open descriptor 1, if it is closed: the next file to be opened would get it, and all that C libraries print."""
    fd = os.open(os.devnull, os.O_WRONLY)  # the lowest that is free
    if fd == 1:
        os.set_inheritable(fd, True)
    else:
        os.close(fd)


class PipeStream(Stream):
    """Standard input. Closing it leaves the real standard input open."""

    def __init__(self, source: BinaryIO, url: str):
        super().__init__()
        self._source = source
        self._url = url
        self.stat = Stat(None, None)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self.closed:
            raise ValueError("read of a closed stream")
        try:
            return int(self._source.readinto(buffer) or 0)  # type: ignore[attr-defined]
        except OSError as error:
            raise storage_error(error, self._url) from error


class _BufferSink:
    """A sink over a standard output that has no file descriptor: one that a test or a notebook put in its place."""

    def __init__(self, target: BinaryIO, url: str):
        self._target = target
        self._url = url

    def write(self, data: Buffer, /) -> int:
        with os_errors(self._url):
            return self._target.write(data)

    def writelines(self, parts: Iterable[Buffer], /) -> None:
        for part in parts:
            self.write(part)


class PipeStorage(Storage):
    """Standard input is read by `open`, standard output written by `create`; nothing else can be done."""

    def open(self, url: str) -> PipeStream:
        source = getattr(sys.stdin, "buffer", None)
        if source is None:
            raise RefusedError("there is no standard input", url=url, fix="give the URL of a shard")
        return PipeStream(source, url)

    @contextmanager
    def create(self, url: str) -> Iterator[Sink]:
        stream = results()
        target = getattr(stream, "buffer", None)
        if stream is None or target is None:
            raise RefusedError("there is no standard output", url=url, fix="open it, or name a file to write")
        with os_errors(url):
            stream.flush()
        try:
            # Past Python's buffer: it would be flushed again, and fail again, when the interpreter exits.
            sink: Sink = FileSink(target.fileno(), url)
        except (AttributeError, io.UnsupportedOperation):
            sink = _BufferSink(target, url)
        yield sink
        with os_errors(url):
            target.flush()

    def read_ranges(self, url: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        raise _refused("read in parts", url)

    def create_exclusive(self, url: str, data: bytes) -> None:
        raise _refused("created only if absent", url)

    def stat(self, url: str) -> Stat:
        raise _refused("examined", url)

    def folders(self, folder: str) -> list[str]:
        raise _refused("listed", folder)

    def list(self, prefix: str) -> list[str]:
        raise _refused("listed", prefix)

    def delete(self, url: str) -> None:
        raise _refused("deleted", url)


def _refused(verb: str, url: str) -> RefusedError:
    return RefusedError(f"standard input and output cannot be {verb}", url=url, fix="give a path or an http URL")
