"""Arrays filled by the workers of a remote Dask cluster, for one commit."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shardtools as st
from shardtools.errors import NotFoundError
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.datasets import write_shard
from tests.servers import NginxServer, nginx_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    with nginx_server(tmp_path_factory.mktemp("nginx")) as nginx:
        yield nginx


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(2) as cluster:
        yield cluster


class Squares:
    """An array of squares, whose rows are computed where they are asked for.

    The first process that is asked for row 40 while ``mark`` is a file that is missing writes it, and is killed.
    """

    shape, dtype = (60, 3), np.dtype("int64")

    def __init__(self, mark: Path | None = None):
        self.mark = mark

    def __getitem__(self, part: slice) -> Any:
        if self.mark is not None and part.start <= 40 < part.stop and not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return np.arange(self.shape[0])[part, None] ** 2 + np.zeros(3, int)


def filled(hub: st.Hub, cluster: DaskCluster, values: Any, **options: Any) -> Any:
    hub.array("x", like=values, **options)
    told: list[int] = []
    array = hub.fill("x", values, cluster=cluster.address, advance=lambda rows, nbytes: told.append(rows))
    assert sum(told) == len(array)
    assert len(list(hub.history())) == 2
    return array[...]


def test_a_view_of_samples(server: NginxServer, cluster: DaskCluster) -> None:
    for shard in range(2):
        files = []
        for i in range(6):
            file = BytesIO()
            Image.fromarray(np.full((9, 7, 3), 20 * (6 * shard + i), np.uint8)).save(file, "png")
            files.append((f"{shard}-{i}.png", file.getvalue()))
        write_shard(server.root / f"a-{shard}.tar", files)
    view = st.open(f"{server.url}a-@2.tar").view("png", resize=(8, 6))
    values = filled(st.hub(f"{server.url}view"), cluster, view, chunks=(2, 8, 6, 3))
    np.testing.assert_array_equal(values, np.asarray(view))


@pytest.mark.parametrize("kind", ["numpy", "zarr", "hub"])
def test_other_arrays(server: NginxServer, cluster: DaskCluster, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtools.arrays.fill._ROWS", 100)
    expected = np.random.default_rng(7).normal(size=(50, 4))
    other = st.hub(f"{server.url}other-{kind}").array("x", like=expected)
    other[:] = expected
    hub = st.hub(f"{server.url}{kind}")
    values = {"numpy": expected, "hub": other, "zarr": zarr_of(other)}[kind]
    np.testing.assert_array_equal(filled(hub, cluster, values, chunks=(7, 3)), expected)


def zarr_of(array: st.HubArray) -> Any:
    import zarr

    return zarr.open_array(array.hub.store(), path=array.path, mode="r")


def test_a_place_that_a_worker_does_not_see(tmp_path: Path) -> None:
    inside = ["unshare", "-m", "bash", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(tmp_path)]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here for a process alone")
    hub = st.hub(str(tmp_path / "hub"))
    values = np.arange(8)
    hub.array("x", like=values, chunks=2)
    with dask_cluster(0) as cluster:
        cluster.start_worker(inside=inside)
        with pytest.raises(NotFoundError, match=r"hub/: a worker does not see the place .*; use a folder that all"):
            hub.fill("x", values, cluster=cluster.address)
    assert hub.load("x")[:].tolist() == [0] * 8


def test_a_worker_that_is_killed(
    server: NginxServer, cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one that uses the cluster, which has one worker then."""
    monkeypatch.setattr("shardtools.arrays.fill._ROWS", 100)
    hub = st.hub(f"{server.url}killed")
    np.testing.assert_array_equal(filled(hub, cluster, Squares(tmp_path / "mark"), chunks=(4, 2)), Squares()[0:60])
    assert int((tmp_path / "mark").read_text()) in {worker.pid for worker in cluster.workers}
