"""Arrays by name and version on four backends, with several processes: one commit or none, whatever happens."""

from __future__ import annotations

import datetime
import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import shardtools as st
from shardtools.errors import AccessError, ConflictError, ConflictUnsupportedError, CorruptError, NotFoundError
from shardtools.log.garbage import collect
from shardtools.storage import get_storage
from tests.backends import EACH_BACKEND, running
from tests.contract.faults import FaultyProxy
from tests.moto_server import moto_server, use_environment
from tests.servers import nginx_server

ROOT = Path(__file__).resolve().parents[2]

PAIRS = """
import sys
import shardtools as st

hub = st.hub(sys.argv[1])
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    with hub.transaction(str(number)) as t:
        t["pair/a"][:] = number
        t["pair/b"][:] = number
    print(number, flush=True)
"""

APART_AND_TOGETHER = """
import sys
import shardtools as st
from shardtools.errors import ConflictError

who, count = int(sys.argv[2]), int(sys.argv[3])
mine, shared = st.hub(sys.argv[1]).load("x"), st.hub(sys.argv[1]).load("shared")
for number in range(1, count + 1):
    mine[10 * who : 10 * who + 10] = number
    try:
        shared[who % 2] = shared.refresh()[who % 2] + 1
        print("committed", flush=True)
    except ConflictError:
        print("refused", flush=True)
"""

FULL = """
import resource, sys
import numpy as np
import shardtools as st
from shardtools.errors import FullError

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
hub = st.hub(sys.argv[1])
try:
    with hub.transaction() as t:
        t["x"][:] = 5
        t.array("big", shape=(8, 1 << 20), chunks=(1, 1 << 20), dtype="uint8")
        t["big"][:] = np.random.default_rng(0).integers(0, 255, (8, 1 << 20), np.uint8)
except FullError as error:
    print(error)
"""


@pytest.fixture(scope="module", params=EACH_BACKEND)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(request.param, tmp_path_factory.mktemp("arrays")) as url:
        yield url


@pytest.fixture
def hub(server: str) -> st.Hub:
    return st.hub(f"{server}/{uuid.uuid4().hex}")


