"""Jobs that call functions of the program that starts them: wherever they run, whether they fail, and to continue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from distributed import Client, LocalCluster

import shardtools as st
from shardtools.engine import ClusterLike
from shardtools.errors import OutputExistsError, SampleError, ScriptError
from shardtools.jobs.carried import MAX_PICKLED
from shardtools.jobs.report import JobResult
from tests.dask_cluster import ROOT, DaskCluster, dask_cluster
from tests.datasets import members, snapshot, write_dataset

SHARDS, SAMPLES = 3, 20

PROGRAM = '''
"""A program as its user runs it, with everything in __main__."""

import dataclasses
import sys

import shardtools as st

NAMES = {5: "five", 7: "seven"}
SMALL = {"three", "five"}


@dataclasses.dataclass
class Label:
    number: int

    def text(self):
        return NAMES.get(self.number, "other")


def mapper(start):
    calls = []

    def relabel(record, end="", skipped=frozenset()):
        calls.append(record["key"])
        label = Label(int(record["cls"]) + start)
        if label.number in skipped:
            return None
        text = label.text() + end + str(label.text() in SMALL)
        return {"key": record["key"], "cls": label.number, "txt": record["txt"] + text.encode()}

    return relabel


def by_class(record, modulus):
    return int(record["cls"]) % modulus


def merge(key, records, modulus):
    total = sum(int(record.get("n.txt", b"1")) for record in records)
    yield {"key": f"{key}-of-{modulus}", "n.txt": str(total)}


def part(key, records, modulus):
    total = sum(1 for _ in records)
    yield {"key": f"part-{key}", "cls": key, "n.txt": str(total)}


def process_samples(records):
    return (record for record in records if int(record["cls"]) > 2)


if __name__ == "__main__":
    what, cluster, out = sys.argv[1:]
    options = {"cluster": cluster, "jobs": 2}
    if what == "map":
        st.map("in-@3.tar", f"{out}/out-@3.tar", mapper(3), params={"end": "!", "skipped": {3, 4}}, **options)
    elif what == "together":
        st.map("in-@3.tar", f"{out}/out-@3.tar", process_samples, **options)
    elif what == "sort":
        functions = {"by": by_class, "reduce": merge, "combine": part}
        st.sort("in-@3.tar", f"{out}/out-@2.tar", **functions, params={"modulus": 4}, **options)
    else:
        count = lambda record, by: {"n": int(record["cls"]) * by}
        st.extract("in-@3.tar", function=count, params={"by": 10}, output=f"{out}/rows.tsv", **options)
'''


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(workers=2) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a dataset."""
    write_dataset(tmp_path, SHARDS, SAMPLES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def local_cluster(workers: int, *, processes: bool = True) -> LocalCluster:
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=processes,
        dashboard_address=None,
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # or it takes port 8787
    )


def run_program(folder: Path, *arguments: str) -> None:
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    command = [sys.executable, "program.py", *arguments]
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr  # where Dask may warn of other versions of packages


