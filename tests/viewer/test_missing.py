"""What the page shows when an address, a manifest, a shard or a server is not there, or not what it should be."""

from __future__ import annotations

import json
import shutil
import socket
from urllib.parse import quote

import pytest
from selenium.webdriver.common.keys import Keys

from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from tests.viewer.browser import PICTURES, Browser
from tests.viewer.conftest import Site


def closed_port() -> int:
    """Return a port where nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("source", "title", "why", "command"),
    [
        ("nothing", "This is not the address of a dataset", "train-@1000.tgz", None),
        ("none-0.tar", "none-0.tar does not exist", "none-0.tar", None),
        ("web-@2.tar", "web-@2.tar.json is not a manifest", "It is a web page", "htindex"),
        ("other-@2.tar", "other-@2.tar.json is not a manifest", "It has no shardlist", "htindex"),
        ("null-@2.tar", "null-@2.tar.json is not a manifest", "It has no shardlist", "htindex"),
        ("http://127.0.0.1:PORT/a-@2.tar", "The server cannot be reached from here", "no answer", "htview"),
    ],
)
def test_an_address_that_leads_to_no_dataset(
    browser: Browser, site: Site, source: str, title: str, why: str, command: str | None
) -> None:
    (site.root / "web-@2.tar.json").write_text("<!doctype html><title>Not found</title>")
    (site.root / "other-@2.tar.json").write_text(json.dumps({"a": 1}))
    (site.root / "null-@2.tar.json").write_text("null")
    url = source.replace("PORT", str(closed_port())) if "://" in source else site.data + source
    browser.open(f"{site.page}?src={url}")
    assert browser.texts("main > .placard strong") == [title]
    assert why in browser.one("main > .placard p").text
    assert browser.texts(".placard code") == ([] if command is None else [f"{command} {url}"])
    box = browser.one("#source")
    assert box.get_attribute("value") == url
    box.clear()
    box.send_keys(f"{site.data}animals-@2.tar", Keys.ENTER)
    browser.wait(lambda: browser.texts(".figures dd")[:1] == ["120"], "the dataset")


def copy_animals(site: Site, name: str) -> None:
    """Copy ``animals-@2.tar`` to ``NAME-@2.tar``."""
    for path in site.root.glob("animals-*.tar*"):
        shutil.copy(path, site.root / path.name.replace("animals", name))
    manifest = site.root / f"{name}-@2.tar.json"
    manifest.write_text(manifest.read_text().replace("animals", name))


@pytest.mark.parametrize(
    ("lost", "note"),
    [("lost-1.tar", "lost-1.tar does not exist"), ("lost-1.tar.index.npz", "lost-1.tar has no sidecar")],
)
def test_a_shard_that_vanished_spoils_its_own_samples(browser: Browser, site: Site, lost: str, note: str) -> None:
    copy_animals(site, "lost")
    (site.root / lost).unlink()
    browser.forget()
    browser.open(site.view("lost-@2.tar", "#at=48"))
    browser.wait(lambda: len(browser.all(".card .placard")) >= 12, "the notes")
    assert browser.run(PICTURES) == [24] * 12  # of the first shard
    cards = browser.texts(".card")
    assert all("k0" in text and "lost" not in text for text in cards[:12])
    assert all(
        f"{'lost-1.tar does not exist' if lost == 'lost-1.tar' else 'has no sidecar'}" in text for text in cards[12:20]
    )
    assert max(len(card.find_elements("css selector", ".placard")) for card in browser.all(".card")) == 1
    browser.go("#sample=60")
    browser.wait(lambda: browser.all(".placard"), "the note")
    assert "lost-1.tar" in browser.text()


def test_htview_ends_while_one_pages(browser: Browser, site: Site) -> None:
    with serve([str(site.root / "animals-@2.tar")], StorageOptions()) as server:
        browser.open(f"{server.url}#at=0")
        assert len(browser.all(".card")) == 48
    browser.press(Keys.PAGE_DOWN)
    browser.wait(lambda: browser.texts("main > .placard strong") == ["htview does not answer"], "the note")
    browser.press("o")
    browser.wait(lambda: browser.hash() == "", "the overview")


def test_a_query_that_fails_can_be_mended(browser: Browser, site: Site) -> None:
    query = "selec key from samples"
    with serve([str(site.root / "animals-@2.tar")], StorageOptions()) as server:
        browser.open(f"{server.url}#sql={quote(query)}")
        browser.wait(lambda: browser.all(".answer .placard"), "the note")
        assert browser.one("#query").get_attribute("value") == query
        browser.open(f"{server.url}#where={quote('nothing = 1')}&at=0")
        [title] = browser.texts("main > .placard strong")
        assert title.startswith("The condition names nothing") and ";" not in title
