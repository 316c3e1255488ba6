"""What htview does: the one place of the suite `viewer` that calls it.

Every function takes the benchmark's folder and yields the work to be measured. Requests come over 6 connections, as
those of browsers.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.model import Work
from benchmarks.server import serve

COUNT = 48
SHARDS, EACH = 8, 64
CONNECTIONS = 6


@contextmanager
def first_page(root: str) -> Iterator[Work]:
    """Look at a page whose pictures nobody has read before."""
    with _browser(root) as look:
        yield lambda: look(0, 160)


@contextmanager
def same_page(root: str) -> Iterator[Work]:
    """Look at a page again."""
    with _browser(root) as look:
        look(0, 160)
        yield lambda: look(0, 160)


@contextmanager
def many_pages(root: str, pages: int) -> Iterator[Work]:
    """Look at many pages, of which each tenth needs new thumbnails."""
    with _browser(root) as look:
        rounds = SHARDS * EACH // COUNT
        yield lambda: sum(look(i % rounds * COUNT, 100 + i // (10 * rounds)) for i in range(pages))


@contextmanager
def _browser(root: str) -> Iterator[Callable[[int, int], int]]:
    """Yield a function that looks at the page that begins at a sample, and returns the number of its pictures."""
    from shardtools.programs.view import serve as show
    from shardtools.storage import StorageOptions

    spec = _build(Path(root))
    local = threading.local()
    with (
        tempfile.TemporaryDirectory() as cache,
        serve(str(Path(root, "pictures"))) as url,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        os.environ["XDG_CACHE_HOME"] = cache
        with show([url + spec], StorageOptions()) as server:

            def get(path: str) -> bytes:
                if not hasattr(local, "connection"):
                    local.connection = HTTPConnection("127.0.0.1", server.port)
                local.connection.request("GET", f"/{server.token}/api/0/{path}")
                answer = local.connection.getresponse()
                data: bytes = answer.read()
                if answer.status != 200:
                    raise RuntimeError(data.decode())
                return data

            def look(at: int, size: int) -> int:
                samples = json.loads(get(f"samples?at={at}&count={COUNT}&thumbs=jpg&size={size}"))["samples"]
                paths = [f"thumb?index={one['index']}&field=jpg&size={size}" for one in samples]
                return sum(1 for data in pool.map(get, paths) if data)

            yield look


def _build(root: Path) -> str:
    """Make the dataset, unless it is there; return its name."""
    from shardtools import index

    folder = root / "pictures"
    if (folder / "p-@8.tar.json").exists():
        return "p-@8.tar"
    folder.mkdir(exist_ok=True)
    pictures = [_picture(seed) for seed in range(8)]
    for number in range(SHARDS):
        with tarfile.open(folder / f"p-{number}.tar", "w") as shard:
            for i in range(EACH):
                member = tarfile.TarInfo(f"{number}-{i:03d}.jpg")
                member.size = len(pictures[i % 8])
                shard.addfile(member, io.BytesIO(pictures[i % 8]))
    index(str(folder / "p-@8.tar"))
    return "p-@8.tar"


def _picture(seed: int) -> bytes:
    """Return a picture with soft forms and noise, of about 500 KB."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    forms = Image.fromarray(random.integers(0, 255, (72, 96, 3), np.uint8)).resize((1280, 960))
    noise = random.integers(-14, 14, (960, 1280, 1))
    stream = io.BytesIO()
    pixels = np.clip(np.asarray(forms, np.int16) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "jpeg", quality=88)
    return stream.getvalue()
