"""HTTP exchanges: pooled sessions, and the meaning of what a server answers.

    url -> session of this process and thread -> one attempt -> a response, TransientError, or StorageError

Credentials are those that requests finds: ``.netrc``, or ``user:password@`` in the URL. Headers for every request to
any server come from the environment variable ``SHARDTOOLS_HTTP_HEADERS``, one ``Name: value`` a line. Neither is
pickled, logged, or part of an error.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests import exceptions as failures
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, LocationValueError, ReadTimeoutError

from shardtools import __version__
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
from shardtools.spec import split_path
from shardtools.storage import Stat
from shardtools.storage.retry import TRANSIENT_STATUSES, RetryPolicy, TransientError, retry_after_seconds

T = TypeVar("T")
A = TypeVar("A")
Meaning = tuple[type[StorageError], str, str]
"""What a status means: the error, what to say, and what to do."""

HEADERS_VARIABLE = "SHARDTOOLS_HTTP_HEADERS"
THREADS = 8
"""Requests at a time for one call that needs many."""

_SMALL = 1 << 16  # an answer longer than this costs more to read than a new connection
_FOLLOWED = ("GET", "HEAD")
_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)\s*$", re.IGNORECASE)
_BAD_URLS = (
    failures.InvalidURL,
    failures.InvalidSchema,
    failures.MissingSchema,
    failures.InvalidProxyURL,
    LocationValueError,
)

_METHOD_FIX = "see that it does at this place (nginx: dav_methods PUT DELETE MKCOL COPY MOVE)"
_HEADERS_FIX = f"check {HEADERS_VARIABLE}"
_AUTH_FIX = f"put the host's login and password into ~/.netrc, or a header into {HEADERS_VARIABLE}"
_MEANINGS: dict[int, Meaning] = {
    401: (AccessError, "the server wants other credentials", _AUTH_FIX),
    403: (AccessError, "the server does not allow this", _AUTH_FIX),
    404: (NotFoundError, "there is no such object", "check the URL"),
    410: (NotFoundError, "there is no such object any more", "check the URL"),
    416: (RefusedError, "the object does not have the bytes that were asked for", "check its index"),
    507: (FullError, "the server has no space left", "free some space there"),
}


class HttpClient:
    """Sends requests; sessions are made on first use in each process and thread, which therefore share no socket.

    ``timeout`` is how many seconds to wait for a connection, and for the next bytes on it.
    """

    def __init__(self, policy: RetryPolicy, timeout: tuple[float, float]):
        self.policy = policy
        self._timeout = timeout
        self._local = threading.local()
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self.multirange: dict[str, bool] = {}
        """Whether a server (scheme, host and port) answers many ranges in one response; learned by asking."""

    def send(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: object = None
    ) -> requests.Response:
        """Return the answer to one attempt, its body not yet read. The caller closes it.

        Raises:
            TransientError: the connection failed, or the status says that the failure may pass.
            StorageError: trying again cannot help.
        """
        _check_url(url)
        with network_errors(url):
            session, settings = self._session(url)
            request = requests.Request(method, url, headers=headers, data=body)
            prepared = session.prepare_request(request)
            response = session.send(prepared, timeout=self._timeout, allow_redirects=method in _FOLLOWED, **settings)
        if response.status_code in TRANSIENT_STATUSES:
            discard(response)
            wait = retry_after_seconds(response.headers.get("Retry-After"))
            fix = "look at the server's error log; its disk may be full" if response.status_code == 500 else None
            raise TransientError(f"the server answered {status_of(response)}", wait, fix)
        if method == "GET" and response.status_code in (200, 206) and not _has_whole_head(response):
            response.close()
            raise TransientError("the head of the answer was cut off")
        if response.history and _path_of(response.url) == _path_of(response.history[0].request.url) + "/":
            response.close()
            raise RefusedError("this is a folder", url=url, fix="name an object in it")
        return response

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
        pool = self._pools.get(os.getpid())
        if pool is None:
            pool = self._pools.setdefault(os.getpid(), ThreadPoolExecutor(THREADS, "shardtools-http"))
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _session(self, url: str) -> tuple[requests.Session, dict[str, Any]]:
        """Return this thread's session, and what the environment says about the server: proxy and certificates.

        requests would look through the environment for each request, which takes longer than a small one itself.
        """
        state = self._local
        if getattr(state, "pid", None) != os.getpid():
            state.session = _new_session()
            state.settings = {}
            state.pid = os.getpid()
        server = server_of(url)
        if server not in state.settings:
            state.settings[server] = state.session.merge_environment_settings(url, {}, True, None, None)
        return state.session, state.settings[server]


def _new_session() -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=THREADS))
    session.headers["User-Agent"] = f"shardtools/{__version__}"
    session.headers["Accept-Encoding"] = "identity"
    for line in filter(str.strip, os.environ.get(HEADERS_VARIABLE, "").splitlines()):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise RefusedError(f"{HEADERS_VARIABLE} has a line that is no header", fix='write one "Name: value" a line')
        session.headers[name.strip()] = value.strip()
    return session


@contextmanager
def network_errors(url: str) -> Iterator[None]:
    """A context that turns what requests, urllib3 and sockets raise into TransientError or StorageError."""
    try:
        yield
    except ShardtoolsError:
        raise
    except _BAD_URLS as error:
        raise _bad_url(url) from error
    except (failures.InvalidHeader, UnicodeError) as error:
        raise RefusedError("a header has characters that HTTP cannot send", url=url, fix=_HEADERS_FIX) from error
    except failures.TooManyRedirects as error:
        raise RefusedError("the server redirects in circles", url=url, fix="check the URL") from error
    except (HTTPError, HTTPException, OSError) as error:  # requests' own are OSErrors
        raise _connection_error(error, url) from error


def _connection_error(error: BaseException, url: str) -> Exception:
    """Return what a broken connection means, from the first exception in its chain that says it."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            what = f"the server's certificate is not trusted ({link.verify_message})"
            return RefusedError(what, url=url, fix="name the authority's certificate in REQUESTS_CA_BUNDLE")
        if isinstance(link, socket.gaierror):
            if link.errno == socket.EAI_AGAIN:
                return TransientError("the name of the host could not be looked up")
            return UnavailableError("there is no host of this name", url=url, fix="check the URL")
        if isinstance(link, (failures.ReadTimeout, ReadTimeoutError)):
            return TransientError("the server did not answer in time")
        if isinstance(link, (failures.ConnectTimeout, TimeoutError)):
            return TransientError("no connection to the server in time")
        if isinstance(link, ConnectionRefusedError):
            return TransientError("the connection was refused")
        link = link.__cause__ or link.__context__
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return StorageError(f"the request failed ({error.strerror})", url=url, fix="check the machine's network set-up")
    return TransientError("the connection broke off")


