"""The suite `array`: arrays by name and version, against the libraries that keep chunked arrays.

All libraries write and read the same bytes. h5py does not pack, and Deep Lake packs in its own way; TensorStore reads
what zarr has written. Icechunk 1.1 does not read from web servers.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.array_data import Layout
from benchmarks.model import Row, Table, Target

OURS = "benchmarks.ours_array:"
WRITERS = "benchmarks.ours_array_writers:"
PEERS = "benchmarks.peers_array:"

IMAGE = (64, 64, 3)
"""A chunk of 12 kB."""

PROCESSES = 4

COMMITS = {"local": 50, "nginx": 50, "s3": 8, "gs": 20}
"""Commits of each process: fewer where the server of the tests, a process of Python, takes longer for each."""

MEGABYTE = (512, 512, 4)


def tables(scale: str) -> list[Table]:
    """Return the suite's tables at "small" or "full" scale."""
    full = scale == "full"
    images = Layout(10_000 if full else 1_000, IMAGE, packed=True, noise=False)
    plain = Layout(512 if full else 64, MEGABYTE, packed=False, noise=True)
    halves = Layout(512 if full else 64, MEGABYTE, packed=True, noise=False)
    written = 1_000 if full else 64
    return [
        single(images, 2_000 if full else 200),
        scattered(images, 800, 10 if full else 2),
        scattered_http(images),
        slice_http("slice-http", "not packed", plain),
        slice_http("slice-http-zstd", "packed by zstd to half", halves),
        processes_http(plain),
        open_http(images),
        write("write-noise", "that zstd cannot pack", Layout(written, MEGABYTE, packed=True, noise=True)),
        write("write-halves", "that zstd packs to half", Layout(written, MEGABYTE, packed=True, noise=False)),
        write("write-plain", "not packed", Layout(written, MEGABYTE, packed=False, noise=True)),
        commit(10_000_000 if full else 100_000, 1_000 if full else 100),
        open_large(10_000_000 if full else 100_000),
        writers(*((16, COMMITS) if full else (4, dict.fromkeys(COMMITS, 10)))),
    ]


def of(layout: Layout) -> dict[str, object]:
    """Return a layout as arguments of a row."""
    return {"rows": layout.rows, "chunk": layout.chunk, "packed": layout.packed, "noise": layout.noise}


def single(layout: Layout, count: int) -> Table:
    work = {**of(layout), "count": count}
    rows = (
        Row("shardtools", OURS + "single", work, "keeps no chunks in memory here"),
        Row("zarr", PEERS + "single", {**work, "library": "zarr"}),
        Row("TensorStore", PEERS + "single", {**work, "library": "tensorstore"}),
        Row("Icechunk", PEERS + "single", {**work, "library": "icechunk"}),
        Row("h5py", PEERS + "single", {**work, "library": "h5py"}, "not packed"),
        Row("Deep Lake", PEERS + "single", {**work, "library": "deeplake"}, "keeps some in memory"),
    )
    title = "Chunks of 12 kB one by one, local, in the system's cache"
    targets = (Target("shardtools", 5, "zarr"),)
    return Table("chunk", title, rows, targets, counts="chunks", sample_bytes=layout.row_bytes)


def scattered(layout: Layout, count: int, rounds: int) -> Table:
    work = {**of(layout), "count": count, "rounds": rounds}
    one = {**of(layout), "count": count, "library": "zarr"}
    rows = (
        Row("shardtools", OURS + "scattered", work, "keeps no chunks in memory here"),
        Row("zarr, one by one", PEERS + "single", one),
        Row("zarr", PEERS + "scattered", {**work, "library": "zarr"}),
        Row("TensorStore", PEERS + "scattered", {**work, "library": "tensorstore"}, "in threads"),
        Row("Icechunk", PEERS + "scattered", {**work, "library": "icechunk"}),
        Row("h5py", PEERS + "scattered", {**work, "library": "h5py"}, "not packed"),
        Row("Deep Lake", PEERS + "scattered", {**work, "library": "deeplake"}, "keeps some in memory"),
    )
    title = f"{count} scattered chunks of 12 kB in one call, local, in the system's cache"
    targets = (Target("shardtools", 20, "zarr, one by one"),)
    return Table("scattered", title, rows, targets, counts="chunks", sample_bytes=layout.row_bytes)


