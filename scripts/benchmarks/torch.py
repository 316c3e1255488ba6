"""The suite `torch`: samples for training, against others, from the same shards or from formats of their own."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.data import Dataset
from benchmarks.model import Row, Table, Target

OURS = "benchmarks.ours_torch:"
PEERS = "benchmarks.peers_torch:"


def tables(scale: str) -> list[Table]:
    """Return the suite's tables at "small" or "full" scale."""
    full = scale == "full"
    large = Dataset("20k-indexed", *((10, 5_000) if full else (2, 500)), size=20_000, writer="shardtools")
    small = Dataset("200b-indexed", *((20, 50_000) if full else (2, 5_000)), size=180, writer="shardtools")
    bare = replace(large, name="20k", writer="tarfile")
    return [epoch(large, bare), small_epoch(small), far(large), first(large), start(full), training(full)]


def epoch(data: Dataset, bare: Dataset) -> Table:
    rows = (
        Row("shardtools", OURS + "epoch", {"pattern": data.pattern, "field": "jpg"}),
        Row("without sidecars", OURS + "epoch", {"pattern": bare.pattern, "field": "jpg"}),
        *peers(data, 2),
    )
    targets = (Target("shardtools", 100_000), Target("without sidecars", 60_000))
    title = f"An epoch, one process, shuffled, undecoded, samples of {data.size:,} bytes"
    return Table("epoch", title, rows, targets, (data, bare), sample_bytes=data.size)


def small_epoch(data: Dataset) -> Table:
    rows = (Row("shardtools", OURS + "epoch", {"pattern": data.pattern, "field": "txt"}), *peers(data, 1))
    title = f"An epoch, one process, shuffled, undecoded, samples of {data.size} bytes"
    return Table("small", title, rows, (Target("shardtools", 200_000),), (data,), sample_bytes=data.size)


def peers(data: Dataset, shards: int) -> tuple[Row, ...]:
    some = {"names": data.names(shards)}
    field = "jpg" if data.size > 1000 else "txt"
    note = f"{shards} shard{'s' * (shards > 1)}"
    rows = (
        Row("webdataset", PEERS + "webdataset_epoch", some, note),
        Row("wids", PEERS + "wids_epoch", {**some, "samples": data.samples}, note),
        Row("litdata", PEERS + "litdata_epoch", some, f"converted; {note}"),
        Row("MosaicML streaming", PEERS + "mosaic_epoch", {**some, "field": field}, f"converted; {note}"),
        Row("Hugging Face", PEERS + "hugging_face_epoch", some, f"streaming; {note}"),
        Row("loose files", PEERS + "loose_files", {**some, "field": field}, note),
        Row("cat", PEERS + "cat", {"names": data.names(), "samples": data.samples}, in_process=False),
    )
    # Hugging Face takes the small samples, which are random bytes, for text.
    return tuple(row for row in rows if field == "jpg" or row.name != "Hugging Face")


def far(data: Dataset) -> Table:
    rows = (
        Row("shardtools", OURS + "far_epoch", {"pattern": data.pattern}),
        Row("webdataset", PEERS + "webdataset_far", {"names": data.names(1)}, "one stream; 1 shard"),
    )
    title = "An epoch over HTTP: 20 ms to the first byte, 50 MB/s for each connection"
    return Table("far", title, rows, (Target("shardtools", 15, "webdataset"),), (data,), sample_bytes=data.size)


def first(data: Dataset) -> Table:
    rows = (Row("first batch", OURS + "first", {"pattern": data.pattern}),)
    return Table("first", "The first batch", rows, (Target("first batch", 0.15, figure="seconds"),), (data,))


def start(full: bool) -> Table:
    size = {"shards": 10_000, "samples": 5_000} if full else {"shards": 100, "samples": 500}
    total = size["shards"] * size["samples"]
    rows = (
        Row("from the start", OURS + "start", size),
        Row("in the middle", OURS + "start", {**size, "skip": total // 50}, f"after {total // 50:,} samples"),
    )
    targets = tuple(Target(row.name, 1, figure="seconds") for row in rows)
    title = f"Opening {size['shards']:,} shards of {size['samples']:,} samples, and the first batch"
    return Table("start", title, rows, targets)


def training(full: bool) -> Table:
    data = Dataset("1k-indexed", *((4, 5_000) if full else (2, 200)), size=1_024, writer="shardtools")
    rows = (
        Row("over HTTP", OURS + "training", {"pattern": data.pattern, "over_http": True}),
        Row("from files", OURS + "training", {"pattern": data.pattern, "over_http": False}),
    )
    title = "Training a small network for an epoch, images of 32 by 32"
    return Table("training", title, rows, (Target("over HTTP", 0.95, "from files"),), (data,))
