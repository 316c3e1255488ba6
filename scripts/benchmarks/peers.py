"""What others do with the same shards, each as its documentation says. Nothing of shardtools is used here.

Every function takes the benchmark's folder and the shards' names in it, and yields the work to be measured.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.model import Work


def inputs(root: str, names: Sequence[str]) -> list[str]:
    return [os.path.join(root, name) for name in names]


def output(root: str, name: str = "") -> str:
    """Return a path in the folder for results, which is empty before every measurement."""
    return os.path.join(root, "output", os.path.basename(name))


def count_members(paths: Sequence[str]) -> int:
    """Return how many files the archives at ``paths`` hold."""
    listed = [subprocess.run(["tar", "tf", path], capture_output=True, check=True).stdout for path in paths]
    return sum(text.count(b"\n") for text in listed)


@contextmanager
def webdataset_map(root: str, names: Sequence[str], plain: bool = True) -> Iterator[Work]:
    """Read with WebDataset, without decoding, and write with TarWriter, shard by shard.

    ``plain`` sets mtime to 0, which spares webdataset the pax header that it writes for a fraction of a second.
    """
    import webdataset

    def work() -> int:
        samples = 0
        for path in inputs(root, names):
            reader = webdataset.WebDataset(path, shardshuffle=False)
            with webdataset.TarWriter(output(root, path), encoder=False, mtime=0 if plain else None) as writer:
                for sample in reader:
                    writer.write(sample)
                    samples += 1
        return samples

    yield work


@contextmanager
def webdataset_read(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Iterate over the samples, without decoding."""
    import webdataset

    reader = webdataset.WebDataset(inputs(root, names), shardshuffle=False)
    yield lambda: sum(1 for _ in reader)


@contextmanager
def webdataset_field(root: str, names: Sequence[str], field: str) -> Iterator[Work]:
    """Iterate over the samples, without decoding, and write key and one field of each to a file."""
    import webdataset

    def work() -> int:
        samples = 0
        with open(output(root, "rows.tsv"), "wb") as file:
            for sample in webdataset.WebDataset(inputs(root, names), shardshuffle=False):
                file.write(sample["__key__"].encode() + b"\t" + sample[field] + b"\n")
                samples += 1
        return samples

    yield work


@contextmanager
def ray_map(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Ray Data's read_webdataset and write_webdataset, without decoding or encoding, on one CPU."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=1_000_000_000)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def work() -> int:
        dataset = ray.data.read_webdataset(inputs(root, names), decoder=None)
        dataset.write_webdataset(output(root), encoder=None)
        return samples

    fields = 2
    samples = count_members(inputs(root, names)) // fields
    try:
        ray.data.range(1).materialize()  # its first task starts a worker process, which is not what is measured
        yield work
        written = count_members([str(path) for path in Path(output(root)).iterdir()])
        if written != fields * samples:
            raise RuntimeError(f"Ray wrote {written} members of {fields * samples}")
    finally:
        ray.shutdown()


@contextmanager
def copy(root: str, names: Sequence[str], fields: int = 2) -> Iterator[Work]:
    """cp: no program that reads its input and writes its output is faster."""
    samples = count_members(inputs(root, names)) // fields

    def work() -> int:
        subprocess.run(["cp", *inputs(root, names), output(root)], check=True)
        return samples

    yield work


@contextmanager
def unpack_and_pack(root: str, names: Sequence[str], fields: int = 2) -> Iterator[Work]:
    """GNU tar: extract a shard into a folder, and make an archive of the folder."""
    samples = count_members(inputs(root, names)) // fields

    def work() -> int:
        for path in inputs(root, names):
            folder = output(root, "folder")
            os.mkdir(folder)
            subprocess.run(["tar", "xf", path, "-C", folder], check=True)
            subprocess.run(["tar", "caf", output(root, path), "--sort=name", "-C", folder, "."], check=True)
            shutil.rmtree(folder)
        return samples

    yield work


@contextmanager
def tarfile_read(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Python's tarfile, streaming, every member read, grouped by key."""

    def members(path: str) -> Iterator[tuple[str, bytes]]:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                data = archive.extractfile(member)
                if data is not None:
                    yield member.name, data.read()

    def work() -> int:
        samples = 0
        for path in inputs(root, names):
            groups = itertools.groupby(members(path), lambda item: item[0].partition(".")[0])
            samples += sum(1 for _, group in groups if dict(group))
        return samples

    yield work
