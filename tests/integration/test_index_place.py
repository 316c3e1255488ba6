"""Index files that do not lie beside their shards: in a place that is named, or in a folder of this machine."""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

import shardtools as st
from shardtools.errors import PlaceRefusedError, SpecError
from shardtools.loader.batches import ShardBatches
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from shardtools.storage.index_place import home_in
from tests.cli.command import call
from tests.dask_cluster import dask_cluster
from tests.datasets import sample_files, snapshot, write_dataset, write_shard
from tests.recording_server import recording_server
from tests.servers import NginxServer, nginx_server

FILES = {"in-0.tar.index.npz", "in-1.tar.index.npz", "in-@2.tar.json", "in-@2.tar.parquet", "in-@2.tar.keys"}


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    """A server from which everybody may read, and to which only its owner writes."""
    with nginx_server(tmp_path_factory.mktemp("public"), writers={"owner": "secret"}) as server:
        write_dataset(server.root, 2, 30)
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "shardtools" / "index"


def spec_of(server: NginxServer) -> str:
    return f"{server.url}in-@2.tar"


def names_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_named_place(public: NginxServer, tmp_path: Path) -> None:
    """Everything finds the files there, and nothing is written beside the shards, nor in the folder of this machine."""
    before, spec, place = snapshot(public.root), spec_of(public), str(tmp_path / "place")
    made = call("--table", "--index", place, spec, cwd=tmp_path, program="htindex")
    assert made.status == 0 and names_below(tmp_path / "place") == FILES
    assert Path(home_in(place, spec)).parent == Path(home_in(place, f"{public.url}in-0.tar")).parent
    dataset = st.open(spec, index=place)
    assert dataset.counts == [30, 30] and dataset.where("txt is not null and row = 3").keys == [
        dataset[3]["__key__"], dataset[33]["__key__"],
    ]  # fmt: skip
    assert dataset.sql("select count(*) from samples").fetchall() == [(60,)]
    key = dataset[40]["__key__"]
    assert dataset[key] == dataset[40] and list(dataset.rows_of([key])) == [40]
    batches = ShardBatches(spec, fields="txt", batch_size=7, shuffle=True, index=place)
    assert sum(len(texts) for (texts,) in batches) == 60
    for command in (
        ("htquery", "--index", place, spec, "select count(*) from samples"),
        ("htextract", "--index", place, spec, "--count", "txt", "--where", "row = 1"),
        ("htinfo", "--index", place, spec),
    ):
        assert call(*command[1:], cwd=tmp_path, program=command[0]).status == 0, command
    with serve([spec], StorageOptions(index=place)) as server, urlopen(f"{server.url}api/0/about") as answer:
        assert json.load(answer)["index"]["manifest"]
    copied = call("--verify", "--index", place, spec, tmp_path / "out" / "x-@3.tar", cwd=tmp_path, program="htshuffle")
    assert copied.status == 0 and (tmp_path / "out" / "x-@3.tar.json").exists(), "outputs have theirs beside them"
    assert names_below(tmp_path / "place") == FILES and not home_exists() and snapshot(public.root) == before
    assert st.open(spec).counts is None


def home_exists() -> bool:
    return os.path.exists(os.path.join(os.environ["XDG_CACHE_HOME"], "shardtools", "index"))


def test_beside_shards_that_cannot_be_written_beside(public: NginxServer, home: Path, tmp_path: Path) -> None:
    """The files go to a folder of this machine, where all programs look for what is not beside the shards."""
    before, spec = snapshot(public.root), spec_of(public)
    assert st.open(spec).counts is None
    made = call("--table", spec, cwd=tmp_path, program="htindex")
    assert made.status == 0 and names_below(home) == FILES
    assert f"the index files go to {home}" in made.err
    assert snapshot(public.root) == before
    dataset = st.open(spec)
    assert dataset.counts == [30, 30] and dataset[59]["__key__"] in dataset and len(dataset.where("row < 2")) == 4
    assert call(spec, "select count(*) from samples", cwd=tmp_path, program="htquery").out.split() == [
        "count_star()",
        "60",
    ]
    again = call("--table", spec, cwd=tmp_path, program="htindex")
    assert again.status == 0 and "0 sidecars made" in again.out
    assert st.index(spec).samples == 60
    mapped = call("--verify", spec, tmp_path / "y-@2.tar", cwd=tmp_path, program="htshuffle")
    assert mapped.status == 0


