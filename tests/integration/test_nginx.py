"""What the storage server in nginx/ does, and what it must not do."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.servers import NginxServer, nginx_server, wait_until

NGINX = Path(__file__).resolve().parents[2] / "nginx"
UPLOADS = ".shardtools-tmp"
MB = 1 << 20


def send(method: str, url: str, **headers: str) -> requests.Response:
    return requests.request(method, url, headers=headers, timeout=60)


def names(url: str) -> list[str]:
    answer = requests.get(url, timeout=60)
    assert answer.headers["Content-Type"] == "application/json"
    return sorted(entry["name"] for entry in answer.json())


def visible(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if UPLOADS not in path.parts)


def test_put_makes_folders_replaces_and_answers_what_was_put(nginx: NginxServer) -> None:
    url = nginx.url + "a/b/c.tar"
    assert requests.put(url, data=b"one", timeout=60).status_code == 201
    assert requests.put(url, data=b"two!", timeout=60).status_code == 204
    answer = requests.get(url, timeout=60)
    assert (answer.status_code, answer.content) == (200, b"two!")
    assert answer.headers["Content-Type"] == "application/x-tar"
    assert answer.headers["ETag"] and answer.headers["Last-Modified"]
    assert requests.head(url, timeout=60).headers["Content-Length"] == "4"
    assert (nginx.root / "a/b/c.tar").read_bytes() == b"two!"


def test_others_can_read_what_was_put(nginx: NginxServer) -> None:
    requests.put(nginx.url + "a/b.tar", data=b"x", timeout=60).raise_for_status()
    assert stat.S_IMODE((nginx.root / "a/b.tar").stat().st_mode) == 0o644
    assert stat.S_IMODE((nginx.root / "a").stat().st_mode) == 0o755
    owner = nginx.root.stat()
    for path in (nginx.root / "a", nginx.root / "a/b.tar"):
        assert (path.stat().st_uid, path.stat().st_gid) == (owner.st_uid, owner.st_gid)


def test_odd_names_survive(nginx: NginxServer) -> None:
    for quoted, name in {
        "a%20b%25%23%3F.tar": "a b%#?.tar",
        "sch%C3%B6n.tar": "schön.tar",
        ".hidden": ".hidden",
    }.items():
        assert requests.put(nginx.url + quoted, data=b"x", timeout=60).status_code == 201
        assert (nginx.root / name).read_bytes() == b"x"
        assert requests.get(nginx.url + quoted, timeout=60).content == b"x"


def test_delete_removes_a_file_and_a_folder(nginx: NginxServer) -> None:
    for name in ("d/1.tar", "d/e/2.tar", "3.tar"):
        requests.put(nginx.url + name, data=b"x", timeout=60).raise_for_status()
    assert requests.delete(nginx.url + "3.tar", timeout=60).status_code == 204
    assert requests.delete(nginx.url + "3.tar", timeout=60).status_code == 404
    assert requests.delete(nginx.url + "d/", timeout=60).status_code == 204
    assert visible(nginx.root) == []


def test_mkcol_and_move_of_a_hidden_collection_have_one_winner(nginx: NginxServer) -> None:
    assert send("MKCOL", nginx.url + ".x.once/").status_code == 201
    assert send("MKCOL", nginx.url + ".x.once/").status_code == 405
    requests.put(nginx.url + ".x.once/data", data=b"first", timeout=60).raise_for_status()
    move = {"Destination": "/x/", "Overwrite": "F"}
    assert send("MOVE", nginx.url + ".x.once/", **move).status_code == 201
    assert requests.get(nginx.url + "x/data", timeout=60).content == b"first"
    assert send("MKCOL", nginx.url + ".x.once/").status_code == 201
    assert send("MOVE", nginx.url + ".x.once/", **move).status_code == 412
    assert requests.get(nginx.url + "x/data", timeout=60).content == b"first"


def test_move_and_copy_of_a_file(nginx: NginxServer) -> None:
    requests.put(nginx.url + "a.tar", data=b"x", timeout=60).raise_for_status()
    assert send("COPY", nginx.url + "a.tar", Destination="/b.tar").status_code == 204
    assert send("MOVE", nginx.url + "a.tar", Destination=nginx.url + "c.tar").status_code == 204
    assert visible(nginx.root) == ["b.tar", "c.tar"]


def test_one_range_and_many(nginx: NginxServer) -> None:
    data = bytes(range(256)) * 1000
    url = nginx.url + "a.tar"
    requests.put(url, data=data, timeout=60).raise_for_status()
    one = send("GET", url, Range="bytes=100-199")
    assert (one.status_code, one.content) == (206, data[100:200])
    assert one.headers["Content-Range"] == f"bytes 100-199/{len(data)}"
    starts = range(0, len(data), 80)  # 3200 ranges: a Range header of some 43 KB
    many = send("GET", url, Range="bytes=" + ",".join(f"{start}-{start + 9}" for start in starts))
    assert many.status_code == 206
    assert many.headers["Content-Type"].startswith("multipart/byteranges")
    parts = [part.partition(b"\r\n\r\n")[2] for part in many.content.split(b"Content-Range: ")[1:]]
    assert [part[:10] for part in parts] == [data[start : start + 10] for start in starts]
    assert send("GET", url, Range=f"bytes={len(data)}-").status_code == 416


def test_if_range_notices_another_object(nginx: NginxServer) -> None:
    url = nginx.url + "a.tar"
    requests.put(url, data=b"0123456789", timeout=60).raise_for_status()
    etag = requests.head(url, timeout=60).headers["ETag"]
    assert send("GET", url, **{"Range": "bytes=2-3", "If-Range": etag}).content == b"23"
    requests.put(url, data=b"another", timeout=60).raise_for_status()
    changed = send("GET", url, **{"Range": "bytes=2-3", "If-Range": etag})
    assert (changed.status_code, changed.content) == (200, b"another")


def test_the_listing_is_json_without_hidden_names(nginx: NginxServer) -> None:
    for name in ("d/schön 1.tar", "d/.hidden", "d/e/2.tar"):
        requests.put(nginx.url + name, data=b"four", timeout=60).raise_for_status()
    assert names(nginx.url + "d/") == ["e", "schön 1.tar"]
    entries = {entry["name"]: entry for entry in json.loads(requests.get(nginx.url + "d/", timeout=60).content)}
    assert entries["schön 1.tar"]["type"] == "file" and entries["schön 1.tar"]["size"] == 4
    assert entries["e"]["type"] == "directory"
    assert requests.get(nginx.url + "none/", timeout=60).status_code == 404


def test_a_large_put_is_taken(nginx: NginxServer, tmp_path: Path) -> None:
    size = 300 * MB
    source = tmp_path / "large"
    source.touch()
    os.truncate(source, size)
    with source.open("rb") as file:
        assert requests.put(nginx.url + "large.tar", data=file, timeout=120).status_code == 201
    assert (nginx.root / "large.tar").stat().st_size == size
    (nginx.root / "large.tar").unlink()


def test_a_chunked_put_is_taken(nginx: NginxServer) -> None:
    def blocks() -> Iterator[bytes]:
        for _ in range(5):
            yield b"x" * MB

    assert requests.put(nginx.url + "a.tar", data=blocks(), timeout=60).status_code == 201
    assert (nginx.root / "a.tar").stat().st_size == 5 * MB


def test_a_put_cut_short_leaves_nothing(nginx: NginxServer) -> None:
    requests.put(nginx.url + "a.tar", data=b"before", timeout=60).raise_for_status()
    address = urlsplit(nginx.url)
    assert address.hostname is not None and address.port is not None
    uploads = nginx.root / UPLOADS
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(f"PUT /a.tar HTTP/1.1\r\nHost: x\r\nContent-Length: {10 * MB}\r\n\r\n".encode())
        client.sendall(b"x" * (4 * MB))
        wait_until(lambda: any(path.stat().st_size for path in uploads.iterdir()), "the upload to begin")
        assert requests.get(nginx.url + "a.tar", timeout=60).content == b"before"
        assert visible(nginx.root) == ["a.tar"]
    wait_until(lambda: not list(uploads.iterdir()), "the upload to be given up")
    assert requests.get(nginx.url + "a.tar", timeout=60).content == b"before"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "MKCOL"])
@pytest.mark.parametrize(
    "path", [UPLOADS, UPLOADS + "/", UPLOADS + "/1", "%2Eshardtools-tmp/", "a/../" + UPLOADS + "/"]
)
def test_uploads_under_way_are_not_to_be_seen(nginx: NginxServer, method: str, path: str) -> None:
    session = requests.Session()
    request = requests.Request(method, nginx.url).prepare()
    request.url = nginx.url + path  # as it is, dots and all
    assert session.send(request, timeout=60).status_code == 404
    assert (nginx.root / UPLOADS).is_dir()


@pytest.mark.parametrize("method", ["MOVE", "COPY"])
@pytest.mark.parametrize("destination", ["/", "//", "/./", "/%2e/", "/?x", f"/{UPLOADS}/", f"/%2E{UPLOADS[1:]}/"])
def test_nothing_replaces_all_of_the_data(nginx: NginxServer, method: str, destination: str) -> None:
    requests.put(nginx.url + "a/b.tar", data=b"x", timeout=60).raise_for_status()
    for place in (destination, nginx.url.rstrip("/") + destination):
        assert send(method, nginx.url + "a/", Destination=place).status_code == 403
    assert visible(nginx.root) == ["a", "a/b.tar"]


def test_nothing_deletes_or_moves_all_of_the_data(nginx: NginxServer) -> None:
    requests.put(nginx.url + "a/b.tar", data=b"x", timeout=60).raise_for_status()
    assert requests.delete(nginx.url, timeout=60).status_code == 403
    assert send("MOVE", nginx.url, Destination="/a/c/").status_code == 403
    assert visible(nginx.root) == ["a", "a/b.tar"]


def test_only_writers_write_and_everyone_reads(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")
    with nginx_server(tmp_path, writers={"ann": "secret", "bob": "other"}) as server:
        url = server.url + "a.tar"
        assert requests.get(url, timeout=60).content == b"x"
        assert requests.head(url, timeout=60).status_code == 200
        assert names(server.url) == ["a.tar"]
        for method in ("PUT", "DELETE", "MKCOL", "COPY", "MOVE"):
            assert send(method, url, Destination="/b.tar").status_code == 401
            wrong = requests.request(method, url, auth=("ann", "other"), timeout=60)
            assert (wrong.status_code, wrong.headers["WWW-Authenticate"]) == (401, 'Basic realm="shardtools"')
        assert visible(tmp_path) == ["a.tar"]
        assert requests.put(url, data=b"y", auth=("ann", "secret"), timeout=60).status_code == 204
        assert requests.delete(url, auth=("bob", "other"), timeout=60).status_code == 204
    assert visible(tmp_path) == []


def test_the_log_names_the_ranges(nginx: NginxServer) -> None:
    requests.put(nginx.url + "a.tar", data=b"0123", timeout=60).raise_for_status()
    send("GET", nginx.url + "a.tar", Range="bytes=0-0,2-2")
    wait_until(lambda: len(nginx.log_path.read_text().splitlines()) == 2, "two lines of log")
    [last] = [line for line in nginx.log_path.read_text().splitlines() if '"GET ' in line]  # two workers write
    assert '"GET /a.tar HTTP/1.1" 206' in last and '"bytes=0-0,2-2"' in last


def test_nginx_takes_the_config_as_the_container_renders_it(tmp_path: Path) -> None:
    dockerfile = (NGINX / "Dockerfile").read_text()
    values = dict(re.findall(r"(SERVE_\w+)=(\S+)", dockerfile))
    template = (NGINX / "nginx.conf.template").read_text()
    assert set(re.findall(r"\$\{?(SERVE_\w+)", template)) == set(values)
    assert "NGINX_ENVSUBST_FILTER=SERVE_" in dockerfile
    config = tmp_path / "nginx.conf"
    config.write_text(string.Template(template).safe_substitute(values))
    (tmp_path / "data").mkdir()
    path = f"{os.environ['PATH']}:/usr/sbin"
    command = ["nginx", "-t", "-e", "stderr", "-p", f"{tmp_path}/", "-c", str(config)]
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "syntax is ok" in done.stderr and "[warn]" not in done.stderr
