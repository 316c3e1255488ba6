"""The suites `shuffle` and `sort`: the exchange against cat, which reads and writes as much, and against Ray Data."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.data import Dataset
from benchmarks.model import Row, Table, Target

OURS = "benchmarks.ours_exchange:"
PEERS = "benchmarks.peers_exchange:"

RAY_NOTE = "limited to two CPUs; starting it is not counted"


def datasets(scale: str) -> tuple[Dataset, Dataset, Dataset]:
    """Return samples of 20 kB, four times as many, and small ones."""
    full = scale == "full"
    large = Dataset("20k-indexed", *((10, 5_000) if full else (2, 500)), size=20_000, writer="shardtools")
    larger = Dataset("20k-indexed", *((40, 5_000) if full else (8, 500)), size=20_000, writer="shardtools")
    small = Dataset("200b-indexed", *((20, 50_000) if full else (2, 5_000)), size=180, writer="shardtools")
    return large, larger, small


def ours(name: str, data: Dataset, order: str = "random", memory: int = 1_000_000_000, note: str = "") -> Row:
    arguments = {"pattern": data.pattern, "outputs": 2 * data.shards, "order": order, "memory": memory}
    return Row(name, OURS + "exchange", arguments, note)


def shuffle(scale: str) -> list[Table]:
    """Return the tables of the suite `shuffle`."""
    large, larger, small = datasets(scale)
    return [
        speed(replace(large, shards=2 * large.shards)),
        http(large),
        rate(small),
        memory(larger),
        growth(large, larger),
        planning(scale),
    ]


def speed(data: Dataset) -> Table:
    rows = (
        ours("shardtools", data, note="two threads"),
        Row("cat twice", PEERS + "cat_twice", {"names": data.names()}, "cat shards > a; cat a > b", in_process=False),
        Row("Ray Data", PEERS + "ray_shuffle", {"names": data.names(2)}, RAY_NOTE + "; 2 shards", in_process=False),
    )
    targets = (Target("shardtools", 1 / 2.2, "cat twice"), Target("shardtools", 20, "Ray Data"))
    title = f"Shuffle of samples of {data.size:,} bytes, .tar, local"
    return Table("speed", title, rows, targets, (data,), sample_bytes=data.size)


def http(data: Dataset) -> Table:
    over = replace(ours("shardtools", data, note="two threads"), call=OURS + "exchange_http")
    rows = (
        over,
        Row("curl twice", PEERS + "curl_twice", {"names": data.names()}, "two at a time", in_process=False),
    )
    title = f"Shuffle of samples of {data.size:,} bytes, .tar; source, spill and destination on nginx of this machine"
    return Table("http", title, rows, (Target("shardtools", 0.5, "curl twice"),), (data,), sample_bytes=data.size)


def rate(data: Dataset) -> Table:
    rows = (
        ours("shardtools", data, note="two threads"),
        Row("cat twice", PEERS + "cat_twice", {"names": data.names()}, in_process=False),
    )
    title = f"Shuffle of samples of {data.size} bytes, .tar, local"
    return Table("rate", title, rows, (Target("shardtools", 100_000),), (data,), sample_bytes=data.size)


def memory(data: Dataset) -> Table:
    rows = (ours("--memory 512MB", data, memory=512_000_000, note="two threads"),)
    gigabytes = data.shards * data.samples * data.size / 1e9
    return Table("memory", f"Shuffle of {gigabytes:.1f} GB", rows, (Target(rows[0].name, 712, figure="peak"),), (data,))


def growth(data: Dataset, larger: Dataset) -> Table:
    times = larger.shards // data.shards
    rows = (ours(f"{times} × the data", larger), ours("the data", data))
    names = (f"cat twice, {times} × the data", "cat twice, the data")
    for name, of in zip(names, (larger, data), strict=True):
        note = "memory that is used for the first time takes longer"
        rows += (Row(name, PEERS + "cat_twice", {"names": of.names()}, note, in_process=False),)
    targets = (Target(rows[0].name, times / 4.4, "the data"),)
    return Table("growth", "Shuffles of more and more; samples/s", rows, targets, (data, larger))


def planning(scale: str) -> Table:
    samples = 10_000_000 if scale == "full" else 100_000
    rows = (Row("plan", OURS + "plan", {"runs": 1_000, "outputs": 2_000, "samples": samples}),)
    targets = (Target("plan", 10, figure="seconds"), Target("plan", 1_000, figure="peak"))
    return Table("plan", f"A plan for 1,000 runs, 2,000 outputs, {samples:,} samples", rows, targets)


def sort(scale: str) -> list[Table]:
    """Return the tables of the suite `sort`."""
    large, _, small = datasets(scale)
    return [sorting(large), sorting(small)]


def sorting(data: Dataset) -> Table:
    rows = (
        ours("sort by key", data, "key"),
        ours("shuffle", data),
        *(
            [Row("Ray Data", PEERS + "ray_sort", {"names": data.names(2)}, RAY_NOTE + "; 2 shards", in_process=False)]
            if data.size > 1000
            else []
        ),
    )
    title = f"Sort of samples of {data.size:,} bytes, .tar, local, two threads"
    return Table(f"sort-{data.size}", title, rows, (Target(rows[0].name, 1 / 1.3, "shuffle"),), (data,))
