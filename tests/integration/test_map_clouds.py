"""htmapper from one kind of storage to another, with a real server process for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from shardtools.storage import get_storage
from tests.cli.command import finish, run, start
from tests.dask_cluster import dask_cluster
from tests.datasets import members, parts_of, write_dataset
from tests.gcs_servers import gcs_emulator
from tests.gcs_servers import use_environment as use_google
from tests.moto_server import moto_server
from tests.moto_server import use_environment as use_amazon
from tests.servers import NginxServer, nginx_server, wait_until

SHARDS, SAMPLES = 6, 40
SCRIPT = """
def process_sample(record):
    if record["cls"] == b"3":
        return None
    return {"key": record["key"], "txt": record["txt"] + b"!", "cls": int(record["cls"]) + 1}
"""


@dataclass(frozen=True)
class Servers:
    """One server of each kind, and the environment in which programs find them."""

    nginx: NginxServer
    environment: dict[str, str]

    def folder(self, scheme: str) -> str:
        return self.nginx.url if scheme == "http" else f"{scheme}://bucket/"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with ExitStack() as stack:
        nginx = stack.enter_context(nginx_server(tmp_path_factory.mktemp("web")))
        moto = stack.enter_context(moto_server())
        moto.client().create_bucket(Bucket="bucket")
        google = stack.enter_context(gcs_emulator("bucket"))
        yield Servers(nginx, {**moto.environment(), "STORAGE_EMULATOR_HOST": google})


@pytest.fixture(autouse=True)
def environment(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    use_amazon(monkeypatch, servers.environment)
    use_google(monkeypatch, {"STORAGE_EMULATOR_HOST": servers.environment["STORAGE_EMULATOR_HOST"]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def send(folder: Path, spec: str, to: str) -> None:
    """Copy the shards of a local dataset to another storage."""
    for path in sorted(folder.glob(spec)):
        with get_storage(to).create(to + path.name) as sink:
            sink.write(path.read_bytes())


def fetch(place: str, into: Path) -> dict[str, bytes]:
    """Copy what lies in another storage into a local folder, and return it by name."""
    into.mkdir(parents=True)
    storage = get_storage(place)
    for url in storage.list(place):
        (into / url.rpartition("/")[2]).write_bytes(storage.read(url))
    return {path.name: path.read_bytes() for path in into.iterdir()}


@pytest.mark.parametrize(("source", "destination"), [("gs", "http"), ("s3", "gs"), ("http", "s3"), ("s3", "s3")])
@pytest.mark.parametrize("ending", ["tgz", "tar"])
def test_from_one_storage_to_another(
    folder: Path, servers: Servers, source: str, destination: str, ending: str
) -> None:
    write_dataset(folder, SHARDS, SAMPLES, ending=ending)
    expected = run("-q", "-p", "script.py", f"in-@{SHARDS}.{ending}", f"local/out-@{SHARDS}.{ending}", cwd=folder)
    assert expected.status == 0
    there = f"{servers.folder(source)}{folder.name}/"
    out = f"{servers.folder(destination)}{folder.name}-out/"
    send(folder, f"in-*.{ending}", there)
    command = ("-p", "script.py", f"{there}in-@{SHARDS}.{ending}", f"{out}out-@{SHARDS}.{ending}")

    outcome = run(*command, cwd=folder)
    assert (outcome.status, outcome.err) == (0, "")
    made = fetch(out, folder / "made")
    assert set(made) == parts_of("out", shards=SHARDS, ending=ending)
    for i in range(SHARDS):
        name = f"out-{i}.{ending}"
        assert made[name] == (folder / "local" / name).read_bytes()
        assert members(folder / "made" / name) == members(folder / "local" / name)

    assert "the output exists" in run(*command, cwd=folder).error(2 if outcome.status == 2 else 1)
    get_storage(out).delete(f"{out}out-2.{ending}")
    again = run("--resume", *command, cwd=folder)
    assert (again.status, again.err) == (0, "") and f"{SHARDS - 1} shards there already" in again.out
    whole = fetch(out, folder / "again")
    assert {name: data for name, data in whole.items() if name.endswith(ending)} == {
        name: data for name, data in made.items() if name.endswith(ending)
    }


def test_a_star_is_looked_up(folder: Path, servers: Servers) -> None:
    write_dataset(folder, 3, 5)
    for scheme in ("s3", "gs"):
        send(folder, "in-*.tar", f"{servers.folder(scheme)}{folder.name}/")
        out = f"{servers.nginx.url}{folder.name}-{scheme}/@3.tar"
        outcome = run("-p", "script.py", f"{scheme}://bucket/{folder.name}/in-*.tar", out, cwd=folder)
        assert (outcome.status, outcome.err) == (0, ""), scheme
        assert "3 shards" in outcome.out


def test_a_missing_shard_is_named(folder: Path, servers: Servers) -> None:
    for scheme in ("s3", "gs"):
        outcome = run("-p", "script.py", f"{scheme}://bucket/none-@2.tar", f"{scheme}://bucket/o-@2.tar", cwd=folder)
        text = outcome.error()
        assert text.startswith(f"{scheme}://bucket/none-") and "there is no such object" in text
        outcome = run("-p", "script.py", f"{scheme}://no-bucket/x-@2.tar", f"{scheme}://bucket/o-@2.tar", cwd=folder)
        assert "no such bucket" in outcome.error()


def test_on_a_cluster(folder: Path, servers: Servers) -> None:
    """Each worker finds its own credentials: in the environment that it was started in."""
    write_dataset(folder, SHARDS, SAMPLES)
    place = f"s3://bucket/{folder.name}/"
    send(folder, "in-*.tar", place)
    with dask_cluster(workers=2) as cluster:
        out = f"gs://bucket/{folder.name}/out-@{SHARDS}.tar"
        outcome = run("-c", cluster.address, "-p", "script.py", f"{place}in-@{SHARDS}.tar", out, cwd=folder)
    assert (outcome.status, outcome.err) == (0, "")
    made = fetch(f"gs://bucket/{folder.name}/", folder / "made")
    assert set(made) == parts_of("out", shards=SHARDS, ending="tar")


def test_killed_while_it_makes_a_shard_it_leaves_nothing_visible(folder: Path, servers: Servers) -> None:
    (folder / "slow.py").write_text(
        "import os\ndef process_sample(record):\n    open('started', 'w').close()\n    while True:\n        pass\n"
    )
    write_dataset(folder, 1, 5)
    for scheme in ("s3", "gs"):
        (folder / "started").unlink(missing_ok=True)
        out = f"{scheme}://bucket/{folder.name}-killed/"
        process = start("-p", "slow.py", "in-@1.tar", f"{out}out-@1.tar", cwd=folder)
        wait_until((folder / "started").exists, "the first sample")
        process.kill()
        finish(process)
        assert get_storage(out).list(out) == []
