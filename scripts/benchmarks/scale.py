"""The suite `scale`: how the client of each program grows from 1,000 shards to 100,000, or 30,000 with sidecars.

Every request takes 20 ms, and tasks do nothing (`slow.py`, `ours_scale.py`). A client that grows linearly handles as
many shards a second of the large dataset as of the small one. What lies behind a rate is how many requests there were.
Run it with ``--repeat 1``: a table takes up to two minutes.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.model import Row, Table, Target

OURS = "benchmarks.ours_scale:"


def tables(scale: str) -> list[Table]:
    small, middle, large = (1_000, 30_000, 100_000) if scale == "full" else (100, 300, 1_000)
    plan = "htshuffle before its first task"
    programs: list[tuple[str, str, str, dict[str, object], int]] = [
        ("map", "htmapper", "map_client", {}, large),
        ("overwrite", "htmapper --overwrite of a larger dataset", "map_client", {"mode": "overwrite"}, large),
        ("upload", "htupload after its source was listed", "upload_client", {}, large),
        ("index", "htindex of shards with sidecars", "index_client", {}, middle),
        ("extract", "htextract --keys", "extract_client", {}, middle),
        ("plan", f"{plan}, with a manifest", "exchange_plan", {"place": "indexed"}, large),
        ("plan-bare", f"{plan}, without a manifest", "exchange_plan", {"place": "bare"}, middle),
        ("plan-star", f"{plan}, of x-*.tar", "exchange_plan", {"place": "bare", "star": True}, middle),
    ]
    return [*(growth(*row[:4], small, row[4]) for row in programs), exchange(small, large), scheduler(scale)]


def growth(name: str, title: str, call: str, arguments: Mapping[str, object], small: int, large: int) -> Table:
    """Return a table of the large dataset against the small one; a rate that falls by a tenth is not linear."""
    rows = tuple(Row(f"{shards:,} shards", OURS + call, {"shards": shards, **arguments}) for shards in (large, small))
    targets = [Target(rows[0].name, 0.9, rows[1].name)]
    if name == "plan":
        targets.append(Target(rows[0].name, 30, figure="seconds"))
    return Table(name, f"The client of {title}", rows, tuple(targets), counts="shards")


def exchange(small: int, large: int) -> Table:
    """Return a table of the client of a whole shuffle: 10,000 samples in each shard, and requests that take no time."""
    each = max(10_000, 2_000_000 // small)  # what the client would plan alone takes no tasks
    call = "benchmarks.ours_scale_exchange:exchange_client"
    rows = tuple(
        Row(f"{each * shards:,} samples", call, {"shards": shards, "samples": each * shards})
        for shards in (large, small)
    )
    targets = (Target(rows[0].name, 300, figure="seconds"), Target(rows[0].name, 2_000, figure="peak"))
    return Table("exchange", "The client of htshuffle, all passes", rows, targets, counts="shards")


def scheduler(scale: str) -> Table:
    row = Row("two workers", OURS + "scheduler", {"tasks": 20_000 if scale == "full" else 1_000})
    return Table("scheduler", "Tasks that do nothing through a Dask scheduler", (row,), (), counts="tasks")
