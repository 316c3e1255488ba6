"""The same faults for every scheme, over real sockets: what is lost, how often it is tried again, how long it takes.

A `FaultyProxy` stands between the storage and a real server. The policy's ``sleep`` writes down how long it was to
wait, and its ``random`` is always 1, so that a test says how often and how long, and takes no time itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from shardtools.errors import AccessError, ChangedError, NotFoundError, RefusedError, StorageError, UnavailableError
from shardtools.storage import ByteRange, Storage
from shardtools.storage.gs import GsStorage
from shardtools.storage.http import HttpStorage
from shardtools.storage.retry import RetryPolicy
from shardtools.storage.s3 import S3Storage
from tests.contract.faults import Fault, FaultyProxy
from tests.contract.suite import MEGABYTES, OBJECT, TrustedPlaces, pattern
from tests.gcs_servers import StrictGcs, strict_gcs
from tests.gcs_servers import use_environment as use_google
from tests.moto_server import MotoServer, moto_server
from tests.moto_server import use_environment as use_amazon
from tests.servers import NginxServer, nginx_server

WAITS = [0.25, 0.5, 1.0, 2.0, 4.0]
"""What the default policy waits after each failure in a row, at most."""

LONGEST = 30.0
"""Seconds that no test may take, however slow the machine: nothing here waits for real but for a short time-out."""


def canned(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Line:
    """A storage, the proxy that it goes through, and the server behind that."""

    storage: Storage
    proxy: FaultyProxy
    root: str
    put: Callable[[str, bytes], object]
    get: Callable[[str], bytes]
    unfinished: Callable[[], list[str]]
    reads: bytes
    writes: bytes
    waits: list[float] = field(default_factory=list)

    def url(self, name: str) -> str:
        return self.root + name

    def count(self, when: bytes) -> int:
        """Return how many requests began so."""
        return sum(line.encode().startswith(when) for line in self.proxy.requests)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    with nginx_server(tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server:
        server.client().create_bucket(Bucket="bucket")
        yield server


@pytest.fixture(scope="module")
def google() -> Iterator[StrictGcs]:
    with strict_gcs("bucket") as server:
        yield server


def http_line(web: NginxServer, proxy: FaultyProxy, policy: RetryPolicy, timeout: float) -> Line:
    def put(name: str, data: bytes) -> None:
        (web.root / name).write_bytes(data)

    return Line(
        storage=HttpStorage(policy, timeout),
        proxy=proxy,
        root=proxy.url,
        put=put,
        get=lambda name: (web.root / name).read_bytes(),
        unfinished=lambda: [path.name for path in web.root.iterdir() if ".tmp" in path.name and path.is_file()],
        reads=b"GET ",
        writes=b"PUT ",
    )


def s3_line(moto: MotoServer, proxy: FaultyProxy, policy: RetryPolicy, timeout: float) -> Line:
    client = moto.client()

    def unfinished() -> list[str]:
        return [upload["Key"] for upload in client.list_multipart_uploads(Bucket="bucket").get("Uploads", [])]

    return Line(
        storage=S3Storage(policy, timeout),
        proxy=proxy,
        root="s3://bucket/",
        put=lambda name, data: client.put_object(Bucket="bucket", Key=name, Body=data),
        get=lambda name: client.get_object(Bucket="bucket", Key=name)["Body"].read(),
        unfinished=unfinished,
        reads=b"GET ",
        writes=b"PUT ",
    )


def gs_line(google: StrictGcs, proxy: FaultyProxy, policy: RetryPolicy, timeout: float) -> Line:
    return Line(
        storage=GsStorage(policy, timeout),
        proxy=proxy,
        root="gs://bucket/",
        put=lambda name, data: google.store("bucket", name, data),
        get=lambda name: google.buckets["bucket"][name].data,
        unfinished=lambda: list(google.uploads),
        reads=b"GET /download",
        writes=b"POST /upload",
    )


class Lines:
    """Makes a `Line` of one scheme; `close` ends what it has made."""

    def __init__(self, scheme: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
        self._scheme = scheme
        self._server = request.getfixturevalue({"http": "web", "s3": "moto", "gs": "google"}[scheme])
        self._monkeypatch = monkeypatch
        self._stack = ExitStack()

    def __call__(
        self, *faults: Fault, timeout: float = 20.0, attempts: int = 6, sleep: Callable[[], object] | None = None
    ) -> Line:
        waits: list[float] = []

        def note(seconds: float) -> None:
            waits.append(seconds)
            if sleep is not None:
                sleep()

        policy = RetryPolicy(attempts=attempts, sleep=note, random=lambda: 1.0)
        proxy = self._stack.enter_context(FaultyProxy(self._server.url, list(faults), listen=sleep is None))
        if self._scheme == "s3":
            endpoint = {"AWS_ENDPOINT_URL": proxy.url.rstrip("/")}
            use_amazon(self._monkeypatch, {**self._server.environment(), **endpoint})
            line = s3_line(self._server, proxy, policy, timeout)
        elif self._scheme == "gs":
            use_google(self._monkeypatch, {"STORAGE_EMULATOR_HOST": proxy.url.rstrip("/")})
            line = gs_line(self._server, proxy, policy, timeout)
        else:
            line = http_line(self._server, proxy, policy, timeout)
        line.waits = waits
        return line

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(params=["http", "s3", "gs"])
def connect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    lines = Lines(request.param, request, monkeypatch)
    started = time.monotonic()
    yield lines
    lines.close()
    assert time.monotonic() - started < LONGEST


def reads(connect: Lines) -> bytes:
    """Return how the requests for an object's bytes begin."""
    return connect().reads


