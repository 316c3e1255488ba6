"""Sessions with web servers: pooled connections, credentials, headers, redirects.

Credentials are those that requests finds: ``.netrc``, or ``user:password@`` in the URL. Headers for every request to
any server come from the environment variable ``SHARDTOOLS_HTTP_HEADERS``, one ``Name: value`` a line. Neither is
pickled, logged, or part of an error.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from shardtools import __version__
from shardtools.errors import RefusedError
from shardtools.storage.http_client import MEANINGS, THREADS, Client, bad_url, server_of
from shardtools.storage.retry import RetryPolicy

HEADERS_VARIABLE = "SHARDTOOLS_HTTP_HEADERS"

_FOLLOWED = ("GET", "HEAD")
_AUTH_FIX = f"put the host's login and password into ~/.netrc, or a header into {HEADERS_VARIABLE}"


class HttpClient(Client):
    """Sends requests to web servers; a session is made on first use in each process and thread.

    Sessions therefore share no socket. ``timeout`` is how many seconds to wait for a connection, and for the next
    bytes on it.
    """

    meanings = MappingProxyType(
        {
            **MEANINGS,
            401: (*MEANINGS[401][:2], _AUTH_FIX),
            403: (*MEANINGS[403][:2], _AUTH_FIX),
        }
    )

    def __init__(self, policy: RetryPolicy, timeout: tuple[float, float]):
        super().__init__(policy)
        self._timeout = timeout
        self._local = threading.local()

    def exchange(self, method: str, url: str, headers: Mapping[str, str] | None, body: object) -> requests.Response:
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


def _check_url(url: str) -> None:
    """Refuse what requests, where it looks for a proxy and for credentials, does not catch itself."""
    try:
        urlsplit(url)
    except ValueError as error:
        raise bad_url(url) from error


def _path_of(url: str | None) -> str:
    return urlsplit(url or "").path
