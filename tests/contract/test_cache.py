"""The cache before a web server: the contract, and what it promises besides, against nginx."""

from __future__ import annotations

import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from shardtools.errors import NotFoundError, UnavailableError
from shardtools.storage import ByteRange, Stat, StorageOptions, get_storage, using
from shardtools.storage.cache import CachedStorage
from shardtools.storage.http import HttpStorage
from shardtools.storage.http_client import Client
from shardtools.storage.http_session import HttpClient
from shardtools.storage.retry import RetryPolicy
from tests.contract.faults import Fault, FaultyProxy, plain_server
from tests.contract.suite import MEGABYTES, OBJECT, FolderPlace, StorageContract, pattern
from tests.servers import NginxServer, wait_until

QUICK = RetryPolicy(attempts=4, base=0.01, cap=0.05)
OLD = 1_000_000_000


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder of the cache."""
    return tmp_path / "cache"


@pytest.fixture
def place(web: NginxServer, kept: Path) -> FolderPlace:
    name = uuid.uuid4().hex
    folder = web.root / name
    folder.mkdir()
    cache = CachedStorage(HttpStorage(QUICK), str(kept))
    return FolderPlace(cache, f"{web.url}{name}/", folder, partial(quote, errors="surrogateescape"))


@dataclass(frozen=True)
class AgedPlace(FolderPlace):
    """A place whose objects were put there long ago, each at a time of its own, so that they are cached."""

    def put(self, name: str, data: bytes) -> str:
        url = super().put(name, data)
        os.utime(self.folder / name, (0, next(_TIMES)))
        return url


_TIMES = itertools.count(OLD)


@pytest.fixture
def aged(place: FolderPlace) -> AgedPlace:
    return AgedPlace(place.storage, place.root, place.folder, place.quote)


class TestCached(StorageContract):
    """Objects that were just written, most of which the cache lets pass."""

    @pytest.fixture
    def place(self, place: FolderPlace) -> FolderPlace:
        return place


class TestCachedAged(StorageContract):
    """Objects that it keeps."""

    @pytest.fixture
    def place(self, aged: AgedPlace) -> AgedPlace:
        return aged


class TestCachedSmall(StorageContract):
    """A cache that holds next to nothing, and gives up what it has all the time."""

    @pytest.fixture
    def place(self, aged: AgedPlace, kept: Path) -> AgedPlace:
        cache = CachedStorage(HttpStorage(QUICK), f"{kept}:200k")
        return AgedPlace(cache, aged.root, aged.folder, aged.quote)


def entries(kept: Path) -> list[str]:
    return [path.name for path in (kept / "objects").rglob("*-*-*")]


def requests_for(web: NginxServer, place: FolderPlace) -> Callable[[], list[str]]:
    """Return a function that gives the methods of the requests so far for what lies in ``place``."""
    mark = f"/{place.folder.name}/"

    def methods() -> list[str]:
        lines = [line for line in web.log_path.read_text().splitlines() if mark in line]
        return [line.split('"')[1].split()[0] for line in lines]

    return methods


def test_only_the_first_read_asks_for_bytes(aged: AgedPlace, web: NginxServer) -> None:
    url = aged.put("x.tar", MEGABYTES)
    for _ in range(4):
        with aged.storage.open(url) as stream:
            assert stream.stat == aged.storage.stat(url)
            assert stream.readall() == MEGABYTES
        assert aged.storage.read_ranges(url, [ByteRange(5, 10)]) == [MEGABYTES[5:10]]
    methods = requests_for(web, aged)
    wait_until(lambda: len(methods()) == 13, "the log")
    assert methods().count("GET") == 1


def test_caches_in_a_row(aged: AgedPlace, web: NginxServer, tmp_path: Path) -> None:
    url = aged.put("x.tar", MEGABYTES)
    shared = str(tmp_path / "shared")
    for mine in ("mine", "others"):  # who comes second has it from the shared one, and later from his own
        for caches in ((str(tmp_path / mine), shared), (str(tmp_path / mine), str(tmp_path / f"new {mine}"))):
            with using(StorageOptions(cache=caches)):
                assert get_storage(url).read_ranges(url, [ByteRange(5, 10)]) == [MEGABYTES[5:10]]
    methods = requests_for(web, aged)
    wait_until(lambda: methods().count("HEAD") >= 4, "the log")
    assert methods().count("GET") == 1


def test_users_share_what_they_may_read(aged: AgedPlace, web: NginxServer, kept: Path) -> None:
    url = aged.put("x.tar", MEGABYTES)
    for user in ("", "me:s3cr3t@", "you:s3cr3t@"):
        assert aged.storage.read(url.replace("http://", f"http://{user}")) == MEGABYTES
    assert len(entries(kept)) == 1
    assert not [path for path in kept.rglob("*") if "s3cr3t" in str(path)]
    assert b"s3cr3t" not in (kept / "account").read_bytes()
    methods = requests_for(web, aged)
    wait_until(lambda: len(methods()) == 4, "the log")
    assert sorted(methods()) == ["GET", "HEAD", "HEAD", "HEAD"]


class TestNeverStale:
    def put(self, url: str, data: bytes) -> None:
        requests.put(url, data=data, timeout=60).raise_for_status()

    def test_two_puts_within_a_second(self, place: FolderPlace, kept: Path) -> None:
        """Their ETag is the same: nginx makes it of the second and the size."""
        url = place.url("x.tar")
        same = 0
        for i in range(40):
            if i % 4 == 0:  # begin at the start of a second
                wait_until(lambda: time.time() % 1 < 0.1, "the next second")
            self.put(url, data := pattern(10_000, seed=i))
            before = place.storage.stat(url)
            assert place.storage.read(url) == data
            assert place.storage.read_ranges(url, [ByteRange(3, 9)]) == [data[3:9]]
            self.put(url, data := pattern(10_000, seed=i + 1000))
            same += place.storage.stat(url) == before
            assert place.storage.read(url) == data
            assert place.storage.read_ranges(url, [ByteRange(3, 9)]) == [data[3:9]]
        assert same > 20, "the test needs a validator that does not change"
        assert entries(kept) == []

    def test_it_is_kept_once_its_second_is_over(self, place: FolderPlace, kept: Path) -> None:
        url = place.url("x.tar")
        self.put(url, data := pattern(10_000))
        wait_until(lambda: place.storage.stat(url).settled, "the object to settle", 20)
        assert place.storage.read(url) == data
        assert len(entries(kept)) == 1
        self.put(url, data := pattern(10_000, seed=1))
        assert place.storage.read(url) == data
        wait_until(lambda: place.storage.stat(url).settled, "the object to settle", 20)
        assert place.storage.read(url) == data
        assert len(entries(kept)) == 1

    def test_a_writer_and_readers(self, place: FolderPlace) -> None:
        """A reader that begins after a version was there gets it, or a later one."""
        url = place.url("x.tar")
        versions = [bytes([i]) * 20_000 for i in range(60)]
        written = 0
        with place.storage.create(url) as sink:
            sink.write(versions[0])
        wrong: list[str] = []
        done = threading.Event()

        def follow(read: Callable[[], bytes]) -> None:
            while not done.is_set():
                least = written
                data = read()
                if len(set(data)) != 1 or data[0] < least:
                    wrong.append(f"{sorted(set(data))} after {least}")

        reads: list[Callable[[], bytes]] = [
            lambda: place.storage.read(url),
            lambda: place.storage.read_ranges(url, [ByteRange(100, 20_000)])[0],
        ]
        threads = [threading.Thread(target=follow, args=[read]) for read in reads]
        for thread in threads:
            thread.start()
        for i in range(1, 60):
            self.put(url, versions[i])
            written = i
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []

    @pytest.mark.parametrize(
        ("headers", "settled"),
        [
            ({"ETag": '"a"'}, True),
            ({"ETag": 'W/"a"'}, False),
            ({"ETag": '"a"', "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT"}, False),
            *(
                (
                    {"ETag": '"a"', "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT", "Date": date},
                    settled,
                )
                for date, settled in [
                    ("Sun, 06 Nov 1994 08:49:36 GMT", False),
                    ("Sun, 06 Nov 1994 08:49:37 GMT", False),
                    ("Sun, 06 Nov 1994 08:49:38 GMT", False),
                    ("Sun, 06 Nov 1994 08:49:39 GMT", True),
                    ("Mon, 07 Nov 1994 08:49:37 GMT", True),
                    ("yesterday", False),
                ]
            ),
            ({"Last-Modified": "no date", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, False),
        ],
    )
    def test_what_is_settled(self, headers: dict[str, str], settled: bool) -> None:
        client: Client = HttpClient(QUICK, (1, 1))
        for status, more in ((200, {"Content-Length": "7"}), (206, {"Content-Range": "bytes 0-1/7"})):
            response = requests.Response()
            response.status_code = status
            response.headers.update({**headers, **more})
            stat = client.describe(response)
            assert stat.settled is settled and stat.size == 7
            assert stat == Stat(7, stat.validator, not settled), "it is no part of what is compared"


class TestFaults:
    def behind(self, place: FolderPlace, *faults: Fault) -> FaultyProxy:
        return FaultyProxy(f"{place.root}", list(faults))

    def test_a_dropped_connection_is_resumed(self, aged: AgedPlace, kept: Path) -> None:
        aged.put("x.tar", MEGABYTES)
        with self.behind(aged, Fault(after=2_000_000), Fault(after=10), Fault(answer=b"")) as proxy:
            url = f"{proxy.url}{aged.folder.name}/x.tar"
            assert aged.storage.read(url) == aged.storage.read(url) == MEGABYTES
            assert not proxy.faults and len(proxy.requests) == 6
        assert len(entries(kept)) == 1

    def test_a_download_that_fails_leaves_nothing(self, aged: AgedPlace, kept: Path) -> None:
        aged.put("x.tar", MEGABYTES)
        with self.behind(aged, Fault(after=2_000_000), *[Fault(answer=b"")] * 3) as proxy:
            url = f"{proxy.url}{aged.folder.name}/x.tar"
            with pytest.raises(UnavailableError, match=r"x\.tar: .*4 times in a row"):
                aged.storage.read(url)
            assert entries(kept) == [] and os.listdir(kept / "drafts") == []
            assert int((kept / "account").read_text()) == 0
            assert aged.storage.read(url) == MEGABYTES

    @pytest.mark.parametrize("size", [5 << 20, 4 << 20])
    def test_an_object_replaced_in_the_middle_is_read_anew(self, aged: AgedPlace, kept: Path, size: int) -> None:
        aged.put("x.tar", MEGABYTES)
        new = pattern(size, seed=1)

        def replace() -> None:
            aged.put("new", new)
            os.replace(aged.folder / "new", aged.folder / "x.tar")

        with self.behind(aged, Fault(after=2_000_000, then=replace)) as proxy:
            url = f"{proxy.url}{aged.folder.name}/x.tar"
            assert aged.storage.read(url) == new
            assert aged.storage.read(url) == new
        assert len(entries(kept)) == 1

    def test_one_replaced_between_head_and_get(self, aged: AgedPlace, kept: Path) -> None:
        aged.put("x.tar", OBJECT)
        new = pattern(len(OBJECT), seed=1)

        def replace() -> None:
            aged.put("new", new)
            os.replace(aged.folder / "new", aged.folder / "x.tar")

        for action in (
            lambda url: aged.storage.read(url),
            lambda url: b"".join(aged.storage.read_ranges(url, [ByteRange(0, 50_000), ByteRange(50_000, 100_000)])),
        ):
            new = pattern(len(OBJECT), seed=new[5])
            with self.behind(aged, Fault(answer=b"", then=replace)) as proxy:
                assert action(f"{proxy.url}{aged.folder.name}/x.tar") == new
                assert not proxy.faults

    def test_one_deleted_between_head_and_get(self, aged: AgedPlace, kept: Path) -> None:
        aged.put("x.tar", OBJECT)
        with (
            self.behind(aged, Fault(answer=b"", then=(aged.folder / "x.tar").unlink)) as proxy,
            pytest.raises(NotFoundError),
        ):
            aged.storage.read(f"{proxy.url}{aged.folder.name}/x.tar")
        assert os.listdir(kept / "drafts") == []

    def test_a_server_that_refuses_head(self, aged: AgedPlace, kept: Path) -> None:
        aged.put("x.tar", OBJECT)
        for status, count in (("403 Forbidden", 1), ("405 Not Allowed", 2)):
            refusal = Fault(b"HEAD ", answer=f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            with self.behind(aged, refusal) as proxy:
                assert aged.storage.read(f"{proxy.url}{aged.folder.name}/x.tar") == OBJECT
                assert not proxy.faults
            assert len(entries(kept)) == count
        with self.behind(aged, refusal) as proxy, pytest.raises(NotFoundError):
            aged.storage.read(f"{proxy.url}{aged.folder.name}/none.tar")


class TestOtherServers:
    @pytest.mark.parametrize("ranges", [True, False])
    @pytest.mark.parametrize("head", [True, False])
    def test_an_etag_is_enough(self, kept: Path, ranges: bool, head: bool) -> None:
        with plain_server() as server:
            server.objects["x.tar"], server.ranges, server.head = OBJECT, ranges, head
            cache = CachedStorage(HttpStorage(QUICK), str(kept))
            parts = [ByteRange(0, 9), ByteRange(90_000, 90_009)]
            for _ in range(3):
                assert cache.read_ranges(server.url + "x.tar", parts) == [OBJECT[:9], OBJECT[90_000:90_009]]
            assert sorted(name.partition("-")[2] for name in entries(kept)) == ["0-9", "90000-90009"]
            for _ in range(2):
                assert cache.read(server.url + "x.tar") == OBJECT
            assert [name.partition("-")[2] for name in entries(kept)] == ["0-100000"]

    @pytest.mark.parametrize(("etag", "chunked"), [(None, False), ('W/"v1"', False), ('"v1"', True)])
    def test_what_cannot_be_told_apart_is_read_past_it(self, kept: Path, etag: str | None, chunked: bool) -> None:
        with plain_server() as server:
            server.objects["x.tar"], server.etag, server.chunked = OBJECT, etag, chunked
            cache = CachedStorage(HttpStorage(QUICK), str(kept))
            for _ in range(2):
                assert cache.read(server.url + "x.tar") == OBJECT
                assert cache.read_ranges(server.url + "x.tar", [ByteRange(5, 9)]) == [OBJECT[5:9]]
            assert entries(kept) == []