def as_if_whole(head: bytes) -> bytes:
    """Return the head of a part with the status of a whole object, and without the length that would betray it."""
    lines = head.replace(b" 206 ", b" 200 ", 1).split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith((b"content-length", b"connection"))]
    return b"\r\n".join([*kept, b"x-goog-stored-content-length: %d" % len(MEGABYTES), b"Connection: close"])


class TestReading:
    @pytest.mark.parametrize("at", [2_500_000, 4_000_000])
    def test_a_part_that_comes_with_the_status_of_a_whole_object(self, connect: Lines, at: int) -> None:
        """As Google's storage-testbench answers a read that goes on after a dropped connection."""
        rest = Fault(reads(connect), after=len(MEGABYTES) - at, of_body=True, rewrite=as_if_whole)
        line = connect(Fault(reads(connect), after=at, of_body=True), rest)
        line.put("x.tar", MEGABYTES)
        assert line.storage.read(line.url("x.tar")) == MEGABYTES
        assert line.count(line.reads) == 2 and not line.proxy.faults

    def test_a_range_that_comes_with_the_status_of_a_whole_object(self, connect: Lines) -> None:
        line = connect(Fault(reads(connect), after=1_000, of_body=True, rewrite=as_if_whole))
        line.put("x.tar", MEGABYTES)
        assert line.storage.read_ranges(line.url("x.tar"), [ByteRange(5_000, 6_000)]) == [MEGABYTES[5_000:6_000]]

    def test_other_bytes_than_were_asked_for(self, connect: Lines) -> None:
        place = f"Content-Range: bytes 7-106/{len(MEGABYTES)}"
        other = canned("200 OK", 'ETag: "1"', "x-goog-generation: 1", place, body=OBJECT[:100])
        line = connect(Fault(reads(connect), answer=other), Fault(reads(connect), answer=other))
        line.put("x.tar", MEGABYTES)
        for action in (line.storage.read, lambda url: line.storage.read_ranges(url, [ByteRange(500, 600)])):
            with pytest.raises(RefusedError, match=r"x\.tar: the server sent other bytes"):
                action(line.url("x.tar"))

    @pytest.mark.parametrize("reset", [True, False])
    @pytest.mark.parametrize("after", [1, 2_500_000, (5 << 20) - 100])
    def test_a_body_that_breaks_off_goes_on(self, connect: Lines, after: int, reset: bool) -> None:
        line = connect(Fault(reads(connect), after=after, of_body=True, reset=reset))
        line.put("x.tar", MEGABYTES)
        assert line.storage.read(line.url("x.tar")) == MEGABYTES
        assert line.waits == WAITS[:1]
        assert line.count(line.reads) == 2 and not line.proxy.faults

    @pytest.mark.parametrize("of_body", [True, False])
    def test_a_silent_server_is_left_and_asked_again(self, connect: Lines, of_body: bool) -> None:
        line = connect(Fault(reads(connect), after=100_000 if of_body else 0, of_body=of_body, stall=True), timeout=0.5)
        line.put("x.tar", MEGABYTES)
        assert line.storage.read(line.url("x.tar")) == MEGABYTES
        assert line.waits == WAITS[:1] and line.count(line.reads) == 2

    @pytest.mark.parametrize("stall", [False, True])
    def test_a_buffer_is_filled_through_a_broken_connection(self, connect: Lines, stall: bool) -> None:
        faults = [Fault(reads(connect), after=after, of_body=True, stall=stall) for after in (1_500_000, 700_000)]
        line = connect(*faults, timeout=0.5)
        line.put("x.tar", MEGABYTES)
        buffers = [bytearray(1_000_000), bytearray(2_000_000)]
        line.storage.read_into(line.url("x.tar"), [5, 1_000_517], [memoryview(buffer) for buffer in buffers])
        assert buffers == [MEGABYTES[5:1_000_005], MEGABYTES[1_000_517:3_000_517]]
        assert line.count(line.reads) == 3 and not line.proxy.faults

    def test_busy_three_times(self, connect: Lines) -> None:
        busy = Fault(reads(connect), answer=canned("503 Slow Down"))
        line = connect(busy, busy, busy)
        line.put("x.tar", OBJECT)
        assert line.storage.read(line.url("x.tar")) == OBJECT
        assert line.waits == WAITS[:3] and line.count(line.reads) == 4

    def test_the_server_says_how_long_to_wait(self, connect: Lines) -> None:
        line = connect(Fault(reads(connect), answer=canned("429 Too Many Requests", "Retry-After: 7")))
        line.put("x.tar", OBJECT)
        assert line.storage.read(line.url("x.tar")) == OBJECT
        assert line.waits == [7.0] and line.count(line.reads) == 2

    @pytest.mark.parametrize("status", ["408 x", "500 x", "502 x", "504 x"])
    def test_what_may_pass(self, connect: Lines, status: str) -> None:
        line = connect(Fault(reads(connect), answer=canned(status)))
        line.put("x.tar", OBJECT)
        assert line.storage.read_ranges(line.url("x.tar"), [ByteRange(5, 50)]) == [OBJECT[5:50]]
        assert line.waits == WAITS[:1]

    def test_what_does_not_pass(self, connect: Lines) -> None:
        line = connect(*[Fault(reads(connect), answer=canned("503 Slow Down"))] * 6)
        line.put("x.tar", OBJECT)
        with pytest.raises(UnavailableError, match=r"x\.tar: .* answered 503 .*, 6 times in a row; "):
            line.storage.read(line.url("x.tar"))
        assert line.waits == WAITS and line.count(line.reads) == 6

    @pytest.mark.parametrize(
        ("status", "error"),
        [("401 x", AccessError), ("403 x", AccessError), ("404 x", NotFoundError), ("416 x", StorageError)],
    )
    def test_what_fails_at_once(self, connect: Lines, status: str, error: type[StorageError]) -> None:
        line = connect(Fault(reads(connect), answer=canned(status)))
        line.put("x.tar", OBJECT)
        with pytest.raises(error, match=r"x\.tar: .*; ") as raised:
            line.storage.read(line.url("x.tar"))
        assert raised.value.fix and not isinstance(raised.value, UnavailableError)
        assert line.waits == [] and line.count(line.reads) == 1

    def test_a_server_that_ignores_ranges(self, connect: Lines) -> None:
        line = connect(Fault(reads(connect), answer=canned("200 OK", 'ETag: "1"', body=OBJECT)))
        line.put("x.tar", OBJECT)
        assert line.storage.read_ranges(line.url("x.tar"), [ByteRange(500, 600)]) == [OBJECT[500:600]]
        assert line.waits == []

    @pytest.mark.parametrize("size", [5 << 20, 4 << 20])
    def test_an_object_that_is_replaced_is_not_mixed(self, connect: Lines, size: int) -> None:
        replaced = pattern(size, seed=1)
        fault = Fault(reads(connect), after=2_000_000, of_body=True, then=lambda: line.put("new.tar", replaced))
        line = connect(fault)
        line.put("new.tar", MEGABYTES[: (5 << 20) - 7])
        with line.storage.open(line.url("new.tar")) as stream:
            assert stream.read(1000) == MEGABYTES[:1000]
            with pytest.raises(ChangedError, match=r"new\.tar: "):
                stream.readall()
        assert line.waits == WAITS[:1] and line.count(line.reads) == 2

    def test_bytes_that_come_through_renew_the_attempts(self, connect: Lines) -> None:
        line = connect(*[Fault(reads(connect), after=120_000, of_body=True)] * 40, attempts=2)
        line.put("x.tar", MEGABYTES)
        buffer = bytearray(50_000)
        got = bytearray()
        with line.storage.open(line.url("x.tar")) as stream:
            while size := stream.readinto(buffer):
                got += buffer[:size]
        assert got == MEGABYTES
        assert line.waits == [0.25] * 40 and line.count(line.reads) == 41

    def test_a_server_that_is_not_there_yet(self, connect: Lines) -> None:
        asked: list[None] = []

        def come_up() -> None:
            asked.append(None)
            if len(asked) == 3:
                line.proxy.open()

        line = connect(sleep=come_up)
        line.put("x.tar", OBJECT)
        assert line.storage.read(line.url("x.tar")) == OBJECT
        assert line.waits == WAITS[:3]


