"""Upkeep of arrays: compared, checked, compacted, while others write and when something is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import shardtools as st
from shardtools.arrays import chunk_order, compact
from shardtools.errors import CorruptError, JobError, NotFoundError
from shardtools.log import merging

Array = npt.NDArray[Any]


@pytest.fixture
def hub(tmp_path: Path) -> st.Hub:
    return st.hub(str(tmp_path / "hub"))


def random(*shape: int) -> Array:
    return np.random.default_rng(7).integers(0, 255, shape, np.uint8)


def make(hub: st.Hub) -> dict[str, Array]:
    """Write arrays in several commits, out of order, and return what they hold."""
    expected = {"a/x": random(23, 12), "y": np.arange(12, dtype="int32"), "a/scalar": np.array(7.5)}
    x = hub.array("a/x", shape=(23, 12), chunks=(2, 5), dtype="uint8")
    for start in (20, 4, 0, 12):
        x[start : start + 8] = expected["a/x"][start : start + 8]
    x[8:20] = expected["a/x"][8:20]
    with hub.transaction("others") as t:
        t.array("y", shape=12, chunks=1, dtype="int32")[:] = expected["y"]
        t.array("a/scalar", shape=(), dtype="float64")[()] = 7.5
        t.array("gone", shape=4, chunks=2, dtype="int8")[:] = 1
    del hub["gone"]
    return expected


def check(hub: st.Hub, expected: dict[str, Array], version: str = "main") -> None:
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(hub.load(f"{name}:{version}")), values)


class TestDiff:
    def test_what_two_versions_differ_in(self, hub: st.Hub) -> None:
        make(hub)
        hub.tag("v0")
        hub.load("a/x")[3, 4] ^= 1
        with hub.transaction() as t:
            t["y"].set_attrs({"unit": "m"})
            del t["a/scalar"]
            t.array("new", shape=4, chunks=2, dtype="int8")[:3] = 1
        hub.tag("v1")
        hub.load("y").resize([5])
        found = hub.diff("v0", "v1")
        assert (found.before, found.after) == ("v0", "v1")
        assert (found.added, found.removed, found.metadata) == (("new",), ("a/scalar",), ("y",))
        assert found.chunks == {"a/scalar": 1, "a/x": 1, "new": 2}
        assert hub.diff("v1").chunks == {"y": 7}
        back = hub.diff("v1", "v0")
        assert (back.added, back.removed, back.chunks) == (("a/scalar",), ("new",), found.chunks)
        assert not hub.diff("v1", "v1") and found

    def test_a_compaction_changes_nothing(self, hub: st.Hub) -> None:
        make(hub)
        hub.tag("v0")
        hub.compact()
        assert not hub.diff("v0", "main")

    def test_an_array_that_was_moved(self, hub: st.Hub) -> None:
        make(hub)
        hub.tag("v0")
        hub.move("a", "b")
        found = hub.diff("v0")
        assert (found.added, found.removed) == (("b/scalar", "b/x"), ("a/scalar", "a/x"))
        assert found.chunks == {"a/scalar": 1, "a/x": 36, "b/scalar": 1, "b/x": 36}

    def test_only_segments_of_one_version_are_read(self, hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many chunks there are, those of an array that nobody has written cost nothing."""
        monkeypatch.setattr(merging, "MERGED_INLINE", 100)
        big = hub.array("big", shape=5000, chunks=1, dtype="uint8")
        big[:] = 1
        hub.tag("v0")
        big[17] = 2
        looked_up: list[str] = []
        find = chunk_order.Snapshot.find

        def counting(self: Any, keys: Any) -> Any:
            keys = list(keys)
            looked_up.extend(keys)
            return find(self, keys)

        monkeypatch.setattr(chunk_order.Snapshot, "find", counting)
        assert hub.diff("v0").chunks == {"big": 1}
        assert len(looked_up) < 10

    def test_versions_that_there_are_not(self, hub: st.Hub) -> None:
        make(hub)
        with pytest.raises(NotFoundError, match="there is no version v7; there is main"):
            hub.diff("v7")


