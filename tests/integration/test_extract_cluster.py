"""htextract on a cluster: rows pass through storage, in bounded memory, and nothing is left there."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardtools.jobs.extraction import extracted
from shardtools.jobs.extraction.extracted import ExtractedRows, Waiting
from shardtools.jobs.extraction.shared_spill import FOLDER
from shardtools.jobs.extraction.spill import Spill
from tests.cli.command import finish, run, start
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.datasets import written_dataset
from tests.moto_server import moto_server
from tests.servers import NginxServer, nginx_server, wait_until

pytestmark = pytest.mark.slow

SHARDS, SAMPLES, SIZE = 24, 20, 20_000


def samples(shard: int) -> list[dict[str, object]]:
    """Return 400 kB of samples, which is more than a task returns by itself; of each third shard only a few."""
    choose = random.Random(shard)
    count = 2 if shard % 3 == 2 else SAMPLES
    return [{"key": f"{shard:02d}{i:04d}", "cls": i, "jpg": choose.randbytes(SIZE)} for i in range(count)]


ALL = [samples(shard) for shard in range(SHARDS)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(workers=2, threads=4) as cluster:  # enough for jobs that wait, also if they were killed
        yield cluster


@pytest.fixture
def spec(nginx: NginxServer) -> str:
    written_dataset(nginx.root, f"in-@{SHARDS}.tar", ALL)
    return f"{nginx.url}in-@{SHARDS}.tar"


def spilt(root: Path) -> list[Path]:
    """Return what is in the places for rows below a folder: marks and rows."""
    return [path for path in root.glob(f"**/{FOLDER}/*") if path.is_file() and ".shardtools-tmp" not in path.parts]


def log_of(nginx: NginxServer) -> str:
    return nginx.log_path.read_text()


@pytest.mark.parametrize("format", ["tsv", "parquet", "npy"])
def test_it_is_the_same_as_on_threads(
    format: str, spec: str, cluster: DaskCluster, nginx: NginxServer, tmp_path: Path
) -> None:
    fields = ["-p", "to_array.py"] if format == "npy" else ["-f", "cls", "-f", "jpg", *["--raw"] * (format == "tsv")]
    (tmp_path / "to_array.py").write_text(
        "import numpy\ndef extract_sample(record):\n    return numpy.frombuffer(record['jpg'], numpy.uint8)\n"
    )
    arguments = (spec, *fields, "--format", format)
    run(*arguments, "-o", "threads.out", cwd=tmp_path, program="htextract")
    url = f"{nginx.url}out/cluster.out"
    outcome = run(*arguments, "-o", url, "-c", cluster.address, cwd=tmp_path, program="htextract")
    assert (outcome.status, outcome.err) == (0, "")
    assert (nginx.root / "out" / "cluster.out").read_bytes() == (tmp_path / "threads.out").read_bytes()
    rows = re.findall(rf"\"PUT /out/{FOLDER}/\w+-(\d{{6}}) ", log_of(nginx))
    assert sorted(rows) == [f"{shard:06d}" for shard in range(SHARDS) if shard % 3 < 2], "small ones come as they are"
    assert spilt(nginx.root) == []


def test_to_standard_output_by_the_folder_of_the_source(
    spec: str, cluster: DaskCluster, nginx: NginxServer, tmp_path: Path
) -> None:
    arguments = (spec, "-f", "jpg", "--base64")
    expected = run(*arguments, cwd=tmp_path, program="htextract").out
    assert run(*arguments, "-c", cluster.address, cwd=tmp_path, program="htextract").out == expected
    assert f'"PUT /{FOLDER}/' in log_of(nginx) and spilt(nginx.root) == []


def test_a_limit(spec: str, cluster: DaskCluster, nginx: NginxServer, tmp_path: Path) -> None:
    arguments = (spec, "-f", "jpg", "--base64", "--limit", "50")
    expected = run(*arguments, cwd=tmp_path, program="htextract").out
    assert len(expected.splitlines()) == 50
    assert run(*arguments, "-c", cluster.address, cwd=tmp_path, program="htextract").out == expected
    assert spilt(nginx.root) == []


def test_sources_beside_which_nothing_can_be_written(cluster: DaskCluster, tmp_path: Path) -> None:
    """Rows come to the client, and wait on its disk."""
    (tmp_path / "root").mkdir()
    with nginx_server(tmp_path / "root", writers={"me": "secret"}) as server:
        written_dataset(server.root, f"in-@{SHARDS}.tar", ALL)
        arguments = (f"{server.url}in-@{SHARDS}.tar", "-f", "jpg", "--base64")
        expected = run(*arguments, cwd=tmp_path, program="htextract").out
        outcome = run(*arguments, "-c", cluster.address, cwd=tmp_path, program="htextract")
    assert (outcome.status, outcome.err, outcome.out) == (0, "", expected)


def test_a_shared_folder(cluster: DaskCluster, tmp_path: Path) -> None:
    written_dataset(tmp_path, f"in-@{SHARDS}.tar", ALL)
    arguments = (str(tmp_path / f"in-@{SHARDS}.tar"), "-f", "jpg", "--raw")
    run(*arguments, "-o", "a.tsv", cwd=tmp_path, program="htextract")
    before = sorted(path.name for path in tmp_path.iterdir())
    outcome = run(*arguments, "-o", "b.tsv", "-c", cluster.address, cwd=tmp_path, program="htextract")
    assert (outcome.status, outcome.err) == (0, "")
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "b.tsv"])


def test_s3(cluster: DaskCluster, tmp_path: Path) -> None:
    written_dataset(tmp_path, f"in-@{SHARDS}.tar", ALL)
    arguments = ("-f", "jpg", "--base64")
    expected = run(f"in-@{SHARDS}.tar", *arguments, cwd=tmp_path, program="htextract").out
    with moto_server() as moto, dask_cluster(workers=1, worker_env=moto.environment()) as own:
        moto.client().create_bucket(Bucket="data")
        for path in tmp_path.glob("in-*"):
            moto.client().put_object(Bucket="data", Key=path.name, Body=path.read_bytes())
        sources = f"s3://data/in-@{SHARDS}.tar"
        outcome = run(sources, *arguments, "-c", own.address, cwd=tmp_path, env=moto.environment(), program="htextract")
        left = [entry["Key"] for entry in moto.client().list_objects_v2(Bucket="data")["Contents"]]
    assert (outcome.status, outcome.err, outcome.out) == (0, "", expected)
    assert [key for key in left if not key.startswith("in-")] == []


LATE = """
import pathlib, time
def extract_sample(record):
    if record["__shard__"].endswith("in-00.tar"):
        while pathlib.Path({wait!r}).exists():
            time.sleep(0.01)
    return record["jpg"]
