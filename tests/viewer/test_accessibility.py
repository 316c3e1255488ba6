"""The page for people who use screen readers, keyboards and weak eyes; and that nothing jumps while pictures come."""

from __future__ import annotations

import pytest

from tests.viewer.browser import Browser
from tests.viewer.conftest import Site

SHIFTS = """
const done = arguments[0];
const answer = (entries) => done(entries.reduce((sum, {value}) => sum + value, 0));
const observer = new PerformanceObserver((list) => answer(list.getEntries()));
observer.observe({type: "layout-shift", buffered: true});
requestAnimationFrame(() => requestAnimationFrame(() => answer(observer.takeRecords())));
"""
LOADED = """
return Array.from(document.querySelectorAll('img')).every((image) => image.complete && image.naturalWidth > 0)
"""
VIEWS = {"overview": "", "grid": "#at=40", "condition": "#where=cls%20%3D%201&at=0", "sample": "#sample=61"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(browser: Browser, site: Site, view: str, dark: bool) -> None:
    browser.open(site.view("animals-@2.tgz", VIEWS[view]), dark=dark)
    browser.wait(lambda: browser.all("img") and browser.run(LOADED), "the pictures")
    assert browser.hindrances() == []


@pytest.mark.parametrize("view", ["overview", "grid", "sample"])
def test_nothing_jumps_while_pictures_come(browser: Browser, site: Site, view: str) -> None:
    browser.open(site.view("animals-@2.tgz", VIEWS[view]))
    browser.wait(lambda: browser.all("img") and browser.run(LOADED), "the pictures")
    assert browser.driver.execute_async_script(SHIFTS) < 0.05
