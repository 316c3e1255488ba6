"""What a very large dataset costs a page in requests and bytes: 10,000 shards and 50 million samples."""

from __future__ import annotations

import base64
import json
import time

import numpy as np
import pytest

import shardtools as st
from shardtools.query.published import summary_digest
from shardtools.shards.manifest import read_manifest
from shardtools.shards.sidecar import read_sidecar
from tests.datasets import tar_bytes
from tests.servers import wait_until
from tests.viewer.browser import Browser
from tests.viewer.conftest import Site, png

SHARDS, EACH = 10_000, 5_000
JUMP = 31_000_000
NAME = "large-@10000.tar"


@pytest.fixture(scope="module")
def large(site: Site) -> Site:
    """A manifest of all shards, the one shard that has sample 31,000,000, and a summary with 300 thumbnails."""
    shard = site.root / f"large-{JUMP // EACH:05d}.tar"
    shard.write_bytes(tar_bytes([(f"s{i:04d}.txt", f"text {i}".encode()) for i in range(EACH)]))
    st.index(str(shard))
    size = shard.stat().st_size
    sidecar = read_sidecar(str(shard), size)
    assert sidecar is not None
    entry = {"nsamples": EACH, "filesize": size, "checksum": sidecar.checksum}
    manifest = {
        "nsamples": SHARDS * EACH,
        "fields": {"txt": SHARDS * EACH},
        "shardlist": [{"url": f"large-{i:05d}.tar", **entry} for i in range(SHARDS)],
    }
    thumbnail = base64.b64encode(png(48, 7) + bytes(3000)).decode()
    (site.root / f"{NAME}.json").write_text(json.dumps(manifest, indent=1))
    view = {
        "format": "shardtools view",
        "version": 1,
        "digest": summary_digest(read_manifest(str(site.root / f"{NAME}.json"))),
        "name": NAME,
        "samples": SHARDS * EACH,
        "shards": SHARDS,
        "bytes": SHARDS * size,
        "fields": [{"name": "txt", "kind": "text", "count": SHARDS * EACH, "bytes": 1, "example": "text 0"}],
        "classes": {
            "field": "cls",
            "values": [{"value": i, "name": f"c{i}", "count": i} for i in range(900)],
            "rest": 0,
        },
        "histograms": [{"column": "json.width", "edges": [0, 1, 2], "counts": [3, 4], "nulls": 0}],
        "thumbnails": [{"index": i * 160_000, "field": "png", "data": thumbnail} for i in range(300)],
    }
    (site.root / f"{NAME}.view.json").write_text(json.dumps(view))
    return site


LINKS = "return Array.from(document.querySelectorAll('.mosaic a'), (link) => link.getAttribute('href'))"


def test_overview_and_jump(browser: Browser, large: Site) -> None:
    before = len(large.requests())
    start = time.monotonic()
    browser.open(large.view(NAME))
    print(f"overview: {time.monotonic() - start:.2f} s")
    assert browser.texts(".figures dd")[:2] == ["50,000,000", "10,000"]
    places = [int(link.rpartition("=")[2]) for link in browser.run(LINKS)]
    assert 80 <= len(places) <= 240 and places[0] == 0 and max(np.diff(places)) < 800_000
    assert places[-1] > 37_000_000  # of the first 240 pictures, the last is 38,240,000
    wait_until(lambda: len(large.requests()) >= before + 2, "the log")
    lines = large.requests()[before:]
    assert len(lines) <= 5
    assert sum(int(line.split('"')[2].split()[1]) for line in lines) < 3_000_000

    before = len(large.requests())
    browser.go(f"#at={JUMP}")
    browser.wait(lambda: "text 47" in browser.texts(".card .visual"), "the last card")
    assert browser.texts(".card .index")[0] == "31,000,000"
    wait_until(lambda: len(large.requests()) >= before + 2, "the log")
    assert len(large.requests()) <= before + 4
