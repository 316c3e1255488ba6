"""What others do to read the same samples for training. Nothing of shardtools is used here.

Every function takes the benchmark's folder and yields the work to be measured. litdata and MosaicML's streaming read
datasets in formats of their own, which are made from the shards first.
"""

from __future__ import annotations

import os
import random
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.far import far
from benchmarks.model import Work
from benchmarks.peers import inputs
from benchmarks.server import serve


def _samples(paths: Sequence[str]) -> Iterator[dict[str, bytes]]:
    for path in paths:
        with tarfile.open(path) as archive:
            sample: dict[str, bytes] = {}
            last = ""
            for member in archive:
                key, _, field = member.name.partition(".")
                if key != last and sample:
                    yield sample
                    sample = {}
                file = archive.extractfile(member)
                sample[field] = file.read() if file else b""
                last = key
            yield sample


def _webdataset(urls: Sequence[str]) -> Iterator[Any]:
    import webdataset

    return iter(webdataset.WebDataset(list(urls), shardshuffle=100, seed=1).shuffle(1000))


@contextmanager
def webdataset_epoch(root: str, names: Sequence[str]) -> Iterator[Work]:
    """webdataset: shards in another order, and a buffer of 1,000 samples."""
    yield lambda: sum(1 for _ in _webdataset(inputs(root, names)))


@contextmanager
def webdataset_far(root: str, names: Sequence[str]) -> Iterator[Work]:
    """webdataset: one stream, by curl, from a far server."""
    with serve(root) as near, far(near) as base:
        yield lambda: sum(1 for _ in _webdataset([f"pipe:curl -s {base}{name}" for name in names]))


@contextmanager
def wids_epoch(root: str, names: Sequence[str], samples: int) -> Iterator[Work]:
    """wids: all samples by their numbers, in its own shuffled order, chunk by chunk."""
    import wids

    from benchmarks.peers_view import open_with_wids, read

    dataset = open_with_wids(root, names, samples)
    for number in range(0, len(dataset), samples):
        dataset[number]

    def work() -> int:
        for number in wids.ChunkedSampler(dataset, chunksize=1000, shuffle=True):
            read(dataset[number])
        return len(dataset)

    yield work


@contextmanager
def litdata_epoch(root: str, names: Sequence[str]) -> Iterator[Work]:
    """litdata: its own format, chunks of 64 MB."""
    from litdata import StreamingDataset
    from litdata.streaming import Cache

    folder = os.path.join(root, "output", "litdata")
    cache = Cache(input_dir=folder, chunk_bytes=64_000_000)
    for number, sample in enumerate(_samples(inputs(root, names))):
        cache[number] = sample
    cache.done()
    cache.merge()
    dataset = StreamingDataset(folder, shuffle=True, seed=1)
    yield lambda: sum(1 for _ in dataset)


@contextmanager
def mosaic_epoch(root: str, names: Sequence[str], field: str) -> Iterator[Work]:
    """MosaicML's streaming: its own format."""
    from streaming import MDSWriter, StreamingDataset

    folder = os.path.join(root, "output", "mosaic")
    with MDSWriter(out=folder, columns={field: "bytes", "cls": "bytes"}) as writer:
        for sample in _samples(inputs(root, names)):
            writer.write(sample)
    dataset = StreamingDataset(local=folder, shuffle=True, shuffle_seed=1, batch_size=64)
    yield lambda: sum(1 for _ in dataset)


@contextmanager
def hugging_face_epoch(root: str, names: Sequence[str]) -> Iterator[Work]:
    """Hugging Face datasets: streaming, with a buffer of 1,000 samples."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = os.path.join(root, "output", "hf")
    from datasets import load_dataset

    files = {"train": inputs(root, names)}
    dataset = load_dataset("webdataset", data_files=files, split="train", streaming=True)
    dataset = dataset.decode(False).shuffle(seed=1, buffer_size=1000)
    yield lambda: sum(1 for _ in dataset)


@contextmanager
def loose_files(root: str, names: Sequence[str], field: str) -> Iterator[Work]:
    """Files of a folder, in random order: open, read, close."""
    folder = os.path.join(root, "output", "files")
    for path in inputs(root, names):
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    keys = sorted({name.partition(".")[0] for name in os.listdir(folder)})
    random.Random(0).shuffle(keys)

    def work() -> int:
        for key in keys:
            for name in (field, "cls"):
                with open(os.path.join(folder, f"{key}.{name}"), "rb") as file:
                    file.read()
        return len(keys)

    yield work


@contextmanager
def cat(root: str, names: Sequence[str], samples: int) -> Iterator[Work]:
    """cat: the shards, one after the other."""
    import subprocess

    def work() -> int:
        subprocess.run(["cat", *inputs(root, names)], check=True, stdout=subprocess.DEVNULL)
        return samples * len(names)

    yield work
