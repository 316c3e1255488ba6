"""Google Cloud Storage as a service: credentials, tokens, stored encodings, checksums, over real sockets."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shardtools.errors import AccessError, RefusedError, StorageError, UnavailableError
from shardtools.storage import ByteRange
from shardtools.storage.gs import GsStorage
from shardtools.storage.gs_client import GsClient
from shardtools.storage.gs_upload import PIECE
from shardtools.storage.retry import RetryPolicy
from tests.contract.faults import Fault, FaultyProxy
from tests.contract.suite import MEGABYTES, OBJECT
from tests.gcs_servers import StrictGcs, strict_gcs, use_environment

WAITS = [0.25, 0.5, 1.0, 2.0, 4.0]
"""What the default policy waits after each failure in a row, at most."""

URL = "gs://bucket/x.tar"
DATA = MEGABYTES * 4
UNIT = 1 << 18
"""What the service keeps whole multiples of, until the last piece of an upload."""


def answer(status: str, *headers: str, message: str = "") -> bytes:
    body = json.dumps({"error": {"code": int(status[:3]), "message": message}}) if message else ""
    lines = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@pytest.fixture
def server() -> Iterator[StrictGcs]:
    with strict_gcs("bucket") as server:
        yield server


@dataclass
class Line:
    """A storage, and the proxy that it goes through."""

    storage: GsStorage
    proxy: FaultyProxy
    waits: list[float]

    def write(self, data: bytes) -> None:
        with self.storage.create(URL) as sink:
            sink.write(data)

    def headers(self, begins: str, name: str) -> list[str]:
        """Return the values of a header in the requests that begin so, "" for one that has none."""
        found = []
        for head in self.proxy.heads:
            if head.startswith(begins):
                lines = [line.partition(": ") for line in head.split("\r\n")[1:]]
                found.append({key.lower(): value for key, _, value in lines}.get(name.lower(), ""))
        return found


Connect = Callable[..., Line]


@pytest.fixture
def connect(server: StrictGcs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Makes a `Line` through a proxy with some faults; with ``credentials``, a file, not as an emulator."""
    proxies: list[FaultyProxy] = []

    def make(
        *faults: Fault,
        choose: Callable[[bytes], Fault | None] = lambda head: None,
        credentials: Path | None = None,
        real: bool = False,
    ) -> Line:
        proxy = FaultyProxy(server.url, list(faults), choose)
        proxies.append(proxy.__enter__())
        address = proxy.url.rstrip("/")
        if credentials or real:  # the library looks for no credentials where an emulator is named
            variables = {"API_ENDPOINT_OVERRIDE": address}
            if credentials:
                variables["GOOGLE_APPLICATION_CREDENTIALS"] = str(credentials)
        else:
            variables = {"STORAGE_EMULATOR_HOST": address}
        monkeypatch.delenv("API_ENDPOINT_OVERRIDE", raising=False)
        use_environment(monkeypatch, variables)
        waits: list[float] = []
        return Line(GsStorage(RetryPolicy(sleep=waits.append, random=lambda: 1.0)), proxy, waits)

    yield make
    for proxy in proxies:
        proxy.__exit__()


@dataclass
class TokenServer:
    """Gives out token-1, token-2 and so on; answers ``failures`` first, which are statuses and bodies."""

    url: str = ""
    given: list[str] = field(default_factory=list)
    failures: list[tuple[int, bytes]] = field(default_factory=list)


@contextmanager
def token_server() -> Iterator[TokenServer]:
    """Run a server that gives out access tokens for what a service account has signed."""
    server = TokenServer()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            assert b"jwt-bearer" in asked and b"assertion=" in asked
            if server.failures:
                status, body = server.failures.pop(0)
            else:
                server.given.append(f"token-{len(server.given) + 1}")
                entry = {"access_token": server.given[-1], "expires_in": 3600, "token_type": "Bearer"}
                status, body = 200, json.dumps(entry).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        server.url = f"http://127.0.0.1:{httpd.server_address[1]}/token"
        thread = threading.Thread(target=httpd.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kind, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(kind, form, serialization.NoEncryption()).decode()


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with token_server() as tokens:
        yield tokens


@pytest.fixture
def account(tokens: TokenServer, private_key: str, tmp_path: Path) -> Path:
    """The file of a service account whose tokens come from `tokens`."""
    entry = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "1",
        "private_key": private_key,
        "client_email": "tester@project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": tokens.url,
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(entry))
    return path


def revoke(server: StrictGcs, token: str = "token-2") -> None:
    """Let no token be good any more but one."""
    server.tokens = {token}


