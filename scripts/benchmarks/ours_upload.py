"""What htupload does: the one place of the suite `upload` that calls it.

Every function takes the benchmark's folder and yields the work to be measured.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from benchmarks.model import Work


def upload(source_name: str, destination: str, **rules: object) -> int:
    """Upload a source and return the number of samples."""
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.upload import UploadOptions, plan_upload, run_upload
    from shardtools.sources.opening import SourceRules, open_sources

    options = RunOptions(jobs=2)
    with closing(open_sources([source_name], SourceRules(**rules))) as source:  # type: ignore[arg-type]
        plans = plan_upload(source, destination, UploadOptions(), options)
        return sum(result.counts.written for result in run_upload(plans, source, options))


@contextmanager
def upload_folder(root: str, folder: str, extension: str, shards: int) -> Iterator[Work]:
    """Upload a folder of files."""
    warm = os.path.join(root, "output", "warm")
    os.mkdir(warm)
    with open(os.path.join(warm, "a.txt"), "w") as file:
        file.write("a")
    upload(warm, os.path.join(root, "output", f"warm-@1{extension}"))
    out = os.path.join(root, "output", f"out-@{shards}{extension}")
    yield lambda: upload(os.path.join(root, folder), out)


@contextmanager
def list_files(root: str, folder: str) -> Iterator[Work]:
    """List a folder and the folders in it."""
    from shardtools.sources.opening import SourceRules, open_sources

    def work() -> int:
        with closing(open_sources([os.path.join(root, folder)], SourceRules())) as source:
            return len(source)

    yield work


@contextmanager
def upload_csv(root: str, samples: int, shards: int) -> Iterator[Work]:
    """Upload a table of a label and a text for each sample."""
    path = os.path.join(root, "output", "table.csv")
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "caption"])
        rows.writerows(
            (f"sample-{i:08d}", i % 1000, f"a caption that is about as long as they are, {i}") for i in range(samples)
        )
    values = (("cls", "label"), ("txt", "caption"))
    yield lambda: upload(path, os.path.join(root, "output", f"out-@{shards}.tar"), values=values, key="id")