def status_of(response: requests.Response) -> str:
    """Return the status of an answer as a text, such as ``404 Not Found``."""
    return f"{response.status_code} {response.reason or ''}".rstrip()


def answer_error(
    response: requests.Response, url: str, meanings: Mapping[int, Meaning] = MappingProxyType({})
) -> StorageError:
    """Return the error that an answer's status means, by ``meanings`` if they have it and in general otherwise."""
    status = response.status_code
    if status in meanings or status in _MEANINGS:
        error, what, fix = meanings.get(status) or _MEANINGS[status]
    elif status in (405, 501):
        error, what, fix = RefusedError, f"the server does not accept {response.request.method}", _METHOD_FIX
    elif 300 <= status < 400:
        target = redact(response.headers.get("Location", "another place"))
        error, what, fix = RefusedError, f"the server redirects to {target}", "use that URL"
    else:
        error, what, fix = RefusedError, "the server refused", "see whether the URL is right"
    return error(f"{what} ({status_of(response)})", url=url, fix=fix)


def describe(response: requests.Response) -> Stat:
    """Return the size of the whole object and its validator, as far as the headers of an answer tell."""
    headers = response.headers
    validator = headers.get("ETag") or headers.get("Last-Modified")
    if response.status_code == 206:
        return Stat(content_range(response)[2], validator)
    length = headers.get("Content-Length", "")
    chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
    return Stat(int(length) if length.isdigit() and not chunked else None, validator)


def content_range(response: requests.Response) -> tuple[int, int, int | None]:
    """Return start, stop and the object's size from Content-Range; -1, -1 and None for what it does not say."""
    match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if not match:
        return -1, -1, None
    start, stop = (int(match[1]), int(match[2]) + 1) if match[1] else (-1, -1)
    return start, stop, None if match[3] == "*" else int(match[3])


def discard(response: requests.Response) -> None:
    """Read the rest of a short answer, so that its connection can be used again; close a longer one."""
    try:
        response.raw.read(_SMALL, decode_content=False)
    except (HTTPError, HTTPException, OSError):
        response.raw.close()  # the answer is in, only its line is lost
    response.close()


def server_of(url: str) -> str:
    """Return scheme, host and port.

    >>> server_of("HTTP://me:pw@Host:81/a")
    'http://host:81'
    """
    scheme, _, place = split_path(url)[0].partition("://")
    return f"{scheme}://{place.rpartition('@')[2]}".lower()


def _has_whole_head(response: requests.Response) -> bool:
    """Return whether an answer tells where its body ends, and which part it is.

    Python's http.client takes a connection that ends within the head for the end of the head, and of an empty body.
    """
    headers = response.headers
    closes = response.raw.version < 11 or headers.get("Connection", "").lower() == "close"
    many = headers.get("Content-Type", "").lower().startswith("multipart/byteranges")
    counted = headers.get("Content-Length", "").isdigit() or headers.get("Transfer-Encoding", "").lower() == "chunked"
    return (closes or counted) and (response.status_code != 206 or many or "Content-Range" in headers)


def _check_url(url: str) -> None:
    """Refuse what requests, where it looks for a proxy and for credentials, does not catch itself."""
    try:
        urlsplit(url)
    except ValueError as error:
        raise _bad_url(url) from error


def _bad_url(url: str) -> RefusedError:
    return RefusedError("this is no usable URL", url=url, fix="check the URL")


def _path_of(url: str | None) -> str:
    return urlsplit(url or "").path
