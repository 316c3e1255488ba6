"""Reading an object by HTTP from one byte to another, through dropped connections.

GET -> bytes … the connection drops -> GET with Range and If-Range (If-Match) -> the same object? -> bytes …
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from requests import Response

from shardtools.errors import ChangedError, RefusedError, UnavailableError
from shardtools.storage import ByteRange, Stat, Stream
from shardtools.storage.http_client import (
    Client,
    body_length,
    content_range,
    is_part,
    network_errors,
    receive_into,
)
from shardtools.storage.ranges import past_end
from shardtools.storage.retry import Budget, TransientError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# A connection that breaks loses the piece that is being read, so that a larger one might never come through on a bad
# line.
_PIECE = 1 << 20


def head(client: Client, url: str) -> Stat:
    """Return what the server says about an object, without reading it."""
    if (stat := client.stat(url)) is not None:
        return stat
    response = client.call("HEAD", url)
    right: tuple[int, ...] = (200,)
    if response.status_code in client.refuses_head:
        response = _first_byte(client, url)
        right = (200, 206)
    if response.status_code not in right:
        raise client.answer_error(response, url)
    return client.describe(response)


def _first_byte(client: Client, url: str) -> Response:
    """Return the answer to a GET of as little as possible: one byte, where the server sends parts."""
    response = client.call("GET", url, {"Range": "bytes=0-0"})
    if response.status_code == 416:  # it is empty
        response = client.call("GET", url)
    return response


class ObjectStream(Stream):
    """An object, or the part of it that ``span`` names, as a stream.

    ``stat`` describes the whole object, and ``ranged`` says whether the server sends parts of it.
    """

    def __init__(self, client: Client, url: str, span: ByteRange | None = None):
        super().__init__()
        self._client = client
        self._url = url
        self._span = span
        self._start = self._position = span.start if span else 0
        self._stop = span.stop if span else None
        self._behind = 0  # how many bytes come on the line before the one at _position
        self._budget = Budget(client.policy, url)
        self._response: Response | None = None
        self.stat = Stat(None, None)
        self.ranged = False
        while self._response is None:
            try:
                self._response = self._request()
            except TransientError as error:
                self._budget.wait(error)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view):
            data = self._next(min(len(view) - filled, _PIECE), view[filled:])
            if not data:
                break
            filled += len(data)
        return filled

    def readall(self) -> bytes:
        return self.read_up_to(None)

    def read_up_to(self, count: int | None) -> bytes:
        """Return the next ``count`` bytes, fewer only at the end; all that are left for None."""
        data = self._next(_PIECE if count is None else min(count, _PIECE))
        if len(data) == count or not data:
            return bytes(data)
        whole = BytesIO()  # grows without a copy, and gives away its bytes without one
        whole.write(data)
        while data := self._next(_PIECE if count is None else min(count - whole.tell(), _PIECE)):
            whole.write(data)
        return whole.getvalue()

    def skip(self, count: int) -> int:
        """Read and forget ``count`` bytes; return how many there were."""
        left = count
        while left and (data := self._next(min(left, _PIECE))):
            left -= len(data)
        return count - left

    def close(self) -> None:
        self._drop()
        super().close()

    def _next(self, count: int, into: memoryview | None = None) -> bytes | memoryview:
        """Return up to ``count`` of the bytes that follow, none at the end; with ``into`` they are at its beginning."""
        if self.closed:
            raise ValueError("read of a closed stream")
        while count:
            if self._stop is not None:
                count = min(count, self._stop - self._position)
                if count == 0:
                    break
            try:
                data = self._receive(count, into)
            except TransientError as error:
                self._recover(error)
                continue
            if data:
                self._budget.renew()
            self._position += len(data)
            return data
        return b""

    def _receive(self, count: int, into: memoryview | None) -> bytes | memoryview:
        if self._response is None:
            self._response = self._request()
        with network_errors(self._url):
            while self._behind:
                data = self._response.raw.read(min(self._behind, _PIECE), decode_content=False)
                if not data:
                    break
                self._behind -= len(data)
            if into is None:
                data = self._response.raw.read(count, decode_content=False)
            else:
                data = into[: receive_into(self._response, into[:count])]
        if not data and (self._stop is not None or self._behind):
            if self._span is not None and self.stat.size is None:
                raise past_end(self._span, None, self._url)
            raise TransientError("the answer ended too early")
        return data

    def _recover(self, error: TransientError) -> None:
        """Get ready for another attempt, from where this one stopped."""
        self._drop()
        if self._position > self._start and self.stat.validator is None:
            what = f"{error.what} at byte {self._position}, and the object has no ETag by which to go on"
            raise UnavailableError(what, url=self._url, fix="run again") from error
        self._budget.wait(error)

    def _drop(self) -> None:
        """Let go of the connection: it is in the pool already if all was read, and closed otherwise."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _request(self) -> Response:
        """Return the answer to a GET of the bytes from `_position` on."""
        headers = {}
        if self._position or self._span:
            headers["Range"] = f"bytes={self._position}-{'' if self._stop is None else self._stop - 1}"
        validator = self.stat.validator
        if headers and validator and not validator.startswith("W/"):
            headers[self._client.condition] = validator
        response = self._client.send("GET", self._url, headers)
        try:
            self._check(response, self._client.condition in headers)
        except BaseException:
            response.close()
            raise
        self.ranged = is_part(response)
        self._behind = 0 if self.ranged else self._position
        return response

    def _check(self, response: Response, conditional: bool) -> None:
        """Check that the answer has the bytes that were asked for, of the object that the first answer was about."""
        if response.status_code == 412 or (response.status_code == 416 and self._position > self._start):
            raise self._changed()
        if response.status_code == 416 and self._span:
            size = content_range(response)[2]
            raise past_end(self._span, head(self._client, self._url).size if size is None else size, self._url)
        if response.status_code not in (200, 206):
            raise self._client.answer_error(response, self._url)
        stat = self._client.describe(response)
        self._check_place(response, stat)
        if self._position == self._start:
            self.stat = stat  # also if it was known: the head of the first answer may have been cut off
        elif not self._is_same(stat, conditional and response.status_code == 206):
            raise self._changed()
        if self._span is None:
            self._stop = self.stat.size if stat.size is None else stat.size
        elif stat.size is not None and self._span.stop > stat.size:
            raise past_end(self._span, stat.size, self._url)

    def _check_place(self, response: Response, stat: Stat) -> None:
        """Check that the body begins where it should: a part at `_position`, and else it is the whole object."""
        length = body_length(response)
        if is_part(response):
            start, stop, size = content_range(response)
            if size is not None:
                stop = min(stop, size)  # some echo what they were asked for
            right = start == self._position and length in (None, stop - start)
        else:
            right = None in (length, stat.size) or length == stat.size
        if not right and self._span is not None and stat.size is not None and self._span.stop > stat.size:
            raise past_end(self._span, stat.size, self._url)
        if not right:
            fix = "read it by a program that follows the server's own protocol"
            raise RefusedError("the server sent other bytes than were requested", url=self._url, fix=fix)

    def _is_same(self, stat: Stat, confirmed: bool) -> bool:
        """``confirmed``: the server has compared the validators itself, and need not repeat its own."""
        if None not in (stat.size, self.stat.size) and stat.size != self.stat.size:
            return False
        return stat.validator == self.stat.validator or (confirmed and stat.validator is None)

    def _changed(self) -> ChangedError:
        return ChangedError("the object was replaced while it was read", url=self._url, fix="run again")
