"""Arrays, brought from one place to another and back: only what is missing, whole, and in order."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

import shardtools as st
from shardtools.arrays.sync import SyncResult
from shardtools.errors import ConflictError, CorruptError, ExistsError, JobError, NotFoundError
from tests.backends import EACH_BACKEND, running

ROOT = Path(__file__).resolve().parents[2]

PUSH = """
import os, signal, sys
import shardtools as st

def stop(done):
    if getattr(done, sys.argv[3]) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

st.hub(sys.argv[1]).push(sys.argv[2], progress=stop)
"""


@pytest.fixture(scope="module", params=EACH_BACKEND)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(request.param, tmp_path_factory.mktemp("sync")) as url:
        yield url


@pytest.fixture
def hub(tmp_path: Path) -> st.Hub:
    """Two branches and a tag, with an array that each commit of main has changed."""
    hub = st.hub(str(tmp_path / "here"))
    array = hub.array("a/x", shape=(8, 100), chunks=(1, 100), dtype="uint8")
    for row in range(8):
        array[row] = np.random.default_rng(row).integers(0, 255, 100, np.uint8)
    hub.tag("v1", "@5")
    hub.branch("try", "@7")
    hub.load("a/x:try")[0] = 7
    hub.move("a/x:try", "b")
    return hub


@pytest.fixture
def other(tmp_path: Path) -> st.Hub:
    return st.hub(str(tmp_path / "there"))


def versions(hub: st.Hub) -> list[str]:
    """Return all versions of a hub that has commits."""
    names = [*hub.branches(), *hub.tags()]
    return names + [f"@{number}" for number in range(hub.snapshot().number + 1)]


def assert_same(one: st.Hub, two: st.Hub) -> None:
    assert versions(one) == versions(two)
    for version in versions(one):
        assert one.list(version) == two.list(version)
        for name in one.list(version):
            at = "" if version.startswith("@") else ":"
            np.testing.assert_array_equal(one.load(f"{name}{at}{version}")[...], two.load(f"{name}{at}{version}")[...])
        ours, theirs = ([commit.digest for commit in hub.history(version)] for hub in (one, two))
        assert ours == theirs


def test_there_and_back(hub: st.Hub, server: str, other: st.Hub) -> None:
    url = f"{server}/{uuid.uuid4().hex}"
    done = hub.push(url)
    assert (done.commits, done.tags) == (11, 1)
    assert_same(hub, st.hub(url))
    assert hub.push(url) == SyncResult()
    st.hub(url).load("a/x")[3] = 3
    assert hub.push(url) == SyncResult()
    assert hub.pull(url).commits == 1
    assert hub.load("a/x")[3].tolist() == [3] * 100
    assert other.pull(url).commits == 12
    assert_same(hub, other)


def test_only_what_is_missing_is_copied(hub: st.Hub, other: st.Hub) -> None:
    hub.push(other)
    before = {path: path.stat().st_mtime_ns for path in Path(other.url).rglob("*") if path.is_file()}
    hub.load("a/x")[2] = 2
    result = hub.push(other)
    after = {path: path.stat().st_mtime_ns for path in Path(other.url).rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after[path]} == {Path(other.url, "hints/main")}
    names = sorted(path.relative_to(other.url).parts[0] for path in after.keys() - before)
    assert names == ["data"] * result.objects + ["log"]
    assert result.nbytes == sum(path.stat().st_size for path in after.keys() - before if "data" in path.parts)


@pytest.mark.parametrize(("what", "count"), [("objects", 1), ("objects", 5), ("commits", 1), ("commits", 7)])
def test_a_push_that_is_killed(hub: st.Hub, other: st.Hub, what: str, count: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PUSH, hub.url, other.url, what, str(count)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL
    copied = {path for path in Path(other.url).glob("data/*/*") if not path.name.startswith(".")}
    done = hub.push(other)
    assert_same(hub, other)
    assert done.objects == len(list(Path(other.url).glob("data/*/[!.]*"))) - len(copied)


def test_a_push_that_is_killed_leaves_the_last_commit_readable(hub: st.Hub, other: st.Hub) -> None:
    hub.push(other)
    expected = other.load("a/x")[...]
    array = hub.load("a/x")
    for row in range(3):
        array[row] = row
    command = [sys.executable, "-c", PUSH, hub.url, other.url, "objects", "2"]
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60, check=False)
    assert run.returncode == -signal.SIGKILL
    np.testing.assert_array_equal(st.hub(other.url).load("a/x")[...], expected)
    hub.push(other)
    assert_same(hub, other)


def test_branches_that_have_diverged(hub: st.Hub, other: st.Hub) -> None:
    hub.push(other)
    hub.load("a/x")[0] = 1
    other.load("a/x")[0] = 2
    other.load("a/x")[1] = 2
    heads = [next(iter(place.history())).digest[:12] for place in (hub, other)]
    before = sorted(Path(other.url).rglob("*"))
    match = rf"main has diverged: .* main@9 \({heads[0]}\) at \S+here/, and main@10 \({heads[1]}\) at \S+there/; leave"
    with pytest.raises(ConflictError, match=match):
        hub.push(other)
    assert sorted(Path(other.url).rglob("*")) == before
    other.load("b:try")[5] = 5
    assert hub.pull(other, branches=["try"]).commits == 1
    assert hub.load("b:try")[5, 0] == 5


def test_branches_of_one_name_that_began_elsewhere(hub: st.Hub, other: st.Hub) -> None:
    hub.push(other, branches="main")
    other.branch("try", "@3")
    with pytest.raises(ConflictError, match="try has diverged"):
        hub.push(other)


def test_some_branches_and_tags(hub: st.Hub, tmp_path: Path) -> None:
    one = st.hub(str(tmp_path / "one"))
    assert hub.push(one, branches=["try"]) == SyncResult(10, 1, *_data(one))
    assert (one.branches(), one.tags()) == (["main", "try"], ["v1"])
    assert one.snapshot().number == 7
    np.testing.assert_array_equal(one.load("b:try")[...], hub.load("b:try")[...])
    hub.push(one)
    assert_same(hub, one)
    two = st.hub(str(tmp_path / "two"))
    hub.push(two, branches=[], tags="v1")
    assert (two.branches(), two.tags(), two.snapshot().number) == (["main"], ["v1"], 5)
    with pytest.raises(NotFoundError, match="there is no tag v2"):
        hub.push(two, tags=["v2"])
    with pytest.raises(NotFoundError, match="there is no version nothing"):
        hub.push(two, branches=["nothing"])


def _data(hub: st.Hub) -> tuple[int, int]:
    files = [path for path in Path(hub.url).glob("data/*/[!.]*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def test_names_that_mean_other_things(hub: st.Hub, other: st.Hub) -> None:
    hub.push(other, tags=[])
    other.tag("v1", "@3")
    with pytest.raises(ConflictError, match=r"the tag v1 is main@5 \(\w{12}\) at one place and main@3 \(\w{12}\) at"):
        hub.push(other)
    hub.tag("v2")
    other.branch("v2")
    with pytest.raises(ConflictError, match="v2 is a tag at one place and a branch at the other"):
        hub.push(other, tags=["v2"])
    with pytest.raises(ConflictError, match="v2 is a branch at one place and a tag at the other"):
        other.push(hub, tags=[])


def test_others_write_to_the_destination_meanwhile(hub: st.Hub, other: st.Hub) -> None:
    hub.push(other)
    hub.load("a/x")[0] = 1
    writer = st.hub(other.url)

    def write(done: SyncResult) -> None:
        if done.objects == 1:
            writer.load("a/x")[1] = 9

    with pytest.raises(ConflictError, match=r"log/main/0+9: others have just written this to the place, too; bring"):
        hub.push(other, progress=write)
    assert other.load("a/x")[1, 0] == 9
    with pytest.raises(ConflictError, match="main has diverged"):
        hub.push(other)


def test_two_pushes_at_once(hub: st.Hub, other: st.Hub) -> None:
    hub.push(other, branches=["main"], tags=[])
    hub.load("a/x")[0] = 1
    nested: list[SyncResult] = []

    def again(done: SyncResult) -> None:
        if done.objects and not nested:
            nested.append(SyncResult())
            nested.append(hub.push(other.url))

    hub.push(other, progress=again)
    assert nested[1].commits == 3
    assert_same(hub, other)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "segment"])
def test_what_is_damaged_does_not_arrive(hub: st.Hub, other: st.Hub, damage: str) -> None:
    hub.push(other)
    expected = other.load("a/x")[...]
    array = hub.load("a/x")
    array[0] = 200
    [entry] = array.snapshot.find(["a/x/c/0/0"]).values()
    [write] = next(iter(hub.history())).writes
    assert write.changes is not None
    shard = Path(hub.url, write.changes.name if damage == "segment" else entry.name)
    whole = shard.read_bytes()
    at = 10 if damage == "segment" else entry.offset + 3
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(whole[:520] if damage == "cut" else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    source = st.hub(hub.url)
    with pytest.raises(CorruptError, match=rf"{shard.name}: .*(damaged|gone|should have)"):
        source.push(other)
    np.testing.assert_array_equal(st.hub(other.url).load("a/x")[...], expected)
    assert st.hub(other.url).snapshot().number == 8
    shard.write_bytes(whole)
    hub.push(other)
    assert_same(hub, other)


def test_a_half_object_at_the_destination_is_written_again(hub: st.Hub, other: st.Hub) -> None:
    hub.push(other, branches=["main"])
    array = hub.load("a/x")
    array[0] = 200
    [entry] = array.snapshot.find(["a/x/c/0/0"]).values()
    half = Path(other.url, entry.name)
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    hub.push(other)
    assert_same(hub, other)


def test_versions_that_have_expired(hub: st.Hub, other: st.Hub) -> None:
    """Their commits come, and not their data; what a tag or a branch needs does come."""
    Path(hub.url, "expired").mkdir()
    Path(hub.url, "expired", "main").write_text('{"format": 1, "first": 8}\n')
    needed = {
        name
        for version in ("main", "v1", "try", "try@8")
        for segment in hub.snapshot(version).segments
        for name in (segment.place.name, *segment.index().objects)
    }
    for path in Path(hub.url).glob("data/*/*"):
        if str(path.relative_to(hub.url)) not in needed:
            path.unlink()
    source = st.hub(hub.url)
    source.push(other)
    for version in ("main", "v1", "try"):
        name = "b" if version == "try" else "a/x"
        np.testing.assert_array_equal(other.load(f"{name}:{version}")[...], hub.load(f"{name}:{version}")[...])
    assert Path(other.url, "expired", "main").read_text() == '{"format": 1, "first": 8}\n'
    assert len(list(other.history())) == 9


def test_what_cannot_be(hub: st.Hub, other: st.Hub, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="both places are the same"):
        hub.push(hub.url + "/")
    with pytest.raises(NotFoundError, match="there are no arrays here"):
        hub.pull(other)
    Path(other.url).mkdir()
    Path(other.url, "a.txt").touch()
    with pytest.raises(ExistsError, match=r"this place holds other files, such as a\.txt"):
        hub.push(other)
    shutil.rmtree(Path(hub.url, "branches"))
    with pytest.raises(NotFoundError, match="there is no version main"):
        st.hub(hub.url).push(str(tmp_path / "new"), branches=["main"])


def extract(hub: st.Hub, folder: Path, version: str | None = None) -> zarr.Group:
    folder.mkdir()
    for url in hub.shards(version):
        subprocess.run(["tar", "-xf", url, "-C", folder], check=True)
    return zarr.open_group(str(folder), mode="r")


def test_shards_are_extracted_in_the_order_of_commits(hub: st.Hub, tmp_path: Path) -> None:
    hub.load("a/x")[3] = 3
    hub.load("a/x")[:] = np.arange(100)
    hub.load("a/x")[5, 10:20] = 0
    for number, version in enumerate(["main", "v1", "@9"]):
        name = "a/x" + ("" if version.startswith("@") else ":") + version
        group = extract(hub, tmp_path / str(number), version)
        np.testing.assert_array_equal(group["a/x"][...], hub.load(name)[...])
    assert len(hub.shards()) == 3
    assert [url.startswith(f"{hub.url}data/") for url in hub.shards()] == [True] * 3


def test_shards_after_a_compaction(hub: st.Hub, tmp_path: Path) -> None:
    hub.array("tmp", shape=4, chunks=4, dtype="uint8")[:] = 1
    with hub.transaction() as t:
        t.array("y", shape=4, chunks=4, dtype="uint8")[:] = 2
        t["a/x"][:2] = 9
    del hub["tmp"]
    assert sorted(extract(hub, tmp_path / "before")) == ["a", "y"]
    hub.move("y", "z")
    with pytest.raises(JobError, match=r"y was removed or moved, and its old shards .*; hub\.compact\(\) writes"):
        hub.shards()
    hub.compact()
    hub.load("a/x")[4] = 4
    group = extract(hub, tmp_path / "after")
    assert sorted(group) == ["a", "z"]
    for name in ("a/x", "z"):
        np.testing.assert_array_equal(group[name][...], hub.load(name)[...])
    del hub["z"]
    with pytest.raises(JobError, match="z was removed or moved"):
        hub.shards()