def test_a_server_that_takes_no_put(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    write_dataset(folder, 2, 5)
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = st.index(f"http://127.0.0.1:{server.server_port}/in-@2.tar")
        server.shutdown()
    assert result.made == 2 and names_below(home) == {name for name in FILES if name.endswith((".npz", ".json"))}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.slow
def test_on_a_cluster(public: NginxServer, nginx: NginxServer, tmp_path: Path) -> None:
    """Its workers have other folders: a place must be named, which may be on a server and be used by others."""
    spec, place = spec_of(public), f"{nginx.url}team/index?v=1"
    with dask_cluster(workers=2) as cluster:
        with pytest.raises(PlaceRefusedError, match=r"give the index files another place: --index URL"):
            st.index(spec, cluster=cluster.address)
        result = st.index(spec, table=True, cluster=cluster.address, index=place)
        assert result.made == 2 and names_below(nginx.root / "team") == FILES
        counted = st.count(spec, "txt", cluster=cluster.address, index=place, where="row = 3")
    assert counted.samples == 2
    assert st.open(spec, index=place).counts == [30, 30]


def test_beside_costs_no_request_more(tmp_path: Path, home: Path) -> None:
    """Where files lie beside the shards, no other place is asked."""
    with recording_server(tmp_path) as server:
        write_dataset(server.root, 2, 5)
        spec = f"{server.url}in-@2.tar"
        st.index(spec)
        start = len(server.requests())
        st.open(spec)[7]
        without = [(one.method, one.path) for one in server.requests()[start:]]
        (home / "http" / server.place).mkdir(parents=True)
        start = len(server.requests())
        st.open(spec)[7]
        assert [(one.method, one.path) for one in server.requests()[start:]] == without


def test_shards_that_were_replaced(public: NginxServer, home: Path, tmp_path: Path) -> None:
    """What the folder of this machine says of older shards is not believed."""
    (tmp_path / "public").mkdir()
    with nginx_server(tmp_path / "public", writers={"owner": "secret"}) as server:
        write_dataset(server.root, 2, 30)
        spec = f"{server.url}in-@2.tar"
        st.index(spec, table=True)
        assert st.open(spec).counts == [30, 30]
        write_dataset(server.root, 2, 20)
        with pytest.raises(SpecError, match="20 samples, and 30 in the manifest"):
            st.open(spec)[3]
        assert st.index(spec, table=True).samples == 40
        assert len(st.open(spec).where("row < 30")) == 40


def test_shards_that_were_replaced_by_some_of_the_same_size(tmp_path: Path) -> None:
    """Their sidecars in a place are not used, nor what the table there says, and htindex makes them again."""
    spec, place = str(tmp_path / "in-@2.tar"), str(tmp_path / "place")
    write_dataset(tmp_path, 2, 5)
    assert [st.index(spec, index=place, table=True).made, st.index(spec, index=place).made] == [2, 0]
    text = "key like '1/%'"
    assert len(st.open(spec, index=place).where(text)) == 5
    before = (tmp_path / "in-0.tar").stat().st_size
    for shard in range(2):
        write_shard(tmp_path / f"in-{shard}.tar", sample_files(shard + 7, 5))
    assert (tmp_path / "in-0.tar").stat().st_size == before
    keys = [f"{shard}/{row:04d}" for shard in (7, 8) for row in range(5)]
    assert [record["__key__"] for record in st.open(spec, index=place)] == keys
    assert sum(st.stats(spec, index=place).samples) == 10
    assert sorted(row["key"] for row in st.extract(spec, fields=["cls"], index=place)) == keys
    assert not len(st.open(spec, index=place).where(text)) and len(st.open(spec, index=place).where("key > '6'")) == 10
    assert [row["key"] for row in st.extract(spec, where="key > '8'", index=place)] == keys[5:]
    assert [st.index(spec, index=place, table=True).made, st.index(spec, index=place).made] == [2, 0]
    st.copy(spec, tmp_path / "copy" / "c-@2.tar", index=place)
    assert "validator" not in (tmp_path / "copy" / "c-@2.tar.json").read_text()
    assert len(st.open(spec, index=place).where("key > '8'")) == 5
    assert [record["__key__"] for record in st.open(spec, index=place)] == keys


def test_workers_of_a_loader_know_the_place(public: NginxServer, nginx: NginxServer) -> None:
    """One person has written the index to a server, and others train with it, in forked and in new processes."""
    from torch.utils.data import DataLoader

    from shardtools.torch import ShardIterable

    spec, place = spec_of(public), f"{nginx.url}index"
    st.index(spec, index=place)
    train = ShardIterable(spec, fields="txt", shuffle=True, batch_size=20, index=place)
    assert len(train) == 3
    for context in ("fork", "spawn"):
        loader = DataLoader(train, batch_size=None, num_workers=1, multiprocessing_context=context)
        assert len({text for (texts,) in loader for text in texts}) == 60


def test_a_run_that_was_killed_goes_on(public: NginxServer, tmp_path: Path) -> None:
    spec, place = spec_of(public), tmp_path / "place"
    st.index(spec, table=True, index=str(place))
    whole = snapshot(place)
    for path in [*place.rglob("in-1.tar.*"), *place.rglob("in-@2.*")]:
        path.unlink()
    assert st.index(spec, table=True, index=str(place)).made == 1
    assert snapshot(place) == whole


def test_shards_of_one_name_do_not_meet(tmp_path: Path) -> None:
    place = str(tmp_path / "place")
    for folder, samples in (("a", 3), ("b", 4)):
        (tmp_path / folder).mkdir()
        write_dataset(tmp_path / folder, 2, samples)
        assert st.index(str(tmp_path / folder / "in-@2.tar"), index=place).samples == 2 * samples
    assert [st.open(str(tmp_path / folder / "in-@2.tar"), index=place).counts for folder in "ab"] == [[3, 3], [4, 4]]
    both = st.open([str(tmp_path / folder / "in-@2.tar") for folder in "ab"], index=place)
    assert len(both) == 14


def test_what_lies_beside_is_used_too(tmp_path: Path) -> None:
    """Where sidecars are there, a table in another place needs no reading of shards."""
    spec = str(tmp_path / write_dataset(tmp_path, 2, 5))
    st.index(spec)
    result = st.index(spec, table=True, index=str(tmp_path / "place"))
    assert result.made == 0 and {"in-@2.tar.parquet", "in-@2.tar.keys"} <= names_below(tmp_path / "place")
    assert st.open(spec, index=str(tmp_path / "place")).sql("select count(*) from samples").fetchall() == [(10,)]
