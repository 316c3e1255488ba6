"""Hubs as stores of the zarr library: by its own suite of tests, by zarr, and by xarray."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.buffer.cpu import Buffer
from zarr.testing.store import StoreTests

import shardtools as st
from shardtools.arrays.keys import Request
from shardtools.arrays.store import HubStore
from shardtools.arrays.transaction_keys import TransactionKeys
from shardtools.errors import ConflictError, CorruptError, ExistsError, JobError, NotFoundError, SpecError
from shardtools.storage import get_storage
from tests.servers import NginxServer, wait_until


@pytest.fixture
def hub(tmp_path: Path) -> st.Hub:
    return st.hub(str(tmp_path / "hub"))


class AnyDocument(TransactionKeys):
    """Keys whose documents are not looked at: zarr's tests write any bytes."""

    def set(self, key: str, data: bytes) -> None:
        if key.endswith("zarr.json"):
            self._transaction.set_document(key.removesuffix("zarr.json").strip("/"), data)
        else:
            super().set(key, data)

    def _is_group(self, path: str) -> bool:
        return False

    def _folder_of_chunks(self, path: str) -> None:
        return None

    def _array_of(self, key: str) -> None:
        return None


class TestStore(StoreTests[HubStore, Buffer]):
    store_cls = HubStore
    buffer_cls = Buffer

    async def set(self, store: HubStore, key: str, value: Buffer) -> None:
        store._keys.set(key, value.to_bytes())

    async def get(self, store: HubStore, key: str) -> Buffer:
        found = store._keys.read([Request(key)])[0]
        assert found is not None
        return self.buffer_cls.from_bytes(found)

    @pytest.fixture
    def store_kwargs(self, hub: st.Hub) -> Iterator[dict[str, Any]]:
        transaction = hub.transaction().begin()
        transaction.keys = AnyDocument(transaction)
        yield {"keys": transaction.keys}

    @pytest.fixture
    def store(self, store_kwargs: dict[str, Any]) -> HubStore:
        return asyncio.run(HubStore.open(**store_kwargs))

    @pytest.fixture
    def store_not_open(self, store_kwargs: dict[str, Any]) -> HubStore:
        return HubStore(**store_kwargs)

    def test_store_repr(self, store: HubStore) -> None:
        assert repr(store).startswith("<HubStore ")

    def test_store_supports_writes(self, store: HubStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: HubStore) -> None:
        assert store.supports_listing


def _in_loop(test: Any) -> Any:
    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


for _name, _test in inspect.getmembers(StoreTests, inspect.iscoroutinefunction):
    if _name.startswith("test_"):
        setattr(TestStore, _name, _in_loop(_test))


def dataset(**sizes: int) -> xr.Dataset:
    rng = np.random.default_rng(3)
    shape = tuple(sizes.values())
    coordinates = {name: np.arange(size) * 10 for name, size in sizes.items()}
    variables = {name: (tuple(sizes), rng.random(shape)) for name in ("temperature", "rain")}
    return xr.Dataset(variables, coordinates, {"title": "weather"})


def write(hub: st.Hub, data: xr.Dataset, **options: Any) -> None:
    with hub.transaction() as t:
        data.to_zarr(t.store(), **options)


def test_xarray_writes_all_variables_in_one_commit(hub: st.Hub) -> None:
    data = dataset(time=10, x=6)
    write(hub, data, encoding={"rain": {"chunks": (4, 6)}})
    assert len(list(hub.history())) == 1
    assert hub.list() == ["rain", "temperature", "time", "x"]
    hub.tag("v1")
    xr.testing.assert_identical(xr.open_zarr(hub.store("v1")).load(), data)
    np.testing.assert_array_equal(hub.load("rain:v1")[3:8, 2], data["rain"][3:8, 2])
    assert hub.load("rain").dims == ("time", "x")


