"""What a dataset, a view and a record look like at a prompt and in a notebook."""

from __future__ import annotations

import io
import json
import pickle
import re
import time
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import shardtools
from shardtools.dataset.notebook import KEYS, SECONDS, thumbnail
from shardtools.reading import Dataset
from shardtools.shards.samples import Record
from tests.datasets import write_dataset, write_shard, written_dataset
from tests.recording_server import recording_server
from tests.servers import NginxServer

SIGNATURE = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def secret_spec(nginx: NginxServer) -> str:
    """A spec with a password and a signature, which the server does not ask for."""
    spec = write_dataset(nginx.root / "secret", 3, 2)
    return f"http://me:hunter2@{urlsplit(nginx.url).netloc}/secret/{spec}?sig={SIGNATURE}"


def test_no_password_is_shown(nginx: NginxServer, secret_spec: str) -> None:
    for dataset in (shardtools.open(secret_spec), shardtools.open([secret_spec])):
        view = dataset.view("cls")
        shown = [repr(each) for each in (dataset, view, view[1:], view.ragged, dataset.indexed(0), dataset.shard(0))]
        shown += [repr(dataset.options), repr(view.to_dask()), repr(dataset[0])]
        assert not [text for text in shown if "hunter2" in text or SIGNATURE in text]
        assert all(f"{nginx.url}secret/in-" in text for text in (shown[0], shown[1], shown[4]))


def test_a_long_list_of_shards_is_shown_by_its_start(tmp_path: Path) -> None:
    write_dataset(tmp_path, 5, 2)
    dataset = Dataset([f"{tmp_path}/in-{i}.tar" for i in range(5)], shardtools.open(f"{tmp_path}/in-@5.tar").options)
    first = ", ".join(repr(f"{tmp_path}/in-{i}.tar") for i in range(3))
    assert repr(dataset) == f"<Dataset [{first}, and 2 more]: 5 shards>"
    assert repr(dataset.view("txt")) == f"<FieldView 'txt' of 10 samples of [{first}, and 2 more]>"


def test_a_record_is_shown_in_short() -> None:
    record = Record({"key": "a/0017", "seg.png": bytes(12_345), "cls": b"7", "txt": "word " * 100, "x": np.eye(3)})
    assert repr(record) == (
        "Record({'key': 'a/0017', 'seg.png': <12,345 bytes>, 'cls': b'7', "
        "'txt': 'word word word word word word word wo...rd word word word word word word word ', "
        "'x': <float64 array of shape (3, 3)>})"
    )
    assert str(record) == repr(record)
    assert repr(dict(record)).startswith("{'key': 'a/0017', 'seg.png': b'\\x00\\x00")


def test_a_short_record_stays_one() -> None:
    record = Record({"key": "a", "jpg": bytes(100)})
    record.url, record.index = "x.tar", 3
    twin = pickle.loads(pickle.dumps(record))
    assert twin == record == {"key": "a", "jpg": bytes(100)}
    assert (twin.url, twin.index) == ("x.tar", 3)


def test_the_length_of_a_record_shown_is_bounded() -> None:
    wide: object = "x" * 1000
    for _ in range(8):
        wide = dict.fromkeys(range(30), wide)
    record = Record({"key": "k" * 1000, **{f"{i}.json": wide for i in range(1000)}})
    assert len(repr(record)) < 20_000
    assert "\x1b" not in repr(Record({"key": "\x1b[2J", "\x1b[2J": b"\x1b[2J", "txt": "\x1b[2J"}))
    looped = Record({"key": "a"})
    looped["self"] = {"looped": looped}
    assert repr(looped).startswith("Record({'key': 'a', 'self': {'looped': ")


# --- HTML


def picture(value: int, height: int = 30, width: int = 40) -> np.ndarray[Any, Any]:
    return np.full((height, width, 3), value, np.uint8)


def rows(first: int, count: int) -> list[dict[str, object]]:
    return [
        {"key": f"k/{i:02d}", "png": picture(10 * i % 256), "cls": i % 3, "txt": f"no {i}"}
        for i in range(first, first + count)
    ]


def pictures_in(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]*)"', html)
    return [Image.open(io.BytesIO(b64decode(data))) for data in found]


