"""Tables of the suite `query` about joins: the batches of two datasets as one, beside those of one with all fields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.data import Dataset
from benchmarks.model import Row, Table, Target, Work

OURS = "benchmarks.query_join:"


def join_rows(scale: str) -> list[Table]:
    """Return the tables at "small" or "full" scale."""
    full = scale == "full"
    large = Dataset("join-20k", *((10, 2_000) if full else (2, 200)), size=20_000, writer="shardtools")
    small = Dataset("join-200b", *((20, 10_000) if full else (2, 1_000)), size=180, writer="shardtools")
    return [epoch(large, "join-large"), epoch(small, "join-small")]


def epoch(data: Dataset, name: str) -> Table:
    content = "jpg" if data.size > 1000 else "txt"
    contents = replace(data, name=f"{data.name}-content", fields=(content,))
    labels = replace(data, name=f"{data.name}-labels", fields=("cls",))
    turned = replace(labels, name=f"{data.name}-turned", is_reversed=True)
    fields = {"fields": [content, "cls"]}
    rows = (
        Row("one dataset", OURS + "one", {"pattern": data.pattern, **fields}),
        Row("a join, aligned", OURS + "join", {"patterns": [contents.pattern, labels.pattern], **fields}),
        Row("a join, another order", OURS + "join", {"patterns": [contents.pattern, turned.pattern], **fields}),
        Row("to open the aligned", OURS + "opening", {"patterns": [contents.pattern, labels.pattern]}),
        Row("to open the other", OURS + "opening", {"patterns": [contents.pattern, turned.pattern]}),
    )
    title = f"An epoch of a join, one process, shuffled, undecoded, samples of {data.size:,} bytes and a label"
    targets = (Target("a join, aligned", 0.7, "one dataset"),)
    return Table(name, title, rows, targets, (data, contents, labels, turned), sample_bytes=data.size)


def _count(source: Any, fields: list[str]) -> int:
    from shardtools.torch import ShardBatches

    batches = ShardBatches(source, fields=fields, decode=False, shuffle=True, seed=1, batch_size=64)
    return sum(len(batch[0]) for batch in batches)


@contextmanager
def one(root: str, pattern: str, fields: list[str]) -> Iterator[Work]:
    """Go through an epoch of one dataset that is open; its sidecars have been read, as those of a join."""
    import shardtools

    dataset = shardtools.open(str(Path(root, pattern)))
    len(dataset)
    yield lambda: _count(dataset, fields)


@contextmanager
def join(root: str, patterns: list[str], fields: list[str]) -> Iterator[Work]:
    """Go through an epoch of a join that is open."""
    import shardtools

    joined = shardtools.open([str(Path(root, pattern)) for pattern in patterns], join="inner")
    yield lambda: _count(joined, fields)


@contextmanager
def opening(root: str, patterns: list[str]) -> Iterator[Work]:
    """Open a join, for which the keys of both are compared."""
    import shardtools

    specs = [str(Path(root, pattern)) for pattern in patterns]
    yield lambda: len(shardtools.open(specs, join="inner"))