def test_xarray_appends_and_writes_regions(hub: st.Hub) -> None:
    data = dataset(time=12, x=6)
    write(hub, data.isel(time=slice(5)), group="g", encoding={"rain": {"chunks": (3, 6)}})
    write(hub, data.isel(time=slice(5, 12)), group="g", append_dim="time")
    xr.testing.assert_identical(xr.open_zarr(hub.store(), group="g").load(), data)
    changed = data.isel(time=slice(3, 7)) * -1
    write(hub, changed.drop_vars("x"), group="g", region={"time": slice(3, 7)})
    expected = data.copy(deep=True)
    expected["rain"][3:7] *= -1
    expected["temperature"][3:7] *= -1
    xr.testing.assert_identical(xr.open_zarr(hub.store(), group="g").load(), expected)
    assert [sum(1 for _ in hub.history()), xr.open_zarr(hub.store("@1"), group="g").sizes["time"]] == [3, 12]


def test_xarray_writes_dask_arrays_by_threads(hub: st.Hub) -> None:
    data = dataset(time=24, x=6)
    write(hub, data.chunk(time=4))
    xr.testing.assert_identical(xr.open_zarr(hub.store()).load(), data)


def test_zarr_reads_and_writes_a_hub(hub: st.Hub) -> None:
    values = np.arange(60, dtype="int16").reshape(10, 6)
    with hub.transaction() as t:
        root = zarr.open_group(t.store(), mode="a")
        root.create_array("g/x", shape=(10, 6), chunks=(4, 3), dtype="int16", fill_value=-1)[2:] = values[2:]
        root["g/x"].attrs["unit"] = "m"
        root.create_array("sharded", shape=(10, 6), chunks=(1, 6), shards=(5, 6), dtype="int16")[:] = values
        assert t["g/x"][5, 2] == values[5, 2]
        t["g/x"][0] = 7
        assert root["g/x"][0, 0] == 7
    assert hub.list() == ["g/x", "sharded"]
    array = hub.load("g/x")
    assert (array.attrs["unit"], array[1, 0], array[0, 0], array[9, 5]) == ("m", -1, 7, 59)
    read = zarr.open_group(hub.store(), mode="r")
    assert sorted(name for name, _ in read.members(max_depth=None)) == ["g", "g/x", "sharded"]
    np.testing.assert_array_equal(read["g/x"][2:], values[2:])
    np.testing.assert_array_equal(read["sharded"][3:7, 1:], values[3:7, 1:])
    with hub.transaction() as t:
        zarr.open_array(t.store(), path="g/x", mode="r+").resize((4, 6))
    assert hub.load("g/x")[:].tolist() == [[7] * 6, [-1] * 6, *values[2:4].tolist()]
    with hub.transaction() as t:
        del zarr.open_group(t.store(), mode="r+")["g"]
    assert hub.list() == ["sharded"]


def test_a_version_is_only_read(hub: st.Hub) -> None:
    write(hub, dataset(x=3))
    store = hub.store()
    wanted = (
        r"does not support writing; write in a transaction: with hub.transaction\(\) as t: ds.to_zarr\(t.store\(\)\)"
    )
    with pytest.raises(JobError, match=wanted):
        asyncio.run(store.set("rain/c/0", Buffer.from_bytes(b"x")))
    with pytest.raises(JobError, match=wanted):
        store.with_read_only(False)
    with hub.transaction() as t:
        t["rain"][0] = 5.0
        copy = pickle.loads(pickle.dumps(store))
    assert copy == store != hub.store()
    assert xr.open_zarr(copy)["rain"][0] != 5 == xr.open_zarr(hub.store())["rain"][0]


def test_what_a_hub_cannot_have(hub: st.Hub) -> None:
    with pytest.raises(ZeroDivisionError), hub.transaction() as t:
        store = t.store()
        with pytest.raises(JobError, match=r"the root of a hub is a group, .* give the array a name"):
            zarr.create_array(store, shape=4, chunks=2, dtype="int8")
        with pytest.raises(JobError, match="format 2"):
            zarr.create_array(store, name="x", shape=4, chunks=2, dtype="int8", zarr_format=2)
        with pytest.raises(SpecError, match="colon"):
            zarr.create_array(store, name="a:b", shape=4, chunks=2, dtype="int8")
        with pytest.raises(CorruptError, match=r"\[x\]: this is not the document of a Zarr array"):
            store.set_sync("x/zarr.json", Buffer.from_bytes(b"{}"))
        zarr.create_array(store, name="x", shape=4, chunks=2, dtype="int8")
        with pytest.raises(ExistsError, match="x is an array, and can have nothing in it"):
            store.set_sync("x/y/zarr.json", Buffer.from_bytes(b'{"zarr_format": 3, "node_type": "group"}'))
        assert [store.get_sync(key) for key in ("zarr.json/x", "../x", "y/zarr.json", "")] == [None] * 4
        raise ZeroDivisionError


