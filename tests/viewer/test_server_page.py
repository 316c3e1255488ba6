"""The page of htview in Chromium: what the server answers is shown, and nothing of it runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import requests
import zarr
from click.testing import CliRunner
from selenium.webdriver.common.keys import Keys

import shardtools as st
from shardtools.cli.htarray import main as htarray
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from shardtools.viewer.server import ViewServer
from tests.datasets import write_shard
from tests.viewer.browser import PICTURES, Browser
from tests.viewer.conftest import png

WIDE = ("compare&at=0", f"sql={quote('select key, cls from samples limit 3')}", "of=2&arrays/deep%2Fx")
PIXEL = """
const {data} = document.querySelector('figure.pixels canvas').getContext('2d').getImageData(3, 4, 1, 1);
return Array.from(data.slice(0, 3));
"""
CHANGE = """
const control = document.querySelector(arguments[0]);
control.value = arguments[1];
control.dispatchEvent(new Event('change', {bubbles: true}));
"""
PLACE = "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()"
ATTACK = "<img src=x onerror=document.title='attacked'>"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    """Two datasets, the first as .tar.zst and with a table; and a hub."""
    folder = tmp_path_factory.mktemp("served")

    def members(first: int, shift: int) -> Iterator[tuple[str, bytes]]:
        for i in range(first, first + 30):
            yield f"k{i:02d}.cls", b"%d" % (i % 3)
            yield f"k{i:02d}.json", json.dumps({"n": i, "evil": ATTACK}).encode()
            yield f"k{i:02d}.png", png(24, i + shift) if i != 5 else b"no picture"
            yield f"k{i:02d}.txt", ATTACK.encode()
            yield f"k{i:02d}.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'></svg>"

    for number in range(2):
        write_shard(folder / f"old-{number}.tar.zst", members(30 * number, 0))
        write_shard(folder / f"new-{number}.tar", members(30 * number, 9))
    st.index(str(folder / "old-@2.tar.zst"), table=True)
    st.index(str(folder / "new-@2.tar"))
    hub = st.hub(str(folder / "arrays"), single_writer=True)
    array = hub.array("deep/x", shape=(5, 20, 30), dtype="float32")
    array[:] = np.random.default_rng(0).random((5, 20, 30), "f4")
    for i in range(25):
        hub.array(f"many/with a long name {i:02d}", shape=(9,), dtype="uint8")
    array[2] = 7
    sources = [str(folder / name) for name in ("old-@2.tar.zst", "new-@2.tar", "arrays")]
    with serve(sources, StorageOptions()) as started:
        yield started


def test_overview_grid_and_sample(browser: Browser, server: ViewServer) -> None:
    browser.open(server.url)
    assert browser.texts(".figures dd")[:2] == ["60", "2"]
    browser.open(f"{server.url}#at=0")
    assert browser.texts(".card h3 a")[:2] == ["k00", "k01"]
    browser.wait(lambda: browser.run(PICTURES)[:4] == [24] * 4, "the thumbnails")
    browser.press(Keys.PAGE_DOWN)
    browser.wait(lambda: browser.hash() == "#at=48", "the next page")
    browser.open(f"{server.url}#sample=31")
    browser.wait_text(ATTACK)
    assert "k31" in browser.text() and "sample 31 of 60" in browser.text()
    assert browser.driver.title.endswith("shardtools")


def test_a_sample_and_its_fields(browser: Browser, server: ViewServer) -> None:
    browser.open(f"{server.url}#sample=31")
    browser.wait_text("24 × 24 pixels")
    assert browser.texts(".field h2")[:1] and not browser.all(".field .placard")
    assert browser.texts(".json .name") == ["n", "evil"] and browser.texts(".json .string") == [json.dumps(ATTACK)]
    [frame] = browser.all("iframe")
    assert frame.get_attribute("sandbox") == ""
    browser.press(Keys.ARROW_LEFT)
    browser.wait(lambda: browser.hash() == "#sample=30", "the sample before")
    browser.open(f"{server.url}#sample=5")
    browser.wait_text("no picture that a browser can show")
    assert browser.texts(".json .name") == ["n", "evil"]


def test_conditions(browser: Browser, server: ViewServer) -> None:
    browser.open(f"{server.url}#where=cls%20%3D%201%20and%20json.n%20%3E%2050&at=0")
    assert browser.texts(".card h3 a") == ["k52", "k55", "k58"]
    browser.find("json.n < 2")
    browser.wait(lambda: browser.texts(".card h3 a") == ["k00", "k01"], "the samples of the condition")
    assert browser.texts(".chip") == ["json.n < 2 ×"]
    browser.open(f"{server.url}#where=nothing%20%3D%201&at=0")
    assert "nothing" in browser.one("main > .placard").text


class TestSql:
    def test_a_table(self, browser: Browser, server: ViewServer) -> None:
        browser.open(f"{server.url}#sql=")
        box = browser.one("#query")
        box.clear()
        box.send_keys("select cls, count(*) as n from samples group by cls order by cls", Keys.CONTROL, Keys.ENTER)
        browser.wait(lambda: browser.texts(".answer td") == ["0", "20", "1", "20", "2", "20"], "the answer")
        assert browser.texts(".answer th") == ["cls", "n"] and not browser.all(".answer .card")

    def test_a_grid(self, browser: Browser, server: ViewServer) -> None:
        query = "select key, cls from samples where cls = 2 order by key desc limit 3"
        browser.open(f"{server.url}#sql={quote(query)}")
        assert browser.texts(".answer .card h3 a") == ["k59", "k56", "k53"]
        browser.wait(lambda: browser.run(PICTURES) == [24] * 3, "the pictures")
        assert browser.texts(".answer td") == ["k59", "2", "k56", "2", "k53", "2"]
        browser.all(".answer .card h3 a")[1].click()
        browser.wait(lambda: browser.hash() == "#sample=56", "the sample")

    def test_an_error(self, browser: Browser, server: ViewServer) -> None:
        browser.open(f"{server.url}#sql={quote('select nothing from samples')}")
        assert "nothing" in browser.one(".answer .placard").text
        box = browser.one("#query")
        assert box.get_attribute("value") == "select nothing from samples"
        box.clear()
        box.send_keys("select 7 as n", Keys.CONTROL, Keys.ENTER)
        browser.wait(lambda: browser.texts(".answer td") == ["7"], "the answer")


def test_compare(browser: Browser, server: ViewServer) -> None:
    browser.open(f"{server.url}#compare&at=24")
    assert browser.texts(".pair.names strong") == ["old-@2.tar.zst", "new-@2.tar"]
    marks = browser.texts(".pair .marks li")[:5]
    assert sorted(marks) == ["cls same", "json same", "png differs", "svg same", "txt same"]
    browser.wait(lambda: browser.run(PICTURES)[:2] == [24] * 2, "the pictures of both")
    assert len(browser.all(".pair:not(.names)")) == 24
    browser.press(Keys.PAGE_DOWN)
    browser.wait(lambda: len(browser.all(".pair:not(.names)")) == 12, "the last page")


def check_commands(lines: list[str], hub: str) -> None:
    """Run the lines that the page shows for an array: they write references and a copy; the last one loads it."""
    references, copy, python = lines
    for line in (references, copy):
        answer = CliRunner().invoke(htarray, shlex.split(line)[1:])
        assert answer.exit_code == 0, answer.output
    refs = json.loads(Path("x.json").read_text())["refs"]
    assert json.loads(refs["zarr.json"])["shape"] == [5, 20, 30] and len(refs) > 1
    name = shlex.split(copy)[3]
    assert np.array_equal(zarr.open_array("x.zarr", mode="r")[:], st.hub(hub).load(name)[...])
    assert python == f'import shardtools as st; st.hub("{hub}").load("{name}")[...]'


def test_arrays(browser: Browser, server: ViewServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    browser.open(f"{server.url}#of=2&arrays/")
    browser.one(".tree a").click()
    browser.wait(lambda: browser.all("figure.pixels canvas"), "a slice")
    assert "20 × 30 shown" in browser.text() and browser.texts(".panel tbody code")[0].startswith("main@")
    [_, _, hub] = json.loads(requests.get(f"{server.url}api/datasets", timeout=20).text)
    check_commands(browser.texts(".elsewhere code"), hub["spec"])
    browser.run(
        "const box = document.querySelector('input[type=range]'); box.value = 2;"
        "box.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    browser.wait(lambda: "20 × 30 shown, 7 to 7" in browser.text(), "the slice that was written last")
    [beside] = [one for one in browser.all(".toolbar button") if one.text == "Two versions"]
    beside.click()
    browser.wait(lambda: len(browser.all("figure.pixels canvas")) == 2, "two versions")
    browser.wait(
        lambda: [text.endswith("7 to 7") for text in browser.texts(".versions .note")] == [True, False], "both"
    )
    browser.wait(lambda: "beside=" in browser.hash() and "index=2" in browser.hash(), "an address that can be sent")
    browser.open(f"{server.url}{browser.hash()}")
    browser.wait(
        lambda: [text.endswith("7 to 7") for text in browser.texts(".versions .note")] == [True, False], "both again"
    )
    browser.open(f"{server.url}#of=2&arrays/nope")
    assert "There is no array “nope”" in browser.text()


def test_colours_and_contrast_of_a_slice(browser: Browser, server: ViewServer) -> None:
    browser.open(f"{server.url}#of=2&arrays/deep%2Fx")
    browser.wait(lambda: browser.all("figure.pixels canvas"), "a slice")
    red, green, blue = browser.run(PIXEL)
    assert red == green == blue
    browser.run(CHANGE, ".toolbar .choice select", "viridis")
    browser.wait(lambda: len(set(browser.run(PIXEL))) == 3, "the colours")
    for number, colour in (("-2", [253, 231, 37]), ("3", [68, 1, 84])):  # all values are above, or below
        browser.run(CHANGE, ".contrast label:first-child input", number)
        browser.run(CHANGE, ".contrast label:last-child input", str(float(number) + 1))
        browser.wait(lambda wanted=colour: browser.run(PIXEL) == wanted, f"the colour {colour}")


def test_many_names_leave_room_for_the_array(browser: Browser, server: ViewServer) -> None:
    browser.open(f"{server.url}#of=2&arrays/{quote('many/with a long name 24', safe='')}", width=375, height=700)
    browser.wait(lambda: browser.all(".detail figure svg"), "the array")
    assert browser.run("return document.querySelector('.detail').getBoundingClientRect().top") < 350
    chosen, tree = (browser.run(PLACE, name) for name in (".tree li:has([aria-current])", ".tree"))
    assert tree["top"] <= chosen["top"] and chosen["bottom"] <= tree["bottom"]


def test_keyboard(browser: Browser, server: ViewServer) -> None:
    browser.open(f"{server.url}#at=0")
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(colour)
    browser.press("t")
    assert browser.run(colour) != light
    browser.press("t")
    assert browser.run(colour) == light
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ENTER)
    browser.wait(lambda: browser.hash() == "#sample=1", "the sample")
    browser.press("o")
    browser.wait(
        lambda: browser.run("return document.querySelector('main').dataset.view") == "overview", "the overview"
    )
    browser.press("?")
    assert browser.one("#help").is_displayed()
    browser.press(Keys.ESCAPE)
    assert not browser.one("#help").is_displayed()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, server: ViewServer, dark: bool) -> None:
    for fragment in WIDE:
        browser.open(f"{server.url}#{fragment}", dark=dark)
        browser.wait(lambda: browser.all(".card img, canvas"), "a picture")
        assert browser.hindrances() == [], fragment


def test_a_phone_shows_all_without_scrolling_sideways(browser: Browser, server: ViewServer) -> None:
    for fragment in ("at=0", *WIDE):
        browser.open(f"{server.url}#{fragment}", width=375, height=844)
        browser.wait(lambda: browser.all(".card img, canvas"), "a picture")
        assert browser.run("return document.documentElement.scrollWidth") == 375, fragment


def test_a_wrong_token_shows_nothing(browser: Browser, server: ViewServer) -> None:
    browser.driver.get(f"http://127.0.0.1:{server.port}/wrong/")
    assert "token" in browser.driver.page_source and "old-" not in browser.driver.page_source


def test_the_link_of_an_array_leads_to_its_version(browser: Browser, tmp_path: Path) -> None:
    hub = st.hub(str(tmp_path / "hub"), single_writer=True)
    hub.array("deep/x", shape=(4, 5), dtype="u1")[:] = 3
    old = hub.load("deep/x@1")
    hub.load("deep/x")[:] = 4
    browser.open(old.show().url)
    browser.wait(lambda: browser.run("return document.querySelector('.versions select')?.value") == "main@1", "it")
