"""The page for people who use screen readers, keyboards and weak eyes; and that nothing jumps while pictures come."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

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


FOCUS = "return document.activeElement.closest('label, summary, button')?.textContent"
TOO_SMALL = """
const aims = 'main button, main .button, main select, main summary, main fieldset label';
return Array.from(document.querySelectorAll(aims))
  .map((element) => [element.textContent, element.getBoundingClientRect()])
  .filter(([, {width, height}]) => width > 0 && height > 0 && Math.min(width, height) < 30).map(([text]) => text);
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_in_menus_and_notes(browser: Browser, site: Site, dark: bool) -> None:
    browser.open(f"{site.page}?src=nothing", dark=dark)
    assert browser.hindrances() == []
    browser.open(site.view("animals-@2.tgz", "#at=0"), dark=dark)
    browser.one(".menu summary").click()
    assert browser.hindrances() == []
    browser.press(Keys.ESCAPE, "?")
    assert browser.one("#help").is_displayed() and browser.hindrances() == []


def test_the_focus_comes_back_from_menus_and_dialogs(browser: Browser, site: Site) -> None:
    browser.open(site.view("animals-@2.tgz", "#at=0"))
    browser.one("#help-button").click()
    browser.press(Keys.ESCAPE)
    assert browser.run(FOCUS) == "?"
    browser.one(".menu summary").click()
    [_, json, _] = browser.all(".sheet input")
    json.click()
    browser.wait(lambda: browser.run(FOCUS) == "json", "the menu, which stays open")
    assert "json" not in browser.texts(".card .lines")[0]
    browser.press(" ")
    browser.wait(lambda: "json" in browser.texts(".card .lines")[0], "the field")
    browser.wait(lambda: browser.run(FOCUS) == "json", "the focus")
    browser.press(Keys.ESCAPE)
    assert not browser.one(".sheet").is_displayed() and browser.run(FOCUS) == "Fields"


def test_fingers_hit_what_they_aim_at(browser: Browser, site: Site) -> None:
    for fragment in ("#at=0", "#sample=3"):
        browser.open(site.view("animals-@2.tgz", fragment), width=375, height=700)
        if menu := browser.all(".menu summary"):
            menu[0].click()
        browser.wait(lambda: not browser.all(".body.waiting"), "all fields")
        assert browser.run(TOO_SMALL) == [], fragment
        assert browser.run("return document.documentElement.scrollWidth") == 375
