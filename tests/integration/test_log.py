"""The log over real servers, with many processes at once: nothing acknowledged is lost, whoever is killed."""

from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shardtools.log.log import Log
from tests.backends import EACH_BACKEND, running
from tests.contract.faults import Fault, FaultyProxy
from tests.disks import small_disk
from tests.log_writers import kill_writers, run_writers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=EACH_BACKEND)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a folder on one of the backends."""
    with running(request.param, tmp_path_factory.mktemp("log")) as url:
        yield url


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the backend that ``server`` is on."""
    return str(request.node.callspec.params["server"])


@pytest.fixture
def log(server: str) -> Log:
    return Log.open(f"{server}/{uuid.uuid4().hex}", create=True)


def messages_by_commit(log: Log) -> dict[int, list[str]]:
    """Return the messages of the writes of each commit, the oldest first."""
    history = [*Log.open(log.place.root).head().history()][::-1]
    return {made.number: [write.message for write in made.writes] for made in history}


def committed(log: Log) -> list[str]:
    """Return the messages of all writes, the oldest first."""
    return [message for messages in messages_by_commit(log).values() for message in messages]


WRITERS = {"local": 16, "nginx": 10, "s3": 6, "gs": 6}
"""Processes that write at the same time: fewer where the server, a process of Python, takes longer for each commit."""

COMMITS = {"local": 50, "nginx": 5, "s3": 3, "gs": 3}
"""Commits of each of these processes."""


def assert_serial(log: Log) -> None:
    """Check that writes of one key are like ones that were made one after the other: each adds 1 to what was before."""
    count = 0
    for number, messages in messages_by_commit(log).items():
        of_one_key = [message for message in messages if message.startswith("shared")]
        assert len(of_one_key) <= 1
        count += len(of_one_key)
        found = log.resolve(f"@{number}").find(["shared"]).get("shared")
        assert (-1 if found is None else found.offset) == count - 1


def test_disjoint_writes_of_many_processes(log: Log, backend: str) -> None:
    writers, count = WRITERS[backend], COMMITS[backend]
    said = [made.message for made in run_writers(log.place.root, writers, count)]
    assert len(said) == writers * count
    assert sorted(committed(log)) == sorted(said)
    assert {key for key, _ in Log.open(log.place.root).head().scan()} == {line.replace(" ", "/") for line in said}


def test_writes_of_one_key_are_like_one_after_the_other(log: Log, backend: str) -> None:
    said = [made.message for made in run_writers(log.place.root, WRITERS[backend], 1, "shared", "shared")]
    assert len(said) == WRITERS[backend]
    assert sorted(committed(log)) == sorted(said)
    assert_serial(log)


def test_writers_that_are_killed(log: Log, backend: str) -> None:
    """Half of them write one key. Whenever one has made a commit, any of them is killed, wherever it is just then."""
    many = min(WRITERS[backend], 8)
    hows = {f"{how}{who}": how for who in range(many // 2) for how in ("apart", "shared")}
    said = [made.message for made in kill_writers(log.place.root, hows, random.Random(7))]
    assert len(said) >= many
    messages = committed(log)
    assert len(messages) == len(set(messages))
    assert set(said) <= set(messages)
    assert_serial(log)
    apart = {message.replace(" ", "/") for message in messages if message.startswith("apart")}
    assert {key for key, _ in Log.open(log.place.root).head().scan()} - {"shared"} == apart
    after = ["after0 0", "after0 1"]
    assert [made.message for made in run_writers(log.place.root, 1, 2, prefix="after")] == after
    assert committed(log)[-2:] == after


def test_names_on_a_server(log: Log) -> None:
    run_writers(log.place.root, 1, 2)
    log.tag("v1", log.head())
    log.branch("try", log.resolve("@0"))
    fresh = Log.open(log.place.root)
    assert (fresh.branches(), fresh.tags()) == (["main", "try"], ["v1"])
    assert len(dict(fresh.resolve("v1").scan())) == 2
    assert len(dict(fresh.resolve("try").scan())) == 1


_CREATION = re.compile(rb"MOVE |PUT \S+/log/main/|POST \S+ifGenerationMatch=0")


def lose_every_tenth_creation(lost: list[bytes]) -> Callable[[bytes], Fault | None]:
    """Return what cuts off every tenth answer to a request that creates an object, and adds the request to ``lost``."""
    seen = itertools.count(1)

    def choose(head: bytes) -> Fault | None:
        if not _CREATION.match(head) or next(seen) % 10:
            return None
        lost.append(head)
        return Fault(reset=True)

    return choose


@pytest.mark.parametrize("backend", ["nginx", "s3", "gs"])
def test_answers_that_are_lost(backend: str, tmp_path: Path) -> None:
    """A writer that does not learn that its commit was created finds out, and makes it neither twice nor not at all."""
    lost: list[bytes] = []
    with ExitStack() as stack:

        def front(url: str) -> str:
            return stack.enter_context(FaultyProxy(url, choose=lose_every_tenth_creation(lost))).url

        with running(backend, tmp_path, front) as url:
            log = Log.open(f"{url}/place", create=True)
            said = [made.message for made in run_writers(log.place.root, 3, 10)]
            assert sorted(committed(log)) == sorted(said)
            assert len(set(said)) == 30
    assert len(lost) > 1


_FILLED = """
import itertools, sys
import shardtools as st
from shardtools.errors import StorageError
from shardtools.log.committing import commit
from shardtools.log.log import Log
from shardtools.log.segment import Entry

log = Log.open(sys.argv[1])
entries = {f"{sys.argv[2]}/{number:09d}-{number * 7919 % 99991}": Entry("data/" + 32 * "0" + "/a", number, 1, number)
           for number in range(40_000)}
for number in itertools.count():
    try:
        commit(log.head(), entries, message=f"{sys.argv[2]} {number}")
        print(f"{sys.argv[2]} {number}", flush=True)
    except StorageError as error:
        print(error, file=sys.stderr)
        break
"""


@pytest.mark.parametrize("backend", ["local", pytest.param("nginx", marks=pytest.mark.slow)])
def test_a_full_disk(backend: str, tmp_path: Path) -> None:
    """Commits that no longer fit fail; those before can be read, and the next one works when there is room again."""
    with small_disk(tmp_path / "disk") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(1 << 20))
        with running(backend, disk) as url:
            log = Log.open(f"{url}/place", create=True)
            done = subprocess.run(
                [sys.executable, "-c", _FILLED, log.place.root, "a"],
                env=os.environ | {"PYTHONPATH": str(ROOT), "SHARDTOOLS_RETRIES": "0"},
                capture_output=True,
                text=True,
                timeout=100,
                check=True,
            )
            assert committed(log) == done.stdout.splitlines()
            assert len(done.stdout.splitlines()) >= 1
            assert done.stderr.count("\n") == 1 and re.search("no space left|its disk may be full", done.stderr)
            assert len(dict(Log.open(log.place.root).head().scan())) == 40_000
            filler.unlink()
            assert len(run_writers(log.place.root, 1, 2)) == 2
            assert committed(log) == [*done.stdout.splitlines(), "0 0", "0 1"]