class TestVerify:
    def test_all_is_read(self, hub: st.Hub) -> None:
        make(hub)
        told: list[tuple[int, int]] = []
        found = hub.verify(advance=lambda chunks, nbytes: told.append((chunks, nbytes)))
        assert found.is_whole
        assert (found.documents, found.chunks) == (5, 36 + 12 + 1)
        assert sum(chunks for chunks, _ in told) == found.chunks
        assert 0 < sum(nbytes for _, nbytes in told) < found.nbytes

    def test_what_is_wrong_is_listed(self, hub: st.Hub) -> None:
        make(hub)
        damaged = hub.load("a/x").snapshot.find(["a/x/c/0/0", "a/x/c/5/1"])
        for entry in damaged.values():
            with open(hub.url + entry.name, "r+b") as file:
                file.seek(entry.offset)
                file.write(b"\0\0")
        [document] = hub.snapshot().find(["zarr.json/y"]).values()
        os.truncate(hub.url + document.name, 100)
        found = st.hub(hub.url).verify()
        keys = [problem.key for problem in found.problems]
        assert {"a/x/c/0/0", "a/x/c/5/1", "zarr.json/y", "y/c/0"} <= set(keys)
        assert not {"zarr.json/a/x", "a/x/c/0/1"} & set(keys)
        reasons = {problem.key: problem.reason for problem in found.problems}
        assert "it is damaged: its CRC-32C does not match" in reasons["a/x/c/0/0"]
        assert any(what in reasons["zarr.json/y"] for what in ("is shorter than when", "was cut off"))

    def test_a_chunk_that_cannot_be_decoded(self, hub: st.Hub) -> None:
        hub.array("x", shape=4, chunks=2, dtype="int32")[:] = 1
        with hub.transaction() as t:
            t.buffer.put("x/c/1", b"nonsense")
        [problem] = hub.verify().problems
        assert problem.key == "x/c/1" and problem.reason.startswith("the chunk cannot be decoded: not zstd")

    def test_a_segment_that_is_gone(self, hub: st.Hub) -> None:
        make(hub)
        [segment] = hub.snapshot().segments[:1]
        Path(segment.url).unlink()
        code = "import sys, shardtools as st; print(st.hub(sys.argv[1]).verify().problems)"
        done = subprocess.run([sys.executable, "-c", code, hub.url], capture_output=True, text=True, check=True)
        assert "an object that a commit refers to is gone" in done.stdout


def shards_of(hub: st.Hub, snapshot: Any) -> list[str]:
    """Return the data shards that a snapshot needs."""
    return sorted({entry.name for _, entry in snapshot.scan()})


