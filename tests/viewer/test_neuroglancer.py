"""Neuroglancer's own client, in Chromium, shows what the page's link names: a slice in its contrast."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

import shardtools as st
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from tests.viewer.browser import Browser, missing_programs, running_browser

CLIENT = Path(sys.prefix) / "share/neuroglancer/neuroglancer/static/client"
FLAGS = (
    "use-angle=swiftshader",
    "enable-unsafe-swiftshader",
    "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
CORNERS = ((-100, -100), (100, -100), (-100, 100), (100, 100))  # from the middle of the picture, in pixels
PANEL = "return document.querySelector('.neuroglancer-rendered-data-panel')?.getBoundingClientRect().toJSON()"


@pytest.fixture(scope="module")
def painter() -> Iterator[Browser]:
    """A browser that draws by WebGL, without a graphics card."""
    if missing := [*missing_programs(), *([] if CLIENT.is_dir() else [f"{CLIENT} (scripts/test installs it)"])]:
        pytest.skip(f"NOT TESTED, the link to Neuroglancer: there is no {' and no '.join(missing)}")
    with running_browser(*FLAGS) as started:
        yield started


@contextmanager
def neuroglancer(state: dict[str, Any]) -> Iterator[str]:
    """Serve Neuroglancer's client with a state, and yield its address. This build gets the state from a server."""
    ended = Event()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments, directory=str(CLIENT))

        def do_GET(self) -> None:
            if not self.path.startswith("/events/"):
                self.path = self.path.removeprefix("/v/token")
                super().do_GET()
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"data: " + json.dumps({"k": "s", "s": state, "g": "1"}).encode() + b"\n\n")
            self.wfile.flush()
            ended.wait()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"g": "2"}')

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_address[1]}/v/token/index.html"
        finally:
            ended.set()
            server.shutdown()
            thread.join()


def colours(browser: Browser) -> list[tuple[int, ...]]:
    """Return the colours in the four quarters of the picture that is in the middle; none before there is a picture."""
    if (panel := browser.run(PANEL)) is None:
        return []
    with Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())) as picture:
        x, y = panel["x"] + panel["width"] / 2, panel["y"] + panel["height"] / 2
        return [picture.convert("RGB").getpixel((round(x + dx), round(y + dy))) for dx, dy in CORNERS]  # type: ignore[misc]


def quarters(values: list[Any], dtype: str) -> np.ndarray[Any, Any]:
    """Return a picture of 40 × 60 whose four quarters have these values."""
    return np.array(values, dtype).reshape(2, 2, *np.shape(values[0])).repeat(20, 0).repeat(30, 1)


def test_the_link_shows_what_the_page_shows(painter: Browser, tmp_path: Path) -> None:
    hub = st.hub(str(tmp_path / "arrays"), single_writer=True)
    grey = hub.array("deep/grey", (5, 40, 60), (1, 16, 16), "int16", dimension_names=["t", "row", "a b"])
    grey[1] = quarters([-1000, 0, 500, 2000], "int16")  # the others are not written
    red, green, blue, white = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
    hub.array("colour", (40, 60, 3), (40, 60, 3), "uint8")[...] = quarters([red, green, blue, white], "uint8")
    sharded = hub.array("sharded", (40, 60), (10, 10), "float32", shards=(20, 20))
    sharded[...] = quarters([0, 0.2, 0.6, 1], "float32")
    expected = {
        "deep%2Fgrey": [(0,) * 3, (85,) * 3, (128,) * 3, (255,) * 3],
        "colour": [tuple(red), tuple(green), tuple(blue), tuple(white)],
        "sharded": [(0,) * 3, (51,) * 3, (153,) * 3, (255,) * 3],
    }
    with serve([str(tmp_path / "arrays")], StorageOptions(retries=0)) as server:
        for name, wanted in expected.items():
            painter.open(f"{server.url}#arrays/{name}")
            painter.wait(lambda: painter.all("figure.pixels canvas"), "the slice on the page")
            if name == "deep%2Fgrey":
                painter.run(
                    "const box = document.querySelector('input[type=range]'); box.value = 1;"
                    "box.dispatchEvent(new Event('input', {bubbles: true}))"
                )
                painter.wait_text("-1,000 to 2,000")
            link = painter.one(".served a")
            assert link.get_attribute("rel") == "noreferrer noopener"
            site, _, fragment = str(link.get_attribute("href")).partition("#!")
            assert site == "https://neuroglancer-demo.appspot.com/"
            with neuroglancer(json.loads(unquote(fragment))) as url:
                painter.driver.get(url)
                painter.wait(lambda: near(colours(painter), wanted), f"the picture of {name}")  # noqa: B023
                painter.driver.get("about:blank")


def near(found: list[tuple[int, ...]], wanted: list[tuple[int, ...]]) -> bool:
    return len(found) == len(wanted) and bool(np.abs(np.subtract(found, wanted)).max() <= 3)