def scattered_http(layout: Layout) -> Table:
    work = {**of(layout), "count": min(1_000, layout.rows)}
    rows = (
        Row("shardtools", OURS + "scattered_http", {**work, "requests": 20}, "fails if it takes over 20 requests"),
        Row("zarr", PEERS + "scattered_http", {**work, "library": "zarr"}, "on obstore"),
        Row("TensorStore", PEERS + "scattered_http", {**work, "library": "tensorstore"}),
    )
    title = "1,000 scattered chunks of 12 kB in one call, from nginx on this machine"
    targets = (Target("shardtools", 5, "zarr"),)
    return Table("scattered-http", title, rows, targets, counts="chunks", sample_bytes=layout.row_bytes)


def slice_http(name: str, what: str, layout: Layout) -> Table:
    work = {**of(layout), "count": layout.rows // 2}
    size = layout.rows // 2 * layout.row_bytes
    same = "as many bytes as the array has in memory" if layout.packed else ""
    rows = (
        Row("shardtools", OURS + "slice_http", work, "read once before, as by the others, so that memory was used"),
        Row("curl", PEERS + "curl", {"size": size}, same, in_process=False),
        Row("zarr", PEERS + "slice_http", {**work, "library": "zarr"}, "on obstore"),
        Row("TensorStore", PEERS + "slice_http", {**work, "library": "tensorstore"}),
    )
    title = f"A slice of {size / 1e6:,.0f} MB in chunks of 1 MB, {what}, from nginx on this machine"
    targets = () if layout.packed else (Target("shardtools", 0.8, "curl"),)
    return Table(name, title, rows, targets, counts="MB")


def processes_http(layout: Layout) -> Table:
    count = layout.rows // 2
    size = count * layout.row_bytes
    work = {**of(layout), "count": count, "processes": PROCESSES}
    rows = (
        Row("shardtools", OURS + "processes_http", work, in_process=False),
        Row("curl", PEERS + "curl", {"size": size, "processes": PROCESSES}, in_process=False),
    )
    title = f"The same slice of {size / 1e6:,.0f} MB, not packed, in four processes"
    targets = (Target("shardtools", 0.8, "curl"),)
    return Table("processes-http", title, rows, targets, counts="MB")


def open_http(layout: Layout) -> Table:
    rows = (Row("shardtools", OURS + "open_http", {**of(layout), "requests": 12}, "fails beyond that"),)
    title = "Opening an array by its name and reading one chunk: at most 12 requests to nginx"
    return Table("open-http", title, rows, (Target("shardtools", 0.1, figure="seconds"),), counts="times")


def write(name: str, what: str, layout: Layout) -> Table:
    work = of(layout)
    rows = (
        Row("shardtools", OURS + "write", work, "one commit, which is on the disk (fsync)"),
        Row("zarr", PEERS + "write", {**work, "library": "zarr"}, "LocalStore, which leaves it to the system when"),
        Row("zarr, fsync", PEERS + "write", {**work, "library": "zarr", "sync": True}, "and fsync of all its files"),
        Row("TensorStore", PEERS + "write", {**work, "library": "tensorstore"}, "which calls fsync for each chunk"),
        Row("Icechunk", PEERS + "write", {**work, "library": "icechunk"}, "one commit"),
        Row("h5py", PEERS + "write", {**work, "library": "h5py"}, "not packed"),
    )
    title = f"Writing {layout.rows * layout.row_bytes / 1e6:,.0f} MB in chunks of 1 MB {what}, local"
    return Table(name, title, rows, (Target("shardtools", 1 / 1.3, "zarr"),), counts="MB")


def commit(count: int, commits: int) -> Table:
    work = {"count": count, "commits": commits, "each": 64_000}
    rows = (Row("shardtools", OURS + "commit", work, "fails if more than 64 kB are written for each"),)
    title = f"{commits:,} commits of one chunk each into an array of {count:,} chunks, local"
    return Table("commit", title, rows, (Target("shardtools", 100, figure="each"),), counts="commits")


def open_large(count: int) -> Table:
    rows = (Row("shardtools", OURS + "open_large", {"count": count}),)
    targets = (Target("shardtools", 0.5, figure="seconds"), Target("shardtools", 100, figure="peak"))
    return Table("open", f"Opening an array of {count:,} chunks and finding one, local", rows, targets, counts="times")


def writers(processes: int, commits: Mapping[str, int]) -> Table:
    names = {"local": "local", "nginx": "nginx", "s3": "S3 (moto)", "gs": "GCS (test server)"}
    rows = tuple(
        Row(
            name,
            WRITERS + "writers",
            {"backend": backend, "processes": processes, "commits": commits[backend]},
            in_process=False,
        )
        for backend, name in names.items()
    )
    title = f"{processes} processes, some commits of a chunk each, one run; fails unless all are there"
    targets = tuple(Target(row.name, 5, figure="tail") for row in rows)
    return Table("writers", title, rows, targets, counts="commits", repeat=1)
