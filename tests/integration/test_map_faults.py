"""A whole job over a bad line: what is read and written is the same, byte for byte, as without faults."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from shardtools import engine
from shardtools.engine import Task, counting_incidents
from shardtools.storage import get_storage
from tests.cli.command import run
from tests.contract.faults import Fault, FaultyProxy
from tests.dask_cluster import dask_cluster
from tests.datasets import members, snapshot, write_dataset
from tests.servers import NginxServer

SHARDS = 200
SCRIPT = 'def process_sample(record):\n    return {"key": record["key"], "txt": record["txt"] * 30}\n'
BUSY = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class OneInTwenty:
    """Chooses a fault for one request in twenty, by a seed, and counts them by kind and method."""

    KINDS = (
        Fault(answer=b""),
        Fault(answer=BUSY),
        Fault(instead=BROKEN),
        Fault(after=0),
        Fault(after=100, reset=True),
        Fault(after=1_000),
        Fault(after=30_000, reset=True),
    )

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.done: Counter[str] = Counter()

    def __call__(self, head: bytes) -> Fault | None:
        with self._lock:
            if self._random.random() >= 1 / 20:
                return None
            self.done[head.partition(b" ")[0].decode()] += 1
            return self._random.choice(self.KINDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def test_one_request_in_twenty_fails(folder: Path, nginx: NginxServer) -> None:
    ending = "tgz"
    write_dataset(folder, SHARDS, 30, ending=ending)
    for path in folder.glob(f"in-*.{ending}"):
        path.rename(nginx.root / path.name)
    spec = f"{nginx.url}in-@{SHARDS}.{ending}"
    assert run("-q", "-p", "script.py", spec, f"{nginx.url}good/out-@{SHARDS}.{ending}", cwd=folder).status == 0

    started = time.monotonic()
    choose = OneInTwenty(seed=len(ending))
    with FaultyProxy(nginx.url, choose=choose) as proxy:
        source, destination = f"{proxy.url}in-@{SHARDS}.{ending}", f"{proxy.url}bad/out-@{SHARDS}.{ending}"
        outcome = run("-j", "4", "-p", "script.py", source, destination, cwd=folder)
        requests = len(proxy.requests)
    assert (outcome.status, outcome.err) == (0, "")
    assert time.monotonic() - started < 200

    assert requests > 6 * SHARDS and requests / 40 < choose.done.total() < requests / 10
    assert choose.done["GET"] > 10 and choose.done["PUT"] > 10 and choose.done["HEAD"] > 3
    good, bad = snapshot(nginx.root / "good"), snapshot(nginx.root / "bad")
    assert set(good) == set(bad) and len(bad) == 2 * SHARDS + 1
    shards = [name for name in good if name.endswith(ending)]
    assert len(shards) == SHARDS and all(good[name] == bad[name] for name in shards)
    assert len(members(nginx.root / "bad" / sorted(shards)[7])) == 30


def test_without_retries_the_first_failure_is_the_last(folder: Path, nginx: NginxServer) -> None:
    write_dataset(nginx.root, 1, 5)
    with FaultyProxy(nginx.url, [Fault(b"GET /in-0.tar ", answer=BUSY)]) as proxy:
        outcome = run("--retries", "0", "-p", "script.py", f"{proxy.url}in-@1.tar", "o-@1.tar", cwd=folder)
        what = "the server answered 503 Busy; see whether the server is up and reachable, then run again"
        assert outcome.error() == f"{proxy.url}in-0.tar: {what}"
        assert sum("in-0.tar " in line for line in proxy.requests) == 1
        assert run("--retries", "1", "-p", "script.py", f"{proxy.url}in-@1.tar", "o-@1.tar", cwd=folder).status == 0


@pytest.mark.parametrize("where", ["threads", "processes"])
def test_retries_are_counted(folder: Path, nginx: NginxServer, where: str) -> None:
    """In the summary, in the report, and with -v as they happen."""
    write_dataset(nginx.root, 2, 5)
    with FaultyProxy(nginx.url, [Fault(b"GET /in-0.tar ", answer=BUSY)]) as proxy:
        command = ("-v", "-c", where, "-p", "script.py", "--report", "report.json", f"{proxy.url}in-@2.tar", "o-@2.tar")
        outcome = run(*command, cwd=folder)
    assert outcome.status == 0
    assert outcome.out.rstrip().endswith(", 1 request tried again")
    assert outcome.err == f"htmapper: {proxy.url}in-0.tar: 1 request tried again\n"
    incidents = {"retries": 1, "slow_requests": 0, "lost_workers": 0, "repeated_tasks": 0}
    assert json.loads((folder / "report.json").read_text())["incidents"] == incidents


def test_slow_requests_are_counted(nginx: NginxServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtools.storage.retry.SLOW_SECONDS", 0.2)
    write_dataset(nginx.root, 2, 5)
    slow = Fault(b"HEAD /in-0.tar ", answer=BUSY, then=lambda: threading.Event().wait(0.3))
    with FaultyProxy(nginx.url, [slow]) as proxy, counting_incidents() as met:
        engine.run([Task(stat_size, (f"{proxy.url}in-{i}.tar",), "x") for i in range(2)], lambda done: None)
        assert met.counts() == {"retries": 1, "slow_requests": 1, "lost_workers": 0, "repeated_tasks": 0}


def stat_size(url: str) -> int | None:
    return get_storage(url).stat(url).size


@pytest.mark.parametrize("where", ["threads", "processes", "cluster"])
def test_the_options_reach_the_workers(folder: Path, nginx: NginxServer, where: str) -> None:
    """With two retries a shard is asked for three times, each left after half a second of silence."""
    write_dataset(nginx.root, 1, 5)
    options = ("--retries", "2", "--timeout", "0.5", "-p", "script.py")
    stalls = [Fault(b"GET /in-0.tar ", after=100, stall=True)] * 3
    with FaultyProxy(nginx.url, stalls) as proxy:
        command = (*options, f"{proxy.url}in-@1.tar", "o-@1.tar")
        if where == "cluster":
            with dask_cluster(workers=1) as cluster:
                outcome = run("-c", cluster.address, *command[:-1], f"{folder}/o-@1.tar", cwd=folder)
        else:
            outcome = run("-c", where, *command, cwd=folder)
        assert "the server did not answer in time, 3 times in a row" in outcome.error()
        assert sum("GET /in-0.tar " in line for line in proxy.requests) == 3
    assert not (folder / "o-0.tar").exists()