"""


@pytest.fixture
def late(tmp_path: Path) -> tuple[str, str]:
    """Options for a script that waits in the first shard as long as the file ``wait`` is there."""
    (tmp_path / "wait").touch()
    (tmp_path / "late.py").write_text(LATE.format(wait=str(tmp_path / "wait")))
    return "-p", str(tmp_path / "late.py")


def begun(spec: str, late: tuple[str, str], cluster: DaskCluster, tmp_path: Path) -> subprocess.Popen[bytes]:
    arguments = (spec, *late, "--raw", "-c", cluster.address, "-o", "rows.tsv")
    return start(*arguments, cwd=tmp_path, program="htextract")


def test_a_late_first_shard_holds_up_nothing_else(
    spec: str, late: tuple[str, str], cluster: DaskCluster, nginx: NginxServer, tmp_path: Path
) -> None:
    process = begun(spec, late, cluster, tmp_path)
    large = sum(1 for shard in range(1, SHARDS) if shard % 3 < 2)
    wait_until(lambda: len(spilt(nginx.root)) == 1 + large, "the rows of all other shards, and the mark")
    (tmp_path / "wait").unlink()
    outcome = finish(process)
    assert (outcome.status, outcome.err) == (0, "") and spilt(nginx.root) == []
    rows = b"".join(b"%s\t%s\n" % (str(row["key"]).encode(), row["jpg"]) for shard in ALL for row in shard)
    assert (tmp_path / "rows.tsv").read_bytes() == rows


def test_what_a_killed_job_has_left_is_swept_by_the_next(
    spec: str, late: tuple[str, str], cluster: DaskCluster, nginx: NginxServer, tmp_path: Path
) -> None:
    first, second = begun(spec, late, cluster, tmp_path), begun(spec, late, cluster, tmp_path)
    each_has = 1 + sum(1 for shard in range(1, SHARDS) if shard % 3 < 2)
    try:
        wait_until(lambda: len(spilt(nginx.root)) >= each_has + 1, "the rows of a job, and the mark of the other")
        os.killpg(first.pid, signal.SIGKILL)
        assert finish(first).status == -signal.SIGKILL
        assert run(spec, "--keys", "-c", cluster.address, cwd=tmp_path, program="htextract").status == 0
        runs = {path.name[:32] for path in spilt(nginx.root) if path.suffix == ".mark"}
        assert len(runs) == 1, "that of the job that goes on"
    finally:
        (tmp_path / "wait").unlink()
    assert finish(second).status == 0
    assert (tmp_path / "rows.tsv").stat().st_size > SIZE * SAMPLES * SHARDS / 2


def test_an_interrupted_job_leaves_nothing(
    spec: str, late: tuple[str, str], cluster: DaskCluster, nginx: NginxServer, tmp_path: Path
) -> None:
    process = begun(spec, late, cluster, tmp_path)
    wait_until(lambda: len(spilt(nginx.root)) > 5, "the rows of some shards")
    process.send_signal(signal.SIGINT)
    (tmp_path / "wait").unlink()
    assert finish(process).status == 130
    assert spilt(nginx.root) == [] and not (tmp_path / "rows.tsv").exists()


def test_rows_that_wait_are_held_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extracted, "HELD", 1000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spill = Spill()
    waiting = Waiting(spill)
    parts = [ExtractedRows(str(i), 1, 1, 400, b"%d" % i * 400) for i in range(5)]
    held = [waiting.hold(part) for part in parts]
    assert [isinstance(part.content, bytes) for part in held] == [True, True, False, False, False]
    for part, before in zip(held, parts, strict=True):
        with part.open() as content:
            assert content.read() == before.content
        assert waiting.hold(part) is part
    waiting.release(held[0])
    assert waiting.hold(ExtractedRows("6", 1, 1, 500, b"6" * 500)).content == b"6" * 500
    spill.close()
