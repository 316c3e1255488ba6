"""The suite `storage`: bytes over HTTP and S3 against curl and boto3, and the local cache against plain files.

All requests go to one nginx on this machine. For S3, too: it serves a folder as a bucket in the path-style of S3, and
does not look at the signatures that each client makes.
"""

from __future__ import annotations

from benchmarks.data import Dataset
from benchmarks.model import Row, Table, Target

OURS = "benchmarks.ours_storage:"
PEERS = "benchmarks.peers_storage:"


def tables(scale: str) -> list[Table]:
    """Return the suite's tables at "small" or "full" scale."""
    full = scale == "full"
    large = Dataset("20k", *((10, 5_000) if full else (2, 500)), size=20_000)
    spread = Dataset("ranges", 20, 1_000 if full else 100, size=20_000)
    return [
        get(large),
        ranges_http(spread, 20 if full else 2),
        ranges_s3(spread, 4 if full else 1),
        upload(large),
        cache_hit(large),
        cache_cold(large),
    ]


def get(data: Dataset) -> Table:
    names = {"names": data.names()}
    rows = (
        Row("http:", OURS + "get", names),
        Row("s3:", OURS + "get", {**names, "scheme": "s3"}),
        Row("curl", PEERS + "curl_get", names, "four processes", in_process=False),
    )
    targets = (Target("http:", 0.7, "curl"), Target("s3:", 0.7, "curl"))
    return Table("get", "Whole objects, 4 threads", rows, targets, (data,), counts="shards", sample_bytes=whole(data))


def whole(data: Dataset) -> int:
    """Return what the samples of one shard hold."""
    return data.samples * data.size


def ranges_http(data: Dataset, rounds: int) -> Table:
    work = {"names": data.names(), "size": data.size, "rounds": rounds}
    rows = (
        Row("http:", OURS + "ranges", {**work, "threads": 4}, "four threads"),
        Row("http:, one thread", OURS + "ranges", work),
        Row("requests", PEERS + "requests_ranges", {**work, "rounds": max(1, rounds // 4)}, "one GET a range"),
    )
    return range_table("ranges-http", "HTTP", data, rows, (Target("http:", 10_000),))


def ranges_s3(data: Dataset, rounds: int) -> Table:
    work = {"names": data.names(), "size": data.size, "rounds": rounds}
    rows = (
        Row("s3:", OURS + "ranges", {**work, "scheme": "s3", "threads": 4}, "four threads"),
        Row("boto3", PEERS + "boto3_ranges", {**work, "threads": 4}, "get_object from four threads"),
    )
    return range_table("ranges-s3", "S3", data, rows, (Target("s3:", 1_000),))


def range_table(name: str, service: str, data: Dataset, rows: tuple[Row, ...], targets: tuple[Target, ...]) -> Table:
    title = f"Scattered ranges of {data.size:,} bytes, 1,000 in {data.shards} shards at a time, {service}"
    return Table(name, title, rows, targets, (data,), counts="ranges", sample_bytes=data.size)


def upload(data: Dataset) -> Table:
    names = {"names": data.names()}
    rows = (
        Row("http:", OURS + "upload", names, "checked by HEAD and by pieces of the stored object"),
        Row("curl", PEERS + "curl_upload", names, "curl -T, one process for all", in_process=False),
    )
    targets = (Target("http:", 0.6, "curl"),)
    title = "Uploads, one at a time"
    return Table("upload", title, rows, targets, (data,), counts="shards", sample_bytes=whole(data))


def cache_hit(data: Dataset) -> Table:
    names = {"names": data.names()}
    rows = (
        Row("cache hit", OURS + "cache_hit", names, "with the HEAD that asks whether the object is still the same"),
        Row("file", OURS + "read_files", names),
    )
    targets = (Target("cache hit", 1 / 1.2, "file"),)
    title = "Reading what the cache has, one thread"
    return Table("cache-hit", title, rows, targets, (data,), counts="shards", sample_bytes=whole(data))


def cache_cold(data: Dataset) -> Table:
    note = "fails unless nginx has sent each shard exactly once"
    row = Row("8 processes", OURS + "cache_cold", {"names": data.names(), "processes": 8}, note, in_process=False)
    alone = Row("1 process", OURS + "cache_cold", {"names": data.names(), "processes": 1}, in_process=False)
    title = "Processes that all read all shards through one cold cache"
    return Table("cache-cold", title, (row, alone), (), (data,), counts="reads", sample_bytes=whole(data))
