"""What a transaction holds in memory, writes to shards and reads back, with limits so small that all of it happens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import shardtools as st
from shardtools.arrays import write_buffer
from shardtools.arrays.data_writer import DataWriter
from shardtools.arrays.transaction import Transaction
from shardtools.errors import ConflictError, FullError, JobError

SHAPE, CHUNKS = (40, 24), (7, 5)
LIMITS = [(0, 0, 600), (300, 500, 2000), (10_000, 200, 5000), (0, 10_000, 20_000)]


@pytest.fixture
def hub(tmp_path: Path) -> st.Hub:
    hub = st.hub(str(tmp_path / "hub"))
    hub.array("x", shape=SHAPE, chunks=CHUNKS, dtype="int32", fill_value=-1)[5:20] = 3
    return hub


def begin(hub: st.Hub, shard_size: int) -> Transaction:
    t = hub.transaction().begin()
    t.buffer.writer = DataWriter(hub.place, t.id, shard_size=shard_size)
    return t


@pytest.fixture(params=LIMITS, ids=str)
def shard_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    packed, changed, size = request.param
    monkeypatch.setattr(write_buffer, "PACKED_LIMIT", packed)
    monkeypatch.setattr(write_buffer, "OPEN_LIMIT", changed)
    return int(size)


def some_slice(rng: np.random.Generator, size: int) -> slice:
    start, stop = sorted(rng.integers(0, size + 1, 2).tolist())
    return slice(start, stop, int(rng.integers(1, 4)))


@pytest.mark.parametrize("seed", range(2))
def test_all_ways_of_a_chunk_through_a_transaction(hub: st.Hub, shard_size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected: npt.NDArray[np.int32] = np.asarray(hub.load("x"))
    with begin(hub, shard_size) as t:
        for number in range(40):
            part = some_slice(rng, SHAPE[0]), some_slice(rng, SHAPE[1])
            t["x"][part] = expected[part] = number
            seen = some_slice(rng, SHAPE[0]), some_slice(rng, SHAPE[1])
            np.testing.assert_array_equal(t["x"][seen], expected[seen])
        assert t.buffer.writer.shards > 1 or shard_size > 3000
    np.testing.assert_array_equal(hub.load("x")[:], expected)


def test_threads_write_parts_of_the_same_chunks(hub: st.Hub, shard_size: int) -> None:
    expected: npt.NDArray[np.int32] = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)
    with begin(hub, shard_size) as t, ThreadPoolExecutor(6) as pool:
        array = t["x"]

        def write(row: int) -> None:
            for column in range(0, SHAPE[1], 4):
                array[row, column : column + 4] = expected[row, column : column + 4]
                np.testing.assert_array_equal(array[row, : column + 4], expected[row, : column + 4])

        list(pool.map(write, range(SHAPE[0])))
    np.testing.assert_array_equal(hub.load("x")[:], expected)


def in_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_threads_that_write_the_same_elements(hub: st.Hub, shard_size: int) -> None:
    with begin(hub, shard_size) as t:
        array = t["x"]
        in_thread(lambda: array.__setitem__((slice(0, 3), 0), 1))
        in_thread(lambda: array.__setitem__((slice(3, 6), 0), 2))
        in_thread(lambda: array.vindex.__setitem__(([0, 1], [1, 2]), 3))
        in_thread(lambda: array.vindex.__setitem__(([0, 1], [2, 1]), 4))
        for index in ((slice(2, 4), 0), ..., ([1], [1])):
            with pytest.raises(ConflictError, match="two threads or workers of this transaction have written the same"):
                in_thread(lambda index=index: array.__setitem__(index, 9))
    found = hub.load("x")
    assert found[:6, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert found[:2, 1:3].tolist() == [[3, 4], [4, 3]]


def test_many_small_parts_of_one_chunk(hub: st.Hub) -> None:
    with hub.transaction() as t, ThreadPoolExecutor(2) as pool:
        array = t.array("y", shape=(300, 2), chunks=(300, 2), dtype="int32")
        list(pool.map(lambda row: array.__setitem__(row, row), range(300)))
        for row in (0, 150, 299):
            with pytest.raises(ConflictError, match="have written the same elements of y/c/0/0"):
                in_thread(lambda row=row: array.__setitem__((row, 1), 5))
        array[5] = 6
    assert hub.load("y")[:, 1].tolist() == [*range(5), 6, *range(6, 300)]


def test_appends_of_threads_make_one_array(hub: st.Hub) -> None:
    with hub.transaction() as t, ThreadPoolExecutor(6) as pool:
        array = t.array("rows", shape=(0, 2), chunks=(4, 2), dtype="int32")
        list(pool.map(lambda number: array.append(np.full((1, 2), number, np.int32)), range(30)))
    assert sorted(hub.load("rows")[:, 0].tolist()) == list(range(30))


def test_a_thread_that_writes_too_late_is_told(hub: st.Hub) -> None:
    t = hub.transaction().begin()
    array = t["x"]
    packing, ended = threading.Event(), threading.Event()

    class Values:
        def __array__(self, dtype: Any = None, copy: Any = None) -> npt.NDArray[np.int32]:
            packing.set()
            ended.wait(30)
            return np.full(SHAPE, 8, np.int32)

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(lambda: array.__setitem__(..., Values()))
        packing.wait(30)
        t.commit()
        ended.set()
        with pytest.raises(JobError, match="the transaction has ended"):
            late.result()
    assert 8 not in hub.load("x")[:]


def test_nothing_is_written_after_a_write_that_failed(hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    before = np.asarray(hub.load("x"))
    monkeypatch.setattr(write_buffer, "PACKED_LIMIT", 0)
    with pytest.raises(JobError, match="an earlier write of this transaction has failed; begin another one"):
        with hub.transaction() as t:
            t["x"][:7] = 1

            def full(fd: int, buffers: Any) -> int:
                raise OSError(28, "No space left on device")

            with monkeypatch.context() as patch:
                patch.setattr(os, "writev", full)
                with pytest.raises(FullError):
                    t["x"][7:14] = 2
            t["x"][14:] = 3
    np.testing.assert_array_equal(hub.load("x")[:], before)
    with hub.transaction() as t:
        t["x"][:] = 4
    assert (hub.load("x")[:] == 4).all()
