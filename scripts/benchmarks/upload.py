"""The suite `upload`: htupload against GNU tar."""

from __future__ import annotations

from benchmarks.data import Dataset
from benchmarks.model import Row, Table, Target

OURS = "benchmarks.ours_upload:"
PEERS = "benchmarks.peers_upload:"


def tables(scale: str) -> list[Table]:
    """Return the suite's tables at "small" or "full" scale."""
    full = scale == "full"
    files = Dataset("files-10k", *((200, 1_000) if full else (4, 1_000)), size=10_000, extension="", writer="files")
    empty = Dataset("files-0", *((1_000, 1_000) if full else (10, 1_000)), size=0, extension="", writer="files")
    return [
        folder(files, ".tar", Target("shardtools", 1 / 1.5, "tar cf")),
        folder(files, ".tgz", Target("shardtools", 3, "tar czf")),
        million(empty),
    ]


def folder(data: Dataset, extension: str, target: Target) -> Table:
    work = {"folder": data.folder, "extension": extension}
    peer = target.against or ""
    rows = (
        Row("shardtools", OURS + "upload_folder", {**work, "shards": 20}, "20 shards, two threads"),
        Row(peer, PEERS + "tar_folder", work, "one archive", in_process=False),
    )
    count = data.shards * data.samples
    title = f"A folder of {count:,} files of {data.size:,} bytes to {extension}"
    return Table(f"folder-{extension[1:]}", title, rows, (target,), (data,), counts="files", sample_bytes=data.size)


def million(data: Dataset) -> Table:
    count = data.shards * data.samples
    rows = (
        Row(
            "a folder",
            OURS + "upload_folder",
            {"folder": data.folder, "extension": ".tar", "shards": 1_000},
            "empty files",
        ),
        Row("its listing alone", OURS + "list_files", {"folder": data.folder}),
        Row("a CSV file", OURS + "upload_csv", {"samples": count, "shards": 1_000}, "two values a row"),
    )
    targets = tuple(Target(row.name, 300, figure="peak") for row in rows)
    return Table("million", f"{count:,} samples, two threads", rows, targets, (data,))
