"""Writing an object over HTTP: collected first, then sent by one PUT, which a server makes visible when it is whole.

Creating one only if there is none needs more, because servers such as nginx ignore If-None-Match on a PUT, and let two
clients win a MOVE of a file. A MOVE of a *collection* with ``Overwrite: F`` has one winner:

    PUT .name.<id>.tmp/data -> MOVE .name.<id>.tmp/ to .name.once/ -> the winner PUTs the object itself

``.name.once/data`` holds the id of the write and the object's bytes. A writer whose answer was lost knows by the id
that it has won, and when the winner died before its last step, the next writer to lose does that step for it. The
collection stays, so that nobody can win again, until the object is deleted. Listings do not show it.

Folders that a server does not make by itself, as Apache does not, are made by MKCOL.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from io import BytesIO
from os import pread
from typing import BinaryIO
from urllib.parse import urlsplit

import requests

from shardtools.errors import ExistsError, FullError, NotFoundError, RefusedError, StorageError, UnavailableError
from shardtools.storage import Buffer, ByteRange
from shardtools.storage.exclusive import ensure_exclusive
from shardtools.storage.files import FileSink, batches, os_errors
from shardtools.storage.http_client import Meaning
from shardtools.storage.http_ranges import read_ranges
from shardtools.storage.http_session import HttpClient
from shardtools.storage.http_stream import ObjectStream, head
from shardtools.storage.retry import TransientError
from shardtools.urls import media_type, name_of, server_of, split_path

MEMORY = 4 << 20
"""Bytes of an object that are kept in memory before they go to a temporary file."""

_PIECE = 1 << 20
_PROBE = 4096
_PROBES = 8
_ID_LENGTH = 32
_CREATED = (200, 201, 204)
_NO_FOLDER = (404, 409)
_ATTEMPTS = 3
_FOLDER_THERE = (
    201,
    403,
    405,
)  # 405: it is there, or the server makes none; 403: another has just made it, at Apache's
_DELETED = (200, 202, 204, 404, 410)
_FOLDER_FIX = "make the folder there, or let the server make it (nginx: create_full_put_path on)"
_PUT_MEANINGS: dict[int, Meaning] = {
    404: (NotFoundError, "there is no such folder on the server", _FOLDER_FIX),
    409: (RefusedError, "the server cannot put an object here", _FOLDER_FIX),
    413: (
        RefusedError,
        "the object is larger than the server accepts",
        "raise its limit (nginx: client_max_body_size)",
    ),
}


def _read_into(buffer: memoryview, fd: int, offset: int) -> int:
    """Fill a buffer from a place of a file, as far as there is something; return how many bytes that were."""
    if hasattr(os, "preadv"):  # not in every macOS
        return os.preadv(fd, [buffer], offset)
    data = pread(fd, len(buffer), offset)
    buffer[: len(data)] = data
    return len(data)


class Spool:
    """The bytes of an object on their way to a server: in memory, then in a temporary file that has no name.

    It has a length and can be iterated again and again, which is what a PUT that may be repeated needs.
    """

    def __init__(self, url: str):
        self._url = url
        self._memory = BytesIO()
        self._file: BinaryIO | None = None
        self._sink: FileSink | BytesIO = self._memory
        self._size = 0

    def write(self, data: Buffer, /) -> int:
        self.writelines([data])
        return memoryview(data).nbytes

    def writelines(self, parts: Iterable[Buffer], /) -> None:
        for batch in batches(parts):
            try:
                self._sink.writelines(batch)
                self._size += sum(memoryview(part).nbytes for part in batch)
                if self._file is None and self._size > MEMORY:
                    self._leave_memory()
            except FullError as error:
                what = f"no space left in the temporary folder {tempfile.gettempdir()}"
                raise FullError(what, url=self._url, fix="free some, or set TMPDIR to a larger folder") from error

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[memoryview]:
        if self._file is None:
            data = memoryview(self._memory.getvalue())
            yield from (data[offset : offset + _PIECE] for offset in range(0, self._size, _PIECE))
            return
        piece = memoryview(bytearray(_PIECE))
        offset = 0
        while offset < self._size:
            count = _read_into(piece, self._file.fileno(), offset)
            if not count:
                raise StorageError("its temporary file was cut off", url=self._url, fix="run again")
            yield piece[:count]
            offset += count

    def piece(self, span: ByteRange) -> bytes:
        """Return some of the bytes."""
        if self._file is None:
            return bytes(self._memory.getbuffer()[span.start : span.stop])
        return pread(self._file.fileno(), span.stop - span.start, span.start)

    def close(self) -> None:
        """Free the memory and the disk."""
        self._sink = self._memory = BytesIO()
        if self._file is not None:
            self._file.close()

    def _leave_memory(self) -> None:
        with os_errors(self._url):
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed by close
        self._sink = FileSink(self._file.fileno(), self._url)
        self._sink.write(self._memory.getbuffer())
        self._memory = BytesIO()


def put(client: HttpClient, url: str, body: Spool) -> None:
    """Store ``body`` as the object, repeating the whole PUT after a transient failure; missing folders are made."""
    kind = media_type(url)
    headers = None if kind is None else {"Content-Type": kind}
    response = client.call("PUT", url, headers, body if len(body) else b"")
    for _ in range(_ATTEMPTS):  # several that make the same folders may be in each other's way
        if response.status_code not in _NO_FOLDER or not _make_folders(client, url):
            break
        response = client.call("PUT", url, headers, body if len(body) else b"")
    if response.status_code not in _CREATED:
        raise client.answer_error(response, url, _PUT_MEANINGS)


def _make_folders(client: HttpClient, url: str) -> bool:
    """Make the folders above an object; return whether any is there now, as far as the server tells."""
    before, path, query = split_path(url)
    missing: list[str] = []
    status = 0
    while path := path.rstrip("/").rpartition("/")[0]:
        folder = f"{before}{path}/{query}"
        status = client.call("MKCOL", folder).status_code
        if status in _FOLDER_THERE:
            break
        if status not in _NO_FOLDER:
            return False
        missing.append(folder)
    made = [client.call("MKCOL", folder).status_code in _FOLDER_THERE for folder in reversed(missing)]
    return status in _FOLDER_THERE or any(made)


def store(client: HttpClient, url: str, body: Spool) -> None:
    """Store ``body`` as the object, and see that it was: both are done again if what lies there is something else."""

    def attempt() -> None:
        put(client, url, body)
        _verify(client, url, body)

    client.policy.run(url, attempt)


def _verify(client: HttpClient, url: str, body: Spool) -> None:
    """Compare what the server has now with what was sent: the size, and some pieces, the whole of a small object.

    HTTP has no checksum that servers agree on, and what they store was checked by TCP on its way; this is about
    uploads that were cut off, and about what proxies and caches between here and there may do.

    Raises:
        TransientError: it is something else.
    """
    size = len(body)
    spans = [ByteRange(0, size)]
    if size > _PROBE * _PROBES:
        starts = [(size - _PROBE) * i // (_PROBES - 1) for i in range(_PROBES)]
        spans = [ByteRange(start, start + _PROBE) for start in starts]
    same = head(client, url).size in (None, size)
    try:
        same = same and (not size or read_ranges(client, url, spans) == [body.piece(span) for span in spans])
    except RefusedError:  # it has fewer bytes than these
        same = False
    if not same:
        what = "the server does not have what was sent to it"
        raise TransientError(what, fix="look at its disk, and at proxies and caches on the way; then run again")


def create_once(client: HttpClient, url: str, data: bytes) -> None:
    """Create the object only if there is none, as `Storage.create_exclusive` promises."""
    if _is_there(client, url):
        raise _exists(url)
    try:
        ensure_exclusive(server_of(url), url, lambda probe: _wins_twice(client, probe))
        winner = _compete(client, url, data)
    except StorageError as error:
        raise type(error)(error.what, url=url, fix=error.fix) from error  # a hidden URL would say nothing
    if winner is None:
        _put_bytes(client, url, data)
        return
    if not _is_there(client, url):
        _put_bytes(client, url, winner)
    raise _exists(url)


def remove(client: HttpClient, url: str) -> None:
    """Delete the object, and before it what `create_once` left beside it."""
    client.call("DELETE", _hidden(url, "once"))  # nearly always 404; a server that refuses it refuses the next one
    response = client.call("DELETE", url)
    if response.status_code not in _DELETED:
        raise client.answer_error(response, url)


def _compete(client: HttpClient, url: str, data: bytes) -> bytes | None:
    """Try to be the one that may create the object; return None, or the data of the one that may."""
    write_id = uuid.uuid4().hex
    draft = _hidden(url, f"{write_id}.tmp")
    try:
        _put_bytes(client, draft + "data", write_id.encode(), data)
        winner = _claim(client, draft, _hidden(url, "once"), write_id.encode())
    except StorageError:
        _remove(client, draft)
        raise
    if winner is not None:
        _remove(client, draft)
    return winner


def _wins_twice(client: HttpClient, url: str) -> bool:
    """Return whether two can be the one that may create an object; what that leaves is removed again."""
    try:
        _compete(client, url, b"1")
        return _compete(client, url, b"2") is None
    finally:
        _remove(client, _hidden(url, "once"))


def _claim(client: HttpClient, draft: str, target: str, write_id: bytes) -> bytes | None:
    """Rename the collection ``draft`` to ``target``, which only one can do; return None, or the winner's data."""
    try:
        response = _move(client, draft, target)
        if response.status_code == 201:
            return None
        failure: StorageError = client.answer_error(response, target)
    except UnavailableError as error:
        failure = error
    # Any other answer may mean that another has won, or that this has and the answer was lost: the id tells.
    try:
        with ObjectStream(client, target + "data") as stream:
            stored = stream.readall()
    except NotFoundError:
        raise failure from None
    return None if stored[:_ID_LENGTH] == write_id else stored[_ID_LENGTH:]