class TestTokens:
    @pytest.fixture(autouse=True)
    def first(self, server: StrictGcs) -> None:
        server.tokens = {"token-1"}

    def test_a_read_goes_on_with_a_new_one(
        self, connect: Connect, server: StrictGcs, tokens: TokenServer, account: Path
    ) -> None:
        cut = Fault(b"GET /download", after=2_000_000, of_body=True, then=lambda: revoke(server))
        line = connect(cut, credentials=account)
        server.store("bucket", "x.tar", MEGABYTES)
        assert line.storage.read(URL) == MEGABYTES
        assert tokens.given == ["token-1", "token-2"]
        sent = line.headers("GET /download", "Authorization")
        assert sent == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
        assert line.waits == WAITS[:1]  # for the connection that broke, not for the token

    def test_a_write_goes_on_with_a_new_one(
        self, connect: Connect, server: StrictGcs, tokens: TokenServer, account: Path
    ) -> None:
        line = connect(credentials=account)
        with line.storage.create(URL) as sink:
            sink.write(DATA[: PIECE + 1])
            assert len(server.uploads) == 1
            revoke(server)
            sink.write(DATA[PIECE + 1 :])
        assert server.buckets["bucket"]["x.tar"].data == DATA and not server.uploads
        assert tokens.given == ["token-1", "token-2"] and line.waits == []

    def test_everything_else_does_too(
        self, connect: Connect, server: StrictGcs, tokens: TokenServer, account: Path
    ) -> None:
        line = connect(credentials=account)
        server.store("bucket", "x.tar", OBJECT)
        assert line.storage.stat(URL).size == len(OBJECT)
        revoke(server)
        assert line.storage.list(URL) == [URL]
        revoke(server, "token-3")
        assert line.storage.read_ranges(URL, [ByteRange(5, 50)]) == [OBJECT[5:50]]
        revoke(server, "token-4")
        line.storage.create_exclusive("gs://bucket/new", b"mine")
        revoke(server, "token-5")
        line.storage.delete(URL)
        assert sorted(server.buckets["bucket"]) == ["new"]
        assert tokens.given == ["token-1", "token-2", "token-3", "token-4", "token-5"] and line.waits == []

    def test_one_that_stays_refused_is_told(
        self, connect: Connect, server: StrictGcs, tokens: TokenServer, account: Path
    ) -> None:
        revoke(server, "of another time")
        line = connect(credentials=account)
        with pytest.raises(AccessError, match=r"x\.tar: the account is not allowed to do this \(401 .*\); ") as raised:
            line.storage.read(URL)
        assert line.waits == [] and len(tokens.given) == 3  # the library asks twice for another
        assert "token-" not in str(raised.value)

    def test_a_failing_server_of_tokens_is_asked_again(
        self, connect: Connect, server: StrictGcs, tokens: TokenServer, account: Path
    ) -> None:
        """Three times at once by the library, and then as the policy says."""
        tokens.failures = [(503, b"{}")] * 4
        line = connect(credentials=account)
        server.store("bucket", "x.tar", OBJECT)
        assert line.storage.read(URL) == OBJECT
        assert line.waits == WAITS[:1] and tokens.given == ["token-1"]

    def test_an_account_that_is_gone_is_told(self, connect: Connect, tokens: TokenServer, account: Path) -> None:
        said = {"error": "invalid_grant", "error_description": "Invalid grant: account not found"}
        tokens.failures = [(400, json.dumps(said).encode())]
        line = connect(credentials=account)
        with pytest.raises(AccessError, match=r"the token service gave no token .*account not found\); ") as raised:
            line.storage.read(URL)
        assert line.waits == [] and line.proxy.heads == [] and "assertion" not in str(raised.value)

    @pytest.mark.parametrize("content", [None, "not JSON", "{}"])
    def test_a_file_that_holds_no_account_is_told(self, connect: Connect, tmp_path: Path, content: str | None) -> None:
        """Rather than to be nobody."""
        path = tmp_path / "account.json"
        if content is not None:
            path.write_text(content)
        line = connect(credentials=path)
        with pytest.raises(AccessError, match=r"cannot be used .*; check the file that GOOGLE_APPLICATION"):
            line.storage.read(URL)
        assert line.proxy.heads == []


