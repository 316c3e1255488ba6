"""The log over real servers, with many processes at once: nothing acknowledged is lost, whoever is killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shardtools.log.log import Log
from tests.gcs_servers import strict_gcs
from tests.gcs_servers import use_environment as use_gcs
from tests.moto_server import moto_server
from tests.moto_server import use_environment as use_s3
from tests.servers import nginx_server

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ("local", "nginx", "s3", "gs")

WRITER = """
import sys
from shardtools.errors import ConflictError
from shardtools.log.committing import commit
from shardtools.log.log import Log
from shardtools.log.segment import Entry

url, who, count, shared = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "shared"
log = Log.open(url)
for number in range(count):
    key = "shared" if shared else f"{who}/{number}"
    while True:
        base = log.head()
        before = base.find([key]).get(key)
        entry = Entry("data/" + 32 * "0" + "/a.tar", 0 if before is None else before.offset + 1, 1, 1)
        try:
            commit(base, {key: entry}, author=who, message=f"{who} {number}")
            break
        except ConflictError:
            if not shared:
                raise
    print(f"{who} {number}", flush=True)
"""


@pytest.fixture(scope="module", params=BACKENDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a folder on one of the backends."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.param == "local":
            yield str(tmp_path_factory.mktemp("log"))
        elif request.param == "nginx":
            with nginx_server(tmp_path_factory.mktemp("log")) as nginx:
                yield nginx.url.rstrip("/")
        elif request.param == "s3":
            with moto_server() as moto:
                moto.client().create_bucket(Bucket="bucket")
                use_s3(monkeypatch, moto.environment())
                yield "s3://bucket"
        else:
            with strict_gcs("bucket") as gcs:
                use_gcs(monkeypatch, {"STORAGE_EMULATOR_HOST": gcs.url})
                yield "gs://bucket"


@pytest.fixture
def log(server: str) -> Log:
    return Log.open(f"{server}/{uuid.uuid4().hex}", create=True)


def start(log: Log, who: str, count: int, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, log.place.root, who, str(count), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def finish(writers: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Return what writers have acknowledged."""
    said = [line for writer in writers for line in writer.communicate(timeout=200)[0].splitlines()]
    assert [writer.returncode for writer in writers if writer.returncode > 0] == []
    return said


def committed(log: Log) -> list[str]:
    """Return the messages of all writes, the oldest first."""
    fresh = Log.open(log.place.root)
    return [write.message for made in [*fresh.head().history()][::-1] for write in made.writes]


def test_disjoint_writes_of_many_processes(log: Log) -> None:
    said = finish([start(log, str(who), 6, "apart") for who in range(5)])
    assert len(said) == 30
    assert sorted(committed(log)) == sorted(said)
    assert {key for key, _ in Log.open(log.place.root).head().scan()} == {line.replace(" ", "/") for line in said}


def test_writes_of_one_key_are_like_one_after_the_other(log: Log) -> None:
    said = finish([start(log, str(who), 4, "shared") for who in range(3)])
    assert sorted(committed(log)) == sorted(said)
    assert Log.open(log.place.root).head().find(["shared"])["shared"].offset == len(said) - 1


def test_writers_that_are_killed(log: Log) -> None:
    draws = random.Random(7)
    said: list[str] = []
    for round_ in range(3):
        writers = [start(log, f"{round_}-{who}", 1000, "apart") for who in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(draws.randrange(1, 6)):
                said.append(writer.stdout.readline().strip())
            writer.kill()
            said += writer.communicate(timeout=60)[0].splitlines()
    messages = committed(log)
    assert len(messages) == len(set(messages))
    assert set(said) <= set(messages)
    assert len(said) >= 6
    assert finish([start(log, "after", 2, "apart")]) == ["after 0", "after 1"]
    assert committed(log)[-2:] == ["after 0", "after 1"]


def test_names_on_a_server(log: Log) -> None:
    finish([start(log, "a", 2, "apart")])
    log.tag("v1", log.head())
    log.branch("try", log.resolve("@0"))
    fresh = Log.open(log.place.root)
    assert (fresh.branches(), fresh.tags()) == (["main", "try"], ["v1"])
    assert len(dict(fresh.resolve("v1").scan())) == 2
    assert len(dict(fresh.resolve("try").scan())) == 1