class TestCompact:
    def test_chunks_lie_in_few_shards_in_the_order_of_the_grid(self, hub: st.Hub) -> None:
        expected = make(hub)
        before = list(hub.history())
        told: list[int] = []
        result = hub.compact(advance=lambda chunks, nbytes: told.append(chunks))
        assert sum(told) == result.members == 5 + 36 + 12 + 1
        [shard] = shards_of(hub, hub.snapshot())
        assert shard.endswith("/chunks-0000.tar") and result.shards == 1
        listed = subprocess.run(["tar", "-tf", hub.url + shard], capture_output=True, text=True, check=True).stdout
        grid = [f"a/x/c/{row}/{column}" for row in range(12) for column in range(3)]
        documents = ["zarr.json", "a/zarr.json", "a/scalar/zarr.json", "a/x/zarr.json", "y/zarr.json"]
        assert listed.split() == [*documents, "a/scalar/c", *grid, *(f"y/c/{number}" for number in range(12))]
        check(hub, expected)
        check(st.hub(hub.url), expected)
        assert len(list(hub.history())) == len(before) + 1
        check(hub, expected, version=f"@{before[0].number}")
        assert len(hub.snapshot().segments) == 1

    def test_it_is_not_done_twice(self, hub: st.Hub) -> None:
        make(hub)
        hub.compact()
        again = hub.compact()
        assert (again.members, again.shards) == (0, 0)
        assert again.snapshot.number == hub.snapshot().number

    def test_shards_and_runs_of_a_size(self, hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compact, "_RUN", 10)
        monkeypatch.setattr(chunk_order, "KEYS", 7)
        expected = make(hub)
        result = hub.compact(shard_size="16KB")
        assert result.shards == len(shards_of(hub, hub.snapshot())) > 1
        check(st.hub(hub.url), expected)
        data = Path(hub.url) / shards_of(hub, hub.snapshot())[0]
        assert not list(data.parent.glob("run-*"))

    @pytest.mark.parametrize("merged", [0, 1 << 20], ids=["segments stay", "segments are merged"])
    def test_others_may_write_meanwhile(self, hub: st.Hub, merged: int, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = make(hub)
        monkeypatch.setattr(merging, "MERGED_INLINE", merged)
        batches: list[int] = []

        def write(chunks: int, nbytes: int) -> None:
            batches.append(chunks)
            if len(batches) == 1:
                other = st.hub(hub.url)
                other.load("y")[:] = range(100, 112)
                other.load("a/x")[0, 0] = 77
                del other["a/scalar"]
                for value in range(5):
                    other.load("y")[3] = value

        writer = hub.load("y")
        hub.compact(advance=write)
        assert batches
        expected["y"] = np.array([100, 101, 102, 4, *range(104, 112)])
        expected["a/x"][0, 0] = 77
        del expected["a/scalar"]
        check(st.hub(hub.url), expected)
        assert hub.list() == ["a/x", "y"]
        shards = {entry.name for key, entry in hub.snapshot().scan() if key.startswith("a/x/c/5")}
        assert [name.rpartition("/")[2] for name in shards] == ["chunks-0000.tar"]
        writer.refresh()[0] = 1
        assert hub.verify().is_whole

    def test_writers_that_began_before_it_neither_fail_nor_lose(self, hub: st.Hub) -> None:
        expected = make(hub)
        transaction = hub.transaction("slow").begin()
        transaction["y"][2] = 55
        hub.compact()
        transaction.commit()
        expected["y"][2] = 55
        check(hub, expected)

    def test_many_writers_and_compactions_at_once(self, hub: st.Hub) -> None:
        hub.array("x", shape=(4, 30), chunks=(1, 1), dtype="int32")
        failures: list[BaseException] = []

        def write(row: int) -> None:
            try:
                mine = st.hub(hub.url).load("x")
                for column in range(30):
                    mine.refresh()[row, column] = 100 * row + column + 1
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=write, args=(row,)) for row in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            st.hub(hub.url).compact()
        for thread in threads:
            thread.join()
        assert failures == []
        wanted = [[100 * row + column + 1 for column in range(30)] for row in range(4)]
        assert st.hub(hub.url).load("x")[...].tolist() == wanted

    def test_killed_half_way_nothing_has_changed(self, hub: st.Hub) -> None:
        expected = make(hub)
        number = hub.snapshot().number
        code = (
            "import os, signal, sys, shardtools as st\n"
            "kill = lambda chunks, nbytes: os.kill(os.getpid(), signal.SIGKILL)\n"
            "st.hub(sys.argv[1]).compact(advance=kill)\n"
        )
        assert subprocess.run([sys.executable, "-c", code, hub.url]).returncode == -9
        assert st.hub(hub.url).snapshot().number == number
        check(st.hub(hub.url), expected)
        hub.compact()
        check(st.hub(hub.url), expected)

    def test_a_damaged_chunk_is_not_copied(self, hub: st.Hub) -> None:
        make(hub)
        number = hub.snapshot().number
        [entry] = hub.snapshot().find(["a/x/c/0/0"]).values()
        with open(hub.url + entry.name, "r+b") as file:
            file.seek(entry.offset)
            file.write(b"\0\0")
        with pytest.raises(CorruptError, match=r"\[a/x/c/0/0\]: it is damaged"):
            st.hub(hub.url).compact()
        assert st.hub(hub.url).snapshot().number == number

    def test_bad_arguments(self, hub: st.Hub) -> None:
        make(hub)
        hub.tag("v1")
        with pytest.raises(JobError, match="v1 stays as it is; name a branch"):
            hub.compact("v1")
        with pytest.raises(JobError, match="many is not a valid size; write it as 500MB or 2GB"):
            hub.compact(shard_size="many")
