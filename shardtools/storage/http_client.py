"""What all services that are used over HTTP share: attempts, and which error an answer means.

    url -> request: one request, as the service wants it -> a response, TransientError, or StorageError

A service is a subclass of `Client`: ``http_session.HttpClient`` for web servers, and one each for S3 and Google Cloud
Storage. ``http_stream.py`` and ``http_ranges.py`` read through any of them.
"""

from __future__ import annotations

import re
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http.client import HTTPException, HTTPResponse
from types import MappingProxyType
from typing import ClassVar, TypeVar
from urllib.parse import urlsplit

import requests
from requests import exceptions as failures
from urllib3.exceptions import HTTPError, LocationValueError, ReadTimeoutError

from shardtools.errors import (
    AccessError,
    FullError,
    NotFoundError,
    RefusedError,
    ShardtoolsError,
    StorageError,
    UnavailableError,
    redact,
)
from shardtools.forks import PerProcess
from shardtools.storage import Coalescing, Stat, current_options
from shardtools.storage.retry import TRANSIENT_STATUSES, RetryPolicy, TransientError, retry_after_seconds

T = TypeVar("T")
A = TypeVar("A")
Meaning = tuple[type[StorageError], str, str]
"""What a status means: the error, what to say, and what to do."""

THREADS = 8
"""Requests at a time for one call that needs many."""

_CONNECT_SECONDS = 10.0
_PIECE = 1 << 20
_SMALL = 1 << 16  # an answer longer than this costs more to read than a new connection
_SETTLING_SECONDS = 2  # one for the resolution, one for clocks that do not tick together
_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)\s*$", re.IGNORECASE | re.ASCII)
_BAD_URLS = (
    failures.InvalidURL,
    failures.InvalidSchema,
    failures.MissingSchema,
    failures.InvalidProxyURL,
    LocationValueError,
)

_TOO_LATE = "the server did not answer in time"
_METHOD_FIX = "see that it does at this place (nginx: dav_methods PUT DELETE MKCOL COPY MOVE)"
_CREDENTIALS_FIX = "check the credentials, and what they allow"
MEANINGS: Mapping[int, Meaning] = MappingProxyType(
    {
        401: (AccessError, "the server requires other credentials", _CREDENTIALS_FIX),
        403: (AccessError, "the server does not allow this", _CREDENTIALS_FIX),
        404: (NotFoundError, "there is no such object", "check the URL"),
        410: (NotFoundError, "there is no such object any more", "check the URL"),
        416: (RefusedError, "the object does not have the bytes that were asked for", "check its index"),
        507: (FullError, "the server has no space left", "free some space there"),
    }
)


def timeouts(seconds: float) -> tuple[float, float]:
    """Return how many seconds to wait for a connection, and for the next bytes on it.

    >>> timeouts(60), timeouts(3)
    ((10.0, 60), (3, 3))
    """
    return min(_CONNECT_SECONDS, seconds), seconds


def _new_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "shardtools-http")


