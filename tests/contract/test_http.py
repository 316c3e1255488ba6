"""A web server: the contract against nginx."""

from __future__ import annotations

import multiprocessing
import uuid
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from urllib.parse import quote

import pytest

from shardtools.errors import AccessError, ExistsError
from shardtools.spec import servers_of
from shardtools.storage import ByteRange
from shardtools.storage.http import HttpStorage
from shardtools.storage.retry import RetryPolicy
from tests.contract.suite import MEGABYTES, OBJECT, FolderPlace, StorageContract, creates
from tests.servers import NginxServer, nginx_server, wait_until

QUICK = RetryPolicy(attempts=4, base=0.01, cap=0.05)


@pytest.fixture
def place(web: NginxServer) -> FolderPlace:
    name = uuid.uuid4().hex
    folder = web.root / name
    folder.mkdir()
    return FolderPlace(HttpStorage(QUICK), f"{web.url}{name}/", folder, partial(quote, errors="surrogateescape"))


class TestHttp(StorageContract):
    # An exclusive create leaves the hidden mark of its winner, which only delete removes.

    @pytest.fixture
    def place(self, place: FolderPlace) -> FolderPlace:
        return place


def test_nginx_answers_many_ranges_in_one_request(place: FolderPlace, web: NginxServer) -> None:
    url = place.put("x.tar", MEGABYTES)
    ranges = [ByteRange(start, start + 100) for start in range(0, 5 << 20, 10_000)]
    parts = place.storage.read_ranges(url, ranges)
    assert parts == [MEGABYTES[part.start : part.stop] for part in ranges]
    name = f"/{place.folder.name}/x.tar "

    def requests() -> list[str]:
        return [line for line in web.log_path.read_text().splitlines() if name in line]

    wait_until(lambda: len(requests()) == 6, "six requests for 525 ranges")
    assert all('" 206 ' in line for line in requests())


def test_ranges_that_lie_close_are_joined(place: FolderPlace, web: NginxServer) -> None:
    url = place.put("x.tar", MEGABYTES)
    ranges = [ByteRange(start, start + 600) for start in range(0, 50_000, 1000)]
    assert place.storage.read_ranges(url, ranges) == [MEGABYTES[part.start : part.stop] for part in ranges]
    wait_until(lambda: f'/{place.folder.name}/x.tar HTTP/1.1" 206 49600' in web.log_path.read_text(), "one request")


def race(
    place: FolderPlace, rounds: int, me: int, barrier: Barrier, results: multiprocessing.Queue[list[int] | str]
) -> None:
    """Put the rounds that this process has won into ``results``, or what went wrong."""
    try:
        won = []
        for number in range(rounds):
            barrier.wait(60)
            if creates(place.storage, place.url(f"log/{number}"), str(me).encode()):
                assert place.get(f"log/{number}") == str(me).encode()
                won.append(number)
        results.put(won)
    except BaseException as error:
        barrier.abort()
        results.put(repr(error))
        raise


def test_of_many_processes_one_creates(nginx: NginxServer) -> None:
    rounds, racers = 12, 16
    (nginx.root / "race").mkdir()
    place = FolderPlace(HttpStorage(QUICK), f"{nginx.url}race/", nginx.root / "race")
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(racers), context.Queue()
    children = [context.Process(target=race, args=(place, rounds, me, barrier, results)) for me in range(racers)]
    for child in children:
        child.start()
    try:
        won = [results.get(timeout=120) for _ in children]
    finally:
        for child in children:
            child.kill()
            child.join()
    assert all(isinstance(numbers, list) for numbers in won), won
    assert sorted(number for numbers in won for number in numbers) == list(range(rounds))
    assert not [name for name in place.files() if ".tmp" in name]


def test_the_next_writer_finishes_the_work_of_one_that_died(place: FolderPlace) -> None:
    place.put("log/.7.once/data", b"i" * 32 + b"of the dead")
    url = place.url("log/7")
    assert not place.storage.exists(url)
    with pytest.raises(ExistsError):
        place.storage.create_exclusive(url, b"of the living")
    assert place.storage.read(url) == b"of the dead"
    assert len(place.files()) == 2  # the object and the mark, no draft
    place.storage.delete(url)
    assert place.files() == []


def test_only_writers_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = HttpStorage(QUICK)
    with nginx_server(tmp_path, writers={"me": "s3cr@et%"}) as server:
        url = f"{server.url}x.tar"
        for wrong in ("", "me:wr0ng@"):
            bad = url.replace("http://", f"http://{wrong}")
            for action in (storage.delete, lambda url: storage.create_exclusive(url, b"x")):
                with pytest.raises(AccessError, match=r"x\.tar: .*401.*\.netrc"):
                    action(bad)
            with pytest.raises(AccessError, match=r"^http://127.*\.netrc") as raised, storage.create(bad) as sink:
                sink.write(MEGABYTES)
            assert "wr0ng" not in str(raised.value) and "wr0ng" not in repr(raised.value)
        good = url.replace("http://", f"http://me:{quote('s3cr@et%', safe='')}@")
        with storage.create(good) as sink:
            sink.write(OBJECT)
        assert storage.read(url) == OBJECT
        assert storage.list(good.removesuffix("x.tar")) == [good]
        storage.delete(good)

        netrc = tmp_path.parent / f"{tmp_path.name}.netrc"
        netrc.write_text("machine 127.0.0.1 login me password s3cr@et%\n")
        monkeypatch.setenv("NETRC", str(netrc))
        with storage.create(url) as sink:
            sink.write(OBJECT)
        assert storage.read(url) == OBJECT
        monkeypatch.delenv("NETRC")

        monkeypatch.setenv("SHARDTOOLS_HTTP_HEADERS", "X-Other: a: b\n\nAuthorization: Basic bWU6czNjckBldCU=\n")
        HttpStorage(QUICK, named=servers_of(url)).delete(url)
        assert not storage.exists(url)


def test_many_sessions_do_not_pile_up_connections(place: FolderPlace) -> None:
    """Every way to end a request gives its connection back, so that a thousand requests need a few sockets."""
    url = place.put("x.tar", OBJECT)
    ports = Path("/proc/self/fd")
    for _ in range(3):
        place.storage.read(url)
    before = len(list(ports.iterdir()))
    for _ in range(100):
        place.storage.read(url)
        place.storage.stat(url)
        place.storage.read_ranges(url, [ByteRange(0, 5), ByteRange(50_000, 50_005)])
        place.storage.exists(place.url("none"))
        place.storage.list(place.root)
    assert len(list(ports.iterdir())) <= before + 2
