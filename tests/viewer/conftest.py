"""One browser and one server for all tests of the page; the server has the page, and small datasets."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shardtools as st
from tests.servers import NginxServer, nginx_server
from tests.viewer.browser import Browser, missing_programs, running_browser

PAGE = Path(st.__file__).parent / "viewer" / "page"
SAMPLES = 120
CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if missing := missing_programs():
        pytest.skip(
            f"NOT TESTED, the page in a browser: {' and '.join(missing)} not installed (apt-get install chromium)"
        )
    with running_browser() as started:
        yield started


@dataclass(frozen=True)
class Site:
    """A server with the page at ``page``, and datasets at ``data``, which is another origin; ``same`` is its own."""

    server: NginxServer

    @property
    def root(self) -> Path:
        return self.server.root

    @property
    def same(self) -> str:
        return self.server.url

    @property
    def data(self) -> str:
        return self.server.url

    @property
    def page(self) -> str:
        """The page by the name localhost, so that 127.0.0.1 is another origin."""
        return self.server.url.replace("127.0.0.1", "localhost") + "view/index.html"

    def view(self, name: str, fragment: str = "") -> str:
        return f"{self.page}?src={self.data}{name}{fragment}"

    def requests(self) -> list[str]:
        """The requests for data, as in the log: those for the page's own files are left out."""
        lines = self.server.log_path.read_text().splitlines()
        return [line for line in lines if '"GET /view/' not in line]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    shutil.copytree(PAGE, root / "view")
    make_animals(tmp_path_factory.mktemp("animals"), root)
    with nginx_server(root) as server:
        yield Site(server)


def png(side: int, grey: int) -> bytes:
    """Return a grey picture as PNG."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), grey).save(buffer, "PNG")
    return buffer.getvalue()


def make_animals(source: Path, root: Path) -> None:
    """Upload ``animals-@2.tar`` and ``animals-@2.tgz``: pictures, classes, texts, JSON and arrays of 120 samples."""
    for i in range(SAMPLES):
        stem = source / f"k{i:03d}"
        stem.with_suffix(".png").write_bytes(png(24, i))
        stem.with_suffix(".cls").write_text(str(i % 3))
        stem.with_suffix(".txt").write_text(f"animal number {i}")
        stem.with_suffix(".json").write_text(json.dumps({"width": i, "tags": ["a", {"deep": True}]}))
        np.save(stem.with_suffix(".npy"), np.arange(6, dtype=np.int16).reshape(2, 3) + i)
    for name in ("animals-@2.tar", "animals-@2.tgz"):
        st.upload(str(source), str(root / name))
        edit_manifest(root / f"{name}.json", classes=CLASSES, description="Small animals")


def edit_manifest(path: Path, **facts: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
