"""Arrays of a hub that htview serves as Zarr, to other programs and to sites that know the secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import requests
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as some
from zarr.codecs import BytesCodec, GzipCodec, TransposeCodec

import shardtools as st
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from shardtools.viewer import zarr_keys
from shardtools.viewer.server import ViewServer
from tests.datasets import write_shard
from tests.viewer.browser import Browser
from tests.viewer.conftest import Site

Array = np.ndarray[Any, Any]

VALUES: dict[str, tuple[Array, dict[str, Any]]] = {
    "deep/x": (np.arange(5 * 70 * 50, dtype="int16").reshape(5, 70, 50), {"chunks": (2, 32, 32)}),
    "ä b%/c": (np.arange(21.0).reshape(7, 3), {"chunks": (4, 2), "compressors": GzipCodec()}),
    "scalar": (np.array(3.5), {}),
    "line": (np.arange(1000, dtype="uint32"), {"chunks": (300,), "compressors": None}),
    "shards": (np.arange(64 * 64, dtype="uint16").reshape(64, 64), {"chunks": (16, 16), "shards": (32, 32)}),
    "turned": (
        np.arange(24, dtype="complex64").reshape(4, 6),
        {"filters": TransposeCodec(order=(1, 0)), "serializer": BytesCodec(endian="big")},
    ),
    "flags": (np.array([True, False] * 5), {}),
    "texts": (np.array(["a", "ä" * 9, ""], dtype=object), {"dtype": "str"}),
}

PARTS = ["1", "v1", "main@3", "@2", "@", "main", "line", "c", "0", "zarr.json", "..", "deep", "\0", "1@1@1"]


@dataclass(frozen=True)
class Served:
    """A hub, the server that shows it as its second place, and the address of its Zarr stores."""

    hub: st.Hub
    server: ViewServer

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/{self.server.api.zarr_secret}/"

    def url(self, version: str, path: str) -> str:
        return f"{self.root}1/{quote(version, safe='@')}/{quote(path)}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    write_shard(folder / "a.tar", [("a.cls", b"1")])
    st.index(str(folder / "a.tar"))
    hub = st.hub(str(folder / "arrays"), single_writer=True)
    for name, (values, options) in VALUES.items():
        hub.array(name, shape=values.shape, **{"dtype": values.dtype, **options})[...] = values
    hub.array("holes", shape=(10,), chunks=(2,), dtype="float32", fill_value=7)[4:6] = 1
    hub.tag("v1")
    hub.load("line")[:10] = 0
    with serve([str(folder / "a.tar"), str(folder / "arrays")], StorageOptions(retries=0)) as server:
        yield Served(hub, server)


class TestReaders:
    @pytest.mark.parametrize("name", [*VALUES, "holes"])
    def test_zarr_reads_what_the_hub_has(self, served: Served, name: str) -> None:
        expected = served.hub.load(f"{name}:v1")[...]
        assert np.array_equal(zarr.open_array(served.url("v1", name), mode="r")[...], expected)

    def test_versions_are_those_of_the_hub(self, served: Served) -> None:
        newest = served.hub.snapshot().number
        for version in ("v1", f"main@{newest}", f"@{newest - 1}", "main@0"):
            found = zarr.open_group(served.url(version, ""), mode="r")
            expected = served.hub.list(version)
            assert sorted(name for name, node in found.members(max_depth=None) if hasattr(node, "shape")) == expected
            if "line" in expected:
                assert np.array_equal(found["line"][...], served.hub.load(f"line:{version}")[...])

    def test_tensorstore_reads_chunks_shards_and_holes(self, served: Served) -> None:
        tensorstore = pytest.importorskip("tensorstore")
        for name in ("deep/x", "shards", "holes"):
            store = {"driver": "zarr3", "kvstore": served.url("v1", name)}
            found = tensorstore.open(store).result().read().result()
            assert np.array_equal(found, served.hub.load(f"{name}:v1")[...])

    def test_xarray_reads_a_group(self, served: Served) -> None:
        data = xarray.Dataset({"t": (("y", "x"), np.arange(6.0).reshape(2, 3))}, coords={"x": [1, 2, 3]})
        with served.hub.transaction() as transaction:
            data.to_zarr(transaction.store(), group="weather/all", consolidated=False)
        version = f"main@{served.hub.snapshot().number}"
        assert xarray.open_zarr(served.url(version, "weather/all")).load().equals(data)


class TestAnswers:
    def test_ranges_and_sizes(self, served: Served) -> None:
        url = served.url("v1", "line/c/0")
        data = VALUES["line"][0][:300].tobytes()
        for wanted, part in (("bytes=0-3", data[:4]), ("bytes=8-", data[8:]), ("bytes=-4", data[-4:])):
            answer = requests.get(url, headers={"Range": wanted}, timeout=20)
            assert (answer.status_code, answer.content) == (206, part)
            start = data.index(part)
            assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        for wanted in ("", "bytes=0-1,4-5", "bytes=5-2", "lines=1-2", "bytes=-"):
            answer = requests.get(url, headers={"Range": wanted}, timeout=20)
            assert (answer.status_code, answer.content) == (200, data)
        answer = requests.get(url, headers={"Range": f"bytes={len(data)}-"}, timeout=20)
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{len(data)}")
        answer = requests.head(url, timeout=20)
        assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, str(len(data)), b"")

    def test_giants_are_sent_in_ranges_only(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zarr_keys, "LARGEST", 100)
        url = served.url("v1", "line/c/0")
        answer = requests.get(url, timeout=20)
        assert answer.status_code == 413 and "ask for ranges" in answer.json()["error"]
        assert requests.get(url, headers={"Range": "bytes=0-99"}, timeout=20).status_code == 206
        assert requests.head(url, timeout=20).headers["Content-Length"] == "1200"

    def test_404_is_for_keys_that_there_are_not(self, served: Served) -> None:
        for path in ("holes/c/0", "nothing/zarr.json", "line/c/99", "line", "", "line/.zarray"):
            for method in ("GET", "HEAD"):
                answer = requests.request(method, served.url("v1", path), timeout=20)
                assert answer.status_code == 404, path
        for version, status in (("main", 400), ("main@999", 410), ("nothing", 410)):
            assert requests.get(served.url(version, "line/zarr.json"), timeout=20).status_code == status

    def test_damage_is_no_fill_value(self, tmp_path: Path) -> None:
        hub = st.hub(str(tmp_path / "arrays"), single_writer=True)
        for name in ("gone", "bad"):
            hub.array(name, shape=(4,), dtype="uint8", chunks=(4,), compressors=None)[:] = [1, 2, 3, 4]
        for shard in (tmp_path / "arrays" / "data").rglob("*.tar"):
            data = shard.read_bytes()
            if b"gone/c/0" in data:
                shard.unlink()
            elif b"bad/c/0" in data:
                shard.write_bytes(data.replace(b"\x01\x02\x03\x04", b"\x01\x02\x03\x05"))
        with serve([str(tmp_path / "arrays")], StorageOptions(retries=0)) as server:
            root = f"http://127.0.0.1:{server.port}/{server.api.zarr_secret}/0/@{hub.snapshot().number}/"
            for name in ("gone", "bad"):
                answer = requests.get(f"{root}{name}/c/0", timeout=20)
                assert answer.status_code == 502 and "error" in answer.json()
                with pytest.raises(Exception, match="502"):
                    zarr.open_array(root + name, mode="r")[...]


class TestSafe:
    def test_any_origin_with_the_secret_may_read(self, served: Served) -> None:
        origin = {"Origin": "https://neuroglancer-demo.appspot.com"}
        for path in ("line/zarr.json", "line/c/0", "holes/c/0"):
            answer = requests.get(served.url("v1", path), headers=origin, timeout=20)
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert "sandbox" in answer.headers["Content-Security-Policy"]
        asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Private-Network": "true"}
        answer = requests.options(served.url("v1", "line/c/0"), headers={**origin, **asked}, timeout=20)
        assert answer.status_code == 200 and answer.headers["Access-Control-Allow-Private-Network"] == "true"
        assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD"
        assert answer.headers["Access-Control-Allow-Headers"] == "Range"

    def test_the_secret_opens_nothing_else(self, served: Served) -> None:
        server, base = served.server, f"http://127.0.0.1:{served.server.port}/"
        secret = server.api.zarr_secret
        for path in ("api/datasets", "index.html", "", "api/1/tree", "0/v1/zarr.json", "2/v1/zarr.json", "1", "1/v1"):
            answer = requests.get(f"{base}{secret}/{path}", timeout=20)
            assert answer.status_code in (400, 404, 410) and answer.headers["Content-Type"].startswith("application/")
        for token in (server.token, secret[:-1], ""):
            answer = requests.get(f"{base}{token}/1/v1/line/zarr.json", timeout=20)
            assert answer.status_code in (403, 404) and "Access-Control-Allow-Origin" not in answer.headers
        answer = requests.get(f"{base}{server.token}/api/datasets", headers={"Origin": "https://x.example"}, timeout=20)
        assert answer.ok and "Access-Control-Allow-Origin" not in answer.headers

    def test_no_path_leaves_the_hub(self, served: Served) -> None:
        port, secret = served.server.port, served.server.api.zarr_secret
        for path in ("1/v1/../line/zarr.json", "1/v1/%2e%2e/x", "1/v1//etc/passwd", "1/../v1/x", "1/v1/zarr.json/line"):
            connection = HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", f"/{secret}/{path}")  # as it is: requests would resolve the dots
            assert connection.getresponse().status in (404, 410), path
            connection.close()

    @settings(max_examples=40, deadline=None)
    @given(some.lists(some.one_of(some.text(max_size=8), some.sampled_from(PARTS)), max_size=5), some.text(max_size=12))
    def test_odd_requests_have_answers(self, served: Served, parts: list[str], wanted: str) -> None:
        path = "/".join(quote(part.encode("utf-8", "surrogatepass"), safe="") for part in parts)
        heads = {"Range": wanted.encode("latin-1", "replace").decode("latin-1").replace("\r", "").replace("\n", "")}
        connection = HTTPConnection("127.0.0.1", served.server.port, timeout=20)
        connection.request("GET", f"/{served.server.api.zarr_secret}/{path}", headers=heads)
        answer = connection.getresponse()
        assert answer.status in (200, 206, 400, 404, 410, 416) and answer.read() is not None
        connection.close()

    def test_only_reading_at_this_machines_own_name(self, served: Served) -> None:
        url = served.url("v1", "line/zarr.json")
        assert requests.get(url, headers={"Host": "evil.example"}, timeout=20).status_code == 421
        for method in ("PUT", "POST", "DELETE", "PATCH"):
            assert requests.request(method, url, data=b"{}", timeout=20).status_code == 501
        for path in ("api/datasets", "index.html"):
            for method in ("HEAD", "OPTIONS"):
                assert requests.request(method, served.server.url + path, timeout=20).status_code == 501


FETCH = """
const [url, range, done] = arguments;
fetch(url, range ? {headers: {Range: range}} : {}).then(
  async (answer) => done([answer.status, answer.headers.get("Content-Range"), (await answer.arrayBuffer()).byteLength]),
  (error) => done([error.name]));
