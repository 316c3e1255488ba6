"""htextract over servers, processes and clusters: what it reads, and what it leaves."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import finish, path_of, run, start
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.datasets import written_dataset
from tests.servers import NginxServer, wait_until

pytestmark = pytest.mark.slow

SHARDS, SAMPLES = 3, 100


def samples(shard: int) -> list[dict[str, object]]:
    """Return samples of 20 kB each."""
    choose = random.Random(shard)
    return [
        {"key": f"{shard}{i:05d}", "cls": choose.randrange(10), "jpg": choose.randbytes(20_000), "txt": f"no {i}"}
        for i in range(SAMPLES)
    ]


ALL = [sample for shard in range(SHARDS) for sample in samples(shard)]
ROWS = [f"{sample['key']}\t{sample['cls']}" for sample in ALL]


@pytest.fixture(params=["tar", "tgz", "tar.zst"])
def spec(request: pytest.FixtureRequest, nginx: NginxServer) -> str:
    """The URL of a dataset on a server."""
    name = f"in-@{SHARDS}.{request.param}"
    written_dataset(nginx.root, name, [samples(shard) for shard in range(SHARDS)])
    return nginx.url + name


def requests(nginx: NginxServer) -> list[tuple[str, str, int]]:
    """Return method, name and number of bytes sent of each request so far."""
    found = re.findall(r'"([A-Z]+) /(\S*) HTTP/1.1" \d+ (\d+) ', nginx.log_path.read_text())
    return [(method, name, int(size)) for method, name, size in found]


def settled_requests(nginx: NginxServer, least: int) -> list[tuple[str, str, int]]:
    wait_until(lambda: len(requests(nginx)) >= least, "the log of the server")
    return requests(nginx)


def test_a_small_field_of_large_samples(nginx: NginxServer, tmp_path: Path) -> None:
    """From plain shards less than a twentieth of the dataset is transferred."""
    written_dataset(nginx.root, f"in-@{SHARDS}.tar", [samples(shard) for shard in range(SHARDS)])
    outcome = run(f"{nginx.url}in-@{SHARDS}.tar", "-f", "cls", cwd=tmp_path, program="htextract")
    assert outcome.out.splitlines() == ROWS
    sent = sum(size for _, _, size in settled_requests(nginx, 3 * SHARDS))
    assert 0 < sent < sum(path.stat().st_size for path in nginx.root.glob("in-?.tar")) / 20


def test_packed_shards(spec: str, tmp_path: Path) -> None:
    assert run(spec, "-f", "cls", cwd=tmp_path, program="htextract").out.splitlines() == ROWS


@pytest.mark.parametrize("what", [("--keys",), ("--stats",), ("--count", "jpg"), ("-f", "jpg")])
def test_what_the_sidecars_tell_needs_no_shard(
    spec: str, what: tuple[str, ...], nginx: NginxServer, tmp_path: Path
) -> None:
    outcome = run(spec, *what, cwd=tmp_path, program="htextract")
    assert outcome.status == 0 and len(outcome.out.splitlines()) >= 8
    found = settled_requests(nginx, 2 * SHARDS)
    of_shards = [(method, name.endswith(".npz")) for method, name, _ in found if not name.endswith(".json")]
    assert set(of_shards) == {("HEAD", False), ("GET", True)}
    assert len(found) - len(of_shards) <= 1, "the manifest, which has the names of classes"


def test_one_sample(spec: str, nginx: NginxServer, tmp_path: Path) -> None:
    """By its number: the manifest, one sidecar, and a part of one shard."""
    outcome = run(spec, "--at", "205", "--to", "to", cwd=tmp_path, program="htextract")
    assert outcome.status == 0
    assert (tmp_path / "to" / f"{ALL[205]['key']}.jpg").read_bytes() == ALL[205]["jpg"]
    found = settled_requests(nginx, 4)
    assert {name.partition(".")[0] for _, name, _ in found} == {"in-@3", "in-2"}
    read = sum(size for method, name, size in found if method == "GET" and not name.endswith((".npz", ".json")))
    size = (nginx.root / spec.rpartition("/")[2].replace("@3", "2")).stat().st_size
    assert 20_000 < read < size / 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(workers=2) as running:
        yield running


@pytest.mark.parametrize("where", ["processes", "cluster"])
def test_elsewhere_it_is_the_same(
    spec: str, where: str, nginx: NginxServer, cluster: DaskCluster, tmp_path: Path
) -> None:
    arguments = (spec, "-f", "cls", "-f", "jpg", "--base64")
    expected = run(*arguments, cwd=tmp_path, program="htextract").out
    assert len(expected) > 26_000 * len(ALL)
    destination = f"{nginx.url}out/all.tsv"
    place = cluster.address if where == "cluster" else where
    outcome = run(*arguments, "-c", place, "-o", destination, cwd=tmp_path, program="htextract")
    assert (outcome.status, outcome.err) == (0, "")
    assert (nginx.root / "out" / "all.tsv").read_text() == expected


def test_a_reader_that_goes_away(spec: str, tmp_path: Path) -> None:
    command = f"{path_of('htextract')} {spec} -f jpg --base64 | head -n 2 | wc -l; echo ${{PIPESTATUS[@]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["2", "0", "0", "0"] and done.stderr == ""


SLOW = """
import pathlib, time
def extract_sample(record):
    pathlib.Path("started").touch()
    while pathlib.Path("wait").exists():
        time.sleep(0.01)
    return len(record["jpg"])
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_it_leaves_no_output(spec: str, signum: int, nginx: NginxServer, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "wait").touch()
    (tmp_path / "temporary").mkdir()
    before = set(nginx.root.rglob("*"))
    for output in ("rows.tsv", f"{nginx.url}rows.tsv"):
        (tmp_path / "started").unlink(missing_ok=True)
        environment = {"TMPDIR": str(tmp_path / "temporary")}
        process = start(spec, "-p", "slow.py", "-o", output, cwd=tmp_path, env=environment, program="htextract")
        wait_until((tmp_path / "started").exists, "the first sample")
        process.send_signal(signum)
        (tmp_path / "wait").unlink()
        outcome = finish(process)
        (tmp_path / "wait").touch()
        if signum == signal.SIGKILL:
            assert outcome.status == -signum
        else:
            assert outcome.status == 130 and outcome.err == "htextract: interrupted; run it again\n"
        assert os.listdir(tmp_path / "temporary") == []
    assert not (tmp_path / "rows.tsv").exists()
    left = {path for path in set(nginx.root.rglob("*")) - before if ".shardtools-tmp" not in path.parts}
    assert left == set()


