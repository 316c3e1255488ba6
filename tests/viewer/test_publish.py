"""`htview --publish`: what is written beside a dataset, and with which types web servers and buckets give it out."""

from __future__ import annotations

import io
import json
import re
import tarfile
from base64 import b64decode
from pathlib import Path
from urllib.parse import quote, urljoin
from urllib.request import urlopen

import pytest
from PIL import Image

import shardtools as st
from shardtools.programs.view import serve
from shardtools.query.published import page_names
from shardtools.storage import StorageOptions, get_storage
from shardtools.viewer import publish as publishing
from shardtools.viewer.publish import thumbnails
from tests.cli.command import call
from tests.gcs_servers import gcs_emulator
from tests.gcs_servers import use_environment as use_gs_environment
from tests.moto_server import moto_server, use_environment
from tests.servers import NginxServer
from tests.viewer.test_server import Browser, make_train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two shards."""
    folder = tmp_path_factory.mktemp("published")
    make_train(folder, 2)
    return folder


def check_page(link: str, types: dict[str, str]) -> None:
    """Follow a link as a browser does: the page, what it loads, the summary and the manifest."""
    with urlopen(link, timeout=30) as answer:
        assert answer.headers["Content-Type"].partition(";")[0] == "text/html"
        page = answer.read().decode()
    [source] = re.findall('<meta name="shardtools-src" content="([^"]*)">', page)
    assert "shardtools-api" not in page
    for name in re.findall('(?:href|src)="([a-z]+\\.(?:js|css))"', page):
        with urlopen(urljoin(link, name), timeout=30) as answer:
            assert answer.headers["Content-Type"].partition(";")[0] in types[name.rpartition(".")[2]]
    with urlopen(urljoin(link, f"{source}.view.json"), timeout=30) as answer:
        view = json.load(answer)
    assert (view["format"], view["samples"], view["spec"]) == ("shardtools view", 8, "train-@2.tar")
    assert len(view["histograms"]) > 1 and view["classes"]["values"]
    assert [one["index"] for one in view["thumbnails"]] == list(range(1, 8))  # the first is no picture
    with Image.open(io.BytesIO(b64decode(view["thumbnails"][0]["data"]))) as image:
        assert image.size == (96, 48)
    with urlopen(urljoin(link, f"{source}.json"), timeout=30) as answer:
        assert len(json.load(answer)["shardlist"]) == 2


SCRIPTS = "text/javascript application/javascript"


def test_a_dataset_on_nginx_is_published_once(shards: Path, nginx: NginxServer, tmp_path: Path) -> None:
    for path in shards.iterdir():
        (nginx.root / path.name).write_bytes(path.read_bytes())
    done = call("--publish", f"{nginx.url}train-@2.tar", cwd=tmp_path, program="htview")
    assert done.out == f"{nginx.url}train-@2.tar.view/index.html\n"
    check_page(done.out.strip(), {"js": SCRIPTS, "css": "text/css"})
    assert sorted(path.name for path in (nginx.root / "train-@2.tar.view").iterdir()) == sorted(page_names())
    with pytest.raises(st.ShardtoolsError, match="--overwrite"):
        st.publish(f"{nginx.url}train-@2.tar")
    assert st.publish(f"{nginx.url}train-@2.tar", overwrite=True).link == done.out.strip()
    st.remove(f"{nginx.url}train-@2.tar")
    assert not [path for path in nginx.root.rglob("*") if path.is_file()]  # summary and page go with the dataset


def test_a_bucket_is_served_and_gives_out_the_page(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as moto:
        use_environment(monkeypatch, moto.environment())
        moto.client().create_bucket(Bucket="shown", ACL="public-read")
        for path in shards.iterdir():
            moto.client().put_object(Bucket="shown", Key=f"d/{path.name}", Body=path.read_bytes())
        found = st.publish("s3://shown/d/train-@2.tar", to="s3://shown/pages/train")
        assert (found.page, found.summary) == (
            "s3://shown/pages/train/index.html",
            "s3://shown/d/train-@2.tar.view.json",
        )
        assert found.link == f"{moto.url}shown/pages/train/index.html"
        for name in page_names():
            answer = moto.client().head_object(Bucket="shown", Key=f"pages/train/{name}")
            kind = {"html": "text/html", "js": "text/javascript", "css": "text/css"}[name.rpartition(".")[2]]
            assert answer["ContentType"] == f"{kind}; charset=utf-8"
        with serve(["s3://shown/d/train-@2.tar"], StorageOptions()) as server:
            browser = Browser(server)
            assert browser.json("0/samples", at=6, count=2)["samples"][1]["key"] == "s007"
            assert browser.get("api/0/thumb", index=6, field="jpg")[1].startswith(b"\xff\xd8")


def test_google_cloud_storage_gives_the_page_out_with_its_types(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gcs_emulator("shown") as address:
        use_gs_environment(monkeypatch, {"STORAGE_EMULATOR_HOST": address})
        for path in shards.iterdir():
            with get_storage(url := f"gs://shown/{path.name}").create(url) as sink:
                sink.write(path.read_bytes())
        found = st.publish("gs://shown/train-@2.tar")
        assert found.link == "https://storage.googleapis.com/shown/train-@2.tar.view/index.html"
        for name, kind in (("index.html", "text/html"), ("main.js", "text/javascript"), ("style.css", "text/css")):
            path_of_it = quote(f"train-@2.tar.view/{name}", safe="")
            with urlopen(f"{address}/storage/v1/b/shown/o/{path_of_it}", timeout=30) as answer:
                assert json.load(answer)["contentType"].partition(";")[0] == kind  # the emulator drops the rest


def test_thumbnails_have_a_bounded_number_of_bytes(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = st.open(str(shards / "train-@2.tar"))
    sizes = [len(b64decode(one["data"])) for one in thumbnails(dataset)]
    assert len(sizes) == 7
    monkeypatch.setattr(publishing, "BYTES", sum(sizes[:3]))
    assert [one["index"] for one in thumbnails(dataset)] == [1, 2, 3]


def test_what_has_no_place_of_its_own_is_not_published(shards: Path) -> None:
    for spec in (f"{shards}/train-*.tar", "-", f"{shards}/x-@auto.tar"):
        with pytest.raises(st.ShardtoolsError):
            st.publish(spec)


def test_what_browsers_cannot_read_is_not_published(shards: Path, tmp_path: Path) -> None:
    def refuse(spec: str, match: str) -> None:
        with pytest.raises(st.ShardtoolsError, match=match):
            st.publish(tmp_path / spec)
        assert not list(tmp_path.glob("*.view*"))

    with tarfile.open(tmp_path / "a-0.tgz", "w:gz") as tar:
        (tmp_path / "x.txt").write_bytes(b"x")
        tar.add(tmp_path / "x.txt", "x.txt")
    refuse("a-@1.tgz", "a-@1.tgz.json: .*run htindex")
    st.index(tmp_path / "a-@1.tgz")
    refuse("a-@1.tgz", "a-0.tgz: its sidecar has no entry points")
    st.sort(tmp_path / "a-@1.tgz", tmp_path / "z-@1.tar.zst")
    refuse("z-@1.tar.zst", "z-0.tar.zst: browsers cannot decompress zstd")
    st.sort(tmp_path / "a-@1.tgz", tmp_path / "b-@1.tgz")
    (tmp_path / "b-0.tgz.index.npz").unlink()
    refuse("b-@1.tgz", "b-0.tgz.index.npz: .*run htindex")
    st.index(tmp_path / "b-@1.tgz")  # finds the entry points again
    assert st.publish(tmp_path / "b-@1.tgz").page.endswith("b-@1.tgz.view/index.html")
