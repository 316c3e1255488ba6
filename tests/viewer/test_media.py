"""Sounds and films on cards and pages, with and without a server: real ones play, bad ones get a note of their own."""

from __future__ import annotations

import io
import math
import struct
import wave
from base64 import b64decode
from collections.abc import Iterator

import pytest

import shardtools as st
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from tests.datasets import write_shard
from tests.viewer.browser import Browser
from tests.viewer.conftest import Site

RECORD = """
const [type, done] = arguments, parts = [];
const canvas = document.createElement('canvas'), context = canvas.getContext('2d');
const recorder = new MediaRecorder(canvas.captureStream(30), {mimeType: type}), reader = new FileReader();
reader.onload = () => done(reader.result.split(',')[1]);
recorder.ondataavailable = ({data}) => parts.push(data);
recorder.onstop = () => reader.readAsDataURL(new Blob(parts));
recorder.start();
const draw = (left) => {
  context.fillStyle = `hsl(${20 * left} 90% 50%)`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (left) requestAnimationFrame(() => draw(left - 1));
  else recorder.stop();
};
draw(12);
"""
"""A film of twelve colours, as the browser's own recorder writes it."""

DURATIONS = "return Array.from(document.querySelectorAll('audio, video'), ({duration}) => duration)"
LAST_FRAME = """
const [done] = arguments, film = document.querySelector('video');
film.onseeked = () => done([film.currentTime > 0, film.videoWidth]);
film.currentTime = film.duration / 2;
"""
IS_FREED = """
const [url, done] = arguments, sound = new Audio();
sound.onerror = () => done(true);
sound.onloadedmetadata = () => done(false);
sound.src = url;
"""


def tone(seconds: float) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(i / 3))) for i in range(int(8000 * seconds))))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pages(browser: Browser, site: Site) -> Iterator[dict[str, str]]:
    """Two addresses of a dataset of sounds and films, of which samples 2 and 3 are bad: the page's, and htview's."""
    browser.driver.get(site.page)
    film = b64decode(browser.driver.execute_async_script(RECORD, "video/webm;codecs=vp8"))
    files = [("0.wav", tone(1.5)), ("1.webm", film), ("2.wav", b"RIFF no sound"), ("3.webm", film[:40]), ("4.txt", b"")]
    write_shard(site.root / "media-0.tar", files)
    st.index(str(site.root / "media-@1.tar"))
    with serve([str(site.root / "media-@1.tar")], StorageOptions()) as server:
        yield {"static": site.view("media-@1.tar"), "htview": server.url}


@pytest.mark.parametrize("way", ["static", "htview"])
def test_sounds_and_films(browser: Browser, pages: dict[str, str], way: str) -> None:
    browser.open(f"{pages[way]}#at=0")
    browser.wait(lambda: len(browser.texts(".card .placard")) == 2, "the notes on the bad ones")
    assert ["cannot play" in text for text in browser.texts(".card .visual")] == [False, False, True, True, False]
    browser.wait(lambda: all(browser.run(DURATIONS)), "the durations")
    sound, film = browser.run(DURATIONS)
    assert sound == 1.5 and 0 < film < 5
    browser.go("#sample=1")
    browser.wait(lambda: browser.all(".field video"), "the film")
    assert browser.driver.execute_async_script(LAST_FRAME) == [True, 300]
    browser.go("#sample=3")
    browser.wait(lambda: "cannot play" in browser.text(), "the note")


def test_a_sound_is_freed_when_its_view_is_left(browser: Browser, pages: dict[str, str]) -> None:
    browser.open(f"{pages['static']}#sample=0")
    browser.wait(lambda: browser.all(".field audio"), "the sound")
    url = browser.one("audio").get_attribute("src")
    assert not browser.driver.execute_async_script(IS_FREED, url)
    browser.go("#sample=4")
    assert browser.driver.execute_async_script(IS_FREED, url)
