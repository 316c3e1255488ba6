"""htview's server: what its API answers over files, nginx and S3, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image

import shardtools as st
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from shardtools.viewer import about, asking
from shardtools.viewer.samples import LARGEST
from shardtools.viewer.server import ViewServer
from shardtools.viewer.thumb_cache import ThumbCache
from tests.datasets import write_shard
from tests.servers import NginxServer

COUNT = 12


def picture(side: int, kind: str = "jpeg") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side // 2), (200, 30, 30)).save(stream, kind)
    return stream.getvalue()


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(values))
    return stream.getvalue()


def members(first: int, count: int) -> Iterator[tuple[str, bytes]]:
    for i in range(first, first + count):
        yield f"s{i:03d}.cls", b"%d" % (i % 3)
        yield f"s{i:03d}.jpg", picture(300) if i else b"no picture"
        yield f"s{i:03d}.json", json.dumps({"width": i, "name": "ä<script>"}).encode()
        yield f"s{i:03d}.npy", npy(np.arange(12.0).reshape(3, 4) + i)
        yield f"s{i:03d}.svg", b"<svg onload='alert(1)'/>"


def make_train(folder: Path, shards: int) -> None:
    """Write ``train-@N.tar``, of 4 samples in each shard, and its table."""
    for number in range(shards):
        write_shard(folder / f"train-{number}.tar", members(4 * number, 4))
    st.index(str(folder / f"train-@{shards}.tar"), table=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with its table, of three shards, of which the last is damaged; and a hub."""
    folder = tmp_path_factory.mktemp("shown")
    make_train(folder, 3)
    with (folder / "train-2.tar").open("r+b") as file:
        at = file.read().index(b'"width": 9')
        file.seek(at)
        file.write(b'"width": 7')
    hub = st.hub(str(folder / "arrays"), single_writer=True)
    array = hub.array("deep/x", shape=(3, 20, 30), chunks=(1, 20, 30), dtype="int16")
    array[:] = np.arange(1800).reshape(3, 20, 30)
    array[0, 0, 0] = 999
    return folder


class Browser:
    """Asks a server as a browser does."""

    def __init__(self, server: ViewServer):
        self.server = server

    def get(
        self, path: str, /, host: str | None = None, method: str = "GET", **values: Any
    ) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            target = path if path.startswith("/") else f"/{self.server.token}/{path}"
            headers = {} if host is None else {"Host": host}
            connection.request(method, target + (f"?{urlencode(values)}" if values else ""), headers=headers)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def json(self, path: str, status: int = 200, /, **values: Any) -> Any:
        answer, data = self.get(f"api/{path}", **values)
        assert answer.status == status, data
        return json.loads(data)


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Browser]:
    with serve([str(folder / "train-@3.tar"), str(folder / "arrays")], StorageOptions(retries=0)) as server:
        yield Browser(server)


