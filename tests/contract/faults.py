"""Servers that fail as scripted, over real sockets.

`FaultyProxy` stands before a real server and breaks the answers that it is told to; `plain_server` is a web server
that can do less than ours, or does it badly.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from select import select
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/1\.1\r\n")


@dataclass(frozen=True)
class Fault:
    """What happens to the next request that begins with ``when``.

    ``answer`` is sent in place of the server's, which never sees the request; ``instead`` in place of an answer that
    the server has given. Otherwise the server's answer is cut off after ``after`` bytes, head included, or so many of
    its body if ``of_body``: by a reset if ``reset``, by silence until the client gives up if ``stall``, and else as if
    the server had ended it. ``then`` is called before the client can know. ``rewrite`` makes another head of its head.
    """

    when: bytes = b"GET "
    answer: bytes | None = None
    instead: bytes | None = None
    after: int = 0
    of_body: bool = False
    reset: bool = False
    stall: bool = False
    rewrite: Callable[[bytes], bytes] | None = None
    then: Callable[[], object] = field(default=lambda: None)


class FaultyProxy:
    """A TCP proxy before the server at ``target`` that does ``faults``, each once and in their order.

    ``choose`` is asked for a fault for each request that none of these is for. ``requests`` collects the first line of
    each request, ``heads`` all of its head. With ``listen=False`` connections are refused until `open` is called. The
    header ``drops`` does not reach the server.
    """

    def __init__(
        self,
        target: str,
        faults: list[Fault] | None = None,
        choose: Callable[[bytes], Fault | None] = lambda head: None,
        *,
        listen: bool = True,
        drops: str = "",
    ):
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self.faults = faults if faults is not None else []
        self._choose = choose
        self._drops = re.compile(rf"\r\n{drops}:[^\r]*".encode(), re.IGNORECASE) if drops else None
        self.heads: list[str] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        if listen:
            self._listener.listen(128)
        self._listening = listen
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    @property
    def requests(self) -> list[str]:
        return [head.split("\r\n")[0] for head in self.heads]

    def __enter__(self) -> FaultyProxy:
        if self._listening:
            self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):  # it may never have listened
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def open(self) -> None:
        """Take connections from now on."""
        if not self._listening:
            self._listening = True
            self._listener.listen(128)
            self._start(self._accept)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _fault_for(self, data: bytes) -> Fault | None:
        self.heads.append(data.partition(b"\r\n\r\n")[0].decode("latin-1"))
        if self.faults and data.startswith(self.faults[0].when):
            return self.faults.pop(0)
        return self._choose(data)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server, suppress(ConnectionError):
            fault: Fault | None = None
            left = 0
            while True:
                for ready in select([client, server], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is client:
                        if _REQUEST.match(data):
                            fault = self._fault_for(data)
                            left = -1 if fault is not None and fault.of_body else fault.after if fault else 0
                        if fault is not None and fault.answer is not None:
                            fault.then()
                            client.sendall(fault.answer)
                            return
                        server.sendall(data if self._drops is None else self._drops.sub(b"", data))
                        continue
                    if fault is None:
                        client.sendall(data)
                        continue
                    if fault.instead is not None:
                        fault.then()
                        client.sendall(fault.instead)
                        return
                    if fault.rewrite is not None and b"\r\n\r\n" in data and data.startswith(b"HTTP/"):
                        head, _, body = data.partition(b"\r\n\r\n")
                        data = fault.rewrite(head) + b"\r\n\r\n" + body
                    if left < 0:  # the end of the head is in the first data, as all servers here send it
                        left = data.index(b"\r\n\r\n") + 4 + fault.after
                    client.sendall(data[:left])
                    left -= len(data[:left])
                    if left == 0:
                        fault.then()
                        _end(client, fault)
                        return


def _end(client: socket.socket, fault: Fault) -> None:
    if fault.stall:
        while client.recv(1 << 16):
            pass
    if fault.reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass
class PlainServer:
    """What a `plain_server` has and can do; a test changes it as it goes."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"v1"'
    ranges: bool = False
    chunked: bool = False
    head: bool = True
    cut_after: int | None = None
    """The next answer ends after so many bytes of its body."""
    log: list[str] = field(default_factory=list)
    refuse: bytes = b""
    """What it answers to any PUT, at once, without reading its body and then closing the connection."""


@contextmanager
def plain_server() -> Iterator[PlainServer]:
    """Run a small web server in a thread."""
    server = PlainServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            server.log.append(f"{self.command} {self.headers.get('Range', '')}".strip())

        def do_HEAD(self) -> None:
            if server.head:
                self._answer(with_body=False)
            else:
                self.send_error(405)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_PUT(self) -> None:
            self.send_response_only(0)
            self._headers_buffer: list[bytes] = []
            self.wfile.write(server.refuse)
            self.close_connection = True

        def _answer(self, with_body: bool) -> None:
            body = server.objects.get(self.path.strip("/"))
            if body is None:
                self.send_error(404)
                return
            asked = self.headers.get("Range", "") if server.ranges else ""
            size = len(body)
            if asked and "," not in asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, stop = int(first), min(int(last) + 1, size) if last else size
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
                body = body[start:stop]
            else:
                self.send_response(200)
            if server.etag:
                self.send_header("ETag", server.etag)
            self._send_body(body, with_body)

        def _send_body(self, body: bytes, with_body: bool) -> None:
            if server.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not with_body:
                return
            cut, server.cut_after = server.cut_after, None
            sent = body if cut is None else body[:cut]
            if server.chunked:
                for i in range(0, len(sent), 10_000):
                    piece = sent[i : i + 10_000]
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                if cut is None:
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.wfile.write(sent)
            if cut is not None:
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        server.url = f"http://127.0.0.1:{httpd.server_address[1]}/"
        thread = threading.Thread(target=httpd.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()