"""


def test_a_page_of_another_origin_reads_arrays_and_nothing_else(browser: Browser, site: Site, served: Served) -> None:
    browser.driver.get(site.page)  # of this computer, too: Chromium asks its user before others reach it
    fetch = browser.driver.execute_async_script
    assert fetch(FETCH, served.url("v1", "line/c/0"), "bytes=0-9") == [206, "bytes 0-9/1200", 10]
    assert fetch(FETCH, served.url("v1", "line/c/0"), "bytes=-4") == [206, "bytes 1196-1199/1200", 4]  # a preflight
    assert fetch(FETCH, served.url("v1", "holes/c/0"), "")[0] == 404
    for path in ("api/datasets", "api/1/tree", "index.html"):
        assert fetch(FETCH, served.server.url + path, "") == ["TypeError"]
    assert fetch(FETCH, served.url("v1", "line/c/0").replace("/1/v1", "x/1/v1"), "") == ["TypeError"]


def test_the_page_shows_the_address_and_a_line_that_reads_it(browser: Browser, served: Served) -> None:
    browser.open(f"{served.server.url}#of=1&arrays/{quote('ä b%/c', safe='')}")
    browser.wait(lambda: browser.all(".served code"), "the address")
    url, line = browser.texts(".served code")
    assert url.startswith(f"{served.root}1/main@") and f'open_array("{url}"' in line
    [expression] = line.split("; ")[1:]
    assert np.array_equal(eval(expression, {"zarr": zarr}), VALUES["ä b%/c"][0])
    browser.run(
        "const box = document.querySelector('.versions select'); box.value = 'v1';"
        "box.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    browser.wait(lambda: browser.texts(".served code")[0].startswith(f"{served.root}1/v1/"), "the address of a tag")
    assert browser.texts(".elsewhere code")[2].endswith('.load("ä b%/c:v1")[...]')
    assert "does not read float64" in browser.one(".served .note").text and not browser.all(".served a")


def test_what_neuroglancer_does_not_read_is_said(served: Served) -> None:
    def ask(name: str) -> dict[str, Any]:
        answer = requests.get(f"{served.server.url}api/1/elsewhere", params={"path": name, "version": "v1"}, timeout=20)
        return dict(answer.json())

    assert ask("ä b%/c")["refused"] == "Neuroglancer does not read float64"
    assert ask("texts")["refused"] == "Neuroglancer does not read string"
    assert "without axes" in ask("scalar")["refused"]
    found = ask("deep/x")
    assert found["refused"] is None and found["state"]["displayDimensions"] == ["x", "y", "z"]
    document = requests.get(f"http://127.0.0.1:{served.server.port}{found['zarr']}zarr.json", timeout=20)
    assert json.loads(document.text)["shape"] == [5, 70, 50]
