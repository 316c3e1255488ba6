"""The suite `view`: samples and slices by their numbers, against wids and tarfile."""

from __future__ import annotations

from benchmarks.data import Dataset
from benchmarks.model import Row, Table, Target

OURS = "benchmarks.ours_view:"
PEERS = "benchmarks.peers_view:"


def tables(scale: str) -> list[Table]:
    """Return the suite's tables at "small" or "full" scale."""
    full = scale == "full"
    plain = Dataset("20k-indexed", *((10, 5_000) if full else (2, 500)), size=20_000, writer="shardtools")
    packed = Dataset("20k-indexed-tgz", *((4, 2_500) if full else (2, 250)), 20_000, ".tgz", "shardtools")
    spread = Dataset("ranges-indexed", 20, 1_000 if full else 100, size=20_000, writer="shardtools")
    bare = Dataset("20k", *((10, 5_000) if full else (2, 500)), size=20_000)
    return [
        at_random(plain),
        slices(plain),
        over_http(spread),
        contiguous(plain),
        packed_at_random(packed),
        opening(full),
        indexing(bare),
    ]


def at_random(data: Dataset) -> Table:
    work = {"pattern": data.pattern, "count": 20_000}
    one = {"names": data.names(1)}
    bytes_alike = {"samples": data.samples, "size": data.size}
    rows = (
        Row("shardtools", OURS + "at_random", work),
        Row("wids", PEERS + "wids_at_random", {"names": data.names(), "samples": data.samples, "count": 2_000}),
        Row("tarfile", PEERS + "tarfile_at_random", {**one, "count": 2_000}, "on fsspec; one shard, listed before"),
        Row("ratarmountcore", PEERS + "ratarmount_at_random", {**one, "count": 200}, "one shard, indexed before"),
        Row("zarr", PEERS + "zarr_at_random", {**bytes_alike, "count": 1_000}, "a chunk a sample, not compressed"),
    )
    return Table(
        "random",
        "Samples of 20 kB at random, local, .tar",
        rows,
        (Target("shardtools", 0.025, figure="each"),),
        (data,),
    )


def slices(data: Dataset) -> Table:
    array = {"samples": 2 * data.samples, "size": data.size, "length": min(1_000, data.samples)}
    rows = (
        Row("shardtools", OURS + "slices", {"pattern": data.pattern, "size": 1_000}),
        Row("wids", PEERS + "wids_slices", {"names": data.names(2), "samples": data.samples}, "2 shards"),
        Row("zarr", PEERS + "zarr_slices", array, "a chunk a slice, not compressed"),
    )
    targets = (Target("shardtools", 100_000), Target("shardtools", 5, "wids"), Target("shardtools", 5, "zarr"))
    return Table("slices", "Slices of 1,000 samples of 20 kB, local, .tar", rows, targets, (data,))


def over_http(data: Dataset) -> Table:
    rows = (Row("shardtools", OURS + "over_http", {"pattern": data.pattern, "count": 1_000}, "tables known before"),)
    title = "1,000 random samples of 20 kB in 20 shards, from nginx on this machine"
    return Table("http", title, rows, (Target("shardtools", 0.15, figure="seconds"),), (data,))


def contiguous(data: Dataset) -> Table:
    count = min(data.samples, 4_000)
    rows = (
        Row("shardtools", OURS + "contiguous", {"pattern": data.pattern, "count": count}),
        Row("curl", PEERS + "curl_range", {"names": data.names(1), "size": count * data.size}, in_process=False),
    )
    title = f"A slice of {count:,} samples of 20 kB from nginx on this machine"
    return Table("slice-http", title, rows, (Target("shardtools", 0.7, "curl"),), (data,), counts="MB")


def packed_at_random(data: Dataset) -> Table:
    rows = (Row("shardtools", OURS + "at_random", {"pattern": data.pattern, "count": 100}),)
    title = "100 random samples of 20 kB, local, .tgz"
    return Table("packed", title, rows, (Target("shardtools", 0.1, figure="seconds"),), (data,))


def opening(full: bool) -> Table:
    size = {"shards": 10_000 if full else 100, "samples": 5_000}
    rows = (Row("shardtools", OURS + "opening", size, "of the shards only the one that is read is there"),)
    targets = (Target("shardtools", 1, figure="seconds"), Target("shardtools", 300, figure="peak"))
    title = f"Opening {size['shards']:,} shards of {size['samples']:,} samples and reading one"
    return Table("open", title, rows, targets, counts="times")


def indexing(data: Dataset) -> Table:
    rows = (Row("shardtools", OURS + "indexing", {"names": data.names()}, "one thread; counts megabytes"),)
    return Table("index", "Building tables", rows, (Target("shardtools", 1_000),), (data,), counts="MB")
