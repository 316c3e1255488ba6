"""Arrays of a hub written and read by Dask: threads, and worker processes of a real cluster, for one transaction."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
import zarr
from distributed import Client

import shardtools as st
from shardtools.arrays.worker_array import WorkerArray
from shardtools.errors import ConflictError, CorruptError, JobError
from tests.backends import BACKENDS, running
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.servers import nginx_server

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def nginx_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nginx_server(tmp_path_factory.mktemp("nginx")) as nginx:
        yield nginx.url


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(2, threads=2) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: DaskCluster) -> Iterator[Client]:
    with Client(cluster.address) as client:
        yield client


@pytest.fixture
def hub(nginx_url: str) -> st.Hub:
    return st.hub(nginx_url + uuid.uuid4().hex)


def values_of(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype="int32").reshape(shape)


def in_another_process(t: Any, path: str) -> WorkerArray:
    """Return what arrives elsewhere when an array of a transaction is sent there."""
    _, (target, *rest) = t[path].__reduce__()
    return WorkerArray(replace(target, hub=st.hub(t.hub.url)), *rest)


@pytest.mark.parametrize("blocks", [(8, 12), (5, 7)], ids=str)
def test_workers_write_for_one_commit(client: Client, hub: st.Hub, blocks: tuple[int, int]) -> None:
    """Blocks that are chunks, some chunks, and neither."""
    values = values_of(16, 24)
    array = hub.array("x", shape=(20, 24), chunks=(4, 6), dtype="int32")
    array[2:18] = da.from_array(values, chunks=blocks)
    np.testing.assert_array_equal(array[2:18], values)
    assert not array[:2].any() and not array[18:].any()
    assert sum(1 for _ in hub.history()) == 2


def test_stored_by_dask(client: Client, hub: st.Hub) -> None:
    values = values_of(16, 24)
    with hub.transaction() as t:
        x = t.array("x", shape=(16, 24), chunks=(4, 6), dtype="int32")
        y = t.array("y", shape=(16, 24), chunks=(16, 24), dtype="int32")
        source = da.from_array(values, chunks=(8, 8))
        da.store([source, source + 1], [x, y], lock=False)
        np.testing.assert_array_equal(t["y"][:], values + 1)
        t["y"].resize((8, 24))
        t["x"][0] = 0
    np.testing.assert_array_equal(hub.load("x")[1:], values[1:])
    np.testing.assert_array_equal(hub.load("y")[:], values[:8] + 1)
    read = hub.load("x").to_dask()
    assert read.chunks == ((4,) * 4, (6,) * 4)
    assert int(read.sum().compute()) == values[1:].sum()
    assert read.name == hub.load("x").to_dask().name


def test_elements_that_two_workers_write_are_refused(client: Client, hub: st.Hub) -> None:
    array = hub.array("x", shape=(8,), chunks=(4,), dtype="int32")
    ones = da.ones(5, chunks=5, dtype="int32")
    with pytest.raises(ConflictError, match=r"two threads or workers .* have written the same elements of x/c/0"):
        with hub.transaction() as t:
            da.store([ones, ones * 2], [t["x"], t["x"]], regions=[(slice(0, 5),), (slice(3, 8),)], lock=False)
    assert array.refresh()[:].tolist() == [0] * 8
    with hub.transaction() as t:
        da.store([ones[:3], ones[:5] * 2], [t["x"], t["x"]], regions=[(slice(0, 3),), (slice(3, 8),)], lock=False)
    assert array.refresh()[:].tolist() == [1] * 3 + [2] * 5


def test_text_is_written_by_workers(client: Client, hub: st.Hub) -> None:
    names = np.array(["a", "bé", "", "dd" * 40, "e", "f"], dtype="T")
    array = hub.array("names", shape=6, chunks=4, dtype="str")
    array[...] = da.from_array(names, chunks=3)
    assert array[:].tolist() == names.tolist()


def test_xarray_on_a_cluster(client: Client, hub: st.Hub) -> None:
    rng = np.random.default_rng(3)
    data = xr.Dataset(
        {"rain": (("time", "x"), rng.random((24, 6))), "wind": (("time", "x"), rng.random((24, 6)))},
        {"time": np.arange(24), "x": np.arange(6)},
    )
    with hub.transaction() as t:
        data.isel(time=slice(16)).chunk(time=4).to_zarr(t.store())
    with hub.transaction() as t:
        data.isel(time=slice(16, 24)).chunk(time=4).to_zarr(t.store(), append_dim="time")
    assert sum(1 for _ in hub.history()) == 2
    read = xr.open_zarr(hub.store())
    xr.testing.assert_identical(read.load(), data)
    assert float(xr.open_zarr(hub.store())["rain"].sum().compute()) == pytest.approx(float(data["rain"].sum()))
    doubled = (xr.open_zarr(hub.store())[["rain"]] * 2).drop_vars(["x", "time"])
    with hub.transaction() as t:
        doubled.to_zarr(t.store(), region={"time": slice(0, 24), "x": slice(0, 6)})
    np.testing.assert_array_equal(hub.load("rain")[:], data["rain"] * 2)


def set_part(store: Any, path: str, part: slice, value: int) -> None:
    zarr.open_array(store, path=path, mode="r+")[part] = value


def test_workers_that_write_one_chunk_by_way_of_zarr(client: Client, hub: st.Hub) -> None:
    """Zarr reads the chunk and writes it whole: what another worker has written would be lost."""
    array = hub.array("x", shape=8, chunks=8, dtype="int32")
    with pytest.raises(ConflictError, match="have written the same elements of x/c/0"):
        with hub.transaction() as t:
            client.gather([client.submit(set_part, t.store(), "x", slice(i, i + 4), 1, pure=False) for i in (0, 4)])
    with pytest.raises(ConflictError, match="was changed in this transaction after a worker had read it"):
        with hub.transaction() as t:
            store = t.store()
            t["x"][7] = 5
            client.submit(set_part, store, "x", slice(0, 4), 1, pure=False).result()
    with hub.transaction() as t:
        for _ in range(2):
            client.submit(set_part, t.store(), "x", slice(0, 4), 3, pure=False).result()
    assert array.refresh()[:].tolist() == [3] * 4 + [0] * 4
    with hub.transaction() as t:
        with pytest.raises(JobError, match="only chunks can be written by other processes"):
            client.submit(zarr.create_group, t.store(), path="g", pure=False).result()


@pytest.fixture(scope="module", params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(request.param, tmp_path_factory.mktemp("hub")) as url:
        yield url


def test_parts_on_all_storages(place: str) -> None:
    hub = st.hub(f"{place}/{uuid.uuid4().hex}")
    array = hub.array("g/x", shape=(6, 4), chunks=(2, 4), dtype="int16")
    with hub.transaction() as t:
        in_another_process(t, "g/x")
    with hub.transaction() as t:
        for row in range(6):
            in_another_process(t, "g/x")[row] = row
        in_another_process(t, "g/x")[3] = 3
        late = in_another_process(t, "g/x")
        hub.place.put(f"data/{t.id}/part-{32 * '0'}-0000.tar", b"of a worker that was killed before its part")
    assert array.refresh()[:, 0].tolist() == list(range(6))
    with pytest.raises(ConflictError, match=r"the transaction has been committed, perhaps without what .* to g/x"):
        late[0] = 9
    assert hub.load("g/x")[0, 0] == 0


def test_parts_of_arrays_that_are_removed_or_moved(tmp_path: Path) -> None:
    hub = st.hub(str(tmp_path / "hub"))
    hub.array("x", shape=4, chunks=2, dtype="int16")
    with hub.transaction() as t:
        in_another_process(t, "x")[:] = 1
        t.move("x", "y")
        t.array("x", shape=4, chunks=4, dtype="int16")
        in_another_process(t, "x")[1:3] = 2
        del t["x"]
    assert hub.list() == ["y"]
    assert hub.load("y")[:].tolist() == [1] * 4
    with pytest.raises(ConflictError, match="a worker has written to y while this transaction has removed it"):
        with hub.transaction() as t:
            late = in_another_process(t, "y")
            del t["y"]
            late[0] = 1


def test_a_damaged_part_is_an_error(tmp_path: Path) -> None:
    hub = st.hub(str(tmp_path / "hub"))
    hub.array("x", shape=4, chunks=4, dtype="int16")
    with pytest.raises(CorruptError, match="a part of a transaction is damaged"), hub.transaction() as t:
        in_another_process(t, "x")[1] = 1
        [part] = (tmp_path / "hub" / "data" / t.id).glob("*.part")
        part.write_bytes(part.read_bytes()[:-1])
    assert hub.load("x")[:].tolist() == [0] * 4


def test_a_fork_cannot_write_for_its_parent(tmp_path: Path) -> None:
    hub = st.hub(str(tmp_path / "hub"))
    hub.array("x", shape=4, chunks=4, dtype="int16")
    with hub.transaction() as t:
        x = t["x"]
        if not (child := os.fork()):
            try:
                x[0] = 1
            except JobError as error:
                os._exit(0 if "a fork of the process" in str(error) else 2)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_of_one_process(tmp_path: Path) -> None:
    hub = st.hub(str(tmp_path / "hub"))
    values = values_of(12, 5)
    array = hub.array("x", shape=(12, 5), chunks=(4, 5), dtype="int32")
    with dask.config.set(scheduler="threads", num_workers=2):
        array[...] = da.from_array(values, chunks=(3, 5))
        np.testing.assert_array_equal(array.to_dask().compute(), values)


def write_and_die(array: Any, mark: str) -> None:
    array[0:5] = 1
    if not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_after_it_has_written(client: Client, hub: st.Hub, tmp_path: Path) -> None:
    """The last one that uses the cluster, which has one worker then."""
    array = hub.array("x", shape=9, chunks=4, dtype="int32")
    with hub.transaction() as t:
        client.submit(write_and_die, t["x"], str(tmp_path / "mark")).result()
        t["x"][5:] = 2
    assert (tmp_path / "mark").exists()
    assert array.refresh()[:].tolist() == [1] * 5 + [2] * 4