class TestProgram:
    @pytest.mark.parametrize("what", ["map", "together", "sort", "extract"])
    def test_makes_the_same_everywhere(self, what: str, folder: Path, cluster: DaskCluster) -> None:
        (folder / "program.py").write_text(PROGRAM)
        for out, place in ("threads", "threads"), ("processes", "processes"), ("cluster", cluster.address):
            (folder / out).mkdir()
            run_program(folder, what, place, out)
        # How many samples are combined depends on how the shards are parted, and stands in the sidecars.
        made = [snapshot(folder / out) for out in ("threads", "processes", "cluster")]
        made = [
            {name: data for name, data in files.items() if what != "sort" or name.endswith(".tar")} for files in made
        ]
        assert made[0]
        assert made[1] == made[0]
        assert made[2] == made[0]

    def test_what_it_makes(self, folder: Path) -> None:
        (folder / "program.py").write_text(PROGRAM)
        for what in ("map", "sort", "extract"):
            (folder / what).mkdir()
            run_program(folder, what, "threads", what)
        mapped = members(folder / "map" / "out-1.tar")
        assert [name for name, _ in mapped[:4]] == ["1/0002.cls", "1/0002.txt", "1/0003.cls", "1/0003.txt"]
        assert mapped[0][1] == b"5" and mapped[1][1].endswith(b"five!True")
        assert mapped[5][1].endswith(b"seven!False" if mapped[4][1] == b"7" else b"other!False")
        sorted_ = [member for i in range(2) for member in members(folder / "sort" / f"out-{i}.tar")]
        assert sorted_ == [(f"{key}-of-4.n.txt", str(n).encode()) for key, n in enumerate((18, 18, 12, 12))]
        rows = (folder / "extract" / "rows.tsv").read_text().splitlines()
        assert rows[:2] == ["0/0000\t0", "0/0001\t10"] and len(rows) == SHARDS * SAMPLES
        job = json.loads((folder / "map" / "out-@3.tar.json").read_text())["job"]
        assert (job["script"], job["params"]) == ("relabel", {"end": "'!'", "skipped": "<set>"})


def adder(number: int, then: Callable[[int], int] = abs) -> Callable[[Any], Any]:
    def add(record: dict[str, Any]) -> dict[str, Any]:
        return {"key": record["key"], "cls": then(int(record["cls"]) + number)}

    return add


def resumed(result: JobResult) -> set[bool]:
    return {shard.resumed for shard in result.shards}


@pytest.fixture(params=["threads", "cluster"])
def place(request: pytest.FixtureRequest) -> str:
    """Where a job runs."""
    address: str = request.getfixturevalue("cluster").address
    return address if request.param == "cluster" else "threads"


class TestResume:
    def test_keeps_what_the_same_function_made(self, place: str, folder: Path) -> None:
        st.map("in-@3.tar", "out-@3.tar", adder(1), cluster=place)
        before = {name: (folder / name).stat().st_mtime_ns for name in snapshot(folder)}
        assert resumed(st.map("in-@3.tar", "out-@3.tar", adder(1), cluster=place, resume=True)) == {True}
        after = {name: (folder / name).stat().st_mtime_ns for name in snapshot(folder)}
        assert {name for name in before if after[name] != before[name]} == {"out-@3.tar.json"}

    @pytest.mark.parametrize("other", [lambda: adder(2), lambda: adder(1, lambda number: number * 3)])
    def test_refuses_what_another_function_made(
        self, place: str, other: Callable[[], Callable[[Any], Any]], folder: Path
    ) -> None:
        st.map("in-@3.tar", "out-@3.tar", adder(1), cluster=place)
        before = snapshot(folder)
        with pytest.raises(OutputExistsError, match="another job made this shard: another script or function, "):
            st.map("in-@3.tar", "out-@3.tar", other(), cluster=place, resume=True)
        assert snapshot(folder) == before
        assert resumed(st.map("in-@3.tar", "out-@3.tar", other(), cluster=place, resume=True, overwrite=True)) == {
            False
        }

    def test_of_a_sort(self, folder: Path) -> None:
        def sort(modulus: int, resume: bool) -> set[bool]:
            return resumed(
                st.sort("in-@3.tar", "out-@2.tar", by=lambda record: int(record["cls"]) % modulus, resume=resume)
            )

        assert sort(3, False) == {False}
        assert sort(3, True) == {True}
        with pytest.raises(OutputExistsError):
            sort(2, True)

    def test_a_version_decides(self, folder: Path) -> None:
        lock = threading.Lock()

        def add(record: dict[str, Any]) -> dict[str, Any]:
            with lock:
                return {"key": record["key"], "cls": 1}

        with pytest.raises(ScriptError, match=r'^add cannot be compared .* it uses lock, .*; give version="1", and'):
            st.map("in-@3.tar", "out-@3.tar", add, resume=True)
        st.map("in-@3.tar", "out-@3.tar", add, version="1")
        assert resumed(st.map("in-@3.tar", "out-@3.tar", add, version="1", resume=True)) == {True}
        with pytest.raises(OutputExistsError):
            st.map("in-@3.tar", "out-@3.tar", add, version="2", resume=True)


