"""Servers that send without end, nest without end, and name what is no name: over real sockets, for every scheme."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from xml.sax.saxutils import escape

import pytest

import shardtools as st
from shardtools.errors import LimitError, NotFoundError, RefusedError, ShardtoolsError, StorageError
from shardtools.limits import Limits
from shardtools.shards.sidecar import read_sidecar
from shardtools.storage import ByteRange, StorageOptions, get_storage, using
from shardtools.storage.limited import read_limited, read_optional
from tests.gcs_servers import use_environment as use_google
from tests.moto_server import use_environment as use_amazon

SMALL = Limits(sidecar=1 << 20, manifest=1 << 20, index=1 << 20, listing=1 << 20)
QUICK = StorageOptions(retries=0, timeout=20, limits=SMALL)
ENDLESS = object()
DEEP = b"[" * 100_000
LONG = b'[{"type": "file", "name": ' + b"9" * 100_000 + b"}]"


class Canned:
    """What a `canned_server` answers to a path that ends so, and how many bytes it has sent."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: dict[str, Callable[[str], object]] = {}
        self.sent = 0


@contextmanager
def canned_server() -> Iterator[Canned]:
    """Run a server that sends what it is told to, without end for ENDLESS."""
    server = Canned()

    def serve(client: socket.socket) -> None:
        with client, client.makefile("rb") as lines, suppress(OSError):
            target = lines.readline().decode().partition(" ")[2].partition(" ")[0]
            while lines.readline().strip():
                pass
            path = target.partition("?")[0]
            chosen = next((make for ending, make in server.answers.items() if path.endswith(ending)), None)
            body = b"" if chosen is None else chosen(target)
            if isinstance(body, tuple):
                head, body = body
            else:
                head = f"HTTP/1.1 {404 if chosen is None else 200} x"
            client.sendall(f"{head}\r\nConnection: close\r\nx-goog-generation: 1\r\n\r\n".encode())
            if body is not ENDLESS:
                client.sendall(body)
                return
            while True:
                server.sent += client.send(bytes(1 << 16))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

        def accept() -> None:
            with suppress(OSError):  # the listener was closed
                while True:
                    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Canned]:
    with canned_server() as server:
        use_amazon(
            monkeypatch,
            {"AWS_ENDPOINT_URL": server.url.rstrip("/"), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        )
        use_google(monkeypatch, {"STORAGE_EMULATOR_HOST": server.url.rstrip("/")})
        yield server


@pytest.fixture(autouse=True)
def options() -> Iterator[None]:
    with using(QUICK):
        yield


def few(server: Canned) -> bool:
    """Return whether the server got rid of no more than what fits, and what is on its way."""
    return server.sent < 100 << 20


class TestBodies:
    @pytest.mark.parametrize("kind", ["sidecar", "manifest", "index"])
    def test_what_is_read_beside_a_shard(self, server: Canned, kind: str) -> None:
        server.answers["x"] = lambda path: ENDLESS
        for read in (read_limited, read_optional):
            with pytest.raises(LimitError, match=f"/x: its {kind} has more than 1,048,576 bytes.*--max {kind}=SIZE"):
                read(f"{server.url}x", kind)
        assert few(server)

    def test_a_sidecar(self, server: Canned) -> None:
        server.answers["x.tar.index.npz"] = lambda path: ENDLESS
        with pytest.raises(LimitError, match="its sidecar has more than"):
            read_sidecar(f"{server.url}x.tar", 10_240)
        assert few(server)

    def test_many_ranges(self, server: Canned) -> None:
        head = "HTTP/1.1 206 x\r\nContent-Type: multipart/byteranges; boundary=B"
        server.answers["x"] = lambda path: (head, ENDLESS)
        with pytest.raises(StorageError):
            get_storage(server.url).read_ranges(f"{server.url}x", [ByteRange(0, 10), ByteRange(100_000, 100_010)])
        assert few(server)


class TestHttpListings:
    def test_one_without_end(self, server: Canned) -> None:
        server.answers["/"] = lambda path: ENDLESS
        with pytest.raises(LimitError, match=r"its listing has more than 1,048,576 bytes.*--max listing=SIZE"):
            get_storage(server.url).list(server.url)
        assert few(server)

    @pytest.mark.parametrize("body", [DEEP, LONG, b'[{"type": "file", "name": 3}]', b'[{"type": "file"}]', b"[3]"])
    def test_one_that_is_none(self, server: Canned, body: bytes) -> None:
        server.answers["/"] = lambda path: body
        with pytest.raises(RefusedError):
            get_storage(server.url).list(server.url)

    @pytest.mark.parametrize("name", ["../x.tar", "a/x.tar", "/etc/passwd", "x\0.tar", ""])
    def test_what_is_no_name(self, server: Canned, name: str) -> None:
        listed = [{"type": "file", "name": "a.tar"}, {"type": "file", "name": name}]
        server.answers["/"] = lambda path: json.dumps(listed).encode()
        with pytest.raises(RefusedError, match="the server lists something that is not a file name; "):
            get_storage(server.url).list(server.url)
        with pytest.raises(RefusedError, match="not a file name"):
            st.open(f"{server.url}*.tar")

    def test_a_part_of_one(self, server: Canned) -> None:
        server.answers["/"] = lambda path: ("HTTP/1.1 200 x\r\nContent-Range: bytes 0-1/9", b"[]")
        with pytest.raises(RefusedError):
            get_storage(server.url).list(server.url)


def s3_page(names: list[str], token: str | None) -> bytes:
    entries = "".join(f"<Contents><Key>{escape(name)}</Key><Size>1</Size></Contents>" for name in names)
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return f"<?xml version='1.0'?><ListBucketResult><Name>bucket</Name>{entries}{more}</ListBucketResult>".encode()


def gs_page(names: list[str], token: str | None) -> bytes:
    return json.dumps({"items": [{"name": name} for name in names], "nextPageToken": token}).encode()


@pytest.mark.parametrize(("scheme", "ending", "page"), [("s3", "/bucket", s3_page), ("gs", "/o", gs_page)])
class TestBuckets:
    def test_pages(self, server: Canned, scheme: str, ending: str, page: Callable[..., bytes]) -> None:
        numbers = iter(range(4))
        server.answers[ending] = lambda path: page([f"d/{(i := next(numbers))}"], None if i == 3 else f"token-{i}")
        assert get_storage(f"{scheme}://bucket/d/").list(f"{scheme}://bucket/d/") == [
            f"{scheme}://bucket/d/{i}" for i in range(4)
        ]

    def test_a_token_that_comes_again(
        self, server: Canned, scheme: str, ending: str, page: Callable[..., bytes]
    ) -> None:
        numbers = count()
        server.answers[ending] = lambda path: page(["d/x"], f"token-{next(numbers) % 3}")
        with pytest.raises(RefusedError, match=f"{scheme}://bucket/d/: the server lists the same page again; "):
            get_storage(f"{scheme}://bucket/d/").list(f"{scheme}://bucket/d/")

    @pytest.mark.parametrize("names", [[], ["d/x"], ["d/" + "x" * 900] * 1000])
    def test_pages_without_end(
        self, server: Canned, scheme: str, ending: str, page: Callable[..., bytes], names: list[str]
    ) -> None:
        numbers = count()
        server.answers[ending] = lambda path: page(names, f"token-{next(numbers)}")
        with pytest.raises(LimitError, match="its listing has more than 1,048,576 bytes"):
            get_storage(f"{scheme}://bucket/d/").list(f"{scheme}://bucket/d/")
        assert next(numbers) < 30

    @pytest.mark.parametrize("name", ["x", "e/x.tar", "d/e/../../x", "d/e/x"])
    def test_what_was_not_asked_for(
        self, server: Canned, scheme: str, ending: str, page: Callable[..., bytes], name: str
    ) -> None:
        server.answers[ending] = lambda path: page(["d/a", name], None)
        with pytest.raises(
            RefusedError,
            match=f"{scheme}://bucket/d/: the server lists (something that is not a file|names that were not asked)",
        ):
            get_storage(f"{scheme}://bucket/d/").list(f"{scheme}://bucket/d/")


class TestGoogle:
    @pytest.mark.parametrize("body", [DEEP, b'{"items": ' + b"9" * 100_000 + b"}", b'{"items": [3]}', b'{"items": 3}'])
    def test_json_that_is_none(self, server: Canned, body: bytes) -> None:
        server.answers["x"] = server.answers["/o"] = lambda path: body
        storage = get_storage("gs://bucket/x")
        for action in (lambda: storage.list("gs://bucket/d/"), lambda: storage.stat("gs://bucket/x")):
            with pytest.raises(ShardtoolsError) as raised:
                action()
            assert not isinstance(raised.value, NotFoundError)

    def test_json_without_end(self, server: Canned) -> None:
        server.answers["x"] = server.answers["/o"] = lambda path: ENDLESS
        storage = get_storage("gs://bucket/x")
        for action in (lambda: storage.list("gs://bucket/d/"), lambda: storage.stat("gs://bucket/x")):
            with pytest.raises(LimitError, match="its listing has more than"):
                action()
        assert few(server)


@pytest.mark.parametrize("length", ["9" * 5000, "\xb2", "-5", "1e3"])
def test_lengths_that_are_none(server: Canned, length: str) -> None:
    head = f"HTTP/1.1 206 x\r\nContent-Length: {length}\r\nContent-Range: bytes 0-9/{'9' * 5000}"
    server.answers["x"] = lambda path: (head, b"0123456789")
    storage = get_storage(server.url)
    for action in (storage.read, storage.stat, lambda url: storage.read_ranges(url, [ByteRange(0, 10)])):
        with pytest.raises(StorageError):
            action(f"{server.url}x")