WAITS_FOR_THE_FIRST = """
import pathlib, time
def extract_sample(record):
    if record["__shard__"].startswith("in-0."):
        while pathlib.Path("wait").exists():
            time.sleep(0.01)
    return record["jpg"]
"""


@pytest.mark.parametrize("where", ["threads", "processes"])
def test_what_the_killed_has_left_is_swept_by_the_next(where: str, nginx: NginxServer, tmp_path: Path) -> None:
    """Rows that wait for those of the first shard lie in a folder, which nobody else can read."""
    written_dataset(nginx.root, f"in-@{SHARDS}.tar", [samples(shard) for shard in range(SHARDS)])
    (tmp_path / "slow.py").write_text(WAITS_FOR_THE_FIRST)
    (tmp_path / "wait").touch()
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary" / "shardtools-rows-link").symlink_to(nginx.root)
    arguments = (f"{nginx.url}in-@{SHARDS}.tar", "-p", "slow.py", "--raw", "-c", where, "-j", "2")
    environment = {"TMPDIR": str(tmp_path / "temporary")}

    def begin() -> subprocess.Popen[bytes]:
        return start(*arguments, "-o", "rows.tsv", cwd=tmp_path, env=environment, program="htextract")

    def files() -> list[Path]:
        return [path for path in (tmp_path / "temporary").glob("shardtools-rows-*/*") if not path.parent.is_symlink()]

    process, other = begin(), begin()
    try:
        wait_until(lambda: len(files()) == 2 * (SHARDS - 1), "the rows of the other shards")
        assert {path.parent.stat().st_mode & 0o777 for path in files()} == {0o700}
        os.killpg(process.pid, signal.SIGKILL)
        assert finish(process).status == -signal.SIGKILL and len(files()) == 2 * (SHARDS - 1)
        outcome = run(arguments[0], "--keys", cwd=tmp_path, env=environment, program="htextract")
        assert len(outcome.out.split()) == len(ALL)
        wait_until(lambda: len(files()) == SHARDS - 1, "what is left of the one that goes on")
    finally:
        (tmp_path / "wait").unlink()
    outcome = finish(other)
    assert (outcome.status, outcome.err) == (0, "") and files() == []
    assert (tmp_path / "rows.tsv").stat().st_size > 20_000 * len(ALL)
    assert list(nginx.root.glob("in-?.tar"))


def test_a_shard_that_is_missing(spec: str, tmp_path: Path) -> None:
    outcome = run(spec.replace("@3", "@4"), "-f", "cls", "-o", "x.tsv", cwd=tmp_path, program="htextract")
    message = outcome.error()
    assert re.search(r"in-3\.\S+: there is no such object \(404 Not Found\); did you mean in-@3\.\S+\?$", message)
    assert not (tmp_path / "x.tsv").exists()
