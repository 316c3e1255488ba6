"""What tables and conditions do: the one place of the suite `query` that calls them.

Every function takes the benchmark's folder and yields the work to be measured.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.far import far
from benchmarks.model import Done, Work
from benchmarks.ours_extract import sent_bytes
from benchmarks.query_data import build_table, key_of
from benchmarks.server import serve

MOST_BYTES = 2_000_000
"""For one key."""

MOST_BYTES_EACH = 12
"""Of a table, for a sample with offsets, a short key and a label."""


@contextmanager
def building(root: str, folder: str, pattern: str) -> Iterator[Work]:
    """Make the table and the file of keys of shards that have sidecars and a manifest."""
    from pyarrow import parquet  # noqa: F401

    import shardtools
    import shardtools.jobs.table.run

    place = _link(root, folder)
    spec = str(place / Path(pattern).name)
    shardtools.index(spec)

    def work() -> Done:
        table = shardtools.index(spec, table=["cls"]).table
        if table is None or not table.made:
            raise RuntimeError("no table was made")
        sizes = [os.path.getsize(f"{spec}{ending}") / table.samples for ending in (".parquet", ".keys")]
        if sizes[0] > MOST_BYTES_EACH:
            raise RuntimeError(f"{sizes[0]:.1f} bytes for each sample")
        return Done(table.samples, note=f"{sizes[0]:.1f} bytes a sample, and {sizes[1]:.1f} in the file of keys")

    yield work


def _link(root: str, folder: str) -> Path:
    """Return a new folder with links to the files of another, so that what is made there stays there."""
    place = Path(root, "output", "linked")
    place.mkdir()
    for path in Path(root, folder).iterdir():
        if path.suffix in (".tar", ".tgz", ".npz"):
            os.link(path, place / path.name)
    return place


@contextmanager
def _place(root: str, over_http: bool, log: str = "", delay: float = 0.02) -> Iterator[str]:
    """Yield what paths in the folder begin with: it, or the URL of a server that is far away unless it keeps a log."""
    with ExitStack() as stack:
        place = root + "/"
        if over_http:
            place = stack.enter_context(serve(root, log))
        if over_http and not log:
            place = stack.enter_context(far(place, delay))
        yield place


def _spec(root: str, place: str, samples: int) -> str:
    return place + str(build_table(Path(root), samples).relative_to(root))


@contextmanager
def opening(root: str, samples: int, over_http: bool = False) -> Iterator[Work]:
    """Open a dataset and its table, whose footer says how many samples it has."""
    import shardtools

    with _place(root, over_http) as place:
        spec = _spec(root, place, samples)

        def work() -> int:
            [(count,)] = shardtools.open(spec).sql("select count(*) from samples").fetchall()
            if count != samples:
                raise RuntimeError(f"{count} samples")
            return 1

        yield work


@contextmanager
def counting(root: str, samples: int) -> Iterator[Work]:
    """Count the samples of a class, in a table that is open."""
    import shardtools

    dataset = shardtools.open(_spec(root, root + "/", samples))
    dataset.sql("select count(*) from samples").fetchall()

    def work() -> int:
        [(count,)] = dataset.sql("select count(*) from samples where cls = 7").fetchall()
        if not 0.5 < 1000 * count / samples < 2:
            raise RuntimeError(f"{count} samples")
        return samples

    yield work


@contextmanager
def choosing(root: str, samples: int, condition: str, over_http: bool = False) -> Iterator[Work]:
    """Open a dataset and choose samples."""
    import shardtools

    with _place(root, over_http) as place:
        spec = _spec(root, place, samples)

        def work() -> Done:
            found = shardtools.open(spec).where(condition)
            return Done(samples, note=f"{len(found):,} chosen")

        yield work


@contextmanager
def keys(root: str, samples: int, count: int) -> Iterator[Work]:
    """Look for single keys, half of which are there, in a file of keys on a server."""
    import shardtools

    log = os.path.join(root, "output", "access.log")
    with _place(root, over_http=True, log=log) as place:
        dataset = shardtools.open(_spec(root, place, samples))
        asked = _drawn(samples, count)
        if asked[0] not in dataset:
            raise RuntimeError("a key is not there")
        before = sent_bytes(log), _requests(log)
        yield lambda: sum(1 for at, key in enumerate(asked) if (key in dataset) is (at % 2 == 0))
        sent, requests = (sent_bytes(log) - before[0]) / count, (_requests(log) - before[1]) / count
        if requests > 1 or sent > MOST_BYTES:
            raise RuntimeError(f"{requests:.2f} requests and {sent:,.0f} bytes for each key")


@contextmanager
def keys_together(root: str, samples: int, count: int) -> Iterator[Work]:
    """Look for many keys with one call."""
    import shardtools

    with _place(root, over_http=True, log=os.path.join(root, "output", "access.log")) as place:
        dataset = shardtools.open(_spec(root, place, samples))
        asked = _drawn(samples, count)
        yield lambda: len(dataset.rows_of(asked))


def _drawn(samples: int, count: int) -> list[str]:
    """Return keys, of which every other one does not exist."""
    choose = random.Random(0)
    return [key_of(choose.randrange(samples)) + ("" if at % 2 == 0 else "x") for at in range(count)]


def _requests(log: str) -> int:
    return Path(log).read_text().count("HTTP/1.1")


@contextmanager
def samples(root: str, folder: str, pattern: str, count: int, most: int) -> Iterator[Work]:
    """Read samples by their keys, each with a dataset that has used none of the shards."""
    import shardtools

    place = _link(root, folder)
    spec = str(place / Path(pattern).name)
    shardtools.index(spec)
    shardtools.index(spec, table=["cls"])
    log = os.path.join(root, "output", "access.log")
    with serve(str(place), log) as url:
        first = shardtools.open(url + Path(pattern).name)
        choose = random.Random(0)
        wanted = [first.keys[choose.randrange(len(first))] for _ in range(count)]
        opened = [shardtools.open(url + Path(pattern).name) for _ in wanted]
        for dataset in opened:
            "x" in dataset  # noqa: B015 - the head of the file of keys
        sent_bytes(log)
        before = _requests(log)
        yield lambda: len([dataset[key] for dataset, key in zip(opened, wanted, strict=True)])
        sent_bytes(log)
        requests = (_requests(log) - before) / count
        if requests > most:
            raise RuntimeError(f"{requests:.2f} requests for each sample")
