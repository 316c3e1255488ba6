"""The server of the page, on this machine only: http://127.0.0.1:PORT/TOKEN/.

    request -> is the host this machine? -> is the token right? -> a file of the page, or an answer of the API
                                         -> or the secret?      -> a key of a Zarr store, for any program or site

It is the standard library's: a connection has a thread, of which there are a bounded number, and no program waits for
them when it ends. A page asks some dozens of small things at a time, for one person; nothing of a framework would be
used. Other sites cannot ask it: a name that leads to 127.0.0.1 is refused by its Host header, and they do not know
the token. It only reads, from what it was started with: no address in a request is ever followed.

Arrays of hubs have a secret of their own, since it is handed to other programs and sites: to those who know it they are
readable from any origin, and nothing else is.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import socket
import threading
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from http.server import BaseHTTPRequestHandler
from queue import SimpleQueue
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote

from shardtools import __version__
from shardtools.errors import JobError
from shardtools.query.published import INDEX, page_bytes, page_names, with_meta
from shardtools.urls import media_type
from shardtools.viewer.answers import BYTES, HttpAnswer, answer_json
from shardtools.viewer.api import Api

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"

THREADS = 64
"""Connections at a time. Further ones wait."""

IDLE = 60.0
"""Seconds for which a connection may be idle."""

LONGEST = 32 << 10
"""Characters of an address at most."""

_POLL = 0.1  # seconds until the server notices that it is to end
_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; frame-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DATA_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}

_SHARED = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Private-Network": "true",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Range",
    "Access-Control-Max-Age": "600",
}


class ViewServer:
    """Serves the page and an API in threads of its own until it is closed."""

    def __init__(self, api: Api, port: int = 0, token: str | None = None):
        """Raise if the port is taken.

        Raises:
            JobError: it is.
        """
        self.api = api
        self.token = token or secrets.token_urlsafe(16)
        try:
            self._server = _Server((HOST, port), self)
        except OSError as error:
            raise JobError(f"port {port} cannot be used: {error.strerror}", fix="give another, or none") from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL,), name="shardtools-view", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The address of the page, with the token."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server, and all of its connections."""
        self._server.shutdown()
        self._server.server_close()
        self.api.close()

    def wait(self) -> None:
        """Return when the server has ended."""
        self._thread.join()

    def answer(self, target: str, method: str = "GET", wanted: str = "") -> tuple[HttpAnswer, bool]:
        """Return the answer to a request that is allowed, and whether it is a part of the page.

        ``wanted`` is its Range header, which only Zarr stores heed.
        """
        path, _, query = target.partition("?")
        parts = path.split("/", 2)
        if len(parts) < 3 or parts[0]:
            return _wrong_token(), False
        name = unquote(parts[2], errors="replace")
        if _same(parts[1], self.api.zarr_secret):
            return self._zarr(name, method, wanted), False
        if method != "GET":
            return _refusal(501, "this server only answers GET"), False
        if not _same(parts[1], self.token):
            return _wrong_token(), False
        if name.startswith("api/"):
            try:
                values = dict(parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=50))
            except ValueError:
                return _refusal(400, "there are too many parameters"), False
            return self.api.answer(name.removeprefix("api/"), values), False
        found = page_file(name or INDEX)
        return (found, True) if found is not None else (_refusal(404, "there is no such file"), False)

    def _zarr(self, name: str, method: str, wanted: str) -> HttpAnswer:
        if method == "OPTIONS":
            return HttpAnswer(b"", BYTES, headers={**_SHARED, **_PREFLIGHT})
        found = self.api.zarr(name, wanted, head=method == "HEAD")
        return replace(found, headers={**found.headers, **_SHARED})


class _Server(TCPServer):
    """Gives each connection to one of a bounded number of threads. Unlike `HTTPServer`, it asks no DNS for its name."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], view: ViewServer):
        self.view = view
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[tuple[socket.socket, Any] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads = 0
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        self._waiting.put((request, client_address))
        if not self._idle.acquire(blocking=False) and self._threads < THREADS:
            self._threads += 1
            threading.Thread(target=self._work, name="shardtools-view", daemon=True).start()

    def _work(self) -> None:
        while (connection := self._waiting.get()) is not None:
            self._serve(*connection)
            self._idle.release()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except (ConnectionError, TimeoutError, ValueError):  # the browser has gone, or we have closed it
            pass
        except Exception:
            logger.exception("htview has ended a connection")
        finally:
            with self._lock:
                self._open.discard(request)
            self.shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            for request in self._open:
                with suppress(OSError):  # the browser has gone
                    request.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it, which closes it
        for _ in range(self._threads):
            self._waiting.put(None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = f"shardtools/{__version__}"
    sys_version = ""
    timeout = IDLE
    wbufsize = -1  # head and body are sent together
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        name = re.sub(r":\d{1,5}$", "", self.headers.get("Host", ""))
        if name.lower() not in _NAMES:
            self._send(_refusal(421, "this server answers only to this machine's own name"), is_page=False)
        elif len(self.path) > LONGEST:
            self._send(_refusal(414, "the address is too long"), is_page=False)
        else:
            answer, is_page = self.server.view.answer(self.path, self.command, self.headers.get("Range", ""))
            self._send(answer, is_page=is_page)

    do_HEAD = do_OPTIONS = do_GET

    def _send(self, answer: HttpAnswer, *, is_page: bool) -> None:
        self.send_response(answer.status)
        policy = _PAGE_POLICY if is_page else _DATA_POLICY
        standard = {**_HEADERS, "Content-Security-Policy": policy, "Cache-Control": "no-store"}
        own = {"Content-Type": answer.type, "Content-Length": str(len(answer.body))}
        for name, value in {**standard, **own, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: addresses have the token."""


def _same(text: str, secret: str) -> bool:
    return hmac.compare_digest(text.encode(), secret.encode())


def _wrong_token() -> HttpAnswer:
    return _refusal(403, "the token is not right; open the address that htview has printed")


def _refusal(status: int, what: str) -> HttpAnswer:
    return answer_json({"error": what}, status)


@lru_cache(maxsize=64)
def page_file(name: str) -> HttpAnswer | None:
    """Return a file of the page, None if there is none of this name. ``index.html`` says that there is a server."""
    if name not in page_names():
        return None
    data = page_bytes(name)
    return HttpAnswer(with_meta(data, "shardtools-api", "api/") if name == INDEX else data, media_type(name) or BYTES)
