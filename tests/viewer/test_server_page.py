"""The page of htview in Chromium: what the server answers is shown, and nothing of it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

import shardtools as st
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from shardtools.viewer.server import ViewServer
from tests.datasets import write_shard
from tests.viewer.browser import Browser
from tests.viewer.conftest import png

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
    hub.array("deep/x", shape=(3, 20, 30), dtype="float32")[:] = np.random.default_rng(0).random((3, 20, 30), "f4")
    sources = [str(folder / name) for name in ("old-@2.tar.zst", "new-@2.tar", "arrays")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with serve(sources, StorageOptions()) as started:
            yield started


def test_overview_grid_and_sample(browser: Browser, server: ViewServer) -> None:
    browser.open(server.url)
    assert browser.texts(".figures dd")[:2] == ["60", "2"]
    browser.open(f"{server.url}#at=0")
    assert browser.texts(".card h3 a")[:2] == ["k00", "k01"]
    script = "return Array.from(document.querySelectorAll('.card img'), (image) => image.naturalWidth)"
    browser.wait(lambda: browser.run(script)[:4] == [24] * 4, "the thumbnails")
    browser.press(Keys.PAGE_DOWN)
    browser.wait(lambda: browser.hash() == "#at=48", "the next page")
    browser.open(f"{server.url}#sample=31")
    browser.wait_text(ATTACK)
    assert "k31" in browser.text() and "sample 31 of 60" in browser.text()
    assert browser.driver.title.endswith("shardtools")


def test_conditions_and_sql(browser: Browser, server: ViewServer) -> None:
    browser.open(f"{server.url}#where=cls%20%3D%201%20and%20json.n%20%3E%2050&at=0")
    assert browser.texts(".card h3 a") == ["k52", "k55", "k58"]
    browser.open(f"{server.url}#where=nothing%20%3D%201&at=0")
    browser.wait_text("nothing")
    browser.open(f"{server.url}#sql=select%20cls%2C%20count(*)%20as%20n%20from%20samples%20group%20by%20cls")
    browser.wait_text("20")
    assert {"cls", "n"} <= set(browser.texts("th"))


def test_arrays(browser: Browser, server: ViewServer) -> None:
    browser.open(f"{server.url}#of=2&arrays/deep%2Fx")
    browser.wait(lambda: browser.all("figure.pixels canvas"), "a slice")
    assert "20 × 30 shown" in browser.text() and "main@1" in browser.text()


def test_a_wrong_token_shows_nothing(browser: Browser, server: ViewServer) -> None:
    browser.driver.get(f"http://127.0.0.1:{server.port}/wrong/")
    assert "token" in browser.driver.page_source and "old-" not in browser.driver.page_source