class TestSamples:
    def test_what_is_shown_is_listed_and_described(self, browser: Browser, folder: Path) -> None:
        assert browser.json("datasets") == [
            {"id": 0, "name": "train-@3.tar", "kind": "shards"},
            {"id": 1, "name": "arrays", "kind": "hub", "spec": f"{folder}/arrays/"},
        ]
        shown = browser.json("0/about")
        assert (shown["format"], shown["version"], shown["samples"], shown["shards"]) == (
            "shardtools view",
            1,
            COUNT,
            3,
        )
        assert {field["name"]: field["kind"] for field in shown["fields"]}["jpg"] == "image"
        assert {one["value"]: one["count"] for one in shown["classes"]["values"]} == {0: 4, 1: 4, 2: 4}
        histogram = next(one for one in shown["histograms"] if one["column"] == "json.width")
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1 and sum(histogram["counts"]) == COUNT
        assert shown["index"]["table"] and "cls" in shown["columns"]

    def test_a_page_has_keys_places_and_excerpts(self, browser: Browser) -> None:
        page = browser.json("0/samples", at=3, count=2)
        assert (page["total"], page["at"]) == (COUNT, 3)
        assert [(one["index"], one["key"], one["number"], one["row"]) for one in page["samples"]] == [
            (3, "s003", 0, 3),
            (4, "s004", 1, 0),
        ]
        assert page["samples"][1]["shard"] == "train-1.tar"
        texts = {field["name"]: field.get("text") for field in page["samples"][1]["fields"]}
        assert {field["name"]: field["crc32"] for field in page["samples"][1]["fields"]}["cls"] == zlib.crc32(b"1")
        assert texts["cls"] == "1" and json.loads(texts["json"])["name"] == "ä<script>" and texts["jpg"] is None
        assert browser.json("0/samples", at=10**15)["samples"] == []

    def test_a_page_of_a_condition_or_from_a_key_on(self, browser: Browser) -> None:
        page = browser.json("0/samples", where="cls = 1 and json.width < 9", count=2, at=1)
        assert page["total"] == 3 and [one["index"] for one in page["samples"]] == [4, 7]
        assert browser.json("0/samples", key="s005", count=1)["samples"][0]["index"] == 5
        assert browser.json("0/samples", key="s007", where="cls = 1")["at"] == 2
        assert "s005" in browser.json("0/samples", 404, key="s005", where="cls = 1")["error"]
        assert "nothing" in browser.json("0/samples", 400, where="nothing = 1")["error"]

    def test_one_damaged_field_spoils_its_own_answer_only(self, browser: Browser) -> None:
        samples = browser.json("0/samples", at=8, count=4)["samples"]
        errors = [(one["key"], field["name"]) for one in samples for field in one["fields"] if "error" in field]
        assert errors == [("s009", "json")]
        assert all(field["text"] for field in samples[2]["fields"] if field["name"] in ("cls", "json"))
        assert browser.json("0/field", 502, index=9, field="json")["error"]

    def test_fields_are_bytes_whose_types_run_nothing(self, browser: Browser) -> None:
        answer, data = browser.get("api/0/field", index=5, field="svg")
        assert data == b"<svg onload='alert(1)'/>" and answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["X-Field-Size"] == "24"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        answer, data = browser.get("api/0/field", index=5, field="svg", start=1, stop=4)
        assert data == b"svg" and answer.headers["X-Field-Size"] == "24"
        answer, data = browser.get("api/0/field", index=5, field="jpg")
        assert answer.headers["Content-Type"] == "image/jpeg" and data == picture(300)
        assert browser.json("0/field", 404, index=5, field="nothing")["error"]
        assert "out of range" in browser.json("0/field", 404, index=12, field="jpg")["error"]

    def test_thumbnails_and_arrays(self, browser: Browser) -> None:
        for name in ("svg", "nothing", "jpg", "jpg"):  # the first have no thumbnails
            browser.json("0/samples", at=0, count=4, thumbs=name, size=64)
        answer, data = browser.get("api/0/thumb", index=1, field="jpg", size=64)
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (64, 32) and answer.headers["Content-Type"] == "image/jpeg"
        assert "not an image" in browser.json("0/thumb", 422, index=0, field="jpg")["error"]
        assert browser.json("0/thumb", 422, index=0, field="svg")["error"]
        answer, data = browser.get("api/0/thumb", index=1, field="npy")
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (4, 3) and image.getpixel((0, 0)) == 0 and image.getpixel((3, 2)) == 255
        expected = {"shape": [3, 4], "dtype": "float64", "min": 2.0, "max": 13.0}
        assert browser.json("0/array", index=2, field="npy") == expected

    def test_sql(self, browser: Browser) -> None:
        found = browser.json("sql", q="select cls, count(*) as n from samples group by cls order by cls")
        assert [column["name"] for column in found["columns"]] == ["cls", "n"]
        assert found["rows"] == [[0, 4], [1, 4], [2, 4]] and not found["truncated"]
        found = browser.json("sql", q="select * from range(2000) t(i), (select 1.0/0, key from d0 limit 1)")
        assert found["truncated"] and len(found["rows"]) == 1000
        for query in (
            "drop table samples",
            "select * from '/etc/passwd'",
            "select read_text('/etc/passwd')",
            "x" * 20000,
        ):
            assert browser.get("api/sql", q=query)[0].status in (400, 413)


class TestArrays:
    def test_tree_history_and_slices(self, browser: Browser) -> None:
        tree = [{"path": "deep/x", "shape": [3, 20, 30], "dtype": "int16", "chunks": [1, 20, 30]}]
        assert browser.json("1/tree") == tree
        history = browser.json("1/history", path="deep/x")
        assert [one["version"] for one in history] == ["main@2", "main@1", "main@0"]
        assert browser.json("1/versions") == {"branches": ["main"], "tags": []}
        for version, first in (("", 999), ("main@2", 999), ("main@1", 0)):
            answer, data = browser.get("api/1/slice", path="deep/x", version=version, index="0", max=10)
            assert (answer.headers["X-Shape"], answer.headers["X-Dtype"]) == ("10,10", "int16")
            found = np.frombuffer(data, "<i2").reshape(10, 10)
            assert found[0, 0] == first and found[1, 1] == 63
        assert browser.json("1/slice", 400, path="deep/x", index="7")["error"]
        assert browser.json("1/slice", 404, path="nothing")["error"]


