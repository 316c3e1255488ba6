"""Headers and passwords belong to a host: two real web servers write down what each of them is sent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import shardtools as st
from shardtools.errors import RefusedError, ShardtoolsError
from shardtools.storage import StorageOptions, get_storage, using
from tests.cli.command import run
from tests.datasets import write_dataset
from tests.recording_server import RecordingServer, recording_server

TOKEN = "Bearer t0p-s3cret"
HEADERS = f"Authorization: {TOKEN}\nX-Api-Key: t0p-key\nUser-Agent: mine/1"
SENT = {TOKEN}
NOTHING = {None}
VARIABLE = "SHARDTOOLS_HTTP_HEADERS"


@pytest.fixture
def near(tmp_path: Path) -> Iterator[RecordingServer]:
    """The server that the user names; it has a dataset ``in-@3.tar`` with sidecars."""
    with recording_server(tmp_path / "near") as server:
        write_dataset(server.root, 3, 4)
        yield server


@pytest.fixture
def far(tmp_path: Path) -> Iterator[RecordingServer]:
    """Another server, with the same data."""
    with recording_server(tmp_path / "far") as server:
        write_dataset(server.root, 3, 4)
        yield server


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shardtools.storage._instances", {})  # whose sessions know an environment of before
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv(VARIABLE, HEADERS)
    (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")


def names_secrets(server: RecordingServer) -> bool:
    """Return whether anything that the server was sent has a part of a secret."""
    return "t0p" in server.log_path.read_text()


def test_the_server_that_a_call_names_gets_them(near: RecordingServer) -> None:
    assert len(st.open(f"{near.url}in-@3.tar")[7]) == 3
    assert near.values("authorization") == SENT
    assert near.values("x-api-key") == {"t0p-key"} and near.values("user-agent") == {"mine/1"}


@pytest.mark.parametrize("spec", ["{%sin-0,%sin-1}.tar", "%sin-0.tar::%sin-1.tar"])
def test_the_servers_that_a_list_or_braces_name_get_them(
    near: RecordingServer, far: RecordingServer, spec: str
) -> None:
    assert len(st.open(spec % (near.url, far.url))) == 8
    assert near.values("authorization") == far.values("authorization") == SENT


def test_one_that_a_redirect_names_does_not(near: RecordingServer, far: RecordingServer) -> None:
    dataset = st.open(f"{near.url}away/{far.place}/in-@3.tar")
    assert [record["cls"] for record in dataset] == [b"0", b"1", b"2", b"3"] * 3 and len(dataset[7]) == 3
    assert near.values("authorization") == SENT and near.values("x-api-key") == {"t0p-key"}
    assert far.requests() and not names_secrets(far)


def test_one_that_a_redirect_names_gets_them_if_the_user_names_it_too(
    near: RecordingServer, far: RecordingServer
) -> None:
    specs = [f"{near.url}away/{far.place}/in-0.tar", f"{far.url}in-1.tar"]
    assert len(st.open(specs)) == 8
    assert near.values("authorization") == far.values("authorization") == SENT


def test_one_that_an_index_names_does_not(near: RecordingServer, far: RecordingServer) -> None:
    shards = [{"url": f"{url}in-{i}.tar", "nsamples": 4} for i, url in enumerate((near.url, far.url))]
    (near.root / "index.json").write_text(json.dumps({"wids_version": 1, "shardlist": shards}))
    with suppress(ShardtoolsError):  # such an index may be refused
        list(st.open(f"{near.url}index.json"))
    assert near.values("authorization") == SENT
    assert not names_secrets(far)


def test_lines_for_a_place_go_there_alone(
    near: RecordingServer, far: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = f"{far.url}in- Nothing: x\n{far.url} Authorization: far t0p\n{near.url}sub Authorization: sub t0p\n"
    monkeypatch.setenv(VARIABLE, lines)
    for folder in ("sub", "subway"):
        write_dataset(near.root / folder, 1, 1)
        assert len(st.open(f"{near.url}{folder}/in-0.tar")) == 1
    len(st.open(f"{near.url}away/{far.place}/in-0.tar"))
    assert {request.headers.get("authorization") for request in near.requests() if "/sub/" in request.path} == {
        "sub t0p"
    }
    assert {request.headers.get("authorization") for request in near.requests() if "/sub/" not in request.path} == {
        None
    }
    assert far.values("authorization") == {"far t0p"} and far.values("nothing") == NOTHING


@pytest.mark.parametrize("path", ["sub/../in-0.tar", "sub/%2e%2e/in-0.tar"])
def test_no_dots_lead_out_of_a_place(near: RecordingServer, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv(VARIABLE, f"{near.url}sub/ Authorization: {TOKEN}\n")
    with suppress(ShardtoolsError):
        get_storage(near.url).read(near.url + path)
    assert near.requests() and not names_secrets(near)


def test_a_url_that_nobody_has_named_gets_none(near: RecordingServer, far: RecordingServer) -> None:
    with using(StorageOptions().naming(f"{far.url}x.tar")):
        get_storage(near.url).read(f"{near.url}in-0.tar")
        get_storage(far.url).read(f"{far.url}in-0.tar")
    assert near.values("authorization") == NOTHING and far.values("authorization") == SENT


@pytest.mark.parametrize(
    "line",
    [
        "Authorization",
        "http://host/ Authorization",
        "http://host/",
        ": x",
        "http://h/ :x",
        "127.0.0.1:8097/ Authorization: Bearer t",  # without a scheme this would be a header called 127.0.0.1
        "localhost:8097/data/ Authorization: Bearer t",
        "localhost:80 X-Token: t",
        "two words: t",
    ],
)
def test_a_line_that_is_no_header(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setenv(VARIABLE, line)
    with pytest.raises(RefusedError, match=f"{VARIABLE} has a line that is not a header; write one"):
        get_storage("http://127.0.0.1:1/x").read("http://127.0.0.1:1/x")


@pytest.mark.parametrize("cluster", ["threads", "processes"])
def test_commands_name_what_stands_on_their_line(
    near: RecordingServer, far: RecordingServer, tmp_path: Path, cluster: str
) -> None:
    arguments = ["-p", "same.py", "-c", cluster, "-j", "2", "--report", f"{far.url}report.json"]
    outcome = run(*arguments, f"{near.url}in-@3.tar", f"{far.url}out-@3.tar", cwd=tmp_path)
    assert outcome.status == 0, outcome
    assert near.values("authorization") == far.values("authorization") == SENT
    assert (far.root / "report.json").exists()


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("htextract", ["-f", "cls", "-o", "{far}rows.tsv", "{near}in-@3.tar"]),
        ("htextract", ["--stats", "--report", "{far}report.json", "{near}in-@3.tar"]),
        ("htextract", ["--at", "1", "--to", "{far}files", "{near}in-@3.tar"]),
        ("htshuffle", ["--spill", "{far}spill", "{near}in-@3.tar", "out-@3.tar"]),
        ("htsort", ["{near}in-@3.tar", "{far}out-@3.tar"]),
        ("htindex", ["--report", "{far}report.json", "{near}in-@3.tar"]),
        ("htindex", ["--export", "wids", "--output", "{far}i.json", "{near}in-@3.tar"]),
        ("htupload", ["{near}in-0.tar", "{far}out-@2.tar"]),
    ],
)
def test_every_command_does(
    near: RecordingServer, far: RecordingServer, tmp_path: Path, program: str, arguments: list[str]
) -> None:
    line = [argument.format(near=near.url, far=far.url) for argument in arguments]
    outcome = run(*line, cwd=tmp_path, program=program)
    assert outcome.status == 0, outcome
    assert near.values("authorization") == far.values("authorization") == SENT


def test_commands_name_nothing_else(near: RecordingServer, far: RecordingServer, tmp_path: Path) -> None:
    outcome = run("-p", "same.py", f"{near.url}away/{far.place}/in-@3.tar", "out-@3.tar", cwd=tmp_path)
    assert outcome.status == 0, outcome
    assert near.values("authorization") == SENT
    assert far.requests() and not names_secrets(far)


@pytest.mark.parametrize("way", ["netrc", "url"])
def test_a_password_stays_with_its_host(
    near: RecordingServer, far: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The servers are two hosts by name: localhost, and 127.0.0.1."""
    monkeypatch.delenv(VARIABLE)
    place = f"localhost:{near.place.rpartition(':')[2]}"
    if way == "netrc":
        netrc = tmp_path / "netrc"
        netrc.write_text("machine localhost login me password t0p\n")
        monkeypatch.setenv("NETRC", str(netrc))
    else:
        place = f"me:t0p@{place}"
    assert len(st.open(f"http://{place}/away/{far.place}/in-@3.tar")) == 12
    assert near.values("authorization") == {"Basic bWU6dDBw"}
    assert far.requests() and far.values("authorization") == NOTHING
