"""Tables of the suite `query` about training: samples that a condition chose, beside all samples of the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.data import Dataset
from benchmarks.far import far
from benchmarks.model import Row, Table, Target, Work
from benchmarks.server import serve

OURS = "benchmarks.query_train:"

LABELS = 1000
"""The labels of the datasets, drawn evenly."""


def train_rows(scale: str) -> list[Table]:
    """Return the tables at "small" or "full" scale."""
    full = scale == "full"
    large = Dataset("20k-indexed", *((10, 5_000) if full else (2, 500)), size=20_000, writer="shardtools")
    small = Dataset("200b-indexed", *((20, 50_000) if full else (2, 5_000)), size=180, writer="shardtools")
    return [
        subsets(large, "subset-large", is_far=False),
        subsets(small, "subset-small", is_far=False),
        subsets(large, "subset-far", is_far=True),
    ]


def subsets(data: Dataset, name: str, *, is_far: bool) -> Table:
    content = "jpg" if data.size > 1000 else "txt"
    tenth = max(1, data.shards // 10)
    conditions = {
        "all samples": "",
        "a tenth, chosen at random": f"cls < {LABELS // 10}",
        "a tenth of each shard": f"row < {data.samples // 10}",
        "a tenth of the shards": f"shard < {tenth}",
    }
    fixed = {"pattern": data.pattern, "fields": [content, "cls"], "is_far": is_far}
    rows = tuple(Row(row, OURS + "epoch", {**fixed, "condition": text}) for row, text in conditions.items())
    _, *others = conditions
    targets = tuple(Target(row, least, "all samples") for row, least in zip(others, (0.5, 0.9, 0.9), strict=True))
    where = "over HTTP, 20 ms to the first byte, 50 MB/s for each connection" if is_far else "from files"
    title = f"An epoch of what a condition chose, {where}, shuffled, undecoded, samples of {data.size:,} bytes"
    return Table(name, title, rows, targets, (data,), sample_bytes=data.size)


@contextmanager
def epoch(root: str, pattern: str, fields: list[str], condition: str, is_far: bool) -> Iterator[Work]:
    """Go through an epoch of the samples that a condition chose, which is done before."""
    import shardtools

    with ExitStack() as stack:
        base = f"{root}/"
        if is_far:
            base = stack.enter_context(far(stack.enter_context(serve(root))))
        dataset = shardtools.open(base + pattern)
        chosen = dataset.where(condition) if condition else dataset
        yield lambda: count(chosen, fields)


def count(source: Any, fields: list[str]) -> int:
    """Return how many samples an epoch has."""
    from shardtools.torch import ShardBatches

    batches = ShardBatches(source, fields=fields, decode=False, shuffle=True, seed=1, batch_size=64)
    return sum(len(batch[0]) for batch in batches)
