"""What a hostile dataset tries on a reader of the page: nothing in it runs, and nothing in it is loaded."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

import shardtools as st
from tests.datasets import tar_bytes
from tests.viewer.browser import Browser
from tests.viewer.conftest import Site, png

MARKUP = '<img src="PWNED" onerror="pwned=1"><script>pwned=1<'
"""Markup that a key, a field or a class may hold: it has no dot and no slash."""

HTML = """<!doctype html><meta http-equiv="refresh" content="0;url=ROOTPWNED-refresh"><base href="ROOT">
<link rel="stylesheet" href="ROOTPWNED-css"><script>top.pwned = 1</script>
<img src="ROOTPWNED-img" onerror="top.pwned=1">
<iframe src="ROOTPWNED-frame"></iframe><form action="ROOTPWNED-form"><input autofocus onfocus="top.pwned=1"></form>
<object data="ROOTPWNED-object"></object><video src="ROOTPWNED-video"></video><p>harmless text</p>"""

SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" onload="top.pwned=1">
<script>top.pwned = 1</script><image xlink:href="ROOTPWNED-svg" width="9" height="9"/>
<foreignObject><iframe xmlns="http://www.w3.org/1999/xhtml" src="ROOTPWNED-foreign"/></foreignObject></svg>"""


@pytest.fixture(scope="module")
def hostile(site: Site) -> str:
    """The name of a dataset that attacks by all that it consists of."""

    def fill(text: str) -> bytes:
        return text.replace("ROOT", site.data).encode()

    key = MARKUP
    files = [
        (f"{key}.html", fill(HTML)),
        (f"{key}.json", json.dumps({MARKUP: MARKUP, "__proto__": {"polluted": 1}, "constructor": [MARKUP]}).encode()),
        (f"{key}.png", b"\x89PNG\r\n\x1a\n" + fill(HTML)),
        (f"{key}.svg", fill(SVG)),
        (f"{key}.txt", fill(f"{MARKUP} \u202e {HTML}")),
        (f"{key}.{MARKUP}.txt", b"a field with a name"),
        (f"{key}.cls", b"0"),
        ("plain.png", png(24, 9)),
        ("plain.cls", b"1"),
    ]
    (site.root / "hostile-0.tar").write_bytes(tar_bytes(files, tarfile.PAX_FORMAT))
    st.index(str(site.root / "hostile-@1.tar"))
    path = Path(site.root, "hostile-@1.tar.json")
    facts = {"classes": [MARKUP, "__proto__"], "description": MARKUP, "license": MARKUP, "job": {MARKUP: [MARKUP]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    view = {
        "format": "shardtools view",
        "version": 1,
        "name": MARKUP,
        "samples": 2,
        "shards": 1,
        "bytes": 1,
        "fields": [{"name": MARKUP, "kind": MARKUP, "count": 2, "bytes": 1, "example": MARKUP}],
        "classes": {"field": MARKUP, "values": [{"value": MARKUP, "name": MARKUP, "count": 1}], "rest": 0},
        "histograms": [{"column": MARKUP, "edges": [0, 1], "counts": [1], "nulls": 0}],
        "thumbnails": [{"index": 0, "field": "png", "data": '"><script>top.pwned=1</script>'}],
    }
    Path(site.root, "hostile-@1.tar.view.json").write_text(json.dumps(view))
    return "hostile-@1.tar"


@pytest.mark.parametrize("fragment", ["", "#at=0", "#sample=0", "#compare&at=0"])
def test_nothing_runs_and_nothing_is_loaded(browser: Browser, site: Site, hostile: str, fragment: str) -> None:
    address = site.view(hostile, fragment)
    if "compare" in fragment:
        address = f"{site.page}?a={site.data}{hostile}&b={site.data}{hostile}{fragment}"
    browser.open(address)
    if fragment == "#sample=0":
        browser.wait(lambda: len(browser.all("iframe")) == 2, "the frames")
        for frame in browser.all("iframe"):
            assert frame.get_attribute("sandbox") == ""
        browser.driver.switch_to.frame(browser.one("section[data-kind=html] iframe"))
        assert "harmless text" in browser.one("body").text
        browser.driver.switch_to.default_content()
    assert browser.run("return [window.pwned, ({}).polluted]") == [None, None]
    assert not browser.run("return document.querySelector('main script, main [onerror], main [onload]')")
    assert "PWNED" in browser.text()  # it is shown, as text
    assert not [line for line in site.requests() if "PWNED" in line.split('"')[1]]


def test_nothing_is_loaded_from_the_server_of_the_page(browser: Browser, site: Site, hostile: str) -> None:
    browser.open(f"{site.same}view/index.html?src={site.same}{hostile}#sample=0")
    browser.wait(lambda: len(browser.all("iframe")) == 2, "the frames")
    browser.driver.switch_to.frame(browser.one("section[data-kind=html] iframe"))
    assert "harmless text" in browser.one("body").text
    browser.driver.switch_to.default_content()
    assert not [line for line in site.requests() if "PWNED" in line.split('"')[1]]


def test_a_bad_picture_beside_a_good_one(browser: Browser, site: Site, hostile: str) -> None:
    browser.open(site.view(hostile, "#at=0"))
    browser.wait(lambda: browser.texts(".card .placard"), "the placard")
    assert "pixels are too many to show" in browser.texts(".card .placard strong")[0]  # as its header says
    assert len(browser.all(".card img")) == 1


@pytest.mark.parametrize(
    "url", ["javascript:top.pwned=1", "data:text/html,<script>top.pwned=1</script>", "file:///etc"]
)
def test_a_manifest_names_only_web_addresses(browser: Browser, site: Site, url: str) -> None:
    manifest = {"shardlist": [{"url": url, "nsamples": 2}]}
    Path(site.root, "elsewhere-@1.tar.json").write_text(json.dumps(manifest))
    browser.open(site.view("elsewhere-@1.tar", "#at=0"))
    assert "A browser cannot read" in browser.texts("main > .placard")[0]
    assert browser.run("return window.pwned") is None


def test_an_address_with_markup(browser: Browser, site: Site) -> None:
    browser.open(f"{site.page}?src={site.data}%3Cscript%3Etop.pwned=1%3C/script%3E-@2.tar#at=%3Cimg%20src=x%3E")
    assert browser.run("return window.pwned") is None
    assert "does not exist" in browser.text()


class TestLimits:
    def test_a_million_classes(self, browser: Browser, site: Site) -> None:
        path = Path(site.root, "classes-@1.tar.json")
        shard = {"url": "animals-0.tar", "nsamples": 60}
        path.write_text(json.dumps({"shardlist": [shard], "classes": [str(i) for i in range(1_000_000)]}))
        browser.open(site.view("classes-@1.tar"))
        assert len(browser.all(".bars li")) == 40
        assert "and 999,960 more" in browser.text()

    def test_large_fields(self, browser: Browser, site: Site) -> None:
        """A sparse shard: two fields that are too large for the page, neither of which is fetched whole."""
        with open(site.root / "huge.tar", "wb") as file:
            for name, size in (("big.bin", 80 << 20), ("big.txt", 150 << 20)):
                info = tarfile.TarInfo(name)
                info.size = size
                file.write(info.tobuf(tarfile.USTAR_FORMAT))
                begin = b"text " * (size // 500) if name == "big.txt" else b""  # with zeros, it would be no text
                file.write(begin)
                file.seek(size - len(begin), os.SEEK_CUR)
            file.truncate(file.tell() + 1024)
        st.index(str(site.root / "huge.tar"))
        browser.open(site.view("huge.tar", "#sample=0"))
        browser.wait_text("The first 4.1 kB of 83.9 MB")
        browser.wait_text("The first 262 kB of 157 MB")
        assert not browser.all("section.field button")