class Client(ABC):
    """Sends requests to a service and turns its answers into results or errors. Safe in threads and after a fork."""

    meanings: ClassVar[Mapping[int, Meaning]] = MEANINGS
    """Which error each status means."""

    condition: ClassVar[str] = "If-Range"
    """The header that asks for the rest of an object only if it still has the validator that the header names."""

    refuses_head: ClassVar[frozenset[int]] = frozenset({405, 501})
    """The statuses after which a HEAD is repeated as a GET of one byte."""

    sends_parts: ClassVar[bool] = False
    """Whether the service is known to answer a GET of a byte range with just these bytes."""

    coalescing: ClassVar[Coalescing] = Coalescing(gap=1 << 11, largest=1 << 24)
    """Ranges closer than that take less time as one than as two. A request with several ranges is repeated whole when
    it fails, so it must not be too large; a longer span has a request of its own, which is resumed."""

    def __init__(self, policy: RetryPolicy):
        self.policy = policy
        self._pool = PerProcess(_new_pool)
        self.multirange: dict[str, bool] = {}
        """Whether a server (scheme, host and port) answers many ranges in one response; learned by asking."""

    @abstractmethod
    def request(self, method: str, url: str, headers: Mapping[str, str] | None, body: object) -> requests.Response:
        """Return the answer to one request, its body not yet read; `network_errors` is around it.

        ``url`` is the one that the user knows, which the service's own may differ from.
        """

    def send(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: object = None
    ) -> requests.Response:
        """Return the answer to one attempt, its body not yet read. The caller closes it.

        Raises:
            TransientError: the connection failed, or the answer says that the failure may pass.
            StorageError: trying again cannot help.
        """
        with network_errors(url):
            response = self.request(method, url, headers, body)
        if response.status_code >= 400:
            self.check_transient(response)
        elif method == "GET" and response.status_code in (200, 206) and not _has_whole_head(response):
            response.close()
            raise TransientError("the head of the answer was cut off")
        return response

    def check_transient(self, response: requests.Response) -> None:
        """Raise TransientError, with the answer closed, if it tells of a failure that may pass."""
        if response.status_code in TRANSIENT_STATUSES:
            discard(response)
            wait = retry_after_seconds(response.headers.get("Retry-After"))
            fix = "look at the server's error log; its disk may be full" if response.status_code == 500 else None
            raise TransientError(f"the server answered {status_of(response)}", wait, fix)

    def call(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: object = None
    ) -> requests.Response:
        """Return the answer, whatever its status, without its body; transient failures are retried.

        Raises:
            UnavailableError: it kept failing.
        """

        def attempt() -> requests.Response:
            response = self.send(method, url, headers, body)
            if body and response.status_code >= 400:
                response.close()  # it may have answered before it had read all: what follows on this line is unclear
            else:
                discard(response)
            return response

        return self.policy.run(url, attempt)

    def map(self, function: Callable[[A], T], items: Iterable[A]) -> list[T]:
        """Return ``function(item)`` for each item, run in a few threads. The first exception ends it."""
        pool = self._pool.get()
        futures = [pool.submit(copy_context().run, function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def stat(self, url: str) -> Stat | None:
        """Return size and validator by a request of the service's own; None where HEAD is used."""
        return None

    def describe(self, response: requests.Response) -> Stat:
        """Return the size of the whole object and its validator, as far as the headers of an answer tell."""
        headers = response.headers
        validator = headers.get("ETag") or headers.get("Last-Modified")
        size = content_range(response)[2] if is_part(response) else body_length(response)
        return Stat(size, validator, _is_settled(headers), _seconds(headers.get("Last-Modified", "")))

    def answer_error(
        self, response: requests.Response, url: str, meanings: Mapping[int, Meaning] = MappingProxyType({})
    ) -> StorageError:
        """Return the error that an answer's status means, by ``meanings`` if they have it and in general otherwise."""
        status = response.status_code
        if status in meanings or status in self.meanings:
            error, what, fix = meanings.get(status) or self.meanings[status]
        elif status in (405, 501):
            error, what, fix = RefusedError, f"the server does not accept {response.request.method}", _METHOD_FIX
        elif 300 <= status < 400:
            target = redact(response.headers.get("Location", "another place"))
            error, what, fix = RefusedError, f"the server redirects to {target}", "use that URL"
        else:
            error, what, fix = RefusedError, "the server refused", "see whether the URL is right"
        return error(f"{what} ({status_of(response)})", url=url, fix=fix)


@contextmanager
def network_errors(url: str) -> Iterator[None]:
    """A context that turns what requests, urllib3 and sockets raise into TransientError or StorageError."""
    try:
        yield
    except ShardtoolsError:
        raise
    except _BAD_URLS as error:
        raise bad_url(url) from error
    except (failures.InvalidHeader, UnicodeError) as error:
        raise RefusedError(
            "a header has characters that HTTP cannot send", url=url, fix="check the headers that are set for it"
        ) from error
    except failures.TooManyRedirects as error:
        raise RefusedError("the server redirects in circles", url=url, fix="check the URL") from error
    except (HTTPError, HTTPException, OSError) as error:  # requests' own are OSErrors
        raise connection_error(error, url) from error


def connection_error(error: BaseException, url: str) -> Exception:
    """Return what a broken connection means, from the first exception in its chain that says it."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            what = f"the server's certificate is not trusted ({link.verify_message})"
            return RefusedError(what, url=url, fix="name the authority's certificate in REQUESTS_CA_BUNDLE")
        if isinstance(link, socket.gaierror):
            if link.errno == socket.EAI_AGAIN:
                return TransientError("the name of the host could not be looked up")
            return UnavailableError("the host is unknown", url=url, fix="check the URL")
        if isinstance(link, (failures.ReadTimeout, ReadTimeoutError)):
            return TransientError(_TOO_LATE)
        if isinstance(link, (failures.ConnectTimeout, TimeoutError)):
            return TransientError("connecting to the server took too long")
        if isinstance(link, ConnectionRefusedError):
            return TransientError("the connection was refused")
        link = link.__cause__ or link.__context__
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return StorageError(f"the request failed ({error.strerror})", url=url, fix="check the machine's network set-up")
    return TransientError("the connection broke off")


def status_of(response: requests.Response) -> str:
    """Return the status of an answer as a text, such as ``404 Not Found``."""
    return f"{response.status_code} {response.reason or ''}".rstrip()


def is_address(text: str) -> bool:
    """Return whether a text is the URL of a web server.

    >>> is_address("http://minio:9000"), is_address("minio:9000"), is_address("http://minio:port")
    (True, False, False)
    """
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def content_range(response: requests.Response) -> tuple[int, int, int | None]:
    """Return start, stop and the object's size from Content-Range; -1, -1 and None for what it does not say."""
    match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if not match:
        return -1, -1, None
    start, stop = (int(match[1]), int(match[2]) + 1) if match[1] else (-1, -1)
    return start, stop, None if match[3] == "*" else int(match[3])


def is_part(response: requests.Response) -> bool:
    """Return whether an answer has a part of the object, whatever its status says.

    Some servers answer 200 to a range, with a Content-Range that tells which part it is.
    """
    if response.status_code != 200:
        return response.status_code == 206
    start, stop, size = content_range(response)
    return start >= 0 and (start, stop) != (0, size)


def body_length(response: requests.Response) -> int | None:
    """Return the number of bytes of an answer's body, None if its head does not say it."""
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return None if chunked else count_of(response.headers.get("Content-Length"))


def count_of(text: object) -> int | None:
    """Return the number of bytes that a text, or JSON, says; None if it is no such number.

    >>> count_of("12"), count_of(12), count_of("-1"), count_of("²"), count_of("9" * 5000), count_of(None)
    (12, 12, None, None, None, None)
    """
    text = str(text)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def read_whole(response: requests.Response, url: str) -> bytes:
    """Return the body of an answer, which is kept as its ``content``, too.

    Raises:
        TransientError: the connection broke off.
        LimitError: it is larger than a listing, which is the largest of what is read so, may be.
    """
    limits = current_options().limits
    pieces, size = [], 0
    with network_errors(url):
        while piece := response.raw.read(_PIECE, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > limits.listing:
                response.close()
                limits.check("listing", size, url=url)
    response.close()
    response._content = b"".join(pieces)
    response._content_consumed = True  # type: ignore[attr-defined]
    return response.content


def receive_into(response: requests.Response, buffer: memoryview) -> int:
    """Fill a buffer with the bytes of a body that follow; return how many there are, fewer only at its end.

    `network_errors` is around it. The ``readinto`` of urllib3 reads bytes and copies them; that of Python's
    http.client, which lies below, lets the system write into the buffer.
    """
    raw = response.raw
    below = getattr(raw, "_fp", None)
    if not isinstance(below, HTTPResponse):
        data = raw.read(len(buffer), decode_content=False)
        buffer[: len(data)] = data
        return len(data)
    try:
        count = below.readinto(buffer)
    except TimeoutError as error:
        raise TransientError(_TOO_LATE) from error
    if below.isclosed():
        raw.release_conn()
    return count


def discard(response: requests.Response) -> None:
    """Read the rest of a short answer, so that its connection can be used again; close a longer one."""
    try:
        response.raw.read(_SMALL, decode_content=False)
    except (HTTPError, HTTPException, OSError):
        response.raw.close()  # the answer is in, only its line is lost
    response.close()


def _has_whole_head(response: requests.Response) -> bool:
    """Return whether an answer tells where its body ends, and which part it is.

    Python's http.client takes a connection that ends within the head for the end of the head, and of an empty body.
    """
    headers = response.headers
    closes = response.raw.version < 11 or headers.get("Connection", "").lower() == "close"
    many = headers.get("Content-Type", "").lower().startswith("multipart/byteranges")
    counted = headers.get("Content-Length", "").isdigit() or headers.get("Transfer-Encoding", "").lower() == "chunked"
    return (closes or counted) and (response.status_code != 206 or many or "Content-Range" in headers)


def _is_settled(headers: Mapping[str, str]) -> bool:
    """Return whether the validator of an answer is that of these bytes alone, and will be.

    One that is weak need not tell every byte. One that is made from the modification time, in whole seconds, as that
    of nginx is, becomes good only when the second is over (RFC 9110, 8.8.2.2).
    """
    if headers.get("ETag", "").startswith("W/"):
        return False
    modified, now = headers.get("Last-Modified"), headers.get("Date")
    if modified is None:
        return True
    written, asked = _seconds(modified), _seconds(now or "")
    return written is not None and asked is not None and asked - written >= _SETTLING_SECONDS


@lru_cache(maxsize=1024)  # as reading a date takes longer than the rest of an answer's head
def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def bad_url(url: str) -> RefusedError:
    """Return the error for a text that no request can be sent to."""
    return RefusedError("this is not a valid URL", url=url, fix="check the URL")
