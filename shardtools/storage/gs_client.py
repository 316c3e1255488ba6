"""Requests to Google Cloud Storage: its JSON API over the sessions of google-auth.

google-auth finds the credentials (application default credentials) and renews tokens, before they expire and when the
service refuses one. The requests are ours, so that one policy decides on retries and a dropped stream resumes where it
stopped. Without credentials, and for an emulator, requests are anonymous, which public buckets answer.

``STORAGE_EMULATOR_HOST`` names an emulator and ``API_ENDPOINT_OVERRIDE`` another address of the service, as in Google's
own libraries. Otherwise the address follows from the universe domain of the credentials.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import google.auth
import requests
from google.auth import exceptions as failures
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.environment_vars import CREDENTIALS
from google.auth.transport import DEFAULT_REFRESH_STATUS_CODES
from google.auth.transport.requests import AuthorizedSession
from requests.adapters import HTTPAdapter

from shardtools import __version__
from shardtools.errors import (
    AccessError,
    ChangedError,
    CorruptError,
    NotFoundError,
    RefusedError,
    StorageError,
    redact,
)
from shardtools.forks import PerProcess
from shardtools.json_text import parse_json
from shardtools.storage import Coalescing, Stat
from shardtools.storage.buckets import split_url
from shardtools.storage.http_client import (
    THREADS,
    Client,
    content_range,
    count_of,
    is_address,
    is_part,
    network_errors,
    read_whole,
    status_of,
    timeouts,
)
from shardtools.storage.retry import RetryPolicy, TransientError

_CONDITION = "x-shardtools-if-generation"
_SIGN_IN = "run 'gcloud auth application-default login', or set GOOGLE_APPLICATION_CREDENTIALS"
_CHECK_RIGHTS = "check the permissions of the account (storage.objects.get, create, delete, list)"
_EMULATOR = "STORAGE_EMULATOR_HOST"
_OVERRIDE = "API_ENDPOINT_OVERRIDE"
_SCOPES = [
    f"https://www.googleapis.com/auth/devstorage.{right}" for right in ("full_control", "read_only", "read_write")
]
_GENERATION = "x-goog-generation"
_STORED_SIZE = "x-goog-stored-content-length"


@dataclass(frozen=True)
class _Account:
    """The address of the service, and the credentials for it."""

    endpoint: str
    credentials: Credentials

    @property
    def is_anonymous(self) -> bool:
        return isinstance(self.credentials, AnonymousCredentials)


class _GsState:
    """What each process makes for itself: the account, and a session for each thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.account: _Account | None = None
        self.local = threading.local()


class GsClient(Client):
    """Sends requests to Google Cloud Storage. Sessions are made on first use in each process and thread."""

    condition = _CONDITION
    sends_parts = True
    coalescing = Coalescing(gap=1 << 14, largest=1 << 24)

    def __init__(self, policy: RetryPolicy, timeout: float):
        super().__init__(policy)
        self._timeouts = timeouts(timeout)
        self._state = PerProcess(_GsState)
        self._sends_generation = True

    def request(self, method: str, url: str, headers: Mapping[str, str] | None, body: object) -> requests.Response:
        """Return the answer to a request for an object's bytes."""
        bucket, name = split_url(url)
        # With gzip accepted, what is stored as gzip comes as it is stored, and with its own length.
        sent = {"Accept-Encoding": "gzip", **(headers or {})}
        query = {"alt": "media"}
        if generation := sent.pop(_CONDITION, None):
            query["ifGenerationMatch"] = generation
        address = f"/download/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"
        known = None if self._sends_generation else self.stat(url).validator
        response = self._request(method, url, address, query, sent, body)
        if response.status_code not in (200, 206):
            return response
        self._sends_generation = _GENERATION in response.headers
        if not self._sends_generation:
            if known is None:  # stat first, then read: while an emulator sends a body, it may answer nothing else
                response.close()
                return self.request(method, url, headers, body)
            response.headers[_GENERATION] = known
        return response

    def stat(self, url: str) -> Stat:
        entry = self.json("GET", url, object_path(url), {"fields": "size,generation,updated"})
        return stat_of(entry, url)

    def describe(self, response: requests.Response) -> Stat:
        """Return size and generation."""
        headers = response.headers
        length = headers.get(_STORED_SIZE) or headers.get("Content-Length")
        size = content_range(response)[2] if is_part(response) else count_of(length)
        return Stat(size, headers.get(_GENERATION))

    def json(
        self, method: str, url: str, path: str, query: Mapping[str, str] | None = None, body: Any = None
    ) -> dict[str, Any]:
        """Return what the service answers to a request about ``url``; transient failures are retried."""

        def attempt() -> dict[str, Any]:
            response = self.call_api(method, url, path, query, body=None if body is None else json.dumps(body).encode())
            return parse(response, url)

        return self.policy.run(url, attempt)

    def call_api(
        self,
        method: str,
        url: str,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> requests.Response:
        """Return the answer to one attempt, with its body; ``path`` may be a whole address.

        Raises:
            TransientError: the failure may pass.
            StorageError: it will not.
        """
        with network_errors(url):
            response = self._request(method, url, path, query or {}, headers or {}, body)
        read_whole(response, url)
        if response.status_code >= 400:
            self.check_transient(response)
            raise self.answer_error(response, url)
        return response

    def answer_error(
        self, response: requests.Response, url: str, meanings: Mapping[int, Any] | None = None
    ) -> StorageError:
        status = response.status_code
        said = status_of(response)
        if status == 404 and ("bucket does not exist" in _message(response) or self._is_without_bucket(url)):
            return NotFoundError(f"there is no such bucket ({said})", url=url, fix="check its name")
        if status in (401, 403):
            if self._account(url).is_anonymous:
                what = f"the service does not allow this, and there are no credentials ({said})"
                return AccessError(what, url=url, fix=_SIGN_IN)
            what = f"the account is not allowed to do this ({said}{_reason(response)})"
            return AccessError(what, url=url, fix=_CHECK_RIGHTS)
        if status == 400:
            fix = "correct what it names, or run again"
            return RefusedError(f"the service refused ({said}{_reason(response)})", url=url, fix=fix)
        if status == 412:
            return ChangedError(f"the object has changed ({said})", url=url, fix="run again")
        return super().answer_error(response, url)

    def endpoint(self, url: str) -> str:
        """Return the address of the service."""
        return self._account(url).endpoint

    def _is_without_bucket(self, url: str) -> bool:
        bucket = split_url(url, prefix=True)[0]
        path = f"/storage/v1/b/{quote(bucket, safe='')}"
        with network_errors(url):
            return self._request("GET", url, path, {"fields": "name"}, {}, None).status_code == 404

    def _request(
        self, method: str, url: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: object
    ) -> requests.Response:
        account = self._account(url)
        address = path if "://" in path else account.endpoint + path
        if query:
            address += f"?{urlencode(query)}"
        try:
            response: requests.Response = self._session(account).request(
                method,
                address,
                data=body,
                headers=dict(headers),
                timeout=self._timeouts[1],
                stream=True,
                allow_redirects=method == "GET",
            )
        except failures.TransportError as error:
            raise TransientError("the token service could not be reached") from error
        except failures.GoogleAuthError as error:
            if error.retryable:
                raise TransientError("the token service failed") from error
            what = f"the token service gave no token for the credentials ({_said(error)})"
            raise AccessError(what, url=url, fix=_SIGN_IN) from error
        return response

    def _account(self, url: str) -> _Account:
        state = self._state.get()
        with state.lock:
            if state.account is None:
                state.account = _find_account(url)
            return state.account

    def _session(self, account: _Account) -> AuthorizedSession:
        state = self._state.get().local
        if not hasattr(state, "session"):
            refused = () if account.is_anonymous else DEFAULT_REFRESH_STATUS_CODES
            session = AuthorizedSession(account.credentials, refresh_status_codes=refused)
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(pool_maxsize=THREADS))
            session.headers["User-Agent"] = f"shardtools/{__version__}"
            state.session = session
        found: AuthorizedSession = state.session
        return found