def test_a_chunk_that_is_damaged_or_gone_is_not_taken_for_none(hub: st.Hub, tmp_path: Path) -> None:
    write(hub, dataset(x=3), encoding={"rain": {"chunks": (1,)}})
    place = tmp_path / "hub"
    [entry] = hub.snapshot().find(["rain/c/1"]).values()
    shard = place / entry.name
    whole = shard.read_bytes()
    shard.write_bytes(whole[: entry.offset] + b"?" + whole[entry.offset + 1 :])
    read = zarr.open_group(hub.store(), mode="r")["rain"]
    with pytest.raises(CorruptError, match=r"\[rain/c/1\]: it is damaged"):
        read[:]
    assert read[0] == dataset(x=3)["rain"][0]
    shard.write_bytes(whole[:512])
    with pytest.raises(CorruptError, match="the data shard is shorter than when it was written"):
        xr.open_zarr(st.hub(str(place)).store())


def test_a_change_of_a_part_of_a_chunk_is_not_lost(hub: st.Hub) -> None:
    """Two readers of one chunk, each of which then writes it with its own change."""
    hub.array("x", shape=4, chunks=4, dtype="int8", compressors=None)[:] = 1
    with pytest.raises(ConflictError, match=r"x/c/0 was changed while others had read it .* write to t\[NAME\]"):
        with hub.transaction() as t:
            store = t.store()

            async def change(place: int, first: asyncio.Barrier) -> None:
                data = await store.get("x/c/0", default_buffer_prototype())
                assert data is not None
                await first.wait()
                changed = bytearray(data.to_bytes())
                changed[place] = 9
                await store.set("x/c/0", Buffer.from_bytes(bytes(changed)))

            async def both() -> None:
                barrier = asyncio.Barrier(2)
                await asyncio.gather(change(0, barrier), change(3, barrier))

            asyncio.run(both())
    assert hub.load("x")[:].tolist() == [1, 1, 1, 1]


def test_changes_one_after_the_other_are_none(hub: st.Hub) -> None:
    hub.array("x", shape=4, chunks=4, dtype="int8")[:] = 1
    with hub.transaction() as t:
        array = zarr.open_array(t.store(), path="x", mode="r+")
        for place in range(4):
            assert array[:].sum() == array[:].sum() == 4 + 8 * place
            array[place] = 9
        array[:] = array[:] + 1
        array[:] = array[:] + 1
        t["x"][3] = 0
    assert hub.load("x")[:].tolist() == [11, 11, 11, 0]


def test_threads_of_one_chunk_by_way_of_the_store(hub: st.Hub) -> None:
    """Whoever is told that it was written has it written."""
    hub.array("x", shape=32, chunks=32, dtype="int8")
    written = []
    with hub.transaction() as t:
        array = zarr.open_array(t.store(), path="x", mode="r+")

        def change(place: int) -> None:
            try:
                array[place] = 1
            except ConflictError:
                return
            written.append(place)

        threads = [threading.Thread(target=change, args=(place,)) for place in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert np.flatnonzero(hub.load("x")[:]).tolist() == sorted(written) != []


def test_listing_a_group_looks_at_no_chunk(hub: st.Hub) -> None:
    hub.array("g/x", shape=2000, chunks=1, dtype="int8")[:] = 1
    store = hub.store()
    seen = []

    def chunks(prefix: str) -> Iterator[str]:
        for key, _ in hub.snapshot().scan(prefix):
            seen.append(key)
            yield key

    store._keys.chunks = chunks  # type: ignore[method-assign]

    async def listed(path: str) -> list[str]:
        return [name async for name in store.list_dir(path)]

    assert [asyncio.run(listed(path)) for path in ("", "g", "g/x/")] == [
        ["g", "zarr.json"],
        ["x", "zarr.json"],
        ["c", "zarr.json"],
    ]
    assert seen == ["g/x/c/0"]


def test_consolidated_metadata_stays(hub: st.Hub) -> None:
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {},
        "consolidated_metadata": {"metadata": {}, "kind": "inline", "must_understand": False},
    }
    with hub.transaction() as t:
        t.store().set_sync("g/zarr.json", Buffer.from_bytes(json.dumps(document).encode()))
    found = hub.store().get_sync("g/zarr.json")
    assert found is not None
    assert json.loads(found.to_bytes()) == document


