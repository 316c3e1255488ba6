"""The suite `extract`: htextract against the loops that people write."""

from __future__ import annotations

from benchmarks.data import Dataset
from benchmarks.model import Row, Table, Target

OURS = "benchmarks.ours_extract:"
PEERS = "benchmarks.peers:"


def tables(scale: str) -> list[Table]:
    """Return the suite's tables at "small" or "full" scale."""
    full = scale == "full"
    large = Dataset("20k-indexed", *((10, 5_000) if full else (2, 500)), size=20_000, writer="shardtools")
    many = Dataset("200b-indexed", *((20, 50_000) if full else (2, 5_000)), size=180, writer="shardtools")
    return [local(large), over_http(large), million(many)]


def local(data: Dataset) -> Table:
    field = {"names": data.names(), "field": "cls"}
    rows = (
        Row("shardtools", OURS + "rows", field, "one thread"),
        Row("webdataset", PEERS + "webdataset_field", {**field, "names": data.names(2)}, "measured over 2 shards"),
    )
    title = f"One small field of samples of {data.size:,} bytes, local, .tar"
    return Table("local", title, rows, (Target("shardtools", 10, "webdataset"),), (data,))


def over_http(data: Dataset) -> Table:
    field = {"names": data.names(), "field": "cls", "http": True}
    rows = (Row("shardtools", OURS + "rows", field, "one thread; fails if more than 5 % of the bytes are sent"),)
    return Table("http", f"One small field of samples of {data.size:,} bytes, over HTTP, .tar", rows, (), (data,))


def million(data: Dataset) -> Table:
    names = {"names": data.names()}
    rows = (
        Row("-f cls", OURS + "rows", {**names, "field": "cls"}),
        Row("--keys", OURS + "rows", {**names, "field": ""}),
        Row("--stats", OURS + "stats", names),
        Row("--count cls", OURS + "count", {**names, "field": "cls"}),
    )
    targets = tuple(Target(row.name, 300, figure="peak") for row in rows)
    title = f"{data.shards * data.samples:,} samples of {data.size} bytes, local, .tar, one thread"
    return Table("million", title, rows, targets, (data,))
