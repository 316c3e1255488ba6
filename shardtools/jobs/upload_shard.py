"""The task of htupload: some samples of a source in, one shard out.

Part -> records; the next ones are read while these are packed -> Composer -> ShardWriter -> commit -> sidecar
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from shardtools.engine import check_cancelled
from shardtools.errors import LimitError, ShardtoolsError
from shardtools.jobs.options import OnError
from shardtools.jobs.target import (
    Counts,
    ShardResult,
    Target,
    digest,
    earlier_sidecar,
    is_own,
    shard_result,
    write_target,
)
from shardtools.shards.samples import Composer, Members
from shardtools.shards.writer import NewSamples, ShardWriter
from shardtools.sources import Part
from shardtools.sources.files import FilePart
from shardtools.storage import count, current_options

FORMAT = 2
"""Increased when the same task would write other bytes than before."""

_CHUNK_ROWS = 128
_CHUNK_BYTES = 4 << 20

_QUICK_SECONDS = 0.0005
_PATIENCE_SECONDS = 1.0
_turn = threading.Lock()


@dataclass
class _Chunk:
    """The samples of some rows, ready to be written; ``errors`` has row and error of each that could not be made."""

    rows: int
    samples: NewSamples
    errors: list[tuple[int, ShardtoolsError]]


@dataclass(frozen=True)
class UploadTask:
    """What one task does: write ``part`` of the source called ``source`` to ``target``; ``ahead`` reads in a thread."""

    source: str
    part: Part
    target: Target
    on_error: OnError = "fail"
    ahead: bool = False


def upload_shard(task: UploadTask) -> ShardResult:
    """Write one shard and return what became of it.

    Raises:
        ShardtoolsError: a sample cannot be read or written; the error names its file.
        OutputExistsError: the job is resumed, but another job has written the target.
    """
    try:
        sidecar = earlier_sidecar(task.target)
        if sidecar is not None and is_own(sidecar, task.target, _fingerprint(task.part)):
            done = shard_result(task.source, 0, task.target.url, sidecar, resumed=True)
            if task.on_error == "skip" or not done.counts.skipped:
                return done
        return _write(task)
    finally:
        task.part.close()


def _fingerprint(part: Part) -> str:
    return digest({"job": "upload", "format": FORMAT, "part": part.facts()})


def _write(task: UploadTask) -> ShardResult:
    skipped: list[tuple[str, str]] = []
    size = 0

    def fill(writer: ShardWriter) -> dict[str, Any]:
        nonlocal size
        for chunk in _read(task):
            check_cancelled()
            for row, error in chunk.errors:
                if task.on_error == "fail":
                    raise error
                skipped.append((task.part.key(row), str(error)))
            size += chunk.samples.size
            writer.add_all(chunk.samples)
            count("samples_read", chunk.rows)
            count("bytes_read", chunk.samples.size)
        writer.flush()
        return {
            "program": "htupload",
            "fingerprint": _fingerprint(task.part),  # after reading, which notes sizes and times of files
            "counts": asdict(Counts(read=len(task.part), skipped=len(skipped), written=writer.count)),
            "skipped": [list(entry) for entry in skipped],
        }

    sidecar = write_target(task.target, fill)
    return shard_result(task.source, size, task.target.url, sidecar)  # the size is known only now


def _read(task: UploadTask) -> Iterator[_Chunk]:
    """Yield the samples of the task's part, in their order."""
    chunks = _chunks(task)
    if not task.ahead:
        yield from chunks
        return
    with ThreadPoolExecutor(1, "shardtools-ahead") as pool:
        context = contextvars.copy_context()

        def following() -> _Chunk | None:
            return context.run(next, chunks, None)

        waiting = pool.submit(following)
        while (chunk := waiting.result()) is not None:
            waiting = pool.submit(following)
            yield chunk


def _chunks(task: UploadTask) -> Iterator[_Chunk]:
    """Yield the samples in chunks of a megabyte or so, or of one sample that is larger."""
    composer, part = Composer(), task.part
    row, quick = 0, True
    while row < len(part):
        with _in_turn(quick):
            started = time.monotonic()
            chunk = _read_chunk(task, composer, row)
            quick = time.monotonic() - started < _QUICK_SECONDS * chunk.rows
        row += chunk.rows
        yield chunk


@contextmanager
def _in_turn(quick: bool) -> Iterator[None]:
    """A context in which one thread at a time reads what is quick to read, while others pack and write.

    A small file in the page cache is read in a few microseconds, by system calls that release Python's lock. Threads
    that wait for the lock after each call are slower than one thread alone. What is slow to read, such as a file on a
    network, is read by all threads at once.
    """
    taken = quick and _turn.acquire(timeout=_PATIENCE_SECONDS)
    try:
        yield
    finally:
        if taken:
            _turn.release()


def _read_chunk(task: UploadTask, composer: Composer, row: int) -> _Chunk:
    """Return the samples from ``row`` on that make a chunk."""
    part = task.part
    make = part.members if isinstance(part, FilePart) else partial(_members, part)
    samples = NewSamples()
    errors: list[tuple[int, ShardtoolsError]] = []
    limits = current_options().limits
    at = row
    stop = min(row + _CHUNK_ROWS, len(part))
    while at < stop and samples.size < _CHUNK_BYTES:
        try:
            key, members = make(at, composer)
            limits.check("sample", sum(map(len, members[1])), url=task.source, member=key)
        except ShardtoolsError as error:
            errors.append((at, error if error.url else error.at(task.source, part.key(at))))
        except MemoryError:
            what, fix = (
                "the sample needs more memory than there is",
                "use less -j, or leave it out with --on-error skip",
            )
            errors.append((at, LimitError(what, url=task.source, member=part.key(at), fix=fix)))
        else:
            samples.add(key, members)
        at += 1
    return _Chunk(at - row, samples, errors)


def _members(part: Part, row: int, composer: Composer) -> tuple[str, Members]:
    return composer.compose(part.record(row))
