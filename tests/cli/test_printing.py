"""Standard output is for results alone: what scripts print goes to standard error, wherever they run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import path_of
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.datasets import members, sample_files, tar_members, write_dataset, write_shard

PRINTS = """
import os, subprocess
print("printed at the top")
def say(record):
    print("printed for a sample")
    os.write(1, b"written to descriptor 1\\n")
    subprocess.run(["echo", "by a process"])
def process_sample(record):
    say(record)
    return record
def extract_sample(record):
    say(record)
    return record["key"]
def sort_key(record):
    say(record)
    return record["key"]
"""
SAID = {"printed at the top", "printed for a sample", "written to descriptor 1", "by a process"}


@pytest.fixture
def printing(tmp_path: Path) -> Path:
    (tmp_path / "prints.py").write_text(PRINTS)
    write_dataset(tmp_path, 2, 2)
    return tmp_path


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(workers=1) as running:
        yield running


def run(folder: Path, program: str, *arguments: str) -> tuple[bytes, set[str]]:
    """Run a command to its end; return its standard output, and the lines of its standard error."""
    command = [path_of(program), "-p", "prints.py", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.decode().splitlines())


def test_a_tar_on_standard_output(printing: Path) -> None:
    out, err = run(printing, "htmapper", "-q", "in-0.tar", "-")
    assert tar_members(out) == members(printing / "in-0.tar") and err == SAID


@pytest.mark.parametrize("where", ["threads", "processes", "cluster"])
def test_rows_on_standard_output(where: str, printing: Path, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue("cluster").address if where == "cluster" else where
    out, err = run(printing, "htextract", "-j", "1", "-c", place, f"{printing}/in-@2.tar")
    keys = [f"{shard}/{i:04d}" for shard in range(2) for i in range(2)]
    assert out.decode().splitlines() == [f"{key}\t{key}" for key in keys]
    assert err == (SAID if where != "cluster" else {"printed at the top"} & err)


@pytest.mark.parametrize("program", ["htmapper", "htsort"])
def test_the_summary_alone(program: str, printing: Path) -> None:
    out, err = run(printing, program, "-j", "1", "in-@2.tar", "out-@2.tar")
    assert len(out.splitlines()) == 1 and b"out-@2.tar: 2 shards, 4 samples" in out and err == SAID


def test_standard_output_that_is_closed(printing: Path) -> None:
    write_shard(printing / "in.tar", sample_files(0, 2))
    command = f"{path_of('htmapper')} -p prints.py in.tar out.tar >&-"
    done = subprocess.run(["bash", "-c", command], cwd=printing, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout == b"", done.stderr
    assert members(printing / "out.tar") == members(printing / "in.tar")
