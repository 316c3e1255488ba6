"""A summary and a file of keys that are older than their dataset: the page says so, and uses neither."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

import shardtools as st
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from tests.datasets import written_dataset
from tests.viewer.browser import Browser
from tests.viewer.conftest import Site, edit_manifest, png
from tests.viewer.test_server import Browser as Asking

NAME = "bée 😀-@2.tar"
"""Digests have the names of shards in ASCII, as JSON escapes them."""

OLDER = "The summary was made before the dataset changed"
HISTOGRAMS = ".histogram"


def write(folder: Path, grey: int, name: str = NAME) -> str:
    """Write a dataset of 8 samples, of as many bytes whatever their ``grey`` is; return its spec."""
    records = [{"key": f"{grey}-{i}", "cls": i % 2, "png": png(24, grey), "txt": f"text {i}"} for i in range(8)]
    written_dataset(folder, name, [records[:4], records[4:]])
    return str(folder / name)


@pytest.fixture
def published(site: Site) -> str:
    """The spec of a dataset with table, file of keys, classes and summary."""
    spec = write(site.root, 20)
    edit_manifest(Path(f"{spec}.json"), classes=["no", "yes"], description="before")
    st.index(spec, table=True, overwrite=True)
    st.publish(spec, overwrite=True)
    return spec


def test_a_dataset_that_was_replaced(browser: Browser, site: Site, published: str) -> None:
    address = site.view(quote(NAME, safe="@"))
    browser.open(address)
    assert (len(browser.all(".mosaic img")), len(browser.all(HISTOGRAMS)) > 0) == (8, True)
    assert OLDER not in browser.text()

    write(site.root, 30)
    browser.forget()
    browser.open(address)
    assert browser.texts(".placard strong") == [OLDER]
    assert browser.texts(".placard code") == [f"htview --publish --overwrite {site.data}{quote(NAME, safe='@')}"]
    assert (browser.all(".mosaic img"), browser.all(HISTOGRAMS)) == ([], [])
    assert browser.texts(".figures dd")[:2] == ["8", "2"]
    assert browser.hindrances() == []
    browser.find("30-7")  # the file of keys does not have it
    browser.wait(lambda: browser.hash() == "#sample=7", "the sample")

    st.publish(published, overwrite=True)
    browser.forget()
    browser.open(address)
    assert (len(browser.all(".mosaic img")), OLDER in browser.text()) == (8, False)


def test_a_dataset_that_is_replaced_while_its_page_is_open(browser: Browser, site: Site, published: str) -> None:
    """By one of as many bytes: it is the checksum that differs."""
    browser.open(site.view(quote(NAME, safe="@")))
    write(site.root, 30)
    browser.go("#at=0")
    assert browser.texts("main > .placard strong") == ["The sidecar of bée 😀-0.tar is of another version of the shard"]
    assert "load it anew" in browser.text()


def test_a_copy_under_another_name(browser: Browser, site: Site, published: str) -> None:
    """Its page shows the copy, with the summary, whose digest has the new names."""
    name = "copy über-@2.tar"
    st.copy(published, str(site.root / name), overwrite=True)
    browser.open(f"{site.same}{quote(name, safe='@')}.view/index.html")
    assert browser.texts("#title") == [name]
    assert (len(browser.all(".mosaic img")), OLDER in browser.text()) == (8, False)


def test_htview_opens_what_was_written_again(site: Site) -> None:
    """When a page is loaded: until then, open ones go on with the shards as they were."""
    name = "again-@2.tar"
    spec = write(site.root, 20, name)
    with serve([spec, f"{site.data}{name}"], StorageOptions()) as server:
        asking = Asking(server)

        def first(number: int) -> tuple[int, str, bytes]:
            samples = asking.json(f"{number}/samples", at=0, count=1)
            picture = asking.get(f"api/{number}/thumb", index=0, field="png")[1]
            return samples["total"], samples["samples"][0]["key"], picture

        before = [(asking.json(f"{number}/about")["samples"], first(number)) for number in range(2)]
        records = [{"key": f"new-{i}", "png": png(24, 40)} for i in range(3)]
        written_dataset(site.root, name, [records[:1], records[1:]])
        for number in range(2):
            about = asking.json(f"{number}/about")
            assert (before[number][0], about["samples"], [one["name"] for one in about["fields"]]) == (8, 3, ["png"])
            total, key, picture = first(number)
            assert (total, key) == (3, "new-0")
            assert picture != before[number][1][2]
        st.remove(spec)
        assert all(asking.get(f"api/{number}/about")[0].status == 404 for number in range(2))


def test_facts_are_those_of_the_manifest(browser: Browser, site: Site, published: str) -> None:
    edit_manifest(Path(f"{published}.json"), classes=["zero", "one"], description="after")
    browser.forget()
    browser.open(site.view(quote(NAME, safe="@")))
    assert browser.texts(".bars .label") == ["zero", "one"]
    assert browser.texts(".bars .number") == ["4", "4"]
    assert browser.texts(".description") == ["after"]


@pytest.mark.parametrize("samples", [8, 9])
def test_a_summary_without_a_digest(browser: Browser, site: Site, published: str, samples: int) -> None:
    """As earlier versions wrote it: the number of samples decides."""
    path = Path(f"{published}.view.json")
    view = json.loads(path.read_text())
    assert len(view.pop("digest")) == 32
    path.write_text(json.dumps({**view, "samples": samples}))
    browser.forget()
    browser.open(site.view(quote(NAME, safe="@")))
    assert (len(browser.all(".mosaic img")), OLDER in browser.text()) == ((8, False) if samples == 8 else (0, True))