def test_dask_reads_and_writes_by_zarr(hub: st.Hub) -> None:
    values = np.arange(48).reshape(8, 6)
    with hub.transaction() as t:
        da.from_array(values, chunks=(2, 6)).to_zarr(t.store(), component="x")
    np.testing.assert_array_equal(da.from_zarr(hub.store(), component="x").compute(), values)


def requests_of(nginx: NginxServer, read: Callable[[], object]) -> int:
    """Return how many requests reading takes."""
    before = len(nginx.log_path.read_text().splitlines())
    read()
    marker = uuid.uuid4().hex
    with pytest.raises(NotFoundError):
        get_storage(nginx.url).read(nginx.url + marker)  # which is the last line of the log, then
    wait_until(lambda: marker in nginx.log_path.read_text(), "the log")
    return len(nginx.log_path.read_text().splitlines()) - before - 1


def test_many_keys_take_few_requests(nginx: NginxServer) -> None:
    values = np.random.default_rng(1).integers(0, 9, (1000, 50), np.int16)
    hub = st.hub(f"{nginx.url}hub")
    with hub.transaction() as t:
        t.array("x", shape=(1000, 50), chunks=(1, 50), dtype="int16", compressors=None)[:] = values
        for number in range(30):
            t.array(f"g/{number}", shape=3, chunks=3, dtype="int8", dimension_names=["a"])[:] = number
    store = st.hub(hub.url).store()
    array = zarr.open_array(store, path="x", mode="r")
    picked = np.sort(np.random.default_rng(2).permutation(1000)[:640])

    def read() -> None:
        np.testing.assert_array_equal(array.oindex[picked], values[picked])

    with zarr.config.set({"async.concurrency": 128}):
        assert requests_of(nginx, read) <= 8
    assert requests_of(nginx, read) <= 70
    assert requests_of(nginx, lambda: xr.open_zarr(st.hub(hub.url).store(), group="g")) <= 16


def test_writing_anew_removes_what_there_was(hub: st.Hub) -> None:
    write(hub, dataset(x=3, y=2))
    write(hub, dataset(x=5), group="g")
    hub.tag("before")
    write(hub, dataset(x=4), group="g", mode="w")
    assert hub.list() == ["g/rain", "g/temperature", "g/x", "rain", "temperature", "x", "y"]
    write(hub, dataset(z=2), mode="w", consolidated=True)
    assert hub.list() == ["rain", "temperature", "z"]
    xr.testing.assert_identical(xr.open_zarr(hub.store()).load(), dataset(z=2))
    xr.testing.assert_identical(xr.open_zarr(hub.store("before"), group="g").load(), dataset(x=5))
    with pytest.raises(ZeroDivisionError), hub.transaction() as t:
        dataset(a=3).to_zarr(t.store(), group="h")
        raise ZeroDivisionError
    with pytest.raises(JobError, match="begin another one"):
        dataset(a=3).to_zarr(t.store(), group="i")
    assert hub.list() == ["rain", "temperature", "z"]


def test_arrays_of_text_and_times(hub: st.Hub) -> None:
    names = np.array(["a", "bé", "ccc"], dtype=object)
    data = xr.Dataset({"name": ("t", names)}, {"t": np.array(["2026-01-01", "2026-01-02", "2026-01-03"], "M8[ns]")})
    write(hub, data)
    xr.testing.assert_identical(xr.open_zarr(hub.store()).load(), data)
