"""What htextract does: the one place of the suite `extract` that calls it.

Every function takes the benchmark's folder and the shards' names in it, and yields the work to be measured.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.model import Work
from benchmarks.server import serve

SHARE = 0.05
"""The part of a dataset that may be sent for one small field of it."""


@contextmanager
def rows(root: str, names: Sequence[str], field: str, http: bool = False) -> Iterator[Work]:
    """Write key and ``field`` of each sample to a file; the keys alone if there is no field."""
    from shardtools.jobs.extraction.extract import run_extract
    from shardtools.jobs.extraction.extract_shard import ExtractOptions
    from shardtools.jobs.options import RunOptions

    log = os.path.join(root, "output", "access.log")
    with ExitStack() as stack:
        place = stack.enter_context(serve(root, log)) if http else root + "/"
        urls = [place + name for name in names]
        what, options = ExtractOptions((field,) if field else ()), RunOptions(jobs=1)
        run_extract(urls[0], what, os.path.join(root, "output", "warm.tsv"), options)
        warm = sent_bytes(log) if http else 0
        yield lambda: run_extract(urls, what, os.path.join(root, "output", "rows.tsv"), options).rows
        if http:
            share = (sent_bytes(log) - warm) / sum(os.path.getsize(os.path.join(root, name)) for name in names)
            if not 0 < share <= SHARE:
                raise RuntimeError(f"{100 * share:.2f} % of the bytes were sent")


def sent_bytes(log: str) -> int:
    """Return how many bytes nginx has sent, once it has written down all of them."""
    size = -1
    while size != (size := os.path.getsize(log)):
        time.sleep(0.5)
    return sum(map(int, re.findall(r'HTTP/1.1" \d+ (\d+) ', Path(log).read_text())))


@contextmanager
def stats(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Compute the statistics of all fields."""
    from shardtools.jobs.extraction.statistics import run_statistics
    from shardtools.jobs.options import RunOptions

    urls = [os.path.join(root, name) for name in names]
    run_statistics(urls[0])
    yield lambda: sum(run_statistics(urls, options=RunOptions(jobs=1)).samples)


@contextmanager
def count(root: str, names: Sequence[str], field: str) -> Iterator[Work]:
    """Count the values of a field."""
    from shardtools.jobs.extraction.statistics import run_counts
    from shardtools.jobs.options import RunOptions

    urls = [os.path.join(root, name) for name in names]
    run_counts(urls[0], field)
    yield lambda: run_counts(urls, field, options=RunOptions(jobs=1)).samples
