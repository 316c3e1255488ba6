"""What the page of htview shows of datasets that cannot be read, and of values that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import shardtools as st
from shardtools.programs.view import serve
from shardtools.storage import StorageOptions
from tests.datasets import write_shard
from tests.viewer.browser import Browser
from tests.viewer.test_server import npy


def test_a_bad_dataset_shows_its_error_in_its_own_views_only(browser: Browser, tmp_path: Path) -> None:
    for name in ("bad", "good"):
        write_shard(tmp_path / f"{name}.tar", [("k.npy", npy(np.full(9, np.nan))), ("k.txt", b"word")])
        st.index(str(tmp_path / f"{name}.tar"))
    with serve([str(tmp_path / "bad.tar"), str(tmp_path / "good.tar")], StorageOptions()) as server:
        (tmp_path / "bad.tar").unlink()
        browser.open(server.url)
        assert "bad.tar" in browser.one(".placard").text
        browser.go("#of=1&sample=0")
        browser.wait_text("no finite values")
        browser.go("#of=1")
        browser.wait(lambda: browser.texts(".figures dd")[:1] == ["1"], "the good one")
