"""What the PyTorch input does: the one place of the suite `torch` that calls it.

Every function takes the benchmark's folder and yields the work to be measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.far import far
from benchmarks.model import Work
from benchmarks.server import serve


def _open(spec: str, field: str = "jpg") -> Any:
    from shardtools.torch import ShardIterable

    fields = (field, "cls")
    return ShardIterable(spec, fields=fields, decode=False, shuffle=True, seed=1, batch_size=64, rank=0, world_size=1)


def _count(batches: Any) -> int:
    return sum(len(batch[0]) for batch in batches)


@contextmanager
def epoch(root: str, pattern: str, field: str) -> Iterator[Work]:
    """Go through an epoch, shuffled and undecoded, in one process."""
    train = _open(os.path.join(root, pattern), field)
    yield lambda: _count(train)


@contextmanager
def far_epoch(root: str, pattern: str) -> Iterator[Work]:
    """Go through an epoch of what a far server has."""
    with serve(root) as near, far(near) as base:
        train = _open(base + pattern)
        yield lambda: _count(train)


@contextmanager
def first(root: str, pattern: str) -> Iterator[Work]:
    """Get the first batch."""
    train = _open(os.path.join(root, pattern))

    def work() -> int:
        batches = iter(train)
        return len(next(batches)[0])

    yield work


@contextmanager
def start(root: str, shards: int, samples: int, skip: int = 0) -> Iterator[Work]:
    """Get the first batch of many shards, which are one file under many names; after ``skip`` samples, if any.

    PyTorch, which takes longer to import, is there before.
    """
    import shardtools.torch.iterable  # noqa: F401
    from benchmarks.data import write_with_shardtools

    folder = os.path.join(root, "output", "many")
    os.mkdir(folder)
    one = Path(folder, f"{0:06d}.tar")
    write_with_shardtools(one, ((f"{i:08d}", {"jpg": b"%d" % i, "cls": b"1"}) for i in range(samples)))
    for i in range(1, shards):
        for ending in ("", ".index.npz"):
            os.link(f"{one}{ending}", os.path.join(folder, f"{i:06d}.tar{ending}"))
    entries = [{"url": f"{i:06d}.tar", "nsamples": samples} for i in range(shards)]
    manifest = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": entries, "fields": {"jpg": 1}}
    Path(folder, f"@{shards:06d}.tar.json").write_text(json.dumps(manifest))

    def work() -> int:
        train = _open(os.path.join(folder, f"@{shards:06d}.tar"))
        if skip:
            train.load_state_dict({**train.state_dict(), "delivered": skip})
        return len(next(iter(train))[0])

    yield work


@contextmanager
def training(root: str, pattern: str, over_http: bool) -> Iterator[Work]:
    """Train a small convolutional network for an epoch, on images that are the bytes of samples."""
    import numpy as np
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    )
    learn = torch.optim.SGD(network.parameters(), 0.01)

    def decode(data: bytes, label: bytes) -> tuple[Any, int]:
        return np.frombuffer(data, np.uint8).reshape(32, 32).astype(np.float32), int(label) % 10

    def work(spec: str) -> int:
        from shardtools.torch import ShardIterable

        fields = ("jpg", "cls")
        train = ShardIterable(
            spec, fields=fields, decode=False, transform=decode, shuffle=True, batch_size=64, rank=0, world_size=1
        )
        count = 0
        for images, labels in train:
            learn.zero_grad()
            loss = nn.functional.cross_entropy(network(images[:, None] / 255), labels)
            loss.backward()
            learn.step()
            count += len(labels)
        return count

    network(torch.zeros(1, 1, 32, 32))
    if over_http:
        with serve(root) as base:
            yield lambda: work(base + pattern)
    else:
        yield lambda: work(os.path.join(root, pattern))