def _move(client: HttpClient, source: str, target: str) -> requests.Response:
    """Rename a collection, if there is nothing at ``target``; return the answer."""
    parts = urlsplit(requests.Request("MOVE", target).prepare().url or target)
    response = client.call("MOVE", source, {"Destination": parts.path, "Overwrite": "F"})
    if response.status_code == 400:  # Apache wants a whole URL, which other servers may not know behind a proxy
        whole = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        response = client.call("MOVE", source, {"Destination": whole, "Overwrite": "F"})
    return response


def _put_bytes(client: HttpClient, url: str, *parts: bytes) -> None:
    with closing(Spool(url)) as spool:
        spool.writelines(parts)
        put(client, url, spool)


def _is_there(client: HttpClient, url: str) -> bool:
    try:
        head(client, url)
    except NotFoundError:
        return False
    return True


def _exists(url: str) -> ExistsError:
    return ExistsError("the object exists already", url=url, fix="choose another name")


def _remove(client: HttpClient, draft: str) -> None:
    with suppress(StorageError):  # it is hidden, and what went wrong before is the better thing to report
        client.call("DELETE", draft)


def _hidden(url: str, ending: str) -> str:
    """Return the URL of the hidden collection ``.name.ending/`` beside an object."""
    before, path, _ = split_path(url)
    return f"{before}{path[: len(path) - len(name_of(url))]}.{name_of(url)}.{ending}/"
