"""The log over real servers, with many processes at once: nothing acknowledged is lost, whoever is killed."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardtools.log.log import Log
from tests.backends import BACKENDS, running
from tests.log_writers import acknowledged, let_go, run_writers, start_writer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=BACKENDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a folder on one of the backends."""
    with running(request.param, tmp_path_factory.mktemp("log")) as url:
        yield url


@pytest.fixture
def log(server: str) -> Log:
    return Log.open(f"{server}/{uuid.uuid4().hex}", create=True)


def committed(log: Log) -> list[str]:
    """Return the messages of all writes, the oldest first."""
    fresh = Log.open(log.place.root)
    return [write.message for made in [*fresh.head().history()][::-1] for write in made.writes]


def test_disjoint_writes_of_many_processes(log: Log) -> None:
    said = [made.message for made in run_writers(log.place.root, 5, 6)]
    assert len(said) == 30
    assert sorted(committed(log)) == sorted(said)
    assert {key for key, _ in Log.open(log.place.root).head().scan()} == {line.replace(" ", "/") for line in said}


def test_writes_of_one_key_are_like_one_after_the_other(log: Log) -> None:
    said = [made.message for made in run_writers(log.place.root, 4, 4, "shared")]
    assert sorted(committed(log)) == sorted(said)
    head = Log.open(log.place.root).head()
    assert head.find(["shared"])["shared"].offset == len(said) - 1
    for made, number in zip(head.history(), range(len(said) - 1, -1, -1), strict=True):
        assert log.resolve(f"@{made.number}").find(["shared"])["shared"].offset == number


def test_writers_that_are_killed(log: Log) -> None:
    draws = random.Random(7)
    said: list[str] = []
    for round_ in range(3):
        writers = [start_writer(log.place.root, f"{round_}-{who}", 1000, "apart") for who in range(2)]
        let_go(writers)
        for writer in writers:
            assert writer.stdout is not None
            text = "".join(writer.stdout.readline() for _ in range(draws.randrange(1, 6)))
            writer.kill()
            text += writer.communicate(timeout=60)[0]
            said += [made.message for made in acknowledged(text)]
    messages = committed(log)
    assert len(messages) == len(set(messages))
    assert set(said) <= set(messages)
    assert len(said) >= 6
    assert sorted(made.message for made in run_writers(log.place.root, 1, 2, prefix="after")) == [
        "after0 0",
        "after0 1",
    ]
    assert committed(log)[-2:] == ["after0 0", "after0 1"]


def test_names_on_a_server(log: Log) -> None:
    run_writers(log.place.root, 1, 2)
    log.tag("v1", log.head())
    log.branch("try", log.resolve("@0"))
    fresh = Log.open(log.place.root)
    assert (fresh.branches(), fresh.tags()) == (["main", "try"], ["v1"])
    assert len(dict(fresh.resolve("v1").scan())) == 2
    assert len(dict(fresh.resolve("try").scan())) == 1
