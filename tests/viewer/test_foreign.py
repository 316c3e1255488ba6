"""Shards of other programs: the page alone says in a line what to do, and htview shows them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardtools as st
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from shardtools.viewer.server import ViewServer
from tests.datasets import pack
from tests.viewer.browser import PICTURES, Browser
from tests.viewer.conftest import Site, png

EACH = 6
NAMES = ["gnu-@2.tgz", "bare-@2.tgz", "gnu-@2.tar.zst"]


@pytest.fixture(scope="module")
def foreign(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that GNU tar made, as .tgz with and without sidecars, and as .tar.zst without."""
    for number in range(2):
        folder = tmp_path_factory.mktemp("members")
        for i in range(EACH * number, EACH * number + EACH):
            (folder / f"s{i:02d}.png").write_bytes(png(24, 9 * i))
            (folder / f"s{i:02d}.txt").write_text(f"sample number {i}")
        files = sorted(path.name for path in folder.iterdir())
        subprocess.run(["tar", "-czf", site.root / f"gnu-{number}.tgz", "-C", folder, *files], check=True)
        subprocess.run(["tar", "-cf", folder / "all.tar", "-C", folder, *files], check=True)
        (site.root / f"gnu-{number}.tar.zst").write_bytes(pack((folder / "all.tar").read_bytes(), "all.tar.zst"))
        (site.root / f"bare-{number}.tgz").write_bytes((site.root / f"gnu-{number}.tgz").read_bytes())
    st.index(str(site.root / "gnu-@2.tgz"))
    return site.root


@pytest.fixture(scope="module")
def server(foreign: Path) -> Iterator[ViewServer]:
    with serve([str(foreign / name) for name in NAMES], StorageOptions()) as started:
        yield started


@pytest.mark.parametrize(
    ("name", "what", "command"),
    [
        ("gnu-@2.tgz", "no entry points", "htview"),
        ("gnu-0.tgz", "no entry points", "htview"),
        ("bare-0.tgz", "use htview instead", "htindex"),
        ("bare-@2.tgz", "bare-@2.tgz.json does not exist", "htindex"),
        ("gnu-@2.tar.zst", "cannot decompress zstd", "htview"),
    ],
)
def test_the_page_alone_says_what_to_do(
    browser: Browser, site: Site, foreign: Path, name: str, what: str, command: str
) -> None:
    browser.open(site.view(name, "#at=0"))
    assert what in browser.one("main > .placard").text
    assert browser.texts(".placard code") == [f"{command} {site.data}{name}"]


def test_htview_shows_them(browser: Browser, server: ViewServer) -> None:
    for number, name in enumerate(NAMES):
        browser.open(f"{server.url}#of={number}&at=0")
        assert browser.texts(".card h3 a") == [f"s{i:02d}" for i in range(2 * EACH)], name
        browser.wait(lambda: browser.run(PICTURES) == [24] * (2 * EACH), "the pictures")
        browser.go(f"#of={number}&sample={EACH + 1}")
        browser.wait_text(f"sample number {EACH + 1}")
        assert not browser.all(".placard"), name
