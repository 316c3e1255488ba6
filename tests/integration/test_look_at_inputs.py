"""What a job asks of its inputs and outputs before it begins, counted by real servers."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from shardtools.errors import NotFoundError
from shardtools.jobs import inputs
from shardtools.jobs.exchange.exchange import run_exchange
from shardtools.jobs.exchange.keying import Keying
from shardtools.jobs.exchange.plan import Exchange, ExchangePlan, plan_exchange
from shardtools.jobs.options import RunOptions
from tests.cli.command import run
from tests.contract.faults import FaultyProxy
from tests.dask_cluster import dask_cluster
from tests.datasets import written_dataset
from tests.moto_server import moto_server, use_environment
from tests.recording_server import recording_server
from tests.servers import NginxServer, wait_until

SHARDS = 70
"""More than the fewest for which a folder is listed."""

SAMPLES = [[{"key": f"{shard:02d}{i}", "txt": f"no {i}"} for i in range(2 + shard % 2)] for shard in range(SHARDS)]
COUNTS = tuple(map(len, SAMPLES))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of shards that are not packed, and one of shards that are."""
    folder = tmp_path_factory.mktemp("dataset")
    written_dataset(folder, f"x-@{SHARDS}.tar", SAMPLES)
    written_dataset(folder, f"x-@{SHARDS}.tgz", SAMPLES)
    return folder


@pytest.fixture
def nginx_with(dataset: Path, nginx: NginxServer) -> NginxServer:
    shutil.copytree(dataset, nginx.root, dirs_exist_ok=True)
    return nginx


def plan(sources: str | Sequence[str], destination: str, **layout: int) -> ExchangePlan:
    return plan_exchange(sources, destination, Exchange("test", Keying("random", seed=1), **layout), RunOptions())  # type: ignore[arg-type]


def counted(plan: ExchangePlan) -> tuple[int | None, ...]:
    return tuple(entry.samples for entry in plan.inputs)


def kinds(requests: Sequence[str]) -> Counter[str]:
    """Return how many requests there were of each method and kind of object, given their first lines."""
    found: Counter[str] = Counter()
    for line in requests:
        method, path = line.split()[:2]
        name, _, query = path.rpartition("/")[2].partition("?")
        is_listing = not name or "list-type" in query
        ends = {"json": "manifest", "npz": "sidecar"}
        found[f"{method} {'listing' if is_listing else ends.get(name.rpartition('.')[2], 'shard')}"] += 1
    return found


def logged(nginx: NginxServer, least: int) -> Counter[str]:
    """Return what nginx has written down, once it has answered so much."""

    def lines() -> list[str]:
        return [line.split('"')[1] for line in nginx.log_path.read_text().splitlines()]

    wait_until(lambda: len(lines()) >= least, "the log of the server")
    return kinds(lines())