def fails(record: dict[str, Any]) -> Any:
    if record["key"] == "1/0007":
        return record["nothing"]  # fails here
    return record


LINE = fails.__code__.co_firstlineno + 2
PLACE = f"KeyError: 'nothing' (test_functions.py:{LINE} in fails)"


class TestFailing:
    def test_is_named_with_its_line(self, place: str, folder: Path) -> None:
        with pytest.raises(SampleError) as caught:
            st.map("in-@3.tar", "out-@3.tar", fails, cluster=place, jobs=1)
        assert str(caught.value) == (
            f"{folder}/in-1.tar [1/0007]: {PLACE}; correct fails, or skip such samples with --on-error skip"
        )
        trace = "".join(traceback.format_exception(caught.value))
        assert f'test_functions.py", line {LINE}, in fails' in trace and "# fails here\n" in trace

    def test_is_skipped(self, place: str, folder: Path) -> None:
        result = st.map("in-@3.tar", "out-@3.tar", fails, cluster=place, on_error="skip", report="report.json")
        assert (result.counts.written, result.counts.skipped) == (SHARDS * SAMPLES - 1, 1)
        assert [(entry.key, entry.reason) for entry in result.skipped()] == [("1/0007", PLACE)]
        assert json.loads((folder / "report.json").read_text())["job"]["script"] == "fails"

    def test_in_a_sort_and_an_extraction(self, folder: Path) -> None:
        def never(*_: object) -> Any:
            raise ValueError("never")

        place = f"ValueError: never (test_functions.py:{never.__code__.co_firstlineno + 1} in never); correct never, or"
        for start in (
            lambda: st.sort("in-@3.tar", "by-@2.tar", by=never, jobs=1),
            lambda: st.sort("in-@3.tar", "reduced-@2.tar", reduce=never, jobs=1),
            lambda: st.extract("in-@3.tar", function=never, output="rows.tsv", jobs=1),
        ):
            with pytest.raises(SampleError) as caught:
                start()
            assert place in str(caught.value)
        assert not (folder / "rows.tsv").exists()

    def test_what_it_returns_is_named_after_it(self, folder: Path) -> None:
        def count(record: object) -> int:
            return 1

        with pytest.raises(SampleError, match=r": count returned int; return None, a record \(a dict\), or several"):
            st.map("in-@3.tar", "out-@3.tar", count, jobs=1)