class Outline(HTMLParser):
    """The names of the elements of some HTML, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        assert {name for name, _ in attrs} <= {"style", "src", "alt"}

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    written_dataset(tmp_path, "in-@3.tar", [[], rows(0, 10), rows(10, 10)])
    return shardtools.open(f"{tmp_path}/in-@3.tar")


def test_a_dataset_shows_facts_fields_and_the_first_pictures(dataset: Dataset) -> None:
    html = dataset._repr_html_()
    text = Outline(html).text.splitlines()
    assert text[:5] == [f"Dataset '{dataset.spec}'", "shards", "3", "samples", "20"]
    assert text[5:9] == ["field", "values", "in the first shard", "mean bytes"]
    assert text[9:13] == ["cls", "number", "10", "1"]
    assert text[text.index("txt") :][:4] == ["txt", "text", "10", "4"]
    assert text[-7:-1] == ["k/06", "cls 0", "40 × 30", "k/07", "cls 1", "40 × 30"]
    assert text[-1] == "ds.show() shows all of it in the browser"
    assert [np.asarray(image)[0, 0].tolist() for image in pictures_in(html)] == [[10 * i] * 3 for i in range(8)]


def test_a_view_shows_its_own_first_pictures(dataset: Dataset) -> None:
    view = dataset.view("png")
    shown = pictures_in(view[[19, 3, 8, 9, 3, 10]]._repr_html_())
    assert [np.asarray(image)[0, 0, 0] for image in shown] == [190, 30, 80, 90, 30, 100]
    assert "first sample" not in view._repr_html_()
    assert view.shape == (20, 30, 40, 3)
    text = Outline(view._repr_html_()).text.splitlines()
    facts = ["FieldView 'png'", "samples", "20", "dataset", repr(dataset.spec), "first sample"]
    assert text[:7] == [*facts, "uint8, shape (30, 40, 3)"]
    for other in (view[:0], view[:, :5], dataset.view("png", decode=None), dataset.view("cls")):
        assert not pictures_in(other._repr_html_())


def test_texts_of_strangers_are_escaped_and_bounded(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>&\x1b[2J\u202e'
    fields = {"cls": b"<i>", "png": b"<u>"}
    records = [{"key": f"{evil}{'k' * 150}/{i}", f"<b onclick=x>{i}": b"1", **fields} for i in range(100)]
    written_dataset(tmp_path, "in-@1.tar", [records])
    path = tmp_path / "in-@1.tar.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "classes": [f"{evil}{i}" for i in range(1000)]}))
    dataset = shardtools.open(f"{tmp_path}/in-@1.tar")
    assert dataset.classes
    for html in (dataset._repr_html_(), dataset.view("png")._repr_html_()):
        outline = Outline(html)
        assert outline.elements <= {"div", "b", "table", "tr", "td", "th", "br", "img"}
        assert "<script>" in outline.text
        assert "\x1b" not in html and "\u202e" not in html
        assert len(html) < 30_000


def test_names_that_are_no_text_are_shown(tmp_path: Path) -> None:
    write_shard(tmp_path / "in.tar", [("\udcff.png", b"")])
    dataset = shardtools.open(str(tmp_path / "in.tar"))
    assert len(dataset) == 1
    assert "\\xff" in dataset._repr_html_().encode().decode()


def test_pictures_are_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 500, 700, 3), dtype=np.uint8)
    written_dataset(tmp_path, "in-@1.tar", [[{"key": f"{i}", "jpg": image} for i, image in enumerate(noise)]])
    html = shardtools.open(f"{tmp_path}/in-@1.tar")._repr_html_()
    assert [image.size for image in pictures_in(html)] == [(96, 69)] * 8
    assert len(html) < 150_000


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "F"])
def test_images_of_all_modes_are_shown(mode: str) -> None:
    grey = Image.linear_gradient("L")
    image = Image.fromarray(np.asarray(grey, np.uint16) * 9) if mode == "I;16" else grey.convert(mode)
    stream = io.BytesIO()
    image.save(stream, {"CMYK": "jpeg", "F": "tiff"}.get(mode, "png"))
    kind, data, size = thumbnail(stream.getvalue())
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    assert (kind, size, shown.shape) == ("jpeg", (256, 256), (96, 96))
    assert shown[2].mean() < 30 and shown[-2].mean() > 225


def test_an_image_that_claims_to_be_huge_is_not_decoded(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(stream, "png")
    written_dataset(tmp_path, "in-@1.tar", [[{"key": "a", "png": stream.getvalue()}, {"key": "b", "png": picture(1)}]])
    html = shardtools.open(f"{tmp_path}/in-@1.tar")._repr_html_()
    assert "67,108,864 bytes" in Outline(html).text
    assert len(pictures_in(html)) == 1


# --- what is shown must not cost much, nor fail


def test_no_shard_is_read_to_show_it(tmp_path: Path) -> None:
    with recording_server(tmp_path / "www") as server:
        for i in range(3):
            write_shard(server.root / f"in-{i}.tgz", [("a.png", b"1"), ("b.png", b"2")])
        dataset = shardtools.open(f"{server.url}in-@3.tgz")
        assert dataset._ipython_key_completions_() == []
        text = Outline(dataset._repr_html_()).text
        assert "not counted yet" in text and "htindex" in text
        wanted = [request.path for request in server.requests() if request.method == "GET"]
        assert not [path for path in wanted if path.endswith(".tgz")]
        assert len(dataset) == 6
        before = len(server.requests())
        assert "image" in Outline(dataset._repr_html_()).text
        assert dataset._ipython_key_completions_() == ["a", "b"]
        assert len(server.requests()) == before


def test_few_bytes_are_fetched_to_show_a_dataset(tmp_path: Path) -> None:
    with recording_server(tmp_path / "www") as server:
        written_dataset(server.root, "in-@4.tar", [rows(10 * i, 10) for i in range(4)])
        dataset = shardtools.open(f"{server.url}in-@4.tar")
        before = len(server.requests())
        assert len(pictures_in(dataset._repr_html_())) == 8
        paths = [request.path for request in server.requests()[before:]]
        assert sorted(paths) == ["/in-0.tar", "/in-0.tar", "/in-0.tar.index.npz"]


def test_an_error_is_shown(tmp_path: Path) -> None:
    written_dataset(tmp_path, "in-@2.tar", [rows(0, 5), rows(5, 5)])
    dataset = shardtools.open(f"{tmp_path}/in-@2.tar")
    view = dataset.view("png")
    (tmp_path / "in-0.tar").unlink()
    for shown in (dataset, view):
        text = Outline(shown._repr_html_()).text
        assert "in-0.tar: " in text and "10" in text
    assert dataset._ipython_key_completions_() == []


def test_a_server_that_is_gone_is_soon_given_up(tmp_path: Path) -> None:
    with recording_server(tmp_path / "www") as server:
        written_dataset(server.root, "in-@2.tar", [rows(0, 5), rows(5, 5)])
        dataset = shardtools.open(f"http://me:hunter2@{server.place}/in-@2.tar")
    start = time.monotonic()
    html = dataset._repr_html_()
    assert f"{server.url}in-0.tar: " in Outline(html).text and "hunter2" not in html
    assert time.monotonic() - start < SECONDS


def test_of_large_samples_only_what_is_shown_is_read(tmp_path: Path) -> None:
    large = [{**row, "npy": np.zeros(1 << 21, np.uint8)} for row in rows(0, 10)]
    with recording_server(tmp_path / "www") as server:
        written_dataset(server.root, "in-@1.tar", [large])
        dataset = shardtools.open(f"{server.url}in-@1.tar")
        html = dataset.view("png")[[3, 1, 3, 2]]._repr_html_()
        asked = [request.headers["range"] for request in server.requests() if "range" in request.headers]
    assert [np.asarray(image)[0, 0, 0] for image in pictures_in(html)] == [30, 10, 30, 20]
    spans = [span.split("-") for text in asked for span in text.removeprefix("bytes=").split(",")]
    assert 0 < sum(int(last) - int(first) + 1 for first, last in spans) < 100_000


def test_pictures_that_are_too_large_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_dataset(tmp_path, "in-@1.tgz", [rows(0, 5)])
    dataset = shardtools.open(f"{tmp_path}/in-@1.tgz")
    assert len(pictures_in(dataset._repr_html_())) == 5
    monkeypatch.setattr("shardtools.dataset.notebook.BYTES", 2000)
    assert "no preview: " in Outline(shardtools.open(dataset.spec)._repr_html_()).text
    monkeypatch.setattr("shardtools.dataset.notebook.BYTES", 50)
    for shown in (dataset, dataset.view("png")):
        assert "no preview: the pictures are too large" in Outline(shown._repr_html_()).text


def test_damage_is_shown(tmp_path: Path) -> None:
    written_dataset(tmp_path, "in-@1.tar", [rows(0, 5)])
    data = bytearray((tmp_path / "in-0.tar").read_bytes())
    at = data.index(b"\x89PNG") + 50
    data[at] ^= 1
    (tmp_path / "in-0.tar").write_bytes(data)
    text = Outline(shardtools.open(f"{tmp_path}/in-@1.tar")._repr_html_()).text
    assert "png" in text and "checksum" in text


def test_a_dataset_without_samples_is_shown(tmp_path: Path) -> None:
    written_dataset(tmp_path, "in-@2.tar", [[], []])
    dataset = shardtools.open(f"{tmp_path}/in-@2.tar")
    expected = [f"Dataset '{dataset.spec}'", "shards", "2", "samples", "0"]
    assert Outline(dataset._repr_html_()).text.splitlines()[:-1] == expected
    assert dataset._ipython_key_completions_() == []


def test_keys_are_completed_up_to_a_number(tmp_path: Path) -> None:
    written_dataset(tmp_path, "in-@1.tar", [[{"key": f"{i:05d}", "txt": "x"} for i in range(KEYS + 10)]])
    dataset = shardtools.open(f"{tmp_path}/in-@1.tar")
    assert dataset._ipython_key_completions_() == [f"{i:05d}" for i in range(KEYS)]


def test_in_ipython(dataset: Dataset) -> None:
    formatter = pytest.importorskip("IPython.core.formatters").DisplayFormatter()
    completer = pytest.importorskip("IPython.core.completer")
    view, record = dataset.view("png"), dataset[3]
    for shown in (dataset, view):
        formatted, _ = formatter.format(shown)
        assert formatted["text/plain"] == repr(shown)
        assert len(pictures_in(formatted["text/html"])) == 8
    assert formatter.format(record)[0] == {"text/plain": repr(record)}

    def completions(code: str) -> set[str]:
        found = completer.IPCompleter(namespace={"ds": dataset, "record": record}, use_jedi=False)
        with completer.provisionalcompleter():
            return {completion.text for completion in found.completions(code, len(code))}

    assert completions('record["') == set(record)
    assert completions('ds["k/0') == {f"k/{i:02d}" for i in range(10)}
