"""A web server that fails, or can do less: over real sockets, with faults at scripted places."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from shardtools.errors import (
    AccessError,
    ChangedError,
    FullError,
    NotFoundError,
    RefusedError,
    StorageError,
    UnavailableError,
)
from shardtools.storage import ByteRange, http_upload
from shardtools.storage.http import HttpStorage
from shardtools.storage.retry import RetryPolicy
from tests.contract.faults import Fault, FaultyProxy, PlainServer, plain_server
from tests.contract.suite import MEGABYTES, OBJECT, Boom, FolderPlace, TrustedPlaces, pattern
from tests.servers import NginxServer, stop, wait_until

QUICK = RetryPolicy(attempts=4, base=0.01, cap=0.05)
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\nRetry-After: 0\r\n\r\n"
TEN = b"Content-Length: 10\r\nConnection: close\r\n\r\nabcdefghij"
MANY = [ByteRange(start, start + 100) for start in range(0, 100_000, 9_000)]


def canned(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwords".encode()


@pytest.fixture
def storage() -> HttpStorage:
    return HttpStorage(QUICK)


@pytest.fixture
def place(web: NginxServer, storage: HttpStorage) -> FolderPlace:
    name = uuid.uuid4().hex
    (web.root / name).mkdir()
    return FolderPlace(storage, f"{web.url}{name}/", web.root / name)


@pytest.fixture
def plain() -> Iterator[PlainServer]:
    with plain_server() as server:
        server.objects["x.tar"] = OBJECT
        yield server


class Behind:
    """A `FaultyProxy` before the folder of a `FolderPlace`."""

    def __init__(self, place: FolderPlace, *faults: Fault):
        self.proxy = FaultyProxy(place.root, list(faults))
        self._folder = place.folder.name

    def __enter__(self) -> Behind:
        self.proxy.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.proxy.__exit__(*exc)

    def url(self, name: str) -> str:
        return f"{self.proxy.url}{self._folder}/{name}"


class TestReading:
    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize("after", [0, 10, 50, 100, 150, 200, 250, 1000, 2_000_000, 5_242_000])
    def test_a_dropped_connection_is_resumed(self, place: FolderPlace, after: int, reset: bool) -> None:
        place.put("x.tar", MEGABYTES)
        with Behind(place, Fault(after=after, reset=reset)) as behind:
            assert place.storage.read(behind.url("x.tar")) == MEGABYTES
            assert not behind.proxy.faults
            if after > 1000 and not reset:  # a reset may take back what had come and was not read
                assert "Range: bytes=" in behind.proxy.heads[1] and "If-Range: " in behind.proxy.heads[1]

    def test_a_bad_line_is_resumed_as_long_as_bytes_come_through(self, place: FolderPlace) -> None:
        place.put("x.tar", MEGABYTES)
        with Behind(place, *[Fault(after=400_000)] * 12) as behind:
            buffer = bytearray(100_000)
            got = bytearray()
            with place.storage.open(behind.url("x.tar")) as stream:
                while count := stream.readinto(buffer):
                    got += buffer[:count]
            assert got == MEGABYTES and not behind.proxy.faults

    def test_a_line_that_stays_dead_is_given_up(self, place: FolderPlace) -> None:
        place.put("x.tar", MEGABYTES)
        faults = [Fault(after=400_000), *[Fault(answer=b"")] * 3]
        with Behind(place, *faults) as behind:
            with place.storage.open(behind.url("x.tar")) as stream:
                assert stream.read(1000) == MEGABYTES[:1000]
                with pytest.raises(UnavailableError, match=r"x\.tar: .*4 times in a row; "):
                    stream.readall()
            assert not behind.proxy.faults

    @pytest.mark.parametrize("size", [5 << 20, 4 << 20])
    def test_an_object_replaced_in_between_has_changed(self, place: FolderPlace, size: int) -> None:
        place.put("x.tar", MEGABYTES)
        os.utime(place.folder / "x.tar", (1, 1))

        def replace() -> None:
            place.put("new", pattern(size, seed=1))
            os.replace(place.folder / "new", place.folder / "x.tar")

        with (
            Behind(place, Fault(after=2_000_000, then=replace)) as behind,
            pytest.raises(ChangedError, match=r"x\.tar: the object was replaced"),
        ):
            place.storage.read(behind.url("x.tar"))

    def test_an_object_deleted_in_between_is_not_found(self, place: FolderPlace) -> None:
        place.put("x.tar", MEGABYTES)
        with (
            Behind(place, Fault(after=2_000_000, then=(place.folder / "x.tar").unlink)) as behind,
            pytest.raises(NotFoundError),
        ):
            place.storage.read(behind.url("x.tar"))

    @pytest.mark.parametrize("status", ["408 x", "429 x", "500 x", "502 x", "503 x", "504 x"])
    def test_what_may_pass_is_tried_again(self, place: FolderPlace, status: str) -> None:
        place.put("x.tar", OBJECT)
        with Behind(place, *[Fault(answer=canned(status))] * 3) as behind:
            assert place.storage.read(behind.url("x.tar")) == OBJECT
            assert len(behind.proxy.requests) == 4

    def test_what_does_not_pass_is_reported(self, place: FolderPlace) -> None:
        with Behind(place, *[Fault(answer=BUSY)] * 4) as behind:
            url = behind.url("x.tar").replace("http://", "http://me:secret@") + "?token=secret"
            with pytest.raises(UnavailableError, match=r"x\.tar: the server answered 503 .*4 times") as raised:
                place.storage.read(url)
            assert "secret" not in str(raised.value) + repr(raised.value) and isinstance(raised.value, ConnectionError)

    @pytest.mark.parametrize(
        ("status", "error", "text"),
        [
            ("401 Unauthorized", AccessError, "netrc"),
            ("403 Forbidden", AccessError, "netrc"),
            ("404 Not Found", NotFoundError, "check the URL"),
            ("410 Gone", NotFoundError, "any more"),
            ("400 Bad Request", RefusedError, "400 Bad Request"),
            ("418", RefusedError, "418"),
            ("304 Not Modified", RefusedError, "304"),
        ],
    )
    def test_what_cannot_pass_is_not_tried_again(
        self, place: FolderPlace, status: str, error: type[StorageError], text: str
    ) -> None:
        with Behind(place, Fault(answer=canned(status))) as behind:
            with pytest.raises(error, match=text) as raised:
                place.storage.read(behind.url("x.tar"))
            assert raised.value.fix and len(behind.proxy.requests) == 1

    def test_the_wait_that_the_server_asks_for(self, place: FolderPlace) -> None:
        waits: list[float] = []
        storage = HttpStorage(RetryPolicy(attempts=3, base=0.01, sleep=waits.append))
        place.put("x.tar", OBJECT)
        with Behind(place, Fault(answer=BUSY.replace(b": 0\r\n\r\n", b": 7\r\n\r\n"))) as behind:
            assert storage.read(behind.url("x.tar")) == OBJECT
        assert waits == [7.0]

    def test_redirects_are_followed(self, place: FolderPlace) -> None:
        place.put("x.tar", MEGABYTES)
        answer = f"HTTP/1.1 302 Found\r\nLocation: {place.url('x.tar')}\r\nContent-Length: 0\r\n\r\n".encode()
        with Behind(place, Fault(answer=answer)) as behind:
            assert place.storage.read(behind.url("other.tar")) == MEGABYTES

    def test_nobody_listens(self, storage: HttpStorage) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(UnavailableError, match=r"refused, 4 times in a row"):
            storage.read(f"http://127.0.0.1:{port}/x.tar")

    def test_a_server_that_does_not_answer(self) -> None:
        storage = HttpStorage(RetryPolicy(attempts=2, base=0.01), timeout=0.2)
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            pytest.raises(UnavailableError, match="did not answer in time"),
        ):
            storage.read(f"http://127.0.0.1:{listener.getsockname()[1]}/x.tar")

    @pytest.mark.parametrize("url", ["http://", "http://[::1/x", "http://host:port/x", "http:///x"])
    def test_what_is_no_url(self, storage: HttpStorage, url: str) -> None:
        for action in (storage.read, lambda url: storage.read_ranges(url, MANY), storage.delete, storage.stat):
            with pytest.raises(RefusedError, match="check the URL"):
                action(url)

    def test_a_host_that_does_not_exist(self, storage: HttpStorage) -> None:
        before = time.monotonic()
        with pytest.raises(UnavailableError, match=r"host"):
            storage.read("http://does-not-exist.invalid/x.tar")
        assert time.monotonic() - before < 30

    def test_headers_that_are_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHARDTOOLS_HTTP_HEADERS", "Authorization Bearer secret")
        with pytest.raises(RefusedError, match="SHARDTOOLS_HTTP_HEADERS") as raised:
            HttpStorage(QUICK).read("http://127.0.0.1:1/x.tar")
        assert "secret" not in str(raised.value)


class TestServersThatCanDoLess:
    @pytest.mark.parametrize("cut", [0, 1, 50_000])
    def test_no_ranges_but_the_same_object(self, plain: PlainServer, storage: HttpStorage, cut: int) -> None:
        plain.cut_after = cut
        with storage.open(plain.url + "x.tar") as stream:
            assert b"".join(iter(lambda: stream.read(7_000), b"")) == OBJECT
        assert len(plain.log) == 2

    def test_no_ranges_and_another_object(self, plain: PlainServer, storage: HttpStorage) -> None:
        plain.cut_after = 50_000
        with storage.open(plain.url + "x.tar") as stream:
            stream.read(10_000)
            plain.etag = '"v2"'
            with pytest.raises(ChangedError):
                stream.readall()

    def test_nothing_to_recognise_the_object_by(self, plain: PlainServer, storage: HttpStorage) -> None:
        plain.etag, plain.cut_after, plain.ranges = None, 50_000, True
        with pytest.raises(UnavailableError, match="no ETag"):
            storage.read(plain.url + "x.tar")
        assert storage.read(plain.url + "x.tar") == OBJECT

    def test_a_weak_etag(self, plain: PlainServer, storage: HttpStorage) -> None:
        plain.etag, plain.cut_after, plain.ranges = 'W/"v1"', 50_000, True
        assert storage.read(plain.url + "x.tar") == OBJECT
        assert plain.log == ["GET", "GET bytes=50000-99999"]

    def test_an_answer_in_chunks(self, plain: PlainServer, storage: HttpStorage) -> None:
        plain.chunked = True
        with storage.open(plain.url + "x.tar") as stream:
            assert stream.stat.size is None
            assert stream.readall() == OBJECT
        for ranges in (MANY, [ByteRange(5, 10)], [ByteRange(0, 0)]):
            assert storage.read_ranges(plain.url + "x.tar", ranges) == [OBJECT[p.start : p.stop] for p in ranges]
        with pytest.raises(RefusedError, match="asked for"):
            storage.read_ranges(plain.url + "x.tar", [ByteRange(99_990, 100_001)])

    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize("starts", [[7], [7, 2_000_000]])
    def test_buffers_from_a_server_that_sends_whole_objects_only(
        self, plain: PlainServer, storage: HttpStorage, starts: list[int], chunked: bool
    ) -> None:
        plain.chunked, plain.objects["x.tar"] = chunked, MEGABYTES
        buffers = [bytearray(900_000) for _ in starts]
        storage.read_into(plain.url + "x.tar", starts, [memoryview(buffer) for buffer in buffers])
        assert buffers == [MEGABYTES[start : start + 900_000] for start in starts]

    @pytest.mark.parametrize("ranges", [False, True])
    def test_a_drop_between_chunks(self, plain: PlainServer, storage: HttpStorage, ranges: bool) -> None:
        plain.chunked, plain.cut_after, plain.ranges = True, 50_000, ranges
        assert storage.read(plain.url + "x.tar") == OBJECT
        assert len(plain.log) == 2

    @pytest.mark.parametrize("cut", [None, 3000])
    def test_ranges_where_there_are_none(self, plain: PlainServer, storage: HttpStorage, cut: int | None) -> None:
        plain.cut_after = cut
        url = plain.url + "x.tar"
        for ranges in (MANY[::-1], MANY[3:4], [ByteRange(0, len(OBJECT))]):
            assert storage.read_ranges(url, ranges) == [OBJECT[p.start : p.stop] for p in ranges]
        for past in ([ByteRange(99_990, 100_001)], [ByteRange(200_000, 200_001)], [*MANY, ByteRange(0, 200_000)]):
            with pytest.raises(RefusedError, match="it has 100000"):
                storage.read_ranges(url, past)

    def test_one_range_at_a_time(self, plain: PlainServer, storage: HttpStorage) -> None:
        plain.ranges = True
        url = plain.url + "x.tar"
        for _ in range(2):
            assert storage.read_ranges(url, MANY) == [OBJECT[p.start : p.stop] for p in MANY]
        assert sum("," in line for line in plain.log) == 1  # asked once, remembered
        assert len(plain.log) == 1 + 2 * len(MANY)
        with pytest.raises(RefusedError, match="it has 100000"):
            storage.read_ranges(url, [*MANY, ByteRange(99_990, 100_001)])

    def test_no_head(self, plain: PlainServer, storage: HttpStorage) -> None:
        plain.head = False
        stat = storage.stat(plain.url + "x.tar")
        assert stat.size == len(OBJECT) and stat.validator == '"v1"'
        with pytest.raises(NotFoundError):
            storage.stat(plain.url + "none.tar")

    def test_no_listing(self, plain: PlainServer, storage: HttpStorage) -> None:
        for page in (b"<html>", b"{}", b'["a"]', b"[1]", b"\xff", b"null"):
            plain.objects[""] = page
            with pytest.raises(RefusedError, match=r"does not list.*@1000"):
                storage.list(plain.url)

    def test_a_listing_that_is_forbidden(self, place: FolderPlace) -> None:
        with (
            Behind(place, Fault(answer=canned("403 Forbidden"))) as behind,
            pytest.raises(RefusedError, match=r"does not list.*403.*@1000"),
        ):
            place.storage.list(behind.url(""))


class TestRanges:
    @pytest.mark.parametrize("after", [0, 100, 1000])
    def test_a_dropped_connection_is_tried_again(self, place: FolderPlace, after: int) -> None:
        place.put("x.tar", OBJECT)
        with Behind(place, Fault(after=after)) as behind:
            parts = place.storage.read_ranges(behind.url("x.tar"), MANY)
            assert parts == [OBJECT[p.start : p.stop] for p in MANY] and len(behind.proxy.requests) == 2

    @pytest.mark.parametrize("other", [MEGABYTES * 2, MEGABYTES[::-1]], ids=["larger", "of the same size"])
    def test_an_object_replaced_between_two_answers_has_changed(self, place: FolderPlace, other: bytes) -> None:
        place.put("x.tar", MEGABYTES)
        ranges = [ByteRange(start, start + 10) for start in range(0, 5 << 20, 20_000)]

        def replace() -> None:
            place.put("new", other)
            os.utime(place.folder / "new", (1e9, 1e9))  # the ETag is of the time in seconds
            os.replace(place.folder / "new", place.folder / "x.tar")

        # The first answer is not cut, as it is shorter than that; the first of the others comes too late.
        with (
            Behind(place, Fault(after=50_000_000), Fault(answer=BUSY, then=replace)) as behind,
            pytest.raises(ChangedError, match=r"x\.tar: the object was replaced"),
        ):
            place.storage.read_ranges(behind.url("x.tar"), ranges)

    @pytest.mark.parametrize(
        "body",
        [
            b"--B\r\nContent-Range: bytes 0-99/100000\r\n\r\nshort\r\n--B--\r\n",
            b"--B\r\nContent-Range: bytes 50-10/100000\r\n\r\n\r\n--B--\r\n",
            b"--B\r\n\r\n\r\n--B--\r\n",
            b"",
        ],
    )
    def test_a_damaged_multipart_answer_is_not_believed(self, place: FolderPlace, body: bytes) -> None:
        place.put("x.tar", OBJECT)
        head = b"HTTP/1.1 206 x\r\nContent-Type: multipart/byteranges; boundary=B\r\nContent-Length: %d\r\n\r\n"
        with Behind(place, Fault(answer=head % len(body) + body)) as behind:
            parts = place.storage.read_ranges(behind.url("x.tar"), MANY)
            assert parts == [OBJECT[p.start : p.stop] for p in MANY]

    def test_other_bytes_than_asked_for_are_not_believed(self, place: FolderPlace) -> None:
        place.put("x.tar", OBJECT)
        answer = b"HTTP/1.1 206 x\r\nContent-Range: bytes 7-16/100000\r\nContent-Length: 10\r\n\r\n0123456789"
        with Behind(place, Fault(answer=answer)) as behind, pytest.raises(RefusedError, match="other bytes"):
            place.storage.read_ranges(behind.url("x.tar"), [ByteRange(5, 15)])

    def test_a_large_span_is_resumed(self, place: FolderPlace) -> None:
        data = MEGABYTES * 5
        place.put("x.tar", data)
        with Behind(place, *[Fault(after=6_000_000)] * 4) as behind:
            parts = place.storage.read_ranges(behind.url("x.tar"), [ByteRange(7, len(data) - 7)])
            assert parts == [data[7:-7]] and len(behind.proxy.requests) > 4


class TestWriting:
    @pytest.mark.parametrize(
        ("status", "error", "text"),
        [
            ("401 Unauthorized", AccessError, "netrc"),
            ("403 Forbidden", AccessError, "netrc"),
            ("404 Not Found", NotFoundError, "no such folder.*create_full_put_path"),
            ("409 Conflict", RefusedError, "create_full_put_path"),
            ("405 Not Allowed", RefusedError, "does not accept PUT.*dav_methods"),
            ("501 Not Implemented", RefusedError, "does not accept PUT"),
            ("413 Too Large", RefusedError, "client_max_body_size"),
            ("507 Insufficient Storage", FullError, "no space"),
            ("302 Found", RefusedError, "redirects"),
            ("202 Accepted", RefusedError, "202 Accepted"),
        ],
    )
    @pytest.mark.parametrize("size", [0, 10, 5 << 20])
    def test_a_refusal_is_reported_even_if_the_line_breaks(
        self, plain: PlainServer, storage: HttpStorage, status: str, error: type[StorageError], text: str, size: int
    ) -> None:
        plain.refuse = canned(status)
        with pytest.raises(error, match=text) as raised, storage.create(plain.url + "new.tar") as sink:
            sink.write(MEGABYTES[:size])
        assert raised.value.fix and "new.tar: " in str(raised.value)

    @pytest.mark.parametrize("size", [0, 10, 5 << 20])
    def test_what_may_pass_is_sent_again_whole(
        self, place: FolderPlace, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        faults = [Fault(b"PUT ", answer=BUSY), Fault(b"PUT ", answer=b""), Fault(b"PUT ", after=0)]
        for memory in (http_upload.MEMORY, 1000):
            monkeypatch.setattr(http_upload, "MEMORY", memory)
            with Behind(place, *faults) as behind:
                with place.storage.create(behind.url("x.tar")) as sink:
                    sink.writelines([MEGABYTES[: size // 2], MEGABYTES[size // 2 : size]])
                assert place.get("x.tar") == MEGABYTES[:size]
                assert sum(line.startswith("PUT ") for line in behind.proxy.requests) == 4
                assert f"Content-Length: {size}\r\n" in behind.proxy.heads[3] + "\r\n"

    @pytest.mark.parametrize(
        ("size", "fault"),
        [
            (5 << 20, Fault(b"HEAD ", answer=b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")),
            (10, Fault(b"HEAD ", answer=b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")),
            (10, Fault(b"GET ", answer=b"HTTP/1.1 206 x\r\nContent-Range: bytes 0-9/10\r\n" + TEN)),
            (10, Fault(b"GET ", answer=b"HTTP/1.1 416 x\r\nContent-Range: bytes */9\r\nContent-Length: 0\r\n\r\n")),
        ],
    )
    def test_what_arrived_differently_is_sent_again(self, place: FolderPlace, size: int, fault: Fault) -> None:
        def puts(proxy: FaultyProxy) -> int:
            return sum(line.startswith("PUT ") for line in proxy.requests)

        with Behind(place, fault) as behind:
            with place.storage.create(behind.url("x.tar")) as sink:
                sink.write(MEGABYTES[:size])
            assert puts(behind.proxy) == 2 and place.get("x.tar") == MEGABYTES[:size]
        with Behind(place, *[fault] * 4) as behind:
            with (
                pytest.raises(
                    UnavailableError, match=r"x\.tar: the server does not have what was sent.*4 times.*; look"
                ),
                place.storage.create(behind.url("x.tar")) as sink,
            ):
                sink.write(MEGABYTES[:size])
            assert puts(behind.proxy) == 4

    @pytest.mark.parametrize("memory", [1000, http_upload.MEMORY])
    @pytest.mark.parametrize("place_of_damage", [0, 2_000_000, (5 << 20) - 1])
    def test_pieces_of_what_arrived_are_compared(
        self, place: FolderPlace, monkeypatch: pytest.MonkeyPatch, memory: int, place_of_damage: int
    ) -> None:
        monkeypatch.setattr(http_upload, "MEMORY", memory)

        def damage() -> None:
            start, stop = max(place_of_damage - 800_000, 0), min(place_of_damage + 800_000, len(MEGABYTES))
            data = MEGABYTES[:start] + bytes(stop - start) + MEGABYTES[stop:]
            place.put("x.tar", data)

        with Behind(place, Fault(b"HEAD ", answer=b"", then=damage)) as behind:
            with place.storage.create(behind.url("x.tar")) as sink:
                sink.write(MEGABYTES)
            assert sum(line.startswith("PUT ") for line in behind.proxy.requests) == 2
        assert place.get("x.tar") == MEGABYTES

    def test_what_does_not_pass_leaves_the_old_object(self, place: FolderPlace) -> None:
        place.put("x.tar", b"old")
        with (
            Behind(place, *[Fault(b"PUT ", answer=canned("500 Oops"))] * 4) as behind,
            pytest.raises(UnavailableError, match="its disk may be full"),
            place.storage.create(behind.url("x.tar")) as sink,
        ):
            sink.write(MEGABYTES)
        assert place.get("x.tar") == b"old"

    def test_an_exception_sends_nothing(self, place: FolderPlace) -> None:
        with Behind(place) as behind:
            with pytest.raises(Boom), place.storage.create(behind.url("x.tar")) as sink:
                sink.write(MEGABYTES)
                raise Boom
            assert behind.proxy.requests == []

    def test_a_full_temporary_folder(self, storage: HttpStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_upload, "MEMORY", 1000)
        monkeypatch.setattr(http_upload.tempfile, "TemporaryFile", partial(open, "/dev/full", "wb"))
        with (
            pytest.raises(FullError, match=r"x\.tar: no space left in the temporary folder .*TMPDIR"),
            storage.create("http://127.0.0.1:1/x.tar") as sink,
        ):
            sink.write(MEGABYTES)

    def test_temporary_files_are_gone(
        self, place: FolderPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_upload, "MEMORY", 1000)
        monkeypatch.setattr(http_upload.tempfile, "tempdir", str(tmp_path))
        with place.storage.create(place.url("x.tar")) as sink:
            sink.write(MEGABYTES)
            assert os.listdir(tmp_path) == []  # it has no name, so that nothing is left of a killed process
        assert place.get("x.tar") == MEGABYTES

    def test_a_delete_that_is_refused(self, place: FolderPlace) -> None:
        place.put("x.tar", b"x")
        with (
            Behind(place, Fault(b"DELETE", after=10**9), Fault(b"DELETE", answer=canned("405 No"))) as behind,
            pytest.raises(RefusedError, match="does not accept DELETE"),
        ):
            place.storage.delete(behind.url("x.tar"))


class TestExclusive:
    @pytest.fixture(autouse=True)
    def known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shardtools.storage.exclusive._known", TrustedPlaces())

    @pytest.mark.parametrize("when", [b"MOVE ", b"PUT ", b"HEAD "])
    def test_a_lost_answer_is_no_lost_race(self, place: FolderPlace, when: bytes) -> None:
        with Behind(place, Fault(when)) as behind:
            place.storage.create_exclusive(behind.url("x"), b"mine")
            assert not behind.proxy.faults
        assert place.get("x") == b"mine"

    def test_every_answer_to_move_is_lost(self, place: FolderPlace) -> None:
        with Behind(place, *[Fault(b"MOVE ")] * 4) as behind:
            place.storage.create_exclusive(behind.url("x"), b"mine")
        assert place.get("x") == b"mine"

    @pytest.mark.parametrize("status", ["405 Not Allowed", "403 Forbidden", "409 Conflict"])
    def test_a_server_without_move(self, place: FolderPlace, status: str) -> None:
        with (
            Behind(place, Fault(b"MOVE ", answer=canned(status))) as behind,
            pytest.raises(StorageError, match=status) as raised,
        ):
            place.storage.create_exclusive(behind.url("x"), b"mine")
        assert isinstance(raised.value, (RefusedError, AccessError))
        assert place.files() == []

    def test_a_writer_that_fails_after_it_has_won(self, place: FolderPlace) -> None:
        """Whoever comes next finds its data, whole, and learns that the name is taken."""
        faults = [Fault(b"PUT ", after=10**9), *[Fault(b"PUT ", answer=BUSY)] * 4]
        with Behind(place, *faults) as behind, pytest.raises(UnavailableError):
            place.storage.create_exclusive(behind.url("x"), b"first")
        with pytest.raises(FileExistsError):
            place.storage.create_exclusive(place.url("x"), b"second")
        assert place.get("x") == b"first"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an nginx that refuses in different ways in different folders."""
    if shutil.which("nginx") is None:
        pytest.fail("nginx is not installed")
    folder = tmp_path_factory.mktemp("strict")
    for name in ("data/small", "data/denied", "data/readonly", "temp"):
        (folder / name).mkdir(parents=True)
        (folder / name / "x.tar").write_bytes(OBJECT)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    temp = "".join(f"{kind}_temp_path temp;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        "daemon off; master_process off; pid nginx.pid; error_log stderr crit; events {}\n"
        f"http {{ access_log off; {temp} server {{ listen 127.0.0.1:{port}; root data; client_max_body_size 0;\n"
        "  location /small/ { dav_methods PUT; client_max_body_size 1m; }\n"
        "  location /denied/ { deny all; }\n"
        "  location /readonly/ { }\n"
        "} }\n"
    )
    process = subprocess.Popen(
        ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: process.poll() is not None or not _refuses(port), "nginx")
        assert process.poll() is None, process.stderr and process.stderr.read()
        yield f"http://127.0.0.1:{port}/"
    finally:
        stop(process)


def _refuses(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) != 0


class TestStrictNginx:
    @pytest.mark.parametrize(
        ("folder", "error", "text"),
        [
            ("small", RefusedError, "413 .*client_max_body_size"),
            ("denied", AccessError, "403 .*netrc"),
            ("readonly", RefusedError, "does not accept PUT .405 "),
        ],
    )
    def test_a_put_of_many_megabytes_is_refused(
        self, strict: str, storage: HttpStorage, folder: str, error: type[StorageError], text: str
    ) -> None:
        for _ in range(2):
            with pytest.raises(error, match=text), storage.create(f"{strict}{folder}/y.tar") as sink:
                sink.writelines([MEGABYTES] * 4)
        assert not storage.exists(f"{strict}small/y.tar")

    def test_no_listing(self, strict: str, storage: HttpStorage) -> None:
        with pytest.raises(RefusedError, match="does not list"):
            storage.list(f"{strict}readonly/")

    def test_reading_is_allowed(self, strict: str, storage: HttpStorage) -> None:
        assert storage.read(f"{strict}readonly/x.tar") == OBJECT
        with pytest.raises(AccessError):
            storage.read(f"{strict}denied/x.tar")
