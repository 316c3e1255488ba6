"""A web server, as a process of its own, that writes down the head of each request: ``python FILE FOLDER LOG``.

It has what lies in a folder, by GET and HEAD with ranges, PUT and DELETE. ``/away/HOST:PORT/name`` redirects to
``http://HOST:PORT/name``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.servers import ServerError, read_line, stop


@dataclass(frozen=True)
class Request:
    """A request that came: its method, its path, and its headers by their names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class RecordingServer:
    """A running server; ``url`` ends with a slash and shows the folder ``root``."""

    url: str
    root: Path
    log_path: Path

    @property
    def place(self) -> str:
        """Its host and port."""
        return urlsplit(self.url).netloc

    def requests(self) -> list[Request]:
        """Return the requests that it has begun to answer."""
        return [Request(*json.loads(line)) for line in self.log_path.read_text().splitlines()]

    def values(self, name: str) -> set[str | None]:
        """Return the values of a header in all requests, None for those that have none."""
        return {request.headers.get(name) for request in self.requests()}


@contextmanager
def recording_server(folder: Path) -> Iterator[RecordingServer]:
    """Run a server in a new folder.

    Raises:
        ServerError: it did not start.
    """
    root, log_path = folder / "root", folder / "log"
    root.mkdir(parents=True)
    log_path.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.recording_server", str(root), str(log_path)],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = read_line(process.stdout).strip()
        if not url:
            raise ServerError("the recording server did not start")
        yield RecordingServer(url, root, log_path)
    finally:
        stop(process)


def _serve(root: Path, log_path: str) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...

        def answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            os.write(log, json.dumps([self.command, self.path, headers]).encode() + b"\n")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = urlsplit(self.path).path
            if path.startswith("/away/"):
                self._head(302, 0, Location=f"http://{path.removeprefix('/away/')}")
                return
            file = root / unquote(path).strip("/")
            if self.command == "PUT":
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(body)
                self._head(201, 0)
            elif self.command == "DELETE":
                self._head(204 if file.is_file() else 404, 0)
                file.unlink(missing_ok=True)
            elif file.is_file():
                self._send(file.read_bytes())
            else:
                self._head(404, 0)

        do_GET = do_HEAD = do_PUT = do_DELETE = answer

        def _send(self, data: bytes) -> None:
            asked = self.headers.get("Range", "").removeprefix("bytes=")
            start, _, last = asked.partition("-")
            if not asked or "," in asked:
                self._head(200, len(data), ETag=f'"{len(data)}"')
            elif int(start) >= len(data):
                self._head(416, 0, **{"Content-Range": f"bytes */{len(data)}"})
                return
            else:
                stop = min(int(last) + 1, len(data)) if last else len(data)
                place = f"bytes {start}-{stop - 1}/{len(data)}"
                data = data[int(start) : stop]
                self._head(206, len(data), ETag=f'"{place.rpartition("/")[2]}"', **{"Content-Range": place})
            if self.command == "GET":
                self.wfile.write(data)

        def _head(self, status: int, length: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        print(f"http://127.0.0.1:{httpd.server_address[1]}/", flush=True)
        httpd.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        _serve(Path(sys.argv[1]), sys.argv[2])