class TestWriting:
    @pytest.mark.parametrize("size", [10, 3 << 20])
    def test_an_error_after_the_body_was_sent(self, connect: Lines, size: int) -> None:
        line = connect(Fault(connect().writes, instead=canned("500 Oops")))
        with line.storage.create(line.url("new.tar")) as sink:
            sink.write(MEGABYTES[:size])
        assert line.get("new.tar") == MEGABYTES[:size]
        assert line.waits == WAITS[:1] and line.count(line.writes) == 2 and line.unfinished() == []

    @pytest.mark.parametrize("size", [0, 10, 3 << 20])
    def test_the_answer_is_lost(self, connect: Lines, size: int) -> None:
        line = connect(Fault(connect().writes, after=0))
        with line.storage.create(line.url("new.tar")) as sink:
            sink.write(MEGABYTES[:size])
        assert line.get("new.tar") == MEGABYTES[:size]
        assert line.waits == WAITS[:1] and line.count(line.writes) == 2 and line.unfinished() == []

    def test_the_line_breaks_within_the_body(self, connect: Lines) -> None:
        line = connect(Fault(connect().writes, answer=b""))
        with line.storage.create(line.url("new.tar")) as sink:
            sink.write(MEGABYTES)
        assert line.get("new.tar") == MEGABYTES
        assert line.waits == WAITS[:1] and line.unfinished() == []

    def test_an_exclusive_create_whose_answer_is_lost_has_won(
        self, connect: Lines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shardtools.storage.exclusive._known", TrustedPlaces())
        name = f"once-{time.monotonic_ns()}"
        line = connect(Fault(connect().writes, after=0))
        line.storage.create_exclusive(line.url(name), b"mine")
        assert line.get(name) == b"mine" and line.waits == WAITS[:1]

    @pytest.mark.parametrize("status", ["401 x", "403 x"])
    def test_what_is_refused_is_told_at_once(self, connect: Lines, status: str) -> None:
        line = connect(Fault(connect().writes, answer=canned(status)))
        with (
            pytest.raises((AccessError, RefusedError), match=r"new\.tar: .*; "),
            line.storage.create(line.url("new.tar")) as sink,
        ):
            sink.write(b"x")
        assert line.waits == [] and line.count(line.writes) == 1 and line.unfinished() == []


class TestInParts:
    """Uploads that go in several parts."""

    @pytest.fixture
    def connect(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
        lines = Lines(request.param, request, monkeypatch)
        yield lines
        lines.close()

    DATA = MEGABYTES * 6

    def write(self, line: Line) -> None:
        with line.storage.create(line.url("parts.tar")) as sink:
            view = memoryview(self.DATA)
            sink.writelines(view[start : start + 700_000] for start in range(0, len(view), 700_000))

    @pytest.mark.parametrize("connect", ["s3", "gs"], indirect=True)
    @pytest.mark.parametrize(
        "fault",
        [
            Fault(b"PUT ", answer=b""),
            Fault(b"PUT ", answer=canned("503 Slow Down")),
            Fault(b"PUT ", instead=canned("500 Oops")),
            Fault(b"PUT ", after=0),
        ],
    )
    def test_a_part_fails(self, connect: Lines, fault: Fault) -> None:
        line = connect(fault)
        self.write(line)
        assert line.get("parts.tar") == self.DATA
        assert line.waits == WAITS[:1] and line.unfinished() == [] and not line.proxy.faults

    @pytest.mark.parametrize("connect", ["s3", "gs"], indirect=True)
    def test_every_part_fails_once(self, connect: Lines) -> None:
        line = connect(*[Fault(b"PUT ", answer=canned("500 Oops"))] * 4)
        self.write(line)
        assert line.get("parts.tar") == self.DATA and not line.proxy.faults and line.unfinished() == []

    @pytest.mark.parametrize("connect", ["s3"], indirect=True)
    def test_the_answer_to_the_completion_is_lost(self, connect: Lines) -> None:
        line = connect(Fault(b"POST /bucket/parts.tar?uploadId", after=0))
        self.write(line)
        assert line.get("parts.tar") == self.DATA
        assert line.waits == WAITS[:1] and line.unfinished() == [] and not line.proxy.faults

    @pytest.mark.parametrize("connect", ["gs"], indirect=True)
    def test_the_answer_to_the_last_part_is_lost(self, connect: Lines) -> None:
        whole = Fault(b"PUT ", after=1 << 30)
        line = connect(whole, whole, whole, Fault(b"PUT ", after=0))
        self.write(line)
        assert line.get("parts.tar") == self.DATA
        assert line.waits == WAITS[:1] and line.unfinished() == [] and not line.proxy.faults

    @pytest.mark.parametrize("connect", ["s3", "gs"], indirect=True)
    def test_one_that_is_given_up_leaves_nothing(self, connect: Lines) -> None:
        line = connect(*[Fault(b"PUT ", answer=canned("403 Forbidden"))] * 8)
        line.put("parts.tar", b"old")
        with pytest.raises(AccessError, match=r"parts\.tar: "):
            self.write(line)
        assert line.get("parts.tar") == b"old" and line.unfinished() == [] and line.waits == []


def test_a_host_that_does_not_exist_is_told_at_once() -> None:
    waits: list[float] = []
    storage = HttpStorage(RetryPolicy(sleep=waits.append))
    with pytest.raises(StorageError, match=r"invalid/x\.tar: (the host is unknown|the name of the host)"):
        storage.read("http://shardtools.invalid/x.tar")
    assert len(waits) in (0, 5)  # a resolver that cannot be reached says that it may pass
