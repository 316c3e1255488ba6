"""Arrays as other programs read them: zarr, xarray, fsspec, numpy and Icechunk open what was exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import google_crc32c
import icechunk
import numpy as np
import numpy.typing as npt
import pytest
import xarray
import zarr

import shardtools as st
from shardtools.errors import ExistsError, JobError, NotFoundError
from shardtools.storage import ByteRange, get_storage
from tests.gcs_servers import strict_gcs
from tests.gcs_servers import use_environment as use_gcs
from tests.moto_server import moto_server
from tests.moto_server import use_environment as use_s3
from tests.servers import nginx_server

Array = npt.NDArray[Any]
VALUES = np.random.default_rng(7).normal(size=(7, 10)).astype("float32")
DAYS = np.arange("2026-01-01", "2026-01-08", dtype="datetime64[D]").astype("datetime64[ns]")


def make(url: str) -> st.Hub:
    """Write arrays, some chunks of which stay unwritten, change them, and tag what was before."""
    hub = st.hub(url)
    with hub.transaction("all") as t:
        names = ["day", "place"]
        x = t.array("g/x", shape=(9, 10), chunks=(2, 3), dtype="float32", dimension_names=names, fill_value=np.nan)
        x[:7] = VALUES
        t.array("g/day", shape=9, chunks=4, dtype="int64", dimension_names=["day"])[:] = range(9)
        t.array("scalar", shape=(), dtype="int32")[()] = 5
        t.group("g", {"title": "ä test"})
    hub.tag("v1")
    hub.load("g/x")[:] = 0
    return hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> st.Hub:
    return make(str(tmp_path_factory.mktemp("place") / "hub with space"))


def icechunk_environment(url: str) -> dict[str, str]:
    """Return what leads Icechunk to a server for gs: URLs, without credentials."""
    names = ("client_email", "private_key", "private_key_id")
    account = {"type": "service_account", "gcs_base_url": url, "disable_oauth": True, **dict.fromkeys(names, "")}
    return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account), "GOOGLE_ALLOW_HTTP": "true"}


@pytest.fixture(scope="module", params=["local", "nginx", "s3", "gs"])
def served(request: pytest.FixtureRequest, hub: st.Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[st.Hub]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.param == "local":
            yield hub
        elif request.param == "nginx":
            with nginx_server(tmp_path_factory.mktemp("served")) as nginx:
                yield make(f"{nginx.url}hub")
        elif request.param == "s3":
            with moto_server() as moto:
                moto.client().create_bucket(Bucket="bucket")
                use_s3(monkeypatch, moto.environment())
                yield make("s3://bucket/hub")
        else:
            with strict_gcs("bucket") as gcs:
                use_gcs(monkeypatch, {"STORAGE_EMULATOR_HOST": gcs.url, **icechunk_environment(gcs.url)})
                yield make("gs://bucket/hub")


def check(group: Any) -> None:
    """Compare the hierarchy at v1, as another library has opened it."""
    np.testing.assert_array_equal(group["g/x"][:7], VALUES)
    assert np.isnan(group["g/x"][7:]).all()
    np.testing.assert_array_equal(group["g/day"][:], range(9))
    assert group["scalar"][()] == 5
    assert group["g"].attrs["title"] == "ä test"
    assert group["g/x"].metadata.dimension_names == ("day", "place")


class TestZarr:
    def test_a_directory(self, served: st.Hub, tmp_path: Path) -> None:
        told: list[int] = []
        result = served.export(":v1", str(tmp_path / "out.zarr"), advance=lambda chunks, nbytes: told.append(chunks))
        check(zarr.open_group(tmp_path / "out.zarr", mode="r"))
        assert result.chunks == sum(told) == 16 + 3 + 1
        assert result.nbytes == sum(
            path.stat().st_size for path in (tmp_path / "out.zarr").rglob("*") if path.is_file()
        )

    def test_to_a_server(self, served: st.Hub) -> None:
        served.export("g:v1", f"{served.url.rstrip('/')}.zarr")
        assert get_storage(served.url).exists(f"{served.url.rstrip('/')}.zarr/x/c/0/0")

    def test_one_array(self, hub: st.Hub, tmp_path: Path) -> None:
        hub.export("g/x:v1", str(tmp_path / "x"))
        np.testing.assert_array_equal(zarr.open_array(tmp_path / "x", mode="r")[:7], VALUES)

    def test_bad_input(self, hub: st.Hub, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ExistsError, match="there is something already; name an empty or new folder"):
            hub.export("g/x", str(tmp_path))
        with pytest.raises(
            NotFoundError, match=r"there is no h in this version; see which .* hub\.list\(VERSION\), htarray ls"
        ):
            hub.export("h", str(tmp_path / "h"))
        with pytest.raises(JobError, match="there is no format hdf5; give one of zarr, npy, kerchunk, icechunk"):
            hub.export("g/x", str(tmp_path / "h"), "hdf5")
        with pytest.raises(JobError, match="a directory is not replaced"):
            hub.export("g/x", str(tmp_path / "h"), overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_what_was_killed_cannot_be_opened(self, hub: st.Hub, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys, shardtools as st\n"
            "kill = lambda chunks, nbytes: os.kill(os.getpid(), signal.SIGKILL)\n"
            "st.hub(sys.argv[1]).export(':v1', sys.argv[2], advance=kill)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, hub.url, str(tmp_path / "out")])
        assert done.returncode == -9
        with pytest.raises(FileNotFoundError):
            zarr.open_group(tmp_path / "out", mode="r")


class TestNpy:
    @pytest.mark.parametrize("name", ["g/x:v1", "g/day", "scalar"])
    def test_a_file(self, hub: st.Hub, tmp_path: Path, name: str) -> None:
        result = hub.export(name, str(tmp_path / "x.npy"))
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.asarray(hub.load(name)), strict=True)
        assert result.nbytes == (tmp_path / "x.npy").stat().st_size

    def test_types(self, tmp_path: Path) -> None:
        hub = st.hub(str(tmp_path / "hub"))
        for number, values in enumerate([DAYS, np.array(["a", "äb"]), np.zeros((0, 3), ">f8"), np.ones((3, 0), bool)]):
            name = f"x{number}"
            hub.array(name, shape=values.shape, chunks=tuple(max(s, 1) for s in values.shape), dtype=values.dtype)
            hub.load(name)[...] = values
            hub.export(name, str(tmp_path / f"{name}.npy"))
            loaded = np.load(tmp_path / f"{name}.npy")
            np.testing.assert_array_equal(loaded, values)
            assert loaded.dtype.newbyteorder("=") == values.dtype.newbyteorder("=")

    def test_bad_input(self, hub: st.Hub, tmp_path: Path) -> None:
        path = tmp_path / "x.npy"
        path.write_text("mine")
        with pytest.raises(ExistsError, match="it exists already; name another file, or give overwrite"):
            hub.export("g/x", str(path))
        with pytest.raises(JobError, match=r"a \.npy file holds one array; name an array"):
            hub.export(":v1", str(path))
        with pytest.raises(NotFoundError, match="this is a group, not an array"):
            hub.export("g", str(path))
        assert path.read_text() == "mine"
        hub.export("scalar", str(path), overwrite=True)
        assert np.load(path) == 5


def reference_store(path: Path, url: str) -> zarr.storage.FsspecStore:
    """Return what fsspec makes of a file of references."""
    if url.startswith("file:"):
        fs = fsspec.filesystem("reference", fo=str(path))
        return zarr.storage.FsspecStore.from_mapper(fs.get_mapper(""))
    options = {"asynchronous": True}
    fs = fsspec.filesystem("reference", fo=str(path), remote_protocol="http", remote_options=options, asynchronous=True)
    return zarr.storage.FsspecStore(fs, read_only=True, path="")


class TestKerchunk:
    def test_a_file_of_references(self, served: st.Hub, tmp_path: Path) -> None:
        served.export(":v1", str(tmp_path / "refs.json"))
        references = json.loads((tmp_path / "refs.json").read_text())
        assert references["version"] == 1 and len(references["refs"]) == 20 + 5
        url, offset, size = references["refs"]["g/x/c/0/0"]
        [entry] = served.snapshot("v1").find(["g/x/c/0/0"]).values()
        assert url.endswith(entry.name) and (offset, size) == (entry.offset, entry.size)
        if url.startswith(("s3:", "gs:")):  # fsspec's own libraries for these are not installed
            [data] = get_storage(url).read_ranges(url, [ByteRange(offset, offset + size)])
            assert google_crc32c.value(data) == entry.crc32c
        else:
            check(zarr.open_group(reference_store(tmp_path / "refs.json", url), mode="r"))

    def test_xarray(self, hub: st.Hub, tmp_path: Path) -> None:
        hub.export("g:v1", str(tmp_path / "refs.json"))
        fs = fsspec.filesystem("reference", fo=str(tmp_path / "refs.json"))
        with xarray.open_zarr(fs.get_mapper(""), consolidated=False) as opened:
            assert dict(opened.sizes) == {"day": 9, "place": 10}
            np.testing.assert_array_equal(opened["x"][:7], VALUES)


def opened(storage: Any) -> Any:
    """Return what zarr finds in a repository of references, as readers open it."""
    config = icechunk.Repository.fetch_config(storage)
    assert config is not None and config.virtual_chunk_containers is not None
    [root] = config.virtual_chunk_containers
    from_environment = {"s3": icechunk.s3_from_env_credentials, "gs": icechunk.gcs_from_env_credentials}
    credentials = from_environment.get(root[:2], lambda: None)()
    access = icechunk.containers_credentials({root: credentials})
    repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=access)
    return zarr.open_group(repository.readonly_session("main").store, mode="r")


class TestIcechunk:
    def test_a_repository_of_references(self, served: st.Hub, tmp_path: Path) -> None:
        if served.url.startswith("http:"):
            with pytest.raises(JobError, match=r"Icechunk 1 reads from web servers on their usual port only; write a"):
                served.export(":v1", str(tmp_path / "refs.icechunk"))
            return
        result = served.export(":v1", str(tmp_path / "refs.icechunk"))
        assert (result.chunks, result.nbytes) == (20, 0)
        check(opened(icechunk.local_filesystem_storage(str(tmp_path / "refs.icechunk"))))
        with pytest.raises(ExistsError, match="there is a repository already"):
            served.export(":v1", str(tmp_path / "refs.icechunk"))

    def test_what_icechunk_may_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with strict_gcs("bucket") as gcs:
            use_gcs(monkeypatch, {"STORAGE_EMULATOR_HOST": gcs.url, **icechunk_environment(gcs.url)})
            hub = make("gs://bucket/hub")
            monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", "nonsense")
            with pytest.raises(JobError, match=r"Icechunk fails: .+: .+; see what it can read") as caught:
                hub.export(":v1", str(tmp_path / "refs.icechunk"))
            assert "\n" not in str(caught.value)

    def test_beside_the_place(self, served: st.Hub) -> None:
        url = f"{served.url.rstrip('/')}.icechunk"
        if served.url.startswith("s3:"):
            served.export("g:v1", url)
            storage = icechunk.s3_storage(
                bucket="bucket",
                prefix="hub.icechunk",
                from_env=True,
                region="us-east-1",
                endpoint_url=os.environ["AWS_ENDPOINT_URL"],
                allow_http=True,
                force_path_style=True,
            )
            np.testing.assert_array_equal(opened(storage)["x"][:7], VALUES)

    def test_bad_input(self, hub: st.Hub, tmp_path: Path) -> None:
        with pytest.raises(JobError, match="Icechunk cannot write to http URLs; write to a folder, s3:// or gs://"):
            hub.export("g", "http://127.0.0.1:9/x.icechunk")
        other = st.hub(str(tmp_path / "hub"))
        encoding = {"name": "v2", "separator": "."}
        other.array("x", shape=4, chunks=2, dtype="int8", chunk_key_encoding=encoding)[:] = 1
        with pytest.raises(JobError, match="Icechunk knows no other names of chunks than c/0/0"):
            other.export("x", str(tmp_path / "x.icechunk"))
