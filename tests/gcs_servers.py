"""Real servers that speak Google Cloud Storage's JSON API, for the tests.

`gcs_emulator` runs gcp-storage-emulator as a process of its own. It ignores preconditions, pages and generations, so
`strict_gcs` is a small server that does keep to them, in threads of this process.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
import pytest

from tests.servers import ServerError, stop, wait_until

_EMULATOR = """
from gcp_storage_emulator.__main__ import main
main()
"""
# As it comes it answers one connection after the other, so that a stream that is read slowly holds up all the rest.
_WITH_THREADS = """
import http.server
http.server.HTTPServer = http.server.ThreadingHTTPServer
"""
_PAGE = 100
_UNIT = 1 << 18


def use_environment(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    """Set the environment of a test to ``variables``, and of what else Google's libraries read to nothing."""
    monkeypatch.setattr("shardtools.storage._instances", {})  # which know an environment of before
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    quiet = {"CLOUDSDK_CONFIG": "/nowhere", "NO_GCE_CHECK": "true"}
    for name, value in {**quiet, **variables}.items():
        monkeypatch.setenv(name, value)


@contextmanager
def gcs_emulator(bucket: str, *, threads: bool = True) -> Iterator[str]:
    """Run gcp-storage-emulator, in memory, and give out its address, without a slash at the end.

    Without ``threads`` it is as it comes, and answers one connection after the other.

    Raises:
        ServerError: it did not start.
    """
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    command = ["start", "--host", "127.0.0.1", "--port", str(port), "--in-memory"]
    process = subprocess.Popen(
        [sys.executable, "-c", f"{_WITH_THREADS * threads}{_EMULATOR}", *command, "--default-bucket", bucket],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def answers() -> bool:
        if process.poll() is not None:
            raise ServerError(f"gcp-storage-emulator ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        wait_until(answers, "gcp-storage-emulator")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


@dataclass
class StoredObject:
    """An object: its bytes, its generation, and what its metadata says."""

    data: bytes
    generation: int
    metadata: dict[str, str] = field(default_factory=dict)
    encoding: str | None = None


@dataclass
class _Upload:
    name: str
    query: dict[str, str]
    entry: dict[str, Any]
    data: bytearray = field(default_factory=bytearray)


@dataclass
class StrictGcs:
    """What a `strict_gcs` holds; a test changes it as it goes.

    ``tokens`` are those that it takes, all if it is empty. ``damage`` makes what it stores of the bytes of each upload.
    With ``forgets_hash`` it does not compare them with the checksum that came with them.
    """

    url: str = ""
    buckets: dict[str, dict[str, StoredObject]] = field(default_factory=dict)
    uploads: dict[str, _Upload] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    damage: Callable[[bytes], bytes] = bytes
    forgets_hash: bool = False
    last_generation: int = 1_700_000_000_000_000
    lock: threading.RLock = field(default_factory=threading.RLock)

    def store(self, bucket: str, name: str, data: bytes, entry: Mapping[str, Any] | None = None) -> StoredObject:
        """Store an object, whatever is there."""
        with self.lock:
            self.last_generation += 1
            made = StoredObject(data, self.last_generation, dict((entry or {}).get("metadata", {})))
            made.encoding = (entry or {}).get("contentEncoding")
            self.buckets[bucket][name] = made
            return made


def crc32c(data: bytes) -> str:
    return b64encode(google_crc32c.Checksum(data).digest()).decode()


class _Answer(Exception):
    def __init__(self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None):
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # of 5, as it comes, the sixth that connects at the same time waits a second


@contextmanager
def strict_gcs(*buckets: str) -> Iterator[StrictGcs]:
    """Run a server that keeps to preconditions, generations, checksums and pages, as the real one does."""
    server = StrictGcs(buckets={name: {} for name in buckets})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def log_message(self, format: str, *args: object) -> None:
            server.log.append(f"{self.command} {self.path} {args[1] if len(args) > 1 else ''}")

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                answer = self._route(body)
            except _Answer as early:
                answer = early
            data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = handle_any

        def _route(self, body: bytes) -> _Answer:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if server.tokens and token not in server.tokens:
                return _failure(401, "Invalid Credentials")
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            match = re.fullmatch(r"(/upload|/download)?/storage/v1/b/([^/]+)(/o(?:/(.+))?)?", parts.path)
            if match is None:
                return self._by_path(unquote(parts.path)) or _failure(404, "no such method")
            kind, bucket, objects, name = match[1], unquote(match[2]), match[3], match[4] and unquote(match[4])
            with server.lock:
                if bucket not in server.buckets:
                    return _failure(404, "The specified bucket does not exist.")
                if kind == "/upload":
                    return self._upload(bucket, query, body)
                if not objects:
                    return _Answer(200, {"name": bucket})
                if name is None:
                    return self._list(bucket, query)
                return self._object(bucket, name, query)

        def _by_path(self, path: str) -> _Answer | None:
            """Return an object by the XML API, as far as Icechunk needs it to read."""
            bucket, _, name = path.removeprefix("/").partition("/")
            with server.lock:
                found = server.buckets.get(bucket, {}).get(name)
            return self._media(found) if found is not None and self.command in ("GET", "HEAD") else None

        def _object(self, bucket: str, name: str, query: dict[str, str]) -> _Answer:
            found = server.buckets[bucket].get(name)
            if found is None:
                return _failure(404, f"No such object: {bucket}/{name}")
            _check(found, query)
            if self.command == "DELETE":
                del server.buckets[bucket][name]
                return _Answer(204)
            if query.get("alt") != "media":
                return _Answer(200, _entry(bucket, name, found))
            return self._media(found)

        def _media(self, found: StoredObject) -> _Answer:
            size = len(found.data)
            headers = {
                "x-goog-generation": str(found.generation),
                "x-goog-stored-content-length": str(size),
                "x-goog-hash": f"crc32c={crc32c(found.data)}",
                "ETag": f'"{found.generation}"',
                "Last-Modified": formatdate(usegmt=True),
            }
            if found.encoding:
                if "gzip" not in self.headers.get("Accept-Encoding", ""):
                    return _failure(500, "this server does not unpack")
                headers["Content-Encoding"] = found.encoding
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked is None:
                return _Answer(200, found.data, headers)
            start, stop = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size
            if start >= size:
                return _failure(416, "the range is not satisfiable")
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            return _Answer(206, found.data[start:stop], headers)

        def _list(self, bucket: str, query: dict[str, str]) -> _Answer:
            prefix, after = query.get("prefix", ""), query.get("pageToken", "")
            names = [
                name
                for name in sorted(server.buckets[bucket])
                if name.startswith(prefix) and "/" not in name[len(prefix) :] and name > after
            ]
            page = names[:_PAGE]
            whole = {name: _entry(bucket, name, server.buckets[bucket][name]) for name in page}
            fields = re.findall(r"\w+", query.get("fields", "").partition("items(")[2].partition(")")[0])
            items = [{field: entry[field] for field in fields} for entry in whole.values()]
            answer: dict[str, Any] = {"items": items} if page and fields else {}
            below = {name[len(prefix) :].partition("/") for name in server.buckets[bucket] if name.startswith(prefix)}
            if folders := sorted({prefix + name + slash for name, slash, _ in below if slash}):
                answer["prefixes"] = folders
            if len(names) > _PAGE:
                answer["nextPageToken"] = page[-1]
            return _Answer(200, answer)

        def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> _Answer:
            if query.get("uploadType") == "multipart":
                boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
                _, meta, media = body.split(b"--" + boundary, 2)
                entry = json.loads(meta.partition(b"\r\n\r\n")[2])
                data = media.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n--" + boundary + b"--\r\n")
                return _commit(server, bucket, entry["name"], query, entry, data)
            if self.command == "POST":
                key = uuid.uuid4().hex
                server.uploads[key] = _Upload(query["name"], query, json.loads(body))
                host = self.headers["Host"]  # so that the rest of the upload goes the same way
                return _Answer(200, {}, {"Location": f"http://{host}{self.path}&upload_id={key}"})
            upload = server.uploads.get(query.get("upload_id", ""))
            if upload is None:
                return _failure(404, "no such upload")
            if self.command == "DELETE":
                del server.uploads[query["upload_id"]]
                return _Answer(499)
            return self._piece(bucket, query["upload_id"], upload, body)

        def _piece(self, bucket: str, key: str, upload: _Upload, body: bytes) -> _Answer:
            asked = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers["Content-Range"])
            if asked is None:
                return _failure(400, "no range")
            if asked[1]:
                if int(asked[1]) != len(upload.data) or int(asked[2]) + 1 - int(asked[1]) != len(body):
                    return _failure(503, "this is not the next piece")
                upload.data += body
            if asked[3] != "*" and int(asked[3]) == len(upload.data):
                entry = dict(upload.entry)
                sent = self.headers.get("X-Goog-Hash", "")
                if sent:
                    entry["crc32c"] = sent.removeprefix("crc32c=")
                answer = _commit(server, bucket, upload.name, upload.query, entry, bytes(upload.data))
                del server.uploads[key]
                return answer
            del upload.data[len(upload.data) // _UNIT * _UNIT :]
            return _Answer(308, b"", {"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {})

    with _Server(("127.0.0.1", 0), Handler) as httpd:
        server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        thread = threading.Thread(target=httpd.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()


def _failure(status: int, message: str) -> _Answer:
    return _Answer(status, {"error": {"code": status, "message": message}})


def _check(found: StoredObject | None, query: Mapping[str, str]) -> None:
    """Raise if a generation is asked for that is not there; 0 stands for no object."""
    wanted = query.get("ifGenerationMatch")
    if wanted is not None and int(wanted) != (found.generation if found else 0):
        raise _failure(412, "At least one of the pre-conditions you specified did not hold.")


def _entry(bucket: str, name: str, found: StoredObject) -> dict[str, Any]:
    return {
        "name": name,
        "bucket": bucket,
        "generation": str(found.generation),
        "size": str(len(found.data)),
        "crc32c": crc32c(found.data),
        "metadata": found.metadata,
    }


def _commit(
    server: StrictGcs, bucket: str, name: str, query: Mapping[str, str], entry: Mapping[str, Any], data: bytes
) -> _Answer:
    data = server.damage(data)
    if not server.forgets_hash and entry.get("crc32c", crc32c(data)) != crc32c(data):
        return _failure(400, "Provided CRC32C doesn't match calculated CRC32C.")
    _check(server.buckets[bucket].get(name), query)
    return _Answer(200, _entry(bucket, name, server.store(bucket, name, data, entry)))