class TestSafe:
    def test_a_query_that_takes_too_long_is_stopped(self, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(asking, "SECONDS", 0.2)
        query = "select sum(a.i * b.i) from range(10000000) a(i), range(10000000) b(i), samples"
        assert "takes longer" in browser.json("sql", 503, q=query)["error"]

    def test_only_this_machine_with_the_token_is_answered(self, browser: Browser) -> None:
        token, port = browser.server.token, browser.server.port
        assert browser.get("api/datasets", host=f"localhost:{port}")[0].status == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "127.0.0.1@evil.example"):
            assert browser.get("api/datasets", host=host)[0].status == 421, host
        for path in (
            "/",
            "/api/datasets",
            f"/{token[:-1]}/api/datasets",
            f"/{token}",
            "/ä",
        ):
            assert browser.get(quote(path))[0].status == 403, path

    def test_only_get(self, browser: Browser) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert browser.get("api/datasets", method=method)[0].status == 501

    def test_no_other_file_is_served(self, browser: Browser, folder: Path) -> None:
        for path in ("../server.py", "..%2fserver.py", "page/index.html", "%2e%2e/server.py", "/etc/passwd", "x.js"):
            answer, _ = browser.get(f"/{browser.server.token}/{path}")
            assert answer.status == 404, path
        for index in ("../../etc/passwd", "http://127.0.0.1/", "-1", "1e3", "٣", "9" * 30):
            assert browser.json("0/field", 400, index=index, field="cls")["error"]

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        some.sampled_from(
            [
                "datasets",
                "sql",
                "0/about",
                "0/samples",
                "0/field",
                "0/thumb",
                "0/array",
                "1/slice",
                "1/elsewhere",
                "9/x",
            ]
        ),
        some.dictionaries(
            some.sampled_from(
                ["at", "count", "index", "field", "size", "where", "key", "q", "path", "version", "start"]
            ),
            some.one_of(some.integers().map(str), some.text(max_size=20), some.sampled_from(["jpg", "cls", "cls=1"])),
            max_size=5,
        ),
    )
    def test_odd_requests_have_answers_that_are_json_or_bytes(
        self, browser: Browser, path: str, values: dict[str, str]
    ) -> None:
        answer, data = browser.get(f"api/{path}", **{k: v.encode("utf-8", "surrogatepass") for k, v in values.items()})
        assert answer.status in (200, 400, 404, 413, 414, 422), data
        if answer.status != 200:
            assert set(json.loads(data)) == {"error"}

    def test_what_is_no_http_ends_the_connection_only(self, browser: Browser) -> None:
        with socket.create_connection(("127.0.0.1", browser.server.port), timeout=30) as raw:
            raw.sendall(b"\x16\x03\x01\x00\xa5 nonsense\r\n\r\n")
            raw.shutdown(socket.SHUT_WR)
            assert b"400" in raw.recv(4096)
        assert browser.json("datasets")

    def test_giants_are_refused_before_they_are_unpacked(self, tmp_path: Path) -> None:
        stream = io.BytesIO()
        Image.new("1", (12_000, 12_000)).save(stream, "png")
        big = npy(np.zeros(LARGEST // 8 + 1))
        write_shard(tmp_path / "a.tar", [("a.png", stream.getvalue()), ("a.npy", big), ("b.png", picture(20, "png"))])
        st.index(str(tmp_path / "a.tar"))
        with serve([str(tmp_path / "a.tar")], StorageOptions()) as server:
            browser = Browser(server)
            assert browser.json("0/thumb", 422, index=0, field="png")["error"]
            assert "start and stop" in browser.json("0/field", 413, index=0, field="npy")["error"]
            answer, data = browser.get("api/0/field", index=0, field="npy", start=len(big) - 8)
            assert data == bytes(8) and answer.headers["X-Field-Size"] == str(len(big))
            assert browser.json("0/array", 413, index=0, field="npy")["error"]
            assert browser.get("api/0/thumb", index=1, field="png")[0].status == 200

    def test_an_index_that_names_other_hosts_is_refused(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            url = f"http://127.0.0.1:{other.getsockname()[1]}/secret.tar"
            index = {"shardlist": [{"url": url, "nsamples": 1}], "__kind__": "wids-shard-index-v1"}
            (tmp_path / "evil.json").write_text(json.dumps(index))
            with pytest.raises(st.ShardtoolsError, match="trust"):
                serve([str(tmp_path / "evil.json")], StorageOptions(retries=0))
            other.settimeout(0.1)
            with pytest.raises(TimeoutError):
                other.accept()


def test_thumbnails_that_were_not_used_for_longest_are_forgotten(tmp_path: Path) -> None:
    cache = ThumbCache(tmp_path, disk=1000)
    for second, key in enumerate("abc"):
        cache.put(key, ("png", bytes(300)))
        os.utime(tmp_path / f"{key}.png", (second, second))
    assert ThumbCache(tmp_path).get("a") == ("png", bytes(300))
    cache.put("d", ("jpeg", bytes(300)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "d.jpeg"]


@pytest.mark.parametrize("counted", [256, 1])
def test_what_has_no_manifest_is_counted_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    monkeypatch.setattr(about, "COUNTED", counted)
    for number in range(2):
        write_shard(tmp_path / f"a-{number}.tar", [(f"{number}.txt", b"abc"), (f"{number}.c{number}", b"1")])
    with serve([str(tmp_path / "a-@2.tar")], StorageOptions()) as server:
        found = Browser(server).json("0/about")
    assert (found["samples"], found["partial"]) == (2, False)
    fields = {field["name"]: (field["count"], field["bytes"]) for field in found["fields"]}
    if counted > 1:
        assert fields == {"c0": (1, 1), "c1": (1, 1), "txt": (2, 6)}
        assert found["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    else:
        assert fields == {"c0": (None, None), "txt": (None, None)} and found["bytes"] is None


def test_a_dataset_on_nginx_is_read_by_few_ranges(folder: Path, nginx: NginxServer) -> None:
    for path in folder.glob("train-*"):
        (nginx.root / path.name).write_bytes(path.read_bytes())
    with serve([f"{nginx.url}train-@3.tar"], StorageOptions()) as server, ThreadPoolExecutor(6) as pool:
        browser = Browser(server)
        assert browser.json("0/about")["samples"] == COUNT
        assert browser.json("0/samples", where="cls = 2", thumbs="jpg")["total"] == 4
        pictures = pool.map(lambda i: browser.get("api/0/thumb", index=i, field="jpg")[1], range(1, 9))
        assert all(data.startswith(b"\xff\xd8") for data in pictures)


def test_shards_that_are_not_there_are_not_served(folder: Path) -> None:
    for name, missing in (("nope-@2.tar", "nope-0.tar"), ("train-@4.tar", "train-3.tar")):
        with pytest.raises(st.ShardtoolsError, match=missing):
            serve([str(folder / "train-@3.tar"), str(folder / name)], StorageOptions())


def test_a_program_shows_datasets_and_hubs(folder: Path) -> None:
    dataset = st.open(str(folder / "train-@3.tar"))
    chosen = dataset.where("cls = 1")
    assert "href" not in dataset._repr_html_()
    shown, again, hub = dataset.show(), dataset.show(), st.show(st.hub(str(folder / "arrays")))
    assert shown == again and shown.url.partition("#")[0] == hub.url.partition("#")[0] and "href" in shown._repr_html_()
    port, token = int(shown.url.split(":")[2].split("/")[0]), shown.url.split("/")[3]

    class Server:
        pass

    server: Any = Server()
    server.port, server.token = port, token
    assert shown._repr_html_() in dataset._repr_html_() and "href" not in chosen._repr_html_()
    number = chosen.show().url.rpartition("=")[2]
    assert f"#of={number}" in chosen._repr_html_() and "href" not in pickle.loads(pickle.dumps(dataset))._repr_html_()
    samples = Browser(server).json(f"{number}/samples")["samples"]
    assert [one["key"] for one in samples] == ["s001", "s004", "s007", "s010"]
    assert Browser(server).json(f"{number}/samples", where="json.width > 4")["samples"][0]["index"] == 2
    with pytest.raises(st.ShardtoolsError, match="nothing to show"):
        st.show()
