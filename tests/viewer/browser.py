"""A real headless Chromium that looks at the page, one for all tests of a process."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.servers import wait_until

PROGRAMS = ("chromium", "chromedriver")
DEADLINE = 30
FLAGS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
)

AXE = Path(sys.prefix) / "share/axe/axe_playwright_python/axe.min.js"
CHECK = """
const done = arguments[0];
axe.run(document, {resultTypes: ["violations"]}).then(({violations, passes}) => done({
  checked: passes.length,
  found: violations.filter(({impact}) => ["serious", "critical"].includes(impact))
    .flatMap(({id, nodes}) => nodes.map(({html, failureSummary}) => `${id}: ${html.slice(0, 200)} ${failureSummary}`)),
}));
"""

READY = "return document.querySelector('main').dataset.ready === (location.hash || '#')"
PICTURES = "return Array.from(document.querySelectorAll('.card img'), (image) => image.naturalWidth)"
FAILED = "return document.querySelector('main > .placard') !== null"


class Browser:
    """Opens addresses of the page and waits until it has shown them."""

    def __init__(self, driver: webdriver.Chrome):
        self.driver = driver

    def open(self, url: str, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        """Load the page anew at ``url``, as on a screen of this size, and wait for its view or its placard."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.driver.get(url)
        self.wait_ready()

    def forget(self) -> None:
        """Empty the cache of the browser, which keeps what other tests read for a tenth of the age that it had then."""
        self.driver.execute_cdp_cmd("Network.clearBrowserCache", {})

    def wait_ready(self) -> None:
        self.wait(lambda: self.run(READY) or self.run(FAILED), "the page")

    def wait(self, condition: Any, what: str) -> None:
        wait_until(condition, what, DEADLINE)

    def wait_text(self, text: str) -> None:
        self.wait(lambda: text in self.text(), f"the text {text!r}")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements, also of those out of sight."""
        script = "return Array.from(document.querySelectorAll(arguments[0]), (element) => element.textContent)"
        return list(self.run(script, selector))

    def text(self) -> str:
        return str(self.run("return document.querySelector('main').textContent"))

    def hash(self) -> str:
        return str(self.run("return location.hash"))

    def press(self, *keys: str) -> None:
        """Press keys one after another, wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def go(self, fragment: str) -> None:
        self.run("location.hash = arguments[0]", fragment)
        self.wait_ready()

    def find(self, text: str) -> None:
        """Type into the search box and press Enter."""
        box = self.one("#find-text")
        box.clear()
        box.send_keys(text, Keys.ENTER)

    def hindrances(self) -> list[str]:
        """What axe finds on the page that seriously hinders people who use a screen reader, a keyboard or weak eyes."""
        if not AXE.exists():
            pytest.skip(f"NOT TESTED, the page's accessibility: there is no {AXE} (scripts/test installs it)")
        self.run(AXE.read_text())
        answer = self.driver.execute_async_script(CHECK)
        assert answer["checked"] > 10
        return list(answer["found"])


def missing_programs() -> Sequence[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def running_browser(*more: str) -> Iterator[Browser]:
    """Start Chromium with a new, empty profile and ``more`` flags, and end it."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory(prefix="shardtools-chromium-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, *more, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
