"""Sessions with web servers: pooled connections, credentials, headers, redirects.

Credentials are those that requests finds: ``.netrc``, or ``user:password@`` in the URL. Headers come from the
environment variable ``SHARDTOOLS_HTTP_HEADERS``, see ``http_headers.py``. Neither is pickled, logged, part of an error,
or sent on to the server that a redirect names.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from shardtools import __version__
from shardtools.errors import RefusedError
from shardtools.forks import PerProcess
from shardtools.storage.http_client import MEANINGS, THREADS, Client, bad_url
from shardtools.storage.http_headers import HEADERS_VARIABLE, PlacedHeaders, parse_headers
from shardtools.storage.retry import RetryPolicy
from shardtools.urls import server_of

_FOLLOWED = ("GET", "HEAD")
_AUTH_FIX = (
    f"put the host's login and password into ~/.netrc, or a line 'https://HOST/ Name: value' into {HEADERS_VARIABLE}"
)


class HttpClient(Client):
    """Sends requests to web servers; a session is made on first use in each process and thread.

    Sessions therefore share no socket. ``timeout`` is how many seconds to wait for a connection, and for the next
    bytes on it. ``named`` are the servers that the user has named.
    """

    meanings = MappingProxyType(
        {
            **MEANINGS,
            401: (*MEANINGS[401][:2], _AUTH_FIX),
            403: (*MEANINGS[403][:2], _AUTH_FIX),
        }
    )

    refuses_head = frozenset({403, 405, 501})  # 403 by a URL that was signed for GET

    def __init__(self, policy: RetryPolicy, timeout: tuple[float, float], named: frozenset[str] = frozenset()):
        super().__init__(policy)
        self._timeout = timeout
        self._named = named
        self._local = PerProcess(threading.local)

    def request(self, method: str, url: str, headers: Mapping[str, str] | None, body: object) -> requests.Response:
        _check_url(url)
        session, settings = self._session(url)
        request = requests.Request(method, url, headers=headers, data=body)
        prepared = session.prepare_request(request)
        response = session.send(prepared, timeout=self._timeout, allow_redirects=method in _FOLLOWED, **settings)
        if response.history and _path_of(response.url) == _path_of(response.history[0].request.url) + "/":
            response.close()
            raise RefusedError("this is a folder", url=url, fix="name an object in it")
        return response

    def _session(self, url: str) -> tuple[requests.Session, dict[str, Any]]:
        """Return this thread's session, and what the environment says about the server: proxy and certificates.

        requests would look through the environment for each request, which takes longer than a small one itself.
        """
        state = self._local.get()
        if not hasattr(state, "session"):
            state.session = _new_session(parse_headers(os.environ.get(HEADERS_VARIABLE, ""), self._named))
            state.settings = {}
        server = server_of(url)
        if server not in state.settings:
            state.settings[server] = state.session.merge_environment_settings(url, {}, True, None, None)
        return state.session, state.settings[server]


class _Session(requests.Session):
    """A session that sends the headers of the environment to their own servers only, also after a redirect."""

    def __init__(self, places: PlacedHeaders):
        super().__init__()
        self._places = places

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        prepared = super().prepare_request(request)
        self._add(prepared, {name.lower() for name in request.headers or ()})
        return prepared

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """After a redirect, remove the headers that belong to the old URL and add those of the new one."""
        headers = prepared_request.headers
        for name, value in self._places.of(response.request.url or "").items():
            if headers.get(name) == value:
                del headers[name]
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]
        self._add(prepared_request)

    def _add(self, prepared: requests.PreparedRequest, present: Container[str] = ()) -> None:
        """Add the headers of the environment except those ``present``; a password in the URL or .netrc wins."""
        for name, value in self._places.of(prepared.url or "").items():
            lower = name.lower()
            if lower not in present and not (lower == "authorization" and lower in prepared.headers):
                prepared.headers[name] = value


def _new_session(places: PlacedHeaders) -> requests.Session:
    session = _Session(places)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=THREADS))
    session.headers["User-Agent"] = f"shardtools/{__version__}"
    session.headers["Accept-Encoding"] = "identity"
    return session


def _check_url(url: str) -> None:
    """Raise if the URL cannot be parsed, which requests does not catch where it looks for proxies and credentials."""
    try:
        urlsplit(url)
    except ValueError as error:
        raise bad_url(url) from error


def _path_of(url: str | None) -> str:
    return urlsplit(url or "").path
