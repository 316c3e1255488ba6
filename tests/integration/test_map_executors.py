"""The same job gives the same bytes wherever it runs, and wherever its shards are."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from shardtools.jobs.exchange.exchange import run_exchange
from shardtools.jobs.exchange.keying import Keying
from shardtools.jobs.exchange.plan import Exchange, plan_exchange
from shardtools.jobs.map import plan_map
from shardtools.jobs.options import RunOptions
from shardtools.jobs.run import run_plan
from shardtools.jobs.script import read_script
from tests.cli.command import SECRET, run
from tests.dask_cluster import BLOCK, DaskCluster, dask_cluster
from tests.datasets import parts_of, sample_files, snapshot, write_shard
from tests.servers import NginxServer, nginx_server

SHARDS = 5
SCRIPT = """
import json

def process_sample(record, start=0):
    number = int(record["cls"]) + start
    if number % 5 == 1:
        return None
    if number % 5 == 2:
        return [{"key": record["key"] + end, "cls": number, "txt": record["txt"]} for end in "ab"]
    return {"key": record["key"], "json": {"number": number, "from": record["__shard__"]}, "txt": record["txt"]}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    """A server whose folder holds the dataset, and a script beside it."""
    root = tmp_path_factory.mktemp("root")
    for i in range(SHARDS):
        write_shard(root / f"data/in-{i}.tgz", sample_files(i, 60 + i, size=700))
    (root / "script.py").write_text(SCRIPT)
    with nginx_server(root) as running:
        yield running


@pytest.fixture(scope="module")
def expected(server: NginxServer) -> dict[str, bytes]:
    """What the job makes, on one thread and from file to file."""
    outcome = run("-j", "1", *job("data/in-@5.tgz", "expected/out-@5.tgz"), cwd=server.root)
    assert (outcome.status, outcome.err) == (0, "")
    made = snapshot(server.root / "expected")
    assert set(made) == parts_of("out", shards=SHARDS, ending="tgz")
    return made


def job(source: str, destination: str) -> tuple[str, ...]:
    return ("-p", "script.py", "-a", "start=3", source, destination)


def without_job(files: dict[str, bytes]) -> dict[str, object]:
    """Return the files of a dataset, but for what says where its sources are: the fingerprints and the specs."""
    comparable: dict[str, object] = {}
    for name, data in files.items():
        if name.endswith(".json"):
            manifest = json.loads(data)
            manifest["job"].pop("sources")
            comparable[name] = manifest
        elif name.endswith(".npz"):
            with np.load(io.BytesIO(data)) as arrays:
                columns = {column: arrays[column].tolist() for column in arrays.files}
            meta = json.loads(bytes(columns.pop("meta")))
            meta["job"].pop("fingerprint")
            comparable[name] = (columns, meta)
        else:
            comparable[name] = data
    return comparable


@pytest.mark.parametrize("where", ["threads", "processes", "address", "file"])
def test_where_it_runs(
    where: str, server: NginxServer, expected: dict[str, bytes], request: pytest.FixtureRequest
) -> None:
    place, options = where, ("-j", "3")
    if where in ("address", "file"):
        cluster: DaskCluster = request.getfixturevalue("cluster")
        place, options = (cluster.address, ("-j", "3")) if where == "address" else (str(cluster.scheduler_file), ())
    outcome = run("-c", place, *options, *job("data/in-@5.tgz", f"on-{where}/out-@5.tgz"), cwd=server.root)
    assert (outcome.status, outcome.err) == (0, "")
    assert snapshot(server.root / f"on-{where}") == expected


