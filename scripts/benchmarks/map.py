"""The suite `map`: htmapper and the layers below it, against what others offer for the same work."""

from __future__ import annotations

from benchmarks.data import Dataset
from benchmarks.model import Row, Table, Target

OURS = "benchmarks.ours:"
PEERS = "benchmarks.peers:"


def tables(scale: str) -> list[Table]:
    """Return the suite's tables at "small" or "full" scale."""
    full = scale == "full"
    large = Dataset("20k", *((10, 5_000) if full else (2, 500)), size=20_000)
    small = Dataset("200b", *((10, 50_000) if full else (2, 5_000)), size=180)
    large_tgz = Dataset("20k-tgz", *((4, 5_000) if full else (2, 250)), size=20_000, extension=".tgz")
    small_tgz = Dataset("200b-tgz", *((4, 50_000) if full else (2, 2_500)), size=180, extension=".tgz")
    large_wds = Dataset("20k-wds", *((2, 5_000) if full else (1, 500)), size=20_000, writer="webdataset")
    small_wds = Dataset("200b-wds", *((2, 50_000) if full else (1, 5_000)), size=180, writer="webdataset")
    return [
        map_tar(large, "20k", 10, 0.5),
        map_tar(small, "200b", 20),
        map_tgz(large_tgz, "20k"),
        map_tgz(small_tgz, "200b"),
        map_as_webdataset(large_wds, "20k"),
        map_as_webdataset(small_wds, "200b"),
        read(large, "20k"),
        read(small, "200b"),
        scan(small),
        memory(Dataset("3gb", 1, 150_000 if full else 10_000, size=20_000)),
        http(large),
        commands(Dataset("one", 1, 100, size=20_000)),
        overhead(Dataset("tiny", 10_000 if full else 200, 1, size=180)),
    ]


def ours_map(data: Dataset, name: str = "shardtools", note: str = "", shards: int = 0, **more: object) -> Row:
    """A row that maps the whole of ``data`` with shardtools; ``more`` are arguments of `ours.map_identity`."""
    arguments = {"sources": [data.pattern], "destination": f"@{data.shards:06d}{data.extension}", **more}
    return Row(name, OURS + "map_identity", arguments, note)


def peer(
    name: str, function: str, data: Dataset, shards: int, note: str = "", in_process: bool = True, **more: object
) -> Row:
    """A row in which a peer works on the first ``shards`` of ``data``."""
    shards = min(shards, data.shards)
    if shards < data.shards:
        note = f"{note}{'; ' if note else ''}measured over {shards} of the {data.shards} shards"
    return Row(name, PEERS + function, {"names": data.names(shards), **more}, note, in_process)


RAY_NOTE = "limited to one CPU, with its own processes around that; starting it is not counted"


def map_tar(data: Dataset, size: str, times_webdataset: float, times_cp: float | None = None) -> Table:
    rows = (
        ours_map(data),
        peer("webdataset", "webdataset_map", data, 1, "WebDataset and TarWriter with mtime=0"),
        peer("Ray Data", "ray_map", data, 1, RAY_NOTE, in_process=False),
        peer("tar x, tar c", "unpack_and_pack", data, 1, in_process=False),
        peer("cp", "copy", data, data.shards, in_process=False),
    )
    targets = [Target("shardtools", times_webdataset, "webdataset"), Target("shardtools", 20, "Ray Data")]
    if times_cp:
        targets.append(Target("shardtools", times_cp, "cp"))
    title = f"Identity map, one thread, .tar to .tar, samples of {data.size:,} bytes"
    return Table(f"map-tar-{size}", title, rows, tuple(targets), (data,), sample_bytes=data.size)


def map_tgz(data: Dataset, size: str) -> Table:
    rows = (
        ours_map(data, note="writes with isal, level 1"),
        peer("webdataset", "webdataset_map", data, 1, "writes with zlib, level 9, as tarfile does unless told"),
        peer("cp", "copy", data, data.shards, in_process=False),
    )
    targets = (Target("shardtools", 6, "webdataset"),)
    title = f"Identity map, one thread, .tgz to .tgz, samples of {data.size:,} bytes of words"
    return Table(f"map-tgz-{size}", title, rows, targets, (data,), sample_bytes=data.size)


def map_as_webdataset(data: Dataset, size: str) -> Table:
    rows = (
        ours_map(data),
        peer("webdataset", "webdataset_map", data, 1, "TarWriter as it is by default", plain=False),
    )
    title = f"Identity map, one thread, shards as webdataset writes them (pax headers), {data.size:,} bytes"
    return Table(f"map-wds-{size}", title, rows, (), (data,), sample_bytes=data.size)


def read(data: Dataset, size: str) -> Table:
    rows = (
        Row("shardtools", OURS + "read", {"names": data.names()}),
        Row("shardtools, ahead", OURS + "read", {"names": data.names(), "ahead": True}, "two threads"),
        peer("webdataset", "webdataset_read", data, 2),
        peer("tarfile", "tarfile_read", data, 2),
    )
    targets = (Target("shardtools", 15, "webdataset"), Target("shardtools, ahead", 20, "webdataset"))
    title = f"Reading records, one thread, .tar, samples of {data.size:,} bytes"
    return Table(f"read-{size}", title, rows, targets, (data,), sample_bytes=data.size)


def scan(data: Dataset) -> Table:
    rows = (
        Row("two threads", OURS + "scan", {"names": data.names(), "threads": 2}),
        Row("one thread", OURS + "scan", {"names": data.names()}),
    )
    targets = (Target("one thread", 500_000), Target("two threads", 1.7, "one thread"))
    return Table("scan", "Scanning blocks into tables, checksums verified", rows, targets, (data,), counts="members")


def memory(data: Dataset) -> Table:
    rows = (ours_map(data, "file to file"), ours_map(data, "http to http", read_over="http", write_over="http"))
    targets = tuple(Target(row.name, 300, figure="peak") for row in rows)
    gigabytes = data.samples * data.size / 1e9
    title = f"One shard of {gigabytes:.1f} GB, one thread"
    return Table("memory", title, rows, targets, (data,), sample_bytes=data.size, is_data_kept=False)


def http(data: Dataset) -> Table:
    rows = (
        ours_map(data, "local to local"),
        ours_map(data, "http to http", "nginx on the same machine", read_over="http", write_over="http"),
        ours_map(data, "http to local", read_over="http"),
    )
    targets = (Target("http to http", 0.5, "local to local"),)
    return Table("http", "Over HTTP, one thread, .tar to .tar", rows, targets, (data,), sample_bytes=data.size)


def commands(data: Dataset) -> Table:
    mapping = ["htmapper", "-q", "-p", "{script}", "{root}/" + data.pattern, "{root}/output/@1.tar"]
    rows = (
        Row("htmapper --help", OURS + "command", {"arguments": ["htmapper", "--help"]}, in_process=False),
        Row(
            "htmapper on one shard",
            OURS + "command",
            {"arguments": mapping},
            f"{data.samples} samples",
            in_process=False,
        ),
    )
    targets = (
        Target("htmapper --help", 0.3, figure="seconds"),
        Target("htmapper on one shard", 1, figure="seconds"),
    )
    return Table("commands", "Whole commands", rows, targets, (data,), counts="commands")


def overhead(data: Dataset) -> Table:
    rows = (
        ours_map(data, "two workers", "a local Dask cluster of two processes", cluster_workers=2),
        ours_map(data, "one thread"),
    )
    targets = (Target("two workers", 10, figure="each"),)
    return Table("overhead", f"{data.shards:,} shards of one sample", rows, targets, (data,), counts="shards")