class TestSending:
    def test_what_cannot_be_pickled(self, folder: Path, cluster: DaskCluster) -> None:
        lock = threading.Lock()

        def guarded(record: Any) -> Any:
            with lock:
                return record

        before = snapshot(folder)
        for where in "processes", cluster.address:
            for start in (
                lambda where: st.map("in-@3.tar", "out-@3.tar", guarded, version="1", cluster=where),
                lambda where: st.sort("in-@3.tar", "out-@2.tar", by=guarded, version="1", cluster=where),
                lambda where: st.extract("in-@3.tar", function=guarded, version="1", output="rows.tsv", cluster=where),
            ):
                with pytest.raises(ScriptError, match=r"^guarded cannot be sent to other processes: TypeError: cannot"):
                    start(where)
        assert snapshot(folder) == before
        assert st.map("in-@3.tar", "out-@3.tar", guarded, version="1").counts.written == SHARDS * SAMPLES

    def test_what_is_too_large(self, folder: Path) -> None:
        table = bytes(MAX_PICKLED + 1)

        def look_up(record: Any) -> Any:
            return {"key": record["key"], "txt": str(table[int(record["cls"])])}

        with pytest.raises(ScriptError, match=r"^look_up has more than 32 MB with its data, .*; load such data inside"):
            st.map("in-@3.tar", "out-@3.tar", look_up, cluster="processes")
        assert st.map("in-@3.tar", "out-@3.tar", look_up).counts.written == SHARDS * SAMPLES

    def test_much_data_is_sent_once(self, folder: Path, cluster: DaskCluster) -> None:
        """Dask warns of more than 10 MB together."""
        table = os.urandom(16 << 20)

        def look_up(record: Any) -> Any:
            return {"key": record["key"], "txt": str(sum(table[:: 1 << 16]))}

        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Sending large graph")
            st.map("in-@3.tar", "out-@3.tar", look_up, cluster=cluster.address)
        expected = str(sum(table[:: 1 << 16])).encode()
        assert {data for i in range(SHARDS) for _, data in members(folder / f"out-{i}.tar")} == {expected}

    def test_data_is_not_lost_with_a_worker(self, folder: Path) -> None:
        table = os.urandom(1 << 20)

        def die_once(record: Any) -> Any:
            if record["key"] == "1/0003" and not os.path.exists("died"):
                Path("died").touch()
                os._exit(1)
            return {"key": record["key"], "txt": str(table[0])}

        with local_cluster(1) as one:
            st.map("in-@3.tar", "out-@3.tar", die_once, cluster=one)
        assert (folder / "died").exists()
        written = [data for i in range(SHARDS) for _, data in members(folder / f"out-{i}.tar")]
        assert written == [str(table[0]).encode()] * SHARDS * SAMPLES

    def test_a_module_that_workers_lack(
        self, folder: Path, cluster: DaskCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "only_here.py").write_text("def process(record):\n    return record\n")
        monkeypatch.syspath_prepend(folder)
        only_here: ModuleType = __import__("only_here")
        assert st.map("in-@3.tar", "here-@3.tar", only_here.process).counts.written == SHARDS * SAMPLES
        with pytest.raises(ScriptError) as caught:
            st.map("in-@3.tar", "out-@3.tar", only_here.process, cluster=cluster.address)
        assert str(caught.value) == (
            "process cannot be loaded here: ModuleNotFoundError: No module named 'only_here'; "
            "install it wherever tasks run: functions of modules travel by name"
        )

    def test_state_is_kept_between_the_shards_of_a_process(self, folder: Path) -> None:
        """A function is unpickled once per process: what it keeps, such as a model, is there for the next shard."""
        seen: list[str] = []

        def count(record: Any) -> Any:
            seen.append(record["key"])
            return {"key": record["key"], "n.txt": str(len(seen))}

        with local_cluster(1) as one:
            st.map("in-@3.tar", "out-@3.tar", count, cluster=one)
        counts = [int(data) for i in range(SHARDS) for _, data in members(folder / f"out-{i}.tar")]
        assert sorted(counts) == list(range(1, SHARDS * SAMPLES + 1))
        assert seen == []


class TestDaskObjects:
    """A client or cluster of the caller is used as it is, and stays open."""

    @pytest.mark.parametrize("kind", ["client", "cluster", "threads of this process"])
    def test_map_and_shuffle(self, kind: str, folder: Path) -> None:
        self._map_and_shuffle("here", "threads")
        with (
            local_cluster(2, processes=kind != "threads of this process") as local,
            Client(local, set_as_default=False) as client,
        ):
            self._map_and_shuffle("there", client if kind == "client" else local)
            assert client.submit(abs, -1).result() == 1
        assert snapshot(folder / "there") == snapshot(folder / "here")

    def _map_and_shuffle(self, out: str, cluster: ClusterLike) -> None:
        st.map("in-@3.tar", f"{out}/mapped-@3.tar", adder(5), cluster=cluster)
        st.shuffle("in-@3.tar", f"{out}/mixed-@4.tar", seed=7, cluster=cluster)