def object_path(url: str) -> str:
    """Return the path of an object's metadata in the JSON API."""
    bucket, name = split_url(url)
    return f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"


def parse(response: requests.Response, url: str) -> dict[str, Any]:
    """Return the JSON of an answer, {} if it has none.

    Raises:
        TransientError: it is no JSON, as if something in between had answered.
    """
    if not response.content:
        return {}
    try:
        entry = parse_json(response.content)
    except CorruptError as error:
        raise TransientError("the answer is not JSON") from error
    if not isinstance(entry, dict):
        raise TransientError("the answer is not a JSON object")
    return entry


def stat_of(entry: Mapping[str, Any], url: str) -> Stat:
    """Return size and generation, as the service describes an object.

    Raises:
        RefusedError: it does not.
    """
    size, generation = count_of(entry.get("size")), entry.get("generation")
    if size is None or generation is None:
        raise odd_answer(url)
    return Stat(size, str(generation), modified=_seconds(entry.get("updated")))


def _seconds(time: object) -> float | None:
    try:
        return datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return None


def odd_answer(url: str) -> RefusedError:
    """Return the error for JSON that lacks what the service sends."""
    fix = "check the endpoint: this may be no Google Cloud Storage"
    return RefusedError("the answer is not one of Google Cloud Storage", url=url, fix=fix)


def _message(response: requests.Response) -> str:
    try:
        return str(parse_json(response.content)["error"]["message"])
    except (CorruptError, KeyError, TypeError, OSError):  # an emulator's answer, or a proxy's: nothing more to learn
        return ""


def _reason(response: requests.Response) -> str:
    message = _message(response)
    return f": {message}" if message else ""


def _said(error: failures.GoogleAuthError) -> str:
    return str(error.args[0]) if error.args else type(error).__name__  # the rest are answers and exceptions


def _find_account(url: str) -> _Account:
    if emulator := os.environ.get(_EMULATOR):  # which knows no accounts
        address = emulator if "://" in emulator else f"http://{emulator}"
        return _Account(_check_endpoint(address, _EMULATOR, url), AnonymousCredentials())
    credentials, domain = _find_credentials(url)
    address = os.environ.get(_OVERRIDE) or f"https://storage.{domain}"
    return _Account(_check_endpoint(address, _OVERRIDE, url), credentials)


def _find_credentials(url: str) -> tuple[Credentials, str]:
    """Return the credentials of this machine, anonymous ones if there are none, and their universe domain."""
    try:
        credentials = google.auth.default(scopes=_SCOPES)[0]
        return credentials, credentials.universe_domain
    except failures.GoogleAuthError as error:
        named = os.environ.get(CREDENTIALS)
        if named or not isinstance(error, failures.DefaultCredentialsError):
            fix = f"check the file that {CREDENTIALS} names" if named else _SIGN_IN
            raise AccessError(f"the credentials cannot be used ({_said(error)})", url=url, fix=fix) from error
    anonymous = AnonymousCredentials()
    return anonymous, anonymous.universe_domain


def _check_endpoint(address: str, variable: str, url: str) -> str:
    """Return the address of the service, which the environment variable ``variable`` may have named."""
    if not is_address(address):
        fix = "write it as http://localhost:9023"
        raise RefusedError(f"{variable} is {redact(address)}, which is not a server's address", url=url, fix=fix)
    return address.rstrip("/")