def start(code: str, hub: st.Hub, *arguments: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, hub.url, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Return the lines of a process that has to end well."""
    lines = process.communicate(timeout=200)[0].splitlines()
    assert process.returncode == 0
    return lines


def pair(hub: st.Hub) -> None:
    """Make two arrays of several chunks that are always written together."""
    with hub.transaction("pair") as t:
        t.array("pair/a", shape=(6,), chunks=(2,), dtype="int32")
        t.array("pair/b", shape=(4, 2), chunks=(2, 2), dtype="int64")


def assert_agree(hub: st.Hub, number: int | None = None) -> int:
    """Check that both arrays of a pair are of one commit, and return which."""
    a = hub.load("pair/a" if number is None else f"pair/a@{number}")
    b = hub.load(f"pair/b@{a.snapshot.number}")
    values = {*a[:].tolist(), *b[:].ravel().tolist()}
    assert len(values) == 1
    return int(values.pop())


def test_what_users_type(hub: st.Hub) -> None:
    images, labels = np.arange(40 * 9, dtype=np.uint8).reshape(40, 3, 3), np.arange(40)
    array = hub.array("mnist/train:v0", shape=(100, 3, 3), chunks=(8, 3, 3), dtype="uint8")
    array[0] = images[7]
    with hub.transaction("first", author="labelling", version="v0") as t:
        t["mnist/train"][0:40] = images
        t.array("mnist/labels", shape=100, chunks=64, dtype="int64")[0:40] = labels
    hub.tag("first", "v0")
    array.refresh()[5:7] = 0
    other = st.hub(hub.url)
    np.testing.assert_array_equal(other.load("mnist/train:first")[0:40], images)
    images[5:7] = 0
    np.testing.assert_array_equal(other.load("mnist/train:v0")[4:8, 1:], images[4:8, 1:])
    assert other.load("mnist/labels:v0")[[3, 1, 50]].tolist() == [3, 1, 0]
    assert other.load("mnist/train:v0@1")[0, 0].tolist() == images[7, 0].tolist()
    assert (other.branches(), other.tags()) == (["main", "v0"], ["first"])
    assert other.list("v0") == ["mnist/labels", "mnist/train"]
    writes = [write for commit in other.history("v0") for write in commit.writes]
    assert [(write.message, write.author) for write in writes][:2] == [
        ("write mnist/train", ""),
        ("first", "labelling"),
    ]


def test_a_reader_during_many_commits_sees_no_mixture(hub: st.Hub) -> None:
    pair(hub)
    count = 40
    writer = start(PAIRS, hub, 1, count + 1)
    seen = [0]
    while writer.poll() is None:
        seen.append(assert_agree(hub))
    seen.append(assert_agree(hub))
    assert finish(writer)[-1] == str(count)
    assert seen == sorted(seen)
    assert seen[-1] == count
    assert len(set(seen)) > 3
    assert [assert_agree(hub, number) for number in range(0, count + 1, 10)] == list(range(0, count + 1, 10))


def test_writers_apart_and_together(hub: st.Hub) -> None:
    """Each writes chunks of its own, which all succeed, and one chunk with the others: it commits, or it is refused."""
    count, many = 3, 3
    array = hub.array("x", shape=10 * many, chunks=10, dtype="int32")
    hub.array("shared", shape=2, chunks=2, dtype="int64")
    lines = [
        line
        for process in [start(APART_AND_TOGETHER, hub, who, count) for who in range(many)]
        for line in finish(process)
    ]
    assert len(lines) == count * many
    committed = lines.count("committed")
    assert array.refresh()[:].tolist() == [count] * 10 * many
    assert hub.load("shared")[:].sum() == committed >= count
    messages = [write.message for commit in hub.history() for write in commit.writes]
    assert messages.count("write x") == count * many
    assert messages.count("write shared") == committed
    replayed = []
    for number in range(1, hub.snapshot().number + 1):
        replayed.append(int(hub.load(f"shared@{number}")[:].sum()))
    assert replayed == sorted(replayed)
    assert {after - before for before, after in pairwise(replayed)} <= {0, 1}


def test_writers_that_are_killed(hub: st.Hub) -> None:
    pair(hub)
    draws, number = random.Random(3), 0
    for _ in range(2):
        writer = start(PAIRS, hub, number + 1, 10_000)
        assert writer.stdout is not None
        for _ in range(draws.randrange(1, 5)):
            number = int(writer.stdout.readline())
        writer.kill()
        number = max([number, *map(int, writer.communicate(timeout=60)[0].split())])
        there = assert_agree(st.hub(hub.url))
        assert number <= there <= number + 1
        number = there
    assert finish(start(PAIRS, hub, number + 1, number + 3)) == [str(number + 1), str(number + 2)]
    numbers = [int(write.message) for commit in hub.history() for write in commit.writes if write.message != "pair"]
    assert numbers == list(range(number + 2, 0, -1))


def test_objects_that_are_deleted_by_hand(hub: st.Hub) -> None:
    pair(hub)
    finish(start(PAIRS, hub, 1, 3))
    array = hub.load("pair/a")
    [entry] = array.snapshot.find(["pair/a/c/0"]).values()
    get_storage(hub.url).delete(hub.url + entry.name)
    broken = st.hub(hub.url)
    with pytest.raises(CorruptError, match=rf"{entry.name} \[pair/a/c/0\]: a data shard is gone; restore it"):
        broken.load("pair/a")[0]
    assert assert_agree(broken, 1) == 1
    with broken.transaction() as t:
        t["pair/a"][:] = 7
        t["pair/b"][:] = 7
    assert assert_agree(st.hub(hub.url)) == 7
    get_storage(hub.url).delete(hub.log.place.commit_url("main", 2))
    assert st.hub(hub.url).load("pair/a")[:].tolist() == [7] * 6
    with pytest.raises(CorruptError, match=r"log/main/0+2: a commit that the history needs is gone; restore it"):
        list(st.hub(hub.url).history())


def test_what_was_abandoned_is_deleted(hub: st.Hub) -> None:
    pair(hub)
    finish(start(PAIRS, hub, 1, 3))
    storage, data = get_storage(hub.url), f"{hub.url}data/"
    needed = storage.folders(data)
    for _ in range(3):
        t = hub.transaction().begin()
        t["pair/a"][:] = 9
        t.buffer.flush()
        t.buffer.writer.finish()
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    for day in range(2):
        assert len(storage.folders(data)) == len(needed) + 3
        collect(hub.log, now=begin + datetime.timedelta(days=day))
    assert storage.folders(data) == needed
    assert hub.verify().is_whole
    assert assert_agree(hub) == 2


def test_a_large_slice_is_read_by_several_threads(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 255, (40, 1 << 20), np.uint8)
    with nginx_server(tmp_path) as server:
        local = st.hub(str(server.root / "hub")).array("x", shape=(44, 1 << 20), chunks=(1, 1 << 20), dtype="uint8")
        local[:40] = values
        far = st.hub(f"{server.url}hub").load("x")
        np.testing.assert_array_equal(far[3:], np.concatenate([values[3:], np.zeros((4, 1 << 20), np.uint8)]))
        np.testing.assert_array_equal(far[::-1, 5:9][4:], values[::-1, 5:9])
        [entry] = local.snapshot.find(["x/c/20/0"]).values()
        shard = server.root / "hub" / entry.name
        data = shard.read_bytes()
        shard.write_bytes(data[: entry.offset] + bytes([data[entry.offset] ^ 1]) + data[entry.offset + 1 :])
        with pytest.raises(CorruptError, match=r"\[x/c/20/0\]: it is damaged"):
            st.hub(f"{server.url}hub").load("x")[:]


@pytest.mark.parametrize("chunks", [1, 200_000])
def test_chunks_in_the_cache_cost_no_request(tmp_path: Path, chunks: int) -> None:
    values = np.random.default_rng(0).integers(0, 255, 400_000, np.uint8)[: 2 * chunks]
    st.hub(str(tmp_path / "served/hub")).array("x", values.shape, chunks, "uint8", compressors=None)[:] = values
    with nginx_server(tmp_path / "served") as server:
        array = st.hub(f"{server.url}hub", cache=f"{tmp_path}/cache", memory=1).load("x")
        np.testing.assert_array_equal(array[:], values)
    np.testing.assert_array_equal(array[:], values)  # though there is no server any more


@pytest.mark.parametrize("chunks", [1, 200_000])
def test_a_chunk_that_was_damaged_on_its_way_to_the_cache_is_read_again(tmp_path: Path, chunks: int) -> None:
    values = np.random.default_rng(0).integers(0, 255, 400_000, np.uint8)[: 2 * chunks]
    array = st.hub(str(tmp_path / "served/hub")).array("x", values.shape, chunks, "uint8", compressors=None)
    array[:] = values
    [entry] = array.snapshot.find(["x/c/1"]).values()
    shard = tmp_path / "served/hub" / entry.name
    whole = shard.read_bytes()
    with nginx_server(tmp_path / "served") as server:
        array = st.hub(f"{server.url}hub", cache=f"{tmp_path}/cache", memory=1).load("x")
        shard.write_bytes(whole[: entry.offset] + bytes([whole[entry.offset] ^ 1]) + whole[entry.offset + 1 :])
        with pytest.raises(CorruptError, match=r"\[x/c/1\]: it is damaged"):
            array[:]
        shard.write_bytes(whole)
        np.testing.assert_array_equal(array[:], values)


def test_a_full_disk_in_the_middle_of_a_transaction(tmp_path: Path) -> None:
    hub = st.hub(str(tmp_path / "hub"))
    array = hub.array("x", shape=4, chunks=2, dtype="int32")
    array[:] = [1, 2, 3, 4]
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    [line] = finish(start(FULL, hub))
    assert ".tar: the file grew past the limit on its size" in line
    assert hub.load("x")[:].tolist() == [1, 2, 3, 4]
    assert hub.list() == ["x"]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_a_server_that_one_may_only_read(tmp_path: Path) -> None:
    with nginx_server(tmp_path, writers={"ann": "secret"}) as server:
        mine = st.hub(str(tmp_path / "hub"))
        mine.array("x", shape=4, chunks=2, dtype="int32")[:] = 3
        hub = st.hub(f"{server.url}hub")
        array = hub.load("x")
        with pytest.raises(AccessError, match="401"):
            array[0] = 1
        with pytest.raises(AccessError, match="401"), hub.transaction() as t:
            t["x"][0] = 1
        with pytest.raises(AccessError, match="401"):
            st.hub(f"{server.url}new").array("x", shape=4, chunks=2, dtype="int32")
        mine.load("x")[1] = 5
        assert array.refresh()[:].tolist() == [3, 5, 3, 3]
        mine.tag("v1")
        copy = st.hub(str(tmp_path / "copy"))
        copy.pull(hub)
        assert copy.load("x:v1")[:].tolist() == [3, 5, 3, 3]
        with pytest.raises(NotFoundError, match="there is no version v2; there is main, v1, and @N"):
            hub.load("x:v2")
    shutil.rmtree(tmp_path / "copy")


def test_a_service_that_lets_two_create_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as moto, FaultyProxy(moto.url, drops="If-None-Match") as proxy:
        moto.client().create_bucket(Bucket="bucket")
        use_environment(monkeypatch, {**moto.environment(), "AWS_ENDPOINT_URL": proxy.url.rstrip("/")})
        with pytest.raises(ConflictUnsupportedError, match=r"this service lets two writers .*; .*single_writer=True"):
            st.hub("s3://bucket/hub").array("x", shape=4, chunks=2, dtype="int32")
        alone = st.hub("s3://bucket/hub", single_writer=True)
        array = alone.array("x", shape=4, chunks=2, dtype="int32")
        array[:] = [1, 2, 3, 4]
        alone.tag("v1")
        array[0] = 9
        reader = st.hub("s3://bucket/hub")
        assert reader.load("x")[:].tolist() == [9, 2, 3, 4]
        assert reader.load("x:v1")[:].tolist() == [1, 2, 3, 4]
        with pytest.raises(ConflictUnsupportedError):
            reader.load("x")[0] = 1
        stale = st.hub("s3://bucket/hub", single_writer=True).load("x@1")
        assert stale[:].tolist() == [1, 2, 3, 4]
        other = alone.load("x")
        array[1] = 8
        with pytest.raises(ConflictError, match=r"commit 3 of main has changed x\[0:"):
            other[0] = 1


def test_a_compaction_while_another_process_writes(hub: st.Hub) -> None:
    with hub.transaction() as t:
        t.array("pair/a", shape=(6, 7), chunks=(2, 3), dtype="int32")[:] = -1
        t.array("pair/b", shape=4, chunks=3, dtype="int32")[:] = -1
        t.array("still", shape=(5, 5), chunks=2, dtype="int32")[:] = np.arange(25).reshape(5, 5)
    hub.tag("before")
    writer = start(PAIRS, hub, 0, 8)
    assert writer.stdout is not None and writer.stdout.readline() == "0\n"
    hub.compact()
    assert finish(writer) == [str(number) for number in range(1, 8)]
    fresh = st.hub(hub.url)
    assert (fresh.load("pair/a")[...] == 7).all() and (fresh.load("pair/b")[...] == 7).all()
    assert fresh.load("still")[...].tolist() == np.arange(25).reshape(5, 5).tolist()
    assert {entry.name.rpartition("/")[2] for _, entry in fresh.snapshot().scan("still/")} == {"chunks-0000.tar"}
    assert fresh.verify().is_whole and fresh.verify("before").is_whole
    assert fresh.diff("before").chunks == {"pair/a": 9, "pair/b": 2}
