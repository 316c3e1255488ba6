"""The page without a program on the server: it reads manifest, sidecars and shards by itself, from another origin."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import requests
from selenium.webdriver.common.keys import Keys

import shardtools as st
from tests.datasets import write_shard
from tests.servers import wait_until
from tests.viewer.browser import PICTURES, Browser
from tests.viewer.conftest import PAGE, Site
from tests.viewer.test_server import npy

PIXELS = """
return Array.from(document.querySelectorAll('figure.pixels canvas'), (canvas) => Array.from({length: 6},
  (_, i) => canvas.getContext('2d').getImageData(i % 3, Math.floor(i / 3), 1, 1).data[0]));
"""

CUT_OFF = """
const bottom = (element) => element.getBoundingClientRect().bottom;
return Array.from(document.querySelectorAll('.visual > img, .visual > .array'))
  .filter((image) => bottom(image) > bottom(image.parentElement) + 1).map((image) => image.outerHTML);
"""
"""Cards whose picture is larger than its place."""


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in PAGE.iterdir()) < 150_000


class TestCors:
    def test_pages_of_other_origins_may_read_ranges(self, site: Site) -> None:
        origin = {"Origin": "http://elsewhere.example"}
        answer = requests.get(f"{site.data}animals-0.tar", headers={**origin, "Range": "bytes=0-9"}, timeout=20)
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (206, "*")
        exposed = answer.headers["Access-Control-Expose-Headers"]
        assert all(name in exposed for name in ("Content-Range", "Content-Length", "ETag"))
        missing = requests.get(f"{site.data}nothing", headers=origin, timeout=20)
        assert (missing.status_code, missing.headers["Access-Control-Allow-Origin"]) == (404, "*")

    def test_they_may_not_write(self, site: Site) -> None:
        headers = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "PUT"}
        answer = requests.options(f"{site.data}animals-0.tar", headers=headers, timeout=20)
        assert answer.status_code == 204
        assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD"


def test_overview(browser: Browser, site: Site) -> None:
    browser.open(site.view("animals-@2.tgz"))
    assert browser.texts(".figures dd")[:2] == ["120", "2"]
    assert browser.texts(".panel tbody th") == ["cls", "json", "npy", "png", "txt"]
    assert browser.texts(".bars .label") == ["ant", "bee", "cat"]
    assert "Small animals" in browser.text() and "htupload" in browser.text()


@pytest.mark.parametrize("name", ["animals-@2.tar", "animals-@2.tgz"])
def test_grid_and_its_pages(browser: Browser, site: Site, name: str) -> None:
    browser.open(site.view(name, "#at=40"))
    assert browser.texts(".card h3 a") == [f"k{i:03d}" for i in range(40, 88)]  # from both shards
    assert browser.run(PICTURES)[:8] == [24] * 8
    assert browser.run(CUT_OFF) == []
    assert browser.texts(".card .lines p")[0] == "cls 1 · bee"
    browser.press(Keys.PAGE_DOWN)
    browser.wait(lambda: browser.hash() == "#at=88", "the next page")
    browser.wait_ready()
    assert browser.texts(".card h3 a")[-1] == "k119"


def test_same_origin_and_a_single_shard(browser: Browser, site: Site) -> None:
    browser.open(f"{site.same}view/index.html?src={site.same}animals-1.tar#at=0")
    assert browser.texts(".card h3 a")[0] == "k060"


def test_sample(browser: Browser, site: Site) -> None:
    browser.open(site.view("animals-@2.tgz", "#sample=61"))
    browser.wait_text("24 × 24 pixels")
    browser.wait_text("2 × 3 int16, 61 to 66")
    assert "animal number 61" in browser.text()
    assert browser.texts(".json .name")[:2] == ["width", "tags"]
    assert "animals-1.tgz" in browser.text()
    htextract, python = browser.texts(".command code")
    assert htextract == f"htextract {site.data}animals-@2.tgz --sample k061 -f png > k061.png"
    assert python == f'import shardtools as st; st.open("{site.data}animals-@2.tgz")[61]["png"]'


class TestFind:
    @pytest.mark.parametrize(("text", "sample"), [("100", 100), ("k077", 77), ("key:k003", 3)])
    def test_by_number_or_key(self, browser: Browser, site: Site, text: str, sample: int) -> None:
        browser.open(site.view("animals-@2.tar"))
        browser.find(text)
        browser.wait(lambda: browser.hash() == f"#sample={sample}", text)
        browser.wait_text(f"animal number {sample}")

    def test_by_class(self, browser: Browser, site: Site) -> None:
        browser.open(site.view("animals-@2.tar"))
        browser.all(".bars a")[2].click()
        browser.wait_text("cls = 2")
        assert browser.texts(".card h3 a") == [f"k{i:03d}" for i in range(2, 120, 3)]

    def test_what_is_not_there(self, browser: Browser, site: Site) -> None:
        browser.open(site.view("animals-@2.tar", "#at=0"))
        browser.find("k999")
        browser.wait_text("There is no sample “k999”")
        assert len(browser.all(".card")) == 48
        browser.press(Keys.ARROW_RIGHT)  # the keys are the page's again
        assert browser.run("return document.activeElement.textContent") == "k000"

    def test_out_of_range(self, browser: Browser, site: Site) -> None:
        for fragment, said in (
            ("#sample=x", "index x is out of range: the dataset has 120 samples"),
            ("#sample=120", "index 120 is out of range: the dataset has 120 samples"),
            ("#at=1000", "There are 120 samples."),
        ):
            browser.open(site.view("animals-@2.tar", fragment))
            assert said in browser.text()


@pytest.fixture(scope="module")
def odd(site: Site) -> str:
    """The name of a dataset with a file of keys, classes 0 and 1 by turns, and one array in four ways of writing it."""
    array = np.arange(6).reshape(2, 3)
    ways = {"big": array.astype(">f4"), "fortran": np.asfortranarray(array), "half": array.astype("f2"), "long": array}
    arrays = [(f"o000.{name}.npy", npy(values)) for name, values in ways.items()]
    for number in range(2):
        classes = [(f"o{i:03d}.cls", b"%d" % (i % 2)) for i in range(60 * number, 60 * number + 60)]
        write_shard(site.root / f"odd-{number}.tar", classes[:1] + arrays * (number == 0) + classes[1:])
    st.index(str(site.root / "odd-@2.tar"), table=True)
    return "odd-@2.tar"


def test_a_search_for_a_class_goes_on_where_a_page_ends(browser: Browser, site: Site, odd: str) -> None:
    browser.open(site.view(odd, "#where=cls%20%3D%201&at=0"))
    assert browser.texts(".card h3 a") == [f"o{i:03d}" for i in range(1, 97, 2)]
    [on] = browser.all(".pager a")
    assert on.text == "Search on from 96"
    on.click()
    browser.wait(lambda: browser.texts(".card h3 a") == [f"o{i:03d}" for i in range(97, 120, 2)], "the rest")


def test_a_file_of_keys_leads_to_the_one_shard_with_a_key(browser: Browser, site: Site, odd: str) -> None:
    browser.forget()
    browser.open(site.view(odd, "#at=60"))
    before = len(site.requests())
    browser.find("o077")
    browser.wait(lambda: browser.hash() == "#sample=77", "the sample")
    browser.wait_ready()
    wait_until(lambda: len([line for line in site.requests()[before:] if f"{odd}.keys" in line]) == 2, "the log")
    assert not [line for line in site.requests()[before:] if "odd-0.tar" in line]


def test_arrays_are_the_same_however_they_are_written(browser: Browser, site: Site, odd: str) -> None:
    browser.open(site.view(odd, "#sample=0"))
    browser.wait(lambda: len(browser.all("figure.pixels canvas")) == 4, "the arrays")
    assert browser.run(PIXELS) == [[0, 51, 102, 153, 204, 255]] * 4


def test_compare(browser: Browser, site: Site) -> None:
    browser.open(f"{site.page}?a={site.data}animals-@2.tar&b={site.data}animals-1.tgz")
    browser.wait_text("There is no sample “k000”")
    browser.go("#compare&at=60")
    assert not browser.all(".pair.differs")
    assert browser.texts(".pair .marks")[0] == "cls samejson samenpy samepng sametxt same"


def test_keyboard(browser: Browser, site: Site) -> None:
    browser.open(site.view("animals-@2.tar", "#at=0"))
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.run("return document.activeElement.textContent") == "k001"
    browser.press(Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ENTER)
    browser.wait(lambda: browser.hash() == "#sample=1", "the sample")
    browser.wait_text("animal number 1")
    browser.press(Keys.ARROW_RIGHT)
    browser.wait(lambda: browser.hash() == "#sample=2", "the next sample")
    browser.wait_ready()
    browser.press(Keys.ESCAPE)
    browser.wait(lambda: browser.hash() == "#at=0", "the grid")
    browser.wait(lambda: browser.run("return document.activeElement.textContent") == "k002", "the focus where it was")
    browser.press("/")
    assert browser.run("return document.activeElement.id") == "find-text"


class TestPlacards:
    def show(self, browser: Browser, site: Site, source: str, fragment: str = "#at=0") -> str:
        browser.open(f"{site.page}?src={source}{fragment}")
        [text] = browser.texts("main > .placard")
        return text

    def test_zstd(self, browser: Browser, site: Site) -> None:
        text = self.show(browser, site, f"{site.data}x-0.tar.zst")
        assert "cannot decompress zstd" in text and "htview" in text

    def test_no_sidecar(self, browser: Browser, site: Site) -> None:
        (site.root / "bare.tar").write_bytes((site.root / "animals-0.tar").read_bytes())
        assert "bare.tar has no sidecar" in self.show(browser, site, f"{site.data}bare.tar")

    def test_no_manifest(self, browser: Browser, site: Site) -> None:
        assert "no-@3.tar.json does not exist" in self.show(browser, site, f"{site.data}no-@3.tar")

    def test_a_damaged_sidecar(self, browser: Browser, site: Site) -> None:
        (site.root / "bad.tar.index.npz").write_bytes(b"PK\x03\x04 no archive")
        assert "sidecar of bad.tar is damaged" in self.show(browser, site, f"{site.data}bad.tar")

    def test_what_is_no_web_address(self, browser: Browser, site: Site) -> None:
        assert "cannot read s3: addresses" in self.show(browser, site, "s3://bucket/train-@4.tar")

    @pytest.mark.parametrize("start", ["s3://b/", "http://127.0.0.1:PORT/"])
    def test_an_address_is_one_word_of_the_command(self, browser: Browser, site: Site, start: str) -> None:
        name = "a';touch$IFS'x-@2.tar"
        place = start.replace("127.0.0.1:PORT/", site.data.partition("://")[2])
        self.show(browser, site, place + quote(name, safe=""))
        [command] = browser.texts(".placard code")
        program, source = shlex.split(command)
        assert program.startswith("ht") and source.startswith(place) and source.endswith("'x-@2.tar")


def test_a_bad_sample_spoils_its_own_card(browser: Browser, site: Site) -> None:
    for name in ("animals-0.tar", "animals-0.tar.index.npz"):
        (site.root / name.replace("animals", "spoiled")).write_bytes((site.root / name).read_bytes())
    data = bytearray((site.root / "spoiled-0.tar").read_bytes())
    third = [i for i in range(0, len(data), 512) if data[i : i + 4] == b"\x89PNG"][3]
    data[third + 20 : third + 40] = bytes(20)
    (site.root / "spoiled-0.tar").write_bytes(data)
    browser.open(site.view("spoiled-0.tar", "#at=0"))
    browser.wait(lambda: browser.texts(".card .placard"), "the placard")
    assert browser.texts(".card .placard strong") == ["The data of this field are damaged"]
    assert "damaged" in browser.texts(".card")[3]
    assert browser.run(PICTURES)[:6] == [24] * 6


def test_a_dataset_that_was_replaced_is_read_anew(browser: Browser, site: Site, tmp_path: Path) -> None:
    """Nothing of it is taken from what the browser keeps."""
    for samples in (9, 4):
        write_shard(tmp_path / "in-0.tar", [(f"r{i}.txt", b"one of %d" % samples) for i in range(samples)])
        st.sort(str(tmp_path / "in-0.tar"), str(site.root / "again-@1.tar"), overwrite=True)
        for path in site.root.glob("again-*"):  # so old that a browser keeps it for long
            os.utime(path, (samples, samples))
        browser.open(site.view("again-@1.tar", "#at=0"))
        browser.wait(lambda samples=samples: f"one of {samples}" in browser.text(), "the texts")  # type: ignore[misc]
        assert len(browser.all(".card")) == samples


def test_a_published_page(browser: Browser, site: Site) -> None:
    """Beside the dataset, and in a folder of another origin."""
    spec = f"{site.data}shown-@2.tgz"
    st.copy(f"{site.data}animals-@2.tgz", spec)
    beside = st.publish(spec).link
    apart = st.publish(spec, to=f"{site.data}pages/animals", overwrite=True).link
    assert beside is not None and apart is not None
    for link in (beside, apart.replace("127.0.0.1", "localhost")):
        browser.open(link)
        assert browser.texts(".figures dd")[:2] == ["120", "2"] and len(browser.all(".mosaic img")) > 20
        browser.open(f"{link}#at=48")
        assert browser.run(PICTURES)[:8] == [24] * 8
        assert browser.texts(".card h3 a")[0] == "k048"


def test_phone_and_dark(browser: Browser, site: Site) -> None:
    colours = []
    for dark in (False, True):
        for fragment in ("", "#at=0", "#sample=5"):
            browser.open(site.view("animals-@2.tar", fragment), width=375, height=844, dark=dark)
            assert browser.run("return document.documentElement.scrollWidth") == 375, fragment
        colours.append(browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(251, 251, 250)", "rgb(20, 21, 23)"]


def test_a_page_takes_one_sidecar_and_one_range(browser: Browser, site: Site) -> None:
    browser.forget()
    browser.open(site.view("animals-@2.tar", "#at=0"))
    before = len(site.requests())
    browser.go("#at=62")
    browser.wait(lambda: browser.run(PICTURES)[:1] == [24], "a picture")
    wait_until(lambda: len(site.requests()) >= before + 2, "the log")
    assert len(site.requests()) == before + 2
