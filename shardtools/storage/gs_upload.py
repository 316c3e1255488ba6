"""Writing an object to Google Cloud Storage: sent while it is written, visible when the last piece has come.

    write -> a piece is full -> PUT with Content-Range -> 308, and how much has arrived … -> the last piece -> object

This is the service's resumable upload. After a failure it is asked how much it has, and the rest is sent again. What
fits into one piece goes by a single request. The service compares the CRC-32C that comes with the last piece before
the object becomes visible; what it says of the object then is compared once more.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import google_crc32c
import requests

from shardtools.errors import ChangedError, ExistsError, NotFoundError, StorageError
from shardtools.storage import Buffer
from shardtools.storage.buckets import split_url
from shardtools.storage.exclusive import can_win_twice, ensure_exclusive
from shardtools.storage.gs_client import GsClient, object_path, parse
from shardtools.storage.http_client import count_of
from shardtools.storage.retry import Budget, TransientError
from shardtools.urls import media_type

PIECE = 8 << 20
"""Bytes that are sent at a time."""

_UNIT = 1 << 18  # the service keeps whole multiples of this, until the last piece
_WRITE_ID = "shardtools-write"
_TYPE = "application/octet-stream"


class ResumableSink:
    """The sink of one object. `finish` makes it appear, `abort` leaves nothing."""

    def __init__(self, client: GsClient, url: str):
        self._client = client
        self._url = url
        self._bucket, self._name = split_url(url)
        self._buffer = bytearray()
        self._sent = 0
        self._session: str | None = None
        self._checksum = google_crc32c.Checksum()
        self._write_id = uuid4().hex

    def write(self, data: Buffer, /) -> int:
        size = memoryview(data).nbytes
        view = memoryview(data).cast("B") if size else memoryview(b"")
        at = 0
        while at < size:
            if len(self._buffer) == PIECE:  # only now: the last piece must have something in it
                self._send_piece()
            step = min(PIECE - len(self._buffer), size - at)
            self._buffer += view[at : at + step]
            at += step
        return size

    def writelines(self, parts: Iterable[Buffer], /) -> None:
        for part in parts:
            self.write(part)

    def finish(self) -> None:
        """Make the object appear, and see that it is what was written."""
        if self._session is None:
            put_object(self._client, self._url, bytes(self._buffer), self._write_id)
            return
        piece = bytes(self._buffer)
        self._checksum.update(piece)
        entry = self._send(piece, last=True)
        _compare(self._client, self._url, entry, self._sent + len(piece), _encoded(self._checksum))

    def abort(self) -> None:
        """Forget what was sent."""
        if self._session is not None:
            with suppress(StorageError, TransientError):  # it is never visible, and forgotten after a week
                self._client.call_api("DELETE", self._url, self._session, headers={"Content-Length": "0"})

    def _send_piece(self) -> None:
        if self._session is None:
            self._session = self._begin()
        piece = bytes(self._buffer)
        self._checksum.update(piece)
        self._send(piece, last=False)
        self._sent += len(piece)
        self._buffer.clear()

    def _begin(self) -> str:
        query = urlencode({"uploadType": "resumable", "name": self._name})
        path = f"/upload/storage/v1/b/{quote(self._bucket, safe='')}/o?{query}"
        body = json.dumps({"metadata": {_WRITE_ID: self._write_id}}).encode()
        headers = {"Content-Type": "application/json; charset=UTF-8", "X-Upload-Content-Type": _TYPE}

        def attempt() -> str:
            response = self._client.call_api("POST", self._url, path, headers=headers, body=body)
            if "Location" not in response.headers:
                raise TransientError("the answer has no URL for the upload")
            return response.headers["Location"]

        return self._client.policy.run(self._url, attempt)

    def _send(self, piece: bytes, *, last: bool) -> dict[str, Any]:
        """Send a piece, in several attempts if need be; return what the service says of the object after the last."""
        budget = Budget(self._client.policy, self._url)
        end = self._sent + len(piece)
        total = str(end) if last else "*"
        done, failed = 0, False
        while True:
            try:
                if failed or done == len(piece):
                    response = self._put(b"", f"bytes */{total}", last=False)
                else:
                    response = self._put(piece[done:], f"bytes {self._sent + done}-{end - 1}/{total}", last=last)
            except TransientError as error:
                failed = True
                budget.wait(error)
                continue
            except NotFoundError as error:
                entry = _read_entry(self._client, self._url) if last else {}
                if _write_id_of(entry) == self._write_id:  # it is there; only an answer that said so was lost
                    return entry
                what = "the service no longer knows the upload"
                raise StorageError(what, url=self._url, fix="run again") from error
            if response.status_code in (200, 201):
                return parse(response, self._url)
            arrived = self._arrived(response, end)
            if not 0 <= arrived <= len(piece):
                what = "the service received other bytes of this upload than were sent"
                raise StorageError(what, url=self._url, fix="run again")
            if arrived == len(piece) and not last:
                return {}
            if arrived > done:
                budget.renew()
            elif not failed:
                budget.wait(TransientError("the service did not store what was sent"))
            done, failed = arrived, False

    def _put(self, data: bytes, content_range: str, *, last: bool) -> requests.Response:
        headers = {"Content-Range": content_range, "Content-Type": _TYPE}
        if last:
            headers["X-Goog-Hash"] = f"crc32c={_encoded(self._checksum)}"
        assert self._session is not None
        return self._client.call_api("PUT", self._url, self._session, headers=headers, body=data)

    def _arrived(self, response: requests.Response, end: int) -> int:
        """Return how much of the piece that ends at ``end`` the service has, by the Range of its answer."""
        last = count_of(response.headers.get("Range", "").rpartition("-")[2])
        total = 0 if last is None else last + 1
        return (total if total == end else total // _UNIT * _UNIT) - self._sent


@contextmanager
def resumable_sink(client: GsClient, url: str) -> Iterator[ResumableSink]:
    """A context that gives out the sink of a new object, as `Storage.create` promises."""
    sink = ResumableSink(client, url)
    try:
        yield sink
        sink.finish()
    except BaseException:
        sink.abort()
        raise


def put_object(client: GsClient, url: str, data: bytes, write_id: str, *, exclusive: bool = False) -> None:
    """Store a small object by one request.

    Raises:
        ChangedError: ``exclusive``, and there is one already.
    """
    bucket, name = split_url(url)
    checksum = google_crc32c.Checksum(data)
    entry = {"name": name, "crc32c": _encoded(checksum), "metadata": {_WRITE_ID: write_id}}
    boundary, kind = uuid4().hex, media_type(url) or _TYPE
    body = b"".join(
        (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n".encode(),
            json.dumps(entry).encode(),
            f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: binary\r\n\r\n".encode(),
            data,
            f"\r\n--{boundary}--\r\n".encode(),
        )
    )
    query = {"uploadType": "multipart"} | ({"ifGenerationMatch": "0"} if exclusive else {})
    path = f"/upload/storage/v1/b/{quote(bucket, safe='')}/o"
    headers = {"Content-Type": f'multipart/related; boundary="{boundary}"'}

    def attempt() -> dict[str, Any]:
        return parse(client.call_api("POST", url, path, query, headers, body), url)

    _compare(client, url, client.policy.run(url, attempt), len(data), _encoded(checksum))


def create_once(client: GsClient, url: str, data: bytes) -> None:
    """Create the object only if there is none, as `Storage.create_exclusive` promises.

    By the id of the write, a writer whose answer was lost knows whether it has won. Whether the service respects the
    condition is tested first, as some emulators do not.
    """
    place = f"{client.endpoint(url)}/{split_url(url)[0]}"
    ensure_exclusive(place, url, lambda probe: _wins_twice(client, probe))
    write_id = uuid4().hex
    try:
        put_object(client, url, data, write_id, exclusive=True)
    except ChangedError as error:
        if _write_id_of(_read_entry(client, url)) != write_id:
            raise ExistsError("the object exists already", url=url, fix="choose another name") from error


def _wins_twice(client: GsClient, url: str) -> bool:
    """Return whether an object can be created twice, each time only if there is none; it is deleted again."""
    return can_win_twice(
        lambda data: put_object(client, url, data, uuid4().hex, exclusive=True),
        lambda: client.json("DELETE", url, object_path(url)),
    )


def _read_entry(client: GsClient, url: str) -> dict[str, Any]:
    """Return what the service says of the object, {} if there is none."""
    try:
        return client.json("GET", url, object_path(url))
    except NotFoundError:
        return {}


def _write_id_of(entry: dict[str, Any]) -> str | None:
    """Return the id that the write of an object has left in its metadata, None if there is none."""
    found: str | None = entry.get("metadata", {}).get(_WRITE_ID)
    return found


def _compare(client: GsClient, url: str, entry: dict[str, Any], size: int, checksum: str) -> None:
    """Compare the object that the service tells of with what was sent; delete it if it is another.

    Raises:
        StorageError: it is.
    """
    if entry.get("crc32c") == checksum and count_of(entry.get("size")) == size:
        return
    generation = entry.get("generation")
    if generation is not None:
        with suppress(StorageError):
            client.json("DELETE", url, object_path(url), {"ifGenerationMatch": str(generation)})
    what = "the service received other bytes than were sent, and the object was deleted"
    raise StorageError(what, url=url, fix="run again; if it happens again, check the proxies on the way")


def _encoded(checksum: Any) -> str:
    return b64encode(checksum.digest()).decode()
