"""The suite `query`: tables, conditions, SQL and keys, against DuckDB, Lance, webshart, Hugging Face and loops."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.data import Dataset
from benchmarks.model import Row, Table, Target
from benchmarks.query_data import TARGETS
from benchmarks.query_join import join_rows
from benchmarks.query_train import train_rows

OURS = "benchmarks.ours_query:"
PEERS = "benchmarks.peers_query:"


def tables(scale: str) -> list[Table]:
    """Return the suite's tables at "small" or "full" scale."""
    full = scale == "full"
    many = Dataset("200b-indexed", *((20, 50_000) if full else (2, 5_000)), size=180, writer="shardtools")
    huge = TARGETS[scale]
    return [
        building(many),
        opening(huge),
        counting(huge, many),
        choosing(huge),
        keys(huge),
        samples(replace(many, name="keys-indexed", shards=min(many.shards, 4))),
        *train_rows(scale),
        *join_rows(scale),
    ]


def building(data: Dataset) -> Table:
    rows = (
        Row("shardtools", OURS + "building", {"folder": data.folder, "pattern": data.pattern}, "with keys and cls"),
        Row("webshart", PEERS + "webshart_index", {"folder": data.folder, "names": data.names(2)},
            "without values; it reads the shards; 2 shards"),
    )  # fmt: skip
    targets = (Target("shardtools", 1_000_000), Target("shardtools", 300, figure="peak"))
    title = f"The table of {data.shards * data.samples:,} samples with sidecars"
    return Table("build", title, rows, targets, (data,))


def opening(samples: int) -> Table:
    rows = (
        Row("from files", OURS + "opening", {"samples": samples}),
        Row("over HTTP", OURS + "opening", {"samples": samples, "over_http": True}, "20 ms to the first byte"),
    )
    seconds = [Target(row.name, 1, figure="seconds") for row in rows]
    peaks = [Target(row.name, 300, figure="peak") for row in rows]
    title = f"Opening {samples:,} samples and their table"
    return Table("open", title, rows, (*seconds, *peaks), counts="times")


def counting(samples: int, data: Dataset) -> Table:
    part, few = max(samples // 10, 20_000), max(samples // 100, 10_000)
    some = {"names": data.names(1)}
    rows = (
        Row("shardtools", OURS + "counting", {"samples": samples}, "opened before"),
        Row("DuckDB", PEERS + "duckdb_count", {"samples": samples}, "on the same Parquet files"),
        Row("Lance", PEERS + "lance_count", {"samples": part}, f"{part:,} samples, converted before"),
        Row("Hugging Face", PEERS + "hugging_face_filter", {"samples": few}, f"{few:,} samples, one process"),
        Row("webdataset", PEERS + "webdataset_filter", some, f"a loop over {data.samples:,} samples"),
    )
    targets = (Target("shardtools", 2, figure="seconds"), Target("shardtools", 0.7, "DuckDB"))
    return Table("count", f"How many of {samples:,} samples have cls = 7", rows, targets, (data,))


def choosing(samples: int) -> Table:
    few, many = ({"samples": samples, "condition": condition} for condition in ("cls = 7", "cls < 100"))
    note = "20 ms to the first byte, 50 MB/s for each connection"
    rows = (
        Row("one in 1,000", OURS + "choosing", few),
        Row("one in 10", OURS + "choosing", many),
        Row("one in 1,000 over HTTP", OURS + "choosing", {**few, "over_http": True}, note),
    )
    return Table("where", f"ds.where on {samples:,} samples", rows)


def keys(samples: int) -> Table:
    part = max(samples // 10, 20_000)
    all_ = {"samples": samples}
    rows = (
        Row("shardtools", OURS + "keys", {**all_, "count": 100}, "from nginx; fails beyond 1 request and 2 MB each"),
        Row("shardtools, together", OURS + "keys_together", {**all_, "count": 1_000}, "from nginx, rows_of"),
        Row("DuckDB", PEERS + "duckdb_keys", {**all_, "count": 1}, "local, on the same Parquet files"),
        Row("Lance", PEERS + "lance_keys", {"samples": part, "count": 100}, f"local, {part:,} samples, with its index"),
    )
    return Table("keys", f"Single keys of {samples:,} samples", rows, counts="keys")


def samples(data: Dataset) -> Table:
    packed = replace(data, extension=".tgz", name=f"{data.name}-tgz")
    rows = tuple(
        Row(one.extension, OURS + "samples", {"pattern": one.pattern, "folder": one.folder, "count": 100, "most": most})
        for one, most in ((data, 2), (packed, 3))
    )
    title = "Samples by their keys, from nginx, in shards that were not used before (fails beyond 2 or 3 requests)"
    return Table("samples", title, rows, (), (data, packed))