def test_dask_client(
    server: NginxServer, expected: dict[str, bytes], cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(server.root)
    with Client(cluster.address, set_as_default=False) as client:
        options = RunOptions(client, jobs=3)
        script = read_script("script.py", ["start=3"])
        run_plan(plan_map("data/in-@5.tgz", "on-client/out-@5.tgz", script, options), options)
        what = Exchange("htshuffle", Keying("random", 7), job={"seed": 7})
        run_exchange(plan_exchange("data/in-@5.tgz", "mixed/out-@3.tgz", what, options), options)
    assert snapshot(server.root / "on-client") == expected
    options = RunOptions()
    run_exchange(plan_exchange("data/in-@5.tgz", "mixed-here/out-@3.tgz", what, options), options)
    assert snapshot(server.root / "mixed") == snapshot(server.root / "mixed-here")


@pytest.mark.parametrize(
    ("where", "from_http", "to_http"),
    [("threads", True, True), ("threads", True, False), ("threads", False, True), ("address", True, True)],
)
def test_where_the_shards_are(
    where: str,
    from_http: bool,
    to_http: bool,
    server: NginxServer,
    expected: dict[str, bytes],
    request: pytest.FixtureRequest,
) -> None:
    target = f"{where}-{from_http}-{to_http}"
    source = (server.url if from_http else "") + "data/in-@5.tgz"
    destination = (server.url if to_http else "") + f"{target}/out-@5.tgz"
    place = "threads" if where == "threads" else request.getfixturevalue("cluster").address
    outcome = run("-c", place, *job(source, destination), cwd=server.root)
    assert (outcome.status, outcome.err) == (0, "")
    made = snapshot(server.root / target)
    assert set(made) == set(expected)
    assert without_job(made) == without_job(expected)
    if not from_http:
        assert made == expected


def test_packings_hold_the_same(server: NginxServer, expected: dict[str, bytes]) -> None:
    made = {}
    for ending in ("tar", "tar.zst", "tar.gz"):
        outcome = run("-q", *job("data/in-@5.tgz", f"{ending}/out-@5.{ending}"), cwd=server.root)
        assert outcome.status == 0
        made[ending] = json.loads((server.root / ending / f"out-@5.{ending}.json").read_text())
    assert len({(manifest["nsamples"], json.dumps(manifest["fields"])) for manifest in made.values()}) == 1
    assert made["tar"]["fields"] == json.loads(expected["out-@5.tgz.json"])["fields"]
    tgz = [expected[f"out-{i}.tgz"] for i in range(SHARDS)]
    assert [(server.root / f"tar.gz/out-{i}.tar.gz").read_bytes() for i in range(SHARDS)] == tgz


@pytest.mark.parametrize("where", ["threads", "processes", "address"])
def test_a_failing_sample_is_told_alike(where: str, server: NginxServer, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue("cluster").address if where == "address" else where
    (server.root / "bad.py").write_text("def process_sample(r):\n    if r['key'] == '2/0007': r['no']\n    return r\n")
    source = server.url.replace("http://", f"http://me:{SECRET}@") + "data/in-@5.tgz"
    outcome = run("-v", "-c", place, "-p", "bad.py", source, f"bad-{where}/out-@5.tar", cwd=server.root)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1] == (
        f"htmapper: error: {server.url}data/in-2.tgz [2/0007]: KeyError: 'no' (bad.py:2 in process_sample); "
        "correct the script, or skip such samples with --on-error skip"
    )
    assert "r['no']" in outcome.err and 'File "bad.py", line 2, in process_sample' in outcome.err
    assert SECRET not in outcome.err
    left = set(snapshot(server.root / f"bad-{where}"))
    assert not {name for name in left if "2.tar" in name or name.endswith(".json") or name.startswith(".")}
    assert {name + ".index.npz" for name in left if name.endswith(".tar")} == {n for n in left if n.endswith(".npz")}


def test_secrets_are_not_written(server: NginxServer) -> None:
    """Nor is any other way to name the server in what is left of the job."""
    source = server.url.replace("http://", f"http://me:{SECRET}@") + f"data/in-@5.tgz?sig={SECRET}"
    outcome = run("-p", "script.py", "--report", "secret/r.json", f"{source}", "secret/out-@5.tgz", cwd=server.root)
    assert outcome.status == 0, outcome.err
    outcome = run(
        "-p", "script.py", "data/in-0.tgz::" + source.replace("-@5", "-1"), "secret/two-@2.tgz", cwd=server.root
    )
    assert outcome.status == 0, outcome.err
    for name, data in snapshot(server.root / "secret").items():
        assert SECRET.encode() not in data, name


def test_worker_without_shardtools(server: NginxServer, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    with dask_cluster(workers=1, worker_env={"PYTHONPATH": str(tmp_path)}) as bare:
        outcome = run("-c", bare.address, *job("data/in-@5.tgz", "bare/out-@5.tgz"), cwd=server.root)
    assert "has no shardtools" in outcome.error() and "; install shardtools there from" in outcome.error()
    assert not (server.root / "bare").exists()
