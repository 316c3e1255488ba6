"""Maps from and to web servers that have less, or allow less, than a job needs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.command import SECRET, call, run
from tests.datasets import members, parts_of, sample_files, snapshot, tar_bytes, write_dataset
from tests.servers import NginxServer, nginx_server, wait_until

SAME = "def process_sample(record):\n    return record\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "same.py").write_text(SAME)
    return tmp_path


def with_password(url: str, password: str = SECRET) -> str:
    return url.replace("http://", f"http://me:{password}@")


def requests_in(server: NginxServer) -> list[str]:
    """Return method and path of each request that the server has logged."""
    return [line.split('"')[1].rpartition(" ")[0] for line in server.log_path.read_text().splitlines()]


def test_shard_missing_in_the_middle_of_hundreds(folder: Path, nginx: NginxServer) -> None:
    for i in range(300):
        (nginx.root / f"in-{i:03d}.tar").write_bytes(tar_bytes([(f"{i}.txt", b"%d" % i)]))
    (nginx.root / "same.py").write_text(SAME)
    missing = nginx.root / "in-150.tar"
    missing.rename(nginx.root / "away.tar")
    source, destination = f"{with_password(nginx.url)}in-@300.tar", f"{nginx.url}out/out-@300.tar"

    outcome = run("-j", "4", "-p", "same.py", "--report", "r.json", source, destination, cwd=folder)
    assert outcome.error() == f"{nginx.url}in-150.tar: there is no such object (404 Not Found); check the URL"
    made = snapshot(nginx.root / "out")
    shards = {name for name in made if name.endswith(".tar")}
    assert 140 < len(shards) < 160 and "out-150.tar" not in shards
    assert set(made) == shards | {f"{name}.index.npz" for name in shards}
    for name in sorted(shards)[::15]:
        assert members(nginx.root / "out" / name) == members(nginx.root / f"in{name[3:]}")
    report = json.loads((folder / "r.json").read_text())
    assert report["error"] == outcome.error() and report["counts"]["written"] == len(shards)

    (nginx.root / "away.tar").rename(missing)
    outcome = run("-j", "4", "-p", "same.py", "--resume", source, destination, cwd=folder)
    assert (outcome.status, outcome.err) == (0, "")
    assert f", {len(shards)} shards there already" in outcome.out
    resumed = snapshot(nginx.root / "out")
    assert {name: resumed[name] for name in made} == made
    assert set(resumed) == parts_of("out", shards=300)
    assert call("-q", "-p", "same.py", "in-@300.tar", "local/out-@300.tar", cwd=nginx.root).status == 0
    local = snapshot(nginx.root / "local")
    assert all(local[name] == resumed[name] for name in local if name.endswith(".tar"))
    assert json.loads(local["out-@300.tar.json"])["shardlist"] == json.loads(resumed["out-@300.tar.json"])["shardlist"]


def test_existing_outputs_are_found_by_one_listing(folder: Path, nginx: NginxServer) -> None:
    """Not by a request for each of ten thousand."""
    (nginx.root / "out-07777.tar.index.npz").write_bytes(b"x")
    outcome = run("-p", "same.py", f"{nginx.url}in-@10000.tar", f"{nginx.url}out-@10000.tar", cwd=folder)
    assert outcome.error() == (
        f"{nginx.url}out-07777.tar.index.npz: the output exists; "
        "use --resume to continue the job, or --overwrite to replace"
    )
    wait_until(lambda: requests_in(nginx), "the log")
    assert requests_in(nginx) == ["GET /"]


class TestStars:
    def test_sources_are_listed(self, folder: Path, nginx: NginxServer) -> None:
        write_dataset(nginx.root, 3, 2)
        outcome = run("-p", "same.py", f"{with_password(nginx.url)}in-*.tar", "out-@3.tar", cwd=folder)
        assert (outcome.status, outcome.err) == (0, "")
        assert [members(folder / f"out-{i}.tar")[0][0] for i in range(3)] == [f"{i}/0000.cls" for i in range(3)]

    def test_nothing_matches(self, folder: Path, nginx: NginxServer) -> None:
        outcome = run("-p", "same.py", f"{with_password(nginx.url)}in-*.tar", "out-@3.tar", cwd=folder)
        assert outcome.error(2) == f"{nginx.url}in-*.tar: no shards match this pattern; check the name"


class TestRefusedByNginx:
    def test_writing_needs_a_password(self, folder: Path) -> None:
        root = folder / "root"
        write_dataset(root, 2, 3)
        before = snapshot(root)
        with nginx_server(root, writers={"me": SECRET}) as server:
            source = f"{server.url}in-@2.tar"
            for url in (server.url, with_password(server.url, "wrong-" + SECRET)):
                outcome = run("-j", "1", "-p", "same.py", source, f"{url}out-@2.tar", cwd=folder)
                error = outcome.error()
                assert error.startswith(f"{server.url}out-0.tar: the server ") and "(40" in error and "netrc" in error
                verbose = run("-v", "-j", "1", "-p", "same.py", source, f"{url}out-@2.tar", cwd=folder)
                assert "Traceback" in verbose.err and SECRET not in verbose.err
                assert verbose.err.splitlines()[-1] == f"htmapper: error: {error}"
                assert snapshot(root) == before
            outcome = run("-p", "same.py", source, f"{with_password(server.url)}out-@2.tar", cwd=folder)
            assert (outcome.status, outcome.err) == (0, "")
            assert SECRET not in outcome.out
        assert set(snapshot(root)) == {*before, *parts_of("out", shards=2)}
        assert all(SECRET.encode() not in data for data in snapshot(root).values())

    def test_folder_that_may_not_be_written(self, folder: Path, nginx: NginxServer) -> None:
        """The server hides uploads under way from everyone: what lies there is 404."""
        write_dataset(nginx.root, 1, 3)
        outcome = run("-p", "same.py", f"{nginx.url}in-@1.tar", f"{nginx.url}.shardtools-tmp/o.tar", cwd=folder)
        assert outcome.error().startswith(f"{nginx.url}.shardtools-tmp/o.tar: ")
        assert set(snapshot(nginx.root)) == {"in-0.tar"}


class RefusingServer:
    """A web server that holds some objects, lists none, and answers each PUT with one status."""

    def __init__(self, status: int, url: str):
        self.status = status
        self.url = url
        self.put: list[str] = []


@contextmanager
def refusing_server(status: int, objects: dict[str, bytes]) -> Iterator[RefusingServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            body = objects.get(self.path.strip("/"))
            listing = self.path.endswith("/")
            self.answer(403 if listing else 404 if body is None else 200, body or b"")

        do_HEAD = do_GET

        def do_PUT(self) -> None:
            server.put.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(server.status)

        def do_DELETE(self) -> None:
            self.answer(server.status)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        server = RefusingServer(status, f"http://127.0.0.1:{httpd.server_address[1]}/")
        thread = threading.Thread(target=httpd.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()


REFUSALS = {
    401: r"the server requires other credentials (401 Unauthorized); put the host's login and password into ~/.netrc",
    403: r"the server does not allow this (403 Forbidden); put the host's login and password into ~/.netrc",
    405: r"the server does not accept PUT (405 Method Not Allowed); see that it does at this place",
    413: r"the object is larger than the server accepts (413 Request Entity Too Large); raise its limit",
    507: r"the server has no space left (507 Insufficient Storage); free some space there",
}


@pytest.mark.parametrize("status", REFUSALS)
def test_refused_puts(status: int, folder: Path) -> None:
    objects = {f"in-{i}.tar": tar_bytes(sample_files(i, 3)) for i in range(3)}
    with refusing_server(status, objects) as server:
        source, destination = f"{server.url}in-@3.tar", f"{with_password(server.url)}out-@3.tar?sig={SECRET}"
        before = snapshot(folder)
        error = run("-j", "1", "-p", "same.py", source, destination, cwd=folder).error()
        assert error.startswith(f"{server.url}out-0.tar: {REFUSALS[status]}")
        assert server.put == [f"/out-0.tar?sig={SECRET}"]
        outcome = run("-v", "-j", "1", "-p", "same.py", source, destination, cwd=folder)
        assert "Traceback" in outcome.err and SECRET not in outcome.err
        assert outcome.err.splitlines()[-1] == f"htmapper: error: {error}"
        assert snapshot(folder) == before


def test_server_that_is_not_there(folder: Path) -> None:
    with refusing_server(403, {}) as server:
        url = server.url
    write_dataset(folder, 1, 3)
    outcome = run("-p", "same.py", "in-@1.tar", f"{with_password(url)}o.tar", cwd=folder)
    assert outcome.error().startswith(f"{url}: ") or outcome.error().startswith(f"{url}o.tar: ")