def test_the_address_follows_from_the_universe_of_the_credentials(
    account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = json.loads(account.read_text())
    for domain, expected in (
        (None, "https://storage.googleapis.com"),
        ("cloud.example", "https://storage.cloud.example"),
    ):
        account.write_text(json.dumps(entry | ({"universe_domain": domain} if domain else {})))
        use_environment(monkeypatch, {"GOOGLE_APPLICATION_CREDENTIALS": str(account)})
        assert GsClient(RetryPolicy(), timeout=5.0).endpoint(URL) == expected


class TestNoCredentials:
    def test_a_public_bucket_is_read(self, connect: Connect, server: StrictGcs) -> None:
        line = connect(real=True)
        server.store("bucket", "x.tar", OBJECT)
        assert line.storage.read(URL) == OBJECT and line.storage.list(URL) == [URL]
        assert line.headers("GET ", "Authorization") == ["", ""]

    @pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
    def test_a_private_bucket_tells_how_to_give_some(self, connect: Connect, server: StrictGcs, status: str) -> None:
        line = connect(*[Fault(b"", answer=answer(status, message="Anonymous caller"))] * 6, real=True)
        server.store("bucket", "x.tar", OBJECT)
        storage = line.storage
        told = (
            rf"there are no credentials \({status}\); "
            "run 'gcloud auth application-default login', or set GOOGLE_APPLICATION_CREDENTIALS"
        )
        for call in (storage.read, storage.stat, storage.list, storage.delete):
            with pytest.raises(AccessError, match=told):
                call(URL)
        with pytest.raises(AccessError, match=told):
            storage.create_exclusive(URL, b"x")
        with pytest.raises(AccessError, match=told):
            line.write(DATA)
        assert line.waits == [] and len(line.proxy.heads) == 6 and server.buckets["bucket"]["x.tar"].data == OBJECT


class TestRefusals:
    def test_tell_what_the_service_says(
        self, connect: Connect, server: StrictGcs, tokens: TokenServer, account: Path
    ) -> None:
        message = "tester does not have storage.objects.create access"
        line = connect(Fault(b"POST ", answer=answer("403 Forbidden", message=message)), credentials=account)
        with pytest.raises(AccessError, match=rf"\(403 Forbidden: {message}\); check the permissions of the account"):
            line.write(b"x")
        assert line.waits == [] and server.buckets["bucket"] == {}


class TestStoredAsGzip:
    """An object with a Content-Encoding is what is stored, whatever it says that this is."""

    @pytest.fixture
    def stored(self, server: StrictGcs) -> bytes:
        data = gzip.compress(OBJECT[:50_000] + bytes(1 << 20), mtime=0)
        server.store("bucket", "x.tar", data, {"contentEncoding": "gzip"})
        return data

    def test_is_read_as_it_is_stored(self, connect: Connect, stored: bytes) -> None:
        line = connect()
        assert line.storage.stat(URL).size == len(stored)
        assert line.storage.read(URL) == stored
        ranges = [ByteRange(0, 10), ByteRange(1000, 3000), ByteRange(len(stored) - 5, len(stored))]
        assert line.storage.read_ranges(URL, ranges) == [stored[part.start : part.stop] for part in ranges]
        assert set(line.headers("GET /download", "Accept-Encoding")) == {"gzip"}

    def test_goes_on_where_it_broke_off(self, connect: Connect, stored: bytes) -> None:
        line = connect(Fault(b"GET /download", after=20_000, of_body=True))
        with line.storage.open(URL) as stream:
            assert stream.stat.size == len(stored)
            buffer = bytearray(5000)
            got = bytearray()
            while size := stream.readinto(buffer):
                got += buffer[:size]
        assert got == stored and line.waits == WAITS[:1]
        assert line.headers("GET /download", "Range")[1].startswith("bytes=")


def flip(data: bytes) -> bytes:
    """Return the same bytes with one of them changed."""
    damaged = bytearray(data)
    damaged[len(damaged) // 2] ^= 1
    return bytes(damaged)


class TestChecksums:
    @pytest.mark.parametrize("damage", [flip, lambda data: data[:-1]])
    @pytest.mark.parametrize("size", [10, PIECE, PIECE + 1, len(DATA)])
    def test_what_is_stored_wrong_is_deleted(
        self, connect: Connect, server: StrictGcs, size: int, damage: Callable[[bytes], bytes]
    ) -> None:
        server.damage, server.forgets_hash = damage, True
        line = connect()
        with pytest.raises(StorageError, match=r"x\.tar: the service received other bytes .* was deleted; run again"):
            line.write(DATA[:size])
        assert server.buckets["bucket"] == {} and server.uploads == {}

    def test_the_object_that_has_come_instead_stays(self, connect: Connect, server: StrictGcs) -> None:
        """What is deleted is the damaged one, not what somebody else has put there meanwhile."""
        server.damage, server.forgets_hash = flip, True

        def replace(head: bytes) -> Fault | None:
            if head.startswith(b"DELETE "):
                server.store("bucket", "x.tar", b"another's")
            return None

        line = connect(choose=replace)
        with pytest.raises(StorageError, match="other bytes than were sent"):
            line.write(OBJECT)
        assert server.buckets["bucket"]["x.tar"].data == b"another's"

    @pytest.mark.parametrize("size", [10, len(DATA)])
    def test_what_the_service_finds_wrong_is_not_stored(self, connect: Connect, server: StrictGcs, size: int) -> None:
        server.damage = flip
        server.store("bucket", "x.tar", b"old")
        line = connect()
        with pytest.raises(RefusedError, match=r"\(400 Bad Request: Provided CRC32C doesn't match"):
            line.write(DATA[:size])
        assert server.buckets["bucket"]["x.tar"].data == b"old" and server.uploads == {}
        assert line.waits == []


class TestBusy:
    @pytest.mark.parametrize("size", [10, len(DATA)])
    def test_an_upload_waits_as_long_as_it_is_told(self, connect: Connect, server: StrictGcs, size: int) -> None:
        busy = answer("429 Too Many Requests", "Retry-After: 7", message="slow down")
        line = connect(Fault(b"POST ", answer=busy), *[Fault(b"PUT ", answer=busy)] * (size > PIECE))
        line.write(DATA[:size])
        assert server.buckets["bucket"]["x.tar"].data == DATA[:size] and not line.proxy.faults
        assert set(line.waits) == {7.0}

    def test_so_does_everything_else(self, connect: Connect, server: StrictGcs) -> None:
        busy = answer("429 Too Many Requests", "Retry-After: 7")
        line = connect(Fault(b"GET ", answer=busy), Fault(b"DELETE ", answer=busy))
        server.store("bucket", "x.tar", OBJECT)
        assert line.storage.list(URL) == [URL]
        line.storage.delete(URL)
        assert server.buckets["bucket"] == {} and line.waits == [7.0, 7.0]


class TestPieces:
    @pytest.mark.parametrize("kept", [0, UNIT, 5 * UNIT, PIECE - UNIT, PIECE])
    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_one_that_failed_goes_on_from_what_has_arrived(
        self, connect: Connect, server: StrictGcs, number: int, kept: int
    ) -> None:
        """The first, a middle one, or the last, which is shorter than the others."""
        at = number * PIECE
        kept = min(kept, (len(DATA) - at) // UNIT * UNIT)

        def keep() -> None:
            (upload,) = server.uploads.values()
            assert len(upload.data) == at
            upload.data += DATA[at : at + kept]

        whole = Fault(b"PUT ", after=1 << 30)
        line = connect(*[whole] * number, Fault(b"PUT ", answer=answer("503 x"), then=keep))
        line.write(DATA)
        assert server.buckets["bucket"]["x.tar"].data == DATA and not server.uploads
        assert line.waits == WAITS[:1]
        asked = line.headers("PUT ", "Content-Range")[number + 1 :]
        last = at + PIECE >= len(DATA)
        assert asked[0] == f"bytes */{len(DATA) if last else '*'}"
        if at + kept < len(DATA) and (last or kept < PIECE):
            assert asked[1].startswith(f"bytes {at + kept}-")
        assert sum(span(value) for value in asked) == len(DATA) - at - kept

    def test_a_break_in_a_piece_costs_no_attempt_if_bytes_came_through(
        self, connect: Connect, server: StrictGcs
    ) -> None:
        def keep() -> None:
            (upload,) = server.uploads.values()
            upload.data += DATA[len(upload.data) : len(upload.data) + UNIT]

        line = connect()
        faults = [Fault(b"PUT ", answer=answer("503 x"), then=keep), Fault(b"PUT ", after=1 << 30)]
        line.proxy.faults += faults * 12
        line.write(DATA)
        assert server.buckets["bucket"]["x.tar"].data == DATA
        assert line.waits == [0.25] * 12

    def test_one_that_keeps_failing_is_given_up(self, connect: Connect, server: StrictGcs) -> None:
        line = connect(*[Fault(b"PUT ", answer=answer("503 x"))] * 6)
        with pytest.raises(UnavailableError, match="503 x, 6 times in a row"):
            line.write(DATA)
        assert line.waits == WAITS and server.uploads == {} and server.buckets["bucket"] == {}

    def test_an_upload_that_the_service_has_forgotten(self, connect: Connect, server: StrictGcs) -> None:
        line = connect(Fault(b"PUT ", answer=answer("503 x"), then=server.uploads.clear))
        with pytest.raises(StorageError, match="the service no longer knows the upload; run again"):
            line.write(DATA)
        assert server.buckets["bucket"] == {}


def span(content_range: str) -> int:
    """Return how many bytes a request has by its Content-Range."""
    first, _, last = content_range.removeprefix("bytes ").partition("/")[0].partition("-")
    return int(last) + 1 - int(first) if last else 0
