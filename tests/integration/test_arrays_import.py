"""Arrays made like others and filled from them, and what other programs have written, as arrays of a hub."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from PIL import Image

import shardtools as st
from shardtools.errors import CorruptError, ExistsError, JobError, NotFoundError, UnavailableError
from shardtools.storage import get_storage
from tests.backends import running
from tests.datasets import write_shard
from tests.recording_server import recording_server

Array = npt.NDArray[Any]


@pytest.fixture
def hub(tmp_path: Path) -> st.Hub:
    return st.hub(str(tmp_path / "hub"))


def png(number: int) -> bytes:
    file = BytesIO()
    Image.fromarray(np.full((10 + number, 7, 3), 20 * number, np.uint8)).save(file, "png")
    return file.getvalue()


class TestFill:
    @pytest.mark.parametrize("cluster", ["threads", "processes"])
    def test_a_view_of_samples(self, hub: st.Hub, tmp_path: Path, cluster: str) -> None:
        for shard in range(2):
            files = [(f"{shard}-{i}.png", png(6 * shard + i)) for i in range(6)]
            write_shard(tmp_path / f"a-{shard}.tar", files)
        view = st.open(str(tmp_path / "a-@2.tar")).view("png", resize=(8, 6))
        array = hub.array("images", like=view)
        assert (array.shape, array.dtype, array.chunks[1:]) == ((12, 8, 6, 3), np.uint8, (8, 6, 3))
        told: list[int] = []
        filled = hub.fill("images", view, cluster=cluster, jobs=2, advance=lambda rows, nbytes: told.append(rows))
        np.testing.assert_array_equal(filled[...], np.asarray(view))
        assert sum(told) == 12
        assert len(list(hub.history())) == 2

    @pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "hub", "list"])
    def test_other_arrays(self, hub: st.Hub, kind: str) -> None:
        values: Any = np.arange(60, dtype="float32").reshape(12, 5)
        other = hub.array("other", like=values, chunks=(4, 5))
        hub.fill("other", values)
        like = {
            "numpy": values,
            "dask": da.from_array(values, chunks=(4, 3)),
            "zarr": zarr.array(values, chunks=(4, 3)),
            "hub": other.refresh(),
            "list": values.tolist(),
        }[kind]
        array = hub.array("x", like=like)
        assert array.dtype == (np.float64 if kind == "list" else np.float32)
        if kind in ("dask", "zarr"):
            assert array.chunks == (4, 3)
        np.testing.assert_array_equal(hub.fill("x", like)[...], values)

    def test_many_parts(self, hub: st.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shardtools.arrays.fill._ROWS", 100)
        values = np.arange(103 * 3).reshape(103, 3)
        hub.array("x", like=values, chunks=(10, 2), fill_value=-1)
        np.testing.assert_array_equal(hub.fill("x", values, jobs=4, message="all", author="me")[...], values)
        [write] = next(iter(hub.history())).writes
        assert (write.message, write.author) == ("all", "me")

    def test_bad_input(self, hub: st.Hub) -> None:
        with pytest.raises(TypeError, match="an array needs a shape, or another array that it is like"):
            hub.array("x")
        with pytest.raises(JobError, match="an array of object cannot be stored"):
            hub.array("x", like=np.array([{}, 1]))
        hub.array("x", shape=4)
        with pytest.raises(ValueError, match=r"could not fill an array of shape \(4,\) with values of shape \(5,\)"):
            hub.fill("x", np.zeros(5))
        with pytest.raises(NotFoundError, match="there is no array y"):
            hub.fill("y", np.zeros(5))
        assert len(list(hub.history())) == 1


def write_zarr(path: Path, version: Any, store: Any = None) -> dict[str, Array]:
    """Write a Zarr hierarchy, some chunks of which are missing, and return what it holds."""
    root = zarr.create_group(store or path, zarr_format=version, attributes={"title": "ä"})
    values = np.random.default_rng(7).normal(size=(9, 10)).astype("float32")
    options: dict[str, Any] = {"dimension_names": ["day", "place"]} if version == 3 else {}
    x = root.create_array("g/x", shape=(12, 10), chunks=(2, 3), dtype="float32", fill_value=np.nan, **options)
    x[:9] = values
    if version == 2:
        x.attrs["_ARRAY_DIMENSIONS"] = ["day", "place"]
    x.attrs["unit"] = "m"
    root["g"].attrs["a"] = 1
    root.create_array("scalar", shape=(), dtype="int32")[()] = 5
    return {"g/x": np.concatenate([values, np.full((3, 10), np.nan, "float32")]), "scalar": np.array(5, "int32")}


@pytest.fixture(scope="module", params=["nginx", "s3", "gs"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(request.param, tmp_path_factory.mktemp("server")) as url:
        yield url


def upload(folder: Path, url: str) -> None:
    for path in filter(Path.is_file, folder.rglob("*")):
        target = f"{url}/{path.relative_to(folder)}"
        with get_storage(target).create(target) as sink:
            sink.write(path.read_bytes())


def check(hub: st.Hub, expected: dict[str, Array], prefix: str = "") -> None:
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(hub.load(prefix + name)), values, strict=True)


class TestZarr:
    @pytest.mark.parametrize("version", [2, 3])
    def test_a_hierarchy(self, hub: st.Hub, tmp_path: Path, version: int) -> None:
        expected = write_zarr(tmp_path / "z", version)
        told: list[int] = []
        result = hub.import_from(str(tmp_path / "z"), advance=lambda chunks, nbytes: told.append(chunks))
        assert (result.arrays, result.chunks, sum(told)) == (("g/x", "scalar"), 21, 21)
        check(hub, expected)
        x = hub.load("g/x")
        assert (x.dims, dict(x.attrs), x.chunks) == (("day", "place"), {"unit": "m"}, (2, 3))
        assert len([key for key, _ in hub.snapshot().scan("g/x/")]) == 20
        group = zarr.open_group(hub.store(), mode="r")
        assert dict(group.attrs) == {"title": "ä"} and dict(group["g"].attrs) == {"a": 1}
        assert len(list(hub.history())) == 1

    def test_under_a_name_and_on_a_branch(self, hub: st.Hub, tmp_path: Path) -> None:
        expected = write_zarr(tmp_path / "z", 3)
        hub.array("y", shape=3)
        hub.import_from(str(tmp_path / "z"), "inside/here:try")
        assert hub.list() == ["y"]
        assert hub.list("try") == ["inside/here/g/x", "inside/here/scalar", "y"]
        np.testing.assert_array_equal(hub.load("inside/here/g/x:try")[...], expected["g/x"])

    def test_there_and_back(self, hub: st.Hub, tmp_path: Path) -> None:
        expected = write_zarr(tmp_path / "z", 3)
        hub.import_from(str(tmp_path / "z"))
        hub.export("", str(tmp_path / "out.zarr"))
        other = st.hub(str(tmp_path / "other"))
        other.import_from(str(tmp_path / "out.zarr"))
        check(other, expected)
        for path in (tmp_path / "z" / "g" / "x" / "c").rglob("*"):
            if path.is_file():
                name = path.relative_to(tmp_path / "z")
                assert (tmp_path / "out.zarr" / name).read_bytes() == path.read_bytes()

    def test_bad_input(self, hub: st.Hub, tmp_path: Path) -> None:
        write_zarr(tmp_path / "z", 3)
        with pytest.raises(NotFoundError, match="there is no Zarr array or group; check the path"):
            hub.import_from(str(tmp_path / "nowhere"))
        with pytest.raises(JobError, match="the array needs a name; give NAME"):
            hub.import_from(str(tmp_path / "z" / "g" / "x"))
        hub.import_from(str(tmp_path / "z"))
        with pytest.raises(ExistsError, match="there is g/x already"):
            hub.import_from(str(tmp_path / "z"))
        (tmp_path / "z" / "g" / "x" / "c" / "0" / "0").write_bytes(b"nonsense")
        with pytest.raises(CorruptError, match=r"\[g/x/c/0/0\]: the chunk cannot be decoded: not zstd"):
            hub.import_from(str(tmp_path / "z"), "again")
        assert len(list(hub.history())) == 1

    @pytest.mark.parametrize("version", [2, 3])
    def test_from_a_server(self, hub: st.Hub, tmp_path: Path, server: str, version: int) -> None:
        expected = write_zarr(tmp_path / "z", version)
        upload(tmp_path / "z", f"{server}/z{version}")
        result = hub.import_from(f"{server}/z{version}")
        assert (result.arrays, result.chunks) == (("g/x", "scalar"), 21)
        check(hub, expected)
        hub.import_from(f"{server}/z{version}/g/x", "alone")
        check(hub, {"alone": expected["g/x"]})
        with pytest.raises(NotFoundError, match="there is no Zarr array or group; check the path"):
            hub.import_from(f"{server}/nothing", "y")

    def test_from_a_server_that_does_not_list(self, hub: st.Hub, tmp_path: Path) -> None:
        with recording_server(tmp_path) as server:
            expected = write_zarr(server.root / "z", 3)
            with pytest.raises(JobError, match=r"does not list what is in a group.*name one array, or consolidate"):
                hub.import_from(f"{server.url}z")
            assert hub.import_from(f"{server.url}z/g/x", "x").chunks == 20
            check(hub, {"x": expected["g/x"]})
            with pytest.warns(UserWarning, match="Consolidated metadata is currently not part"):
                zarr.consolidate_metadata(server.root / "z")
            hub.import_from(f"{server.url}z")
            check(hub, expected)

    def test_a_server_that_does_not_answer_is_no_damage(self, hub: st.Hub, tmp_path: Path) -> None:
        with recording_server(tmp_path) as server:
            write_zarr(server.root / "z", 3)
            url = f"{server.url}z/g/x"
            hub.import_from(url, "x")
        with pytest.raises(UnavailableError):
            st.hub(hub.url, retries=0).import_from(url, "y")
        assert hub.list() == ["x"]

    def test_killed_half_way_nothing_is_there(self, hub: st.Hub, tmp_path: Path) -> None:
        expected = write_zarr(tmp_path / "z", 3)
        code = (
            "import os, signal, sys, shardtools as st\n"
            "kill = lambda chunks, nbytes: os.kill(os.getpid(), signal.SIGKILL)\n"
            "st.hub(sys.argv[1]).import_from(sys.argv[2], advance=kill)\n"
        )
        assert subprocess.run([sys.executable, "-c", code, hub.url, str(tmp_path / "z")]).returncode == -9
        assert hub.list() == []
        hub.import_from(str(tmp_path / "z"))
        check(hub, expected)


class TestNpy:
    def test_a_file(self, hub: st.Hub, tmp_path: Path) -> None:
        values = np.arange(24, dtype=">i4").reshape(4, 6)
        np.save(tmp_path / "x.npy", values)
        np.savez(tmp_path / "y.npz", a=values, b=np.array(3.5))
        assert hub.import_from(str(tmp_path / "x.npy"), "x").arrays == ("x",)
        assert hub.import_from(str(tmp_path / "y.npz"), "g").arrays == ("g/a", "g/b")
        assert hub.load("x").dtype == np.int32
        values = values.astype("int32")
        check(hub, {"x": values, "g/a": values, "g/b": np.array(3.5)})

    def test_bad_input(self, hub: st.Hub, tmp_path: Path) -> None:
        (tmp_path / "x.npy").write_bytes(b"nonsense")
        np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
        with pytest.raises(CorruptError):
            hub.import_from(str(tmp_path / "x.npy"), "x")
        with pytest.raises(NotFoundError):
            hub.import_from(str(tmp_path / "y.npy"), "x")
        with pytest.raises((CorruptError, JobError)):
            hub.import_from(str(tmp_path / "o.npy"), "x")
