"""Ten million classes and a field of more than a gigabyte: a note says what is too much, with and without a server."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardtools as st
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from shardtools.viewer.server import ViewServer
from tests.viewer.browser import Browser
from tests.viewer.conftest import Site, png

CLASSES = 10_000_000
GIANT = 1_100_000_000
LONG = 70_000_000
MOST_MANIFEST = 64 << 20


def make_giants(root: Path) -> None:
    """Write ``giants-@1.tar``: a sample with a picture of 1.1 GB and a text of 70 MB, with holes, and a small one."""
    with (root / "giants-0.tar").open("wb") as file:
        for name, size in (("a.cls", 1), ("a.png", GIANT), ("a.txt", LONG), ("b.cls", 1), ("b.png", 0)):
            data = b"1" if size == 1 else png(24, 9) if size == 0 else b"beginning"
            member = tarfile.TarInfo(name)
            member.size = max(size, len(data))
            file.write(member.tobuf())
            file.write(data)
            file.seek(-(-member.size // 512) * 512 - len(data), io.SEEK_CUR)
        file.truncate(file.tell() + 1024)
    st.index(str(root / "giants-@1.tar"))
    manifest = root / "giants-@1.tar.json"
    names = b'"c",' * (CLASSES - 1) + b'"c"'
    manifest.write_bytes(manifest.read_bytes().rstrip()[:-1] + b', "classes": [' + names + b"]}")
    with (root / "vast-@1.tar.json").open("wb") as file:
        file.truncate(MOST_MANIFEST + 1)


@pytest.fixture(scope="module")
def giants(site: Site) -> Site:
    make_giants(site.root)
    return site


@pytest.fixture(scope="module")
def server(giants: Site) -> Iterator[ViewServer]:
    with serve([str(giants.root / "giants-@1.tar")], StorageOptions()) as started:
        yield started


def check(browser: Browser, address: str) -> None:
    browser.open(address)
    assert browser.texts(".figures dd")[:2] == ["2", "1"]
    assert "and 9,999,960 more" in browser.text()
    browser.go("#at=0")
    browser.wait(lambda: len(browser.all(".card .placard")) == 1 and browser.all(".card img"), "both cards")
    browser.go("#sample=0")
    browser.wait(lambda: not browser.all(".body.waiting"), "the fields")
    assert "too many to show" in browser.one("[data-field=png] .placard").text
    assert "beginning" in browser.one("[data-field=txt] pre").text
    assert "The first" in browser.one("[data-field=txt] .note").text
    assert len(browser.texts(".command code")) == 2


def test_by_the_page_itself(browser: Browser, giants: Site) -> None:
    check(browser, giants.view("giants-@1.tar"))


def test_by_htview(browser: Browser, server: ViewServer) -> None:
    check(browser, server.url)


def test_a_manifest_that_is_too_large(browser: Browser, giants: Site) -> None:
    browser.open(giants.view("vast-@1.tar"))
    assert "vast-@1.tar.json is too large for a page" in browser.one("main > .placard").text
