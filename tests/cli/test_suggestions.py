"""Sources that are not there: what lies beside them, and was meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from shardtools.programs.suggestions import nearest
from tests.cli.command import SECRET, call
from tests.datasets import sample_files, write_shard
from tests.moto_server import moto_server, use_environment
from tests.servers import NginxServer, nginx_server

DONE = ("htmapper", "htextract", "htshuffle", "htsort", "htindex", "htupload")


def arguments(program: str, source: str) -> list[str]:
    """Return the arguments of a command that reads ``source``."""
    if program == "htmapper":
        return ["-p", "same.py", source, "out/out-@auto.tar"]
    return [source] if program in ("htextract", "htindex") else [source, "out/out-@3.tar"]


def told(folder: Path, source: str, program: str = "htextract", status: int = 1) -> str:
    """Return what a command says of a source, without the folder."""
    return call(*arguments(program, source), cwd=folder, program=program).error(status).replace(str(folder), "HERE")


def write_images(folder: Path, stem: str = "img-", ending: str = "tar", count: int = 12) -> None:
    for i in range(count):
        write_shard(folder / f"{stem}{i:04d}.{ending}", sample_files(i, 2))


@pytest.fixture
def dataset(folder: Path) -> Path:
    """A folder ``d`` with ``img-0000.tar`` to ``img-0011.tar``, their sidecars and manifest."""
    write_images(folder / "d")
    assert call("d/img-@0012.tar", cwd=folder, program="htindex").status == 0
    return folder


@pytest.mark.parametrize("program", DONE)
def test_another_width_in_every_command(program: str, dataset: Path) -> None:
    message = told(dataset, "d/img-@12.tar", program)
    assert message.startswith("HERE/d/img-0") and message.endswith("; did you mean img-@0012.tar?")


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("d/img-@12.tar", "img-@0012.tar"),
        ("d/img-@012.tar", "img-@0012.tar"),
        ("d/img-@0013.tar", "img-@0012.tar"),
        ("d/img-@0012.tgz", "img-@0012.tar"),
        ("d/img-@0012", "img-@0012.tar"),
        ("d/img-0012.tar", "img-@0012.tar"),
        ("d/img-{000..011}.tar", "img-@0012.tar"),
        ("d/imgs-@12.tar", "img-@0012.tar"),
        ("d/img", "img-@0012.tar"),
        ("d/img-@12.tar.parquet", "img-@0012.tar"),
        ("d/img-@0012.tar.keys", "img-@0012.tar"),
        ("d/im-0000.tar", "img-@0012.tar"),
        ("d/img-@0012.tar::d/img-@00012.tar.gz", "img-@0012.tar"),
        ("d", "d/img-@0012.tar"),
        ("d/", "d/img-@0012.tar"),
    ],
)
def test_what_was_meant(source: str, meant: str, dataset: Path) -> None:
    assert told(dataset, source).endswith(f"; did you mean {meant}?")


def test_a_folder_is_called_one(dataset: Path) -> None:
    assert told(dataset, "d") == "HERE/d: this is a folder; did you mean d/img-@0012.tar?"
    write_images(dataset / "d", "x-", "tgz", 30)
    assert told(dataset, "d") == "HERE/d: this is a folder; did you mean d/*.tgz?"
    (dataset / "empty").mkdir()
    assert told(dataset, "empty").startswith("HERE/empty: this is a folder; name ")
    (dataset / "empty" / "a.jpg").write_bytes(b"")
    assert told(dataset, "empty") == "HERE/empty: this is a folder; htupload makes shards of what is in it"


def test_nothing_matches_the_star(dataset: Path) -> None:
    assert told(dataset, "d/img-*.tgz", status=2).endswith("; did you mean img-*.tar?")
    assert "did you mean" not in told(dataset, "d/other-*.tgz", status=2)


@pytest.mark.parametrize("source", ["d/img-@0012.tar", "d/img-0005.tar"])
def test_a_shard_that_was_lost(source: str, dataset: Path) -> None:
    """Then the name is right."""
    (dataset / "d/img-0005.tar").unlink()
    assert told(dataset, source) == "HERE/d/img-0005.tar: there is no such file; check the path"


@pytest.mark.parametrize("source", ["none/img-@12.tar", "d/zebra.tar", "d/img-@0012.tar/x.tar"])
def test_nothing_alike(source: str, dataset: Path) -> None:
    assert told(dataset, source).endswith("; check the path")


@pytest.mark.parametrize(
    ("asked", "names", "meant"),
    [
        ("@9.tar", [f"{i:06d}.tar" for i in range(9)], "@000009.tar"),
        ("x-@9.tar", [f"x-{i:06d}.tar" for i in range(9)], "x-@000009.tar"),
        ("x-@3.tar", ["x-1.tar", "x-2.tar", "x-3.tar"], "x-{1..3}.tar"),
        ("x-@100.tar", ["x-0.tar", "x-7.tar"], None),
        ("x.tar", ["x.tgz", "y.tar"], "x.tgz"),
        ("x", ["x.tar.gz"], "x.tar.gz"),
        ("v2-train.tar", ["v1-train.tar"], "v1-train.tar"),
        ("train-@4.tar", ["trian-0.tar", "trian-1.tar", "test-0.tar"], "trian-@2.tar"),
        ("x-@4.tar", ["x-3.tar"], "x-3.tar"),
        ("x-@00005-of-00005.tar", [f"x-0000{i}-of-00005.tar" for i in range(5)], None),
    ],
)
def test_nearest(asked: str, names: Iterable[str], meant: str | None) -> None:
    assert nearest(asked, list(names)) == meant


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    with nginx_server(tmp_path_factory.mktemp("served")) as running:
        write_images(running.root)
        yield running


def test_over_http(server: NginxServer, folder: Path) -> None:
    url = f"{server.url}img-@12.tar?sig={SECRET}".replace("http://", f"http://me:{SECRET}@")
    message = told(folder, url)
    assert message.startswith(f"{server.url}img-0") and message.endswith("; did you mean img-@0012.tar?")


def test_on_s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(folder)
    with moto_server() as moto:
        use_environment(monkeypatch, moto.environment())
        client = moto.client()
        client.create_bucket(Bucket="bucket")
        for path in folder.glob("*.tar"):
            client.put_object(Bucket="bucket", Key=f"d/{path.name}", Body=path.read_bytes())
        for source, meant in (("d/img-@12.tar", "img-@0012.tar"), ("d", "s3://bucket/d/img-@0012.tar")):
            message = told(folder, f"s3://bucket/{source}")
            assert message.endswith(f"; did you mean {meant}?"), message


class TestHome:
    """A ~ that the shell has left in a path."""

    @pytest.fixture(autouse=True)
    def home(self, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(dataset))

    def test_in_sources(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        other = tmp_path_factory.mktemp("other")
        two = ("~/d/img-0000.tar::~/d/img-0001.tar", "{~/d/img-0000,~/d/img-0001}.tar")
        for source in ("~/d/img-@0012.tar", "~/d/img-*.tar", *two):
            outcome = call("--keys", "--limit", "1", source, cwd=other, program="htextract")
            assert (outcome.status, outcome.out.count("\n")) == (0, 1), outcome

    def test_in_everything_else(self, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        other = tmp_path_factory.mktemp("other")
        options = ["--report=~/r.json", "--script=~/same.py", "--cache=~/cache:1GB"]
        assert call(*options, "~/d/img-@0012.tar", "~/out/@auto.tar", cwd=other).status == 0
        assert (dataset / "r.json").exists() and (dataset / "out/@000012.tar.json").exists()
        assert call("--keys", "--output=~/k.txt", "~/d/img-*.tar", cwd=other, program="htextract").status == 0
        assert (dataset / "k.txt").exists()
        assert list(other.iterdir()) == []

    def test_a_folder_of_this_name(self, dataset: Path) -> None:
        (dataset / "~").mkdir()
        (dataset / "d/img-0000.tar").rename(dataset / "~/a.tar")
        assert call("--keys", "./~/a.tar", cwd=dataset, program="htextract").status == 0