class TestNginx:
    def test_by_manifest_and_listing(self, nginx_with: NginxServer) -> None:
        """Of the listing, one HEAD says whether it can be used; the folder of the outputs is listed, too."""
        made = plan(f"{nginx_with.url}x-@{SHARDS}.tar", f"{nginx_with.url}out/y-@3.tar")
        assert counted(made) == COUNTS
        assert logged(nginx_with, 4) == {"GET manifest": 1, "GET listing": 2, "HEAD shard": 1}

    def test_it_is_what_each_shard_says(self, nginx_with: NginxServer, dataset: Path) -> None:
        listed = plan(f"{nginx_with.url}x-@{SHARDS}.tar", f"{nginx_with.url}out/y-@3.tar").inputs
        few = [f"{nginx_with.url}x-{shard:02d}.tar" for shard in (0, 1, 69)]
        single = plan(few, f"{nginx_with.url}out/y-@3.tar").inputs
        for one, other in zip([listed[shard] for shard in (0, 1, 69)], single, strict=True):
            assert (one.url, one.size, one.validator, one.samples, one.fields) == (
                other.url, other.size, other.validator, other.samples, other.fields
            )  # fmt: skip

    def test_packed_shards_are_estimated_by_a_few_sidecars(self, nginx_with: NginxServer) -> None:
        made = plan(f"{nginx_with.url}x-@{SHARDS}.tgz", f"{nginx_with.url}out/y-@3.tar")
        assert counted(made) == COUNTS
        found = logged(nginx_with, 18)
        assert 8 <= found.pop("GET sidecar") <= 16
        assert found == {"GET manifest": 1, "GET listing": 2, "HEAD shard": 1}
        exact = plan(f"{nginx_with.url}x-@{SHARDS}.tgz", f"{nginx_with.url}out/y-@auto.tar", shard_size=100_000)
        assert made.size == pytest.approx(exact.size, rel=0.2)

    def test_how_many_outputs_is_not_estimated(self, nginx_with: NginxServer) -> None:
        plan(f"{nginx_with.url}x-@{SHARDS}.tgz", f"{nginx_with.url}out/y-@auto.tar", shard_size=100_000)
        assert logged(nginx_with, SHARDS + 3)["GET sidecar"] == SHARDS

    def test_a_manifest_of_other_shards(self, nginx_with: NginxServer, caplog: pytest.LogCaptureFixture) -> None:
        """Its counts are not used; those of the sidecars are."""
        path = nginx_with.root / f"x-@{SHARDS}.tar.json"
        manifest = json.loads(path.read_text())
        for entry in manifest["shardlist"]:
            entry["nsamples"] = 9
        manifest["shardlist"][69]["filesize"] += 512
        path.write_text(json.dumps(manifest))
        assert counted(plan(f"{nginx_with.url}x-@{SHARDS}.tar", f"{nginx_with.url}out/y-@3.tar")) == COUNTS
        assert "the manifest has another size of x-69.tar than it has now (it is not used)" in caplog.text
        assert logged(nginx_with, SHARDS + 4)["GET sidecar"] == SHARDS

    @pytest.mark.parametrize("size", [-1, 2**80, "1536", None, True, 1.5])
    def test_a_manifest_with_odd_sizes(self, nginx_with: NginxServer, size: object) -> None:
        path = nginx_with.root / f"x-@{SHARDS}.tar.json"
        manifest = json.loads(path.read_text())
        manifest["shardlist"][3]["filesize"] = size
        path.write_text(json.dumps(manifest))
        assert counted(plan(f"{nginx_with.url}x-@{SHARDS}.tar", f"{nginx_with.url}out/y-@3.tar")) == COUNTS

    def test_counts_that_are_wrong_lose_no_sample(self, nginx_with: NginxServer) -> None:
        """What is read is what counts, even if the manifest has the right sizes."""
        path = nginx_with.root / f"x-@{SHARDS}.tar.json"
        manifest = json.loads(path.read_text())
        for entry in manifest["shardlist"]:
            entry["nsamples"] = 1
        path.write_text(json.dumps(manifest))
        made = plan(f"{nginx_with.url}x-@{SHARDS}.tar", f"{nginx_with.url}out/y-@auto.tar", shard_count=35)
        result = run_exchange(made, RunOptions())
        assert (result.counts.written, len(result.shards)) == (sum(COUNTS), -(-sum(COUNTS) // 35))

    def test_a_shard_that_is_missing(self, nginx_with: NginxServer) -> None:
        (nginx_with.root / "x-33.tar").unlink()
        with pytest.raises(NotFoundError, match=r"x-33\.tar"):
            plan(f"{nginx_with.url}x-@{SHARDS}.tar", f"{nginx_with.url}out/y-@3.tar")

    def test_a_star_is_looked_up_once(self, nginx_with: NginxServer, tmp_path: Path) -> None:
        outcome = run(f"{nginx_with.url}x-*.tar", "--keys", cwd=tmp_path, program="htextract")
        assert len(outcome.out.split()) == sum(COUNTS)
        assert logged(nginx_with, 1 + 2 * SHARDS) == {
            "GET listing": 1, "HEAD shard": SHARDS, "GET sidecar": SHARDS
        }  # fmt: skip

    @pytest.mark.parametrize("program", ["htmapper", "htshuffle"])
    def test_overwriting_lists_the_outputs_once(self, program: str, nginx_with: NginxServer, tmp_path: Path) -> None:
        (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")
        script = ["-p", "same.py"] if program == "htmapper" else []
        sources = f"{nginx_with.url}x-@{SHARDS}.tar"
        destination = f"{nginx_with.url}out/y-@{SHARDS}.tar"
        outcome = run(*script, "--overwrite", "--dry-run", sources, destination, cwd=tmp_path, program=program)
        assert outcome.status == 0
        listings = [line for line in nginx_with.log_path.read_text().splitlines() if '"GET /out/ ' in line]
        assert len(listings) == 1


def test_a_server_that_does_not_list(dataset: Path, tmp_path: Path) -> None:
    with recording_server(tmp_path) as server:
        shutil.copytree(dataset, server.root, dirs_exist_ok=True)
        made = plan(f"{server.url}x-@{SHARDS}.tar", str(tmp_path / "y-@3.tar"))
        found = kinds([f"{request.method} {request.path}" for request in server.requests()])
    assert counted(made) == COUNTS
    assert found == {"GET manifest": 1, "GET listing": 1, "HEAD shard": SHARDS}


@pytest.mark.slow
def test_on_a_cluster_tasks_look(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is listed, and there is no manifest: two rounds of tasks, for sizes and for sidecars."""
    monkeypatch.setattr(inputs, "BATCH", 20)
    with ExitStack() as stack:
        server = stack.enter_context(recording_server(tmp_path))
        env = {"SHARDTOOLS_HTTP_HEADERS": f"{server.url} X-Who: a worker"}
        cluster = stack.enter_context(dask_cluster(workers=2, worker_env=env))
        shutil.copytree(dataset, server.root, dirs_exist_ok=True)
        (server.root / f"x-@{SHARDS}.tar.json").unlink()
        source, destination = f"{server.url}x-@{SHARDS}.tar", str(tmp_path / "y-@3.tar")
        here = plan(source, destination)
        assert server.values("x-who") == {None}
        what = Exchange("test", Keying("random", seed=1))
        there = plan_exchange(source, destination, what, RunOptions(cluster=cluster.address))
        asked = [request for request in server.requests() if request.headers.get("x-who")]
        missing = f"{server.url}x-@{10 * SHARDS}.tar"
        with pytest.raises(NotFoundError, match=r"x-\d\d\d\.tar: there is no such object"):
            plan_exchange(missing, destination, what, RunOptions(cluster=cluster.address))
    assert there.inputs == here.inputs
    found = kinds([f"{request.method} {request.path}" for request in asked])
    assert found == {"HEAD shard": SHARDS, "GET sidecar": SHARDS}


@pytest.fixture
def bucket(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before an S3 server whose bucket ``data`` has the dataset."""
    with moto_server() as moto, FaultyProxy(moto.url) as proxy:
        moto.client().create_bucket(Bucket="data")
        for path in dataset.iterdir():
            moto.client().put_object(Bucket="data", Key=path.name, Body=path.read_bytes())
        use_environment(monkeypatch, {**moto.environment(), "AWS_ENDPOINT_URL": proxy.url.rstrip("/")})
        yield proxy


def test_s3_says_all_in_its_listing(bucket: FaultyProxy) -> None:
    made = plan(f"s3://data/x-@{SHARDS}.tar", "s3://data/out/y-@3.tar")
    assert counted(made) == COUNTS
    assert kinds(bucket.requests) == {"GET manifest": 1, "GET listing": 2}
    alone = plan("s3://data/x-03.tar", "s3://data/out/y-@3.tar").inputs[0]
    assert made.inputs[3] == replace(alone, tar_size=made.inputs[3].tar_size)
