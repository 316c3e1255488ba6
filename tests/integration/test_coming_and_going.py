"""A run while workers and the scheduler come and go: the results are those of an undisturbed one, without any help."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from distributed import Client

from shardtools import engine
from shardtools.engine import Connection, Done, Task
from shardtools.errors import LostWorkersError
from tests.cli.command import call
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.datasets import parts_of, sample_files, snapshot, write_dataset, write_shard
from tests.integration.test_handing_over import free_port
from tests.servers import wait_until
from tests.swarm import EachKindKiller, Killer, Swarm, claim, claimed, every, swarm

pytestmark = pytest.mark.slow


def work(number: int, seconds: float = 0.05) -> int:
    """Take a while, as a task does."""
    ended = time.monotonic() + seconds
    while time.monotonic() < ended:
        engine.check_cancelled()
        time.sleep(0.005)
    return number * number


def fail() -> None:
    raise ValueError("this task fails")


def touch_and_work(folder: Path, number: int) -> int:
    (folder / f"started-{number}").touch()
    return work(number)


def kill_worker(folder: Path, most: int) -> int:
    """Kill this worker, at most so many times."""
    if claim(folder, most):
        os.kill(os.getpid(), signal.SIGKILL)
    return -1


@pytest.fixture(scope="module")
def scheduler() -> Iterator[DaskCluster]:
    """A scheduler without workers: each test has its own."""
    with dask_cluster(workers=0) as running:
        yield running


def results(address: str | Client, tasks: list[Task], wait: float = 60) -> list[Done]:
    done: list[Done] = []
    with Connection(address, wait) as connection:
        engine.run(tasks, done.append, cluster=connection, stop_on_error=False)
    assert sorted(one.index for one in done) == list(range(len(tasks)))
    return sorted(done, key=lambda one: one.index)


def numbers(done: list[Done]) -> list[object]:
    assert [one.error for one in done if one.error] == []
    return [one.result for one in done]


def squares(count: int) -> list[int]:
    return [i * i for i in range(count)]


class TestWorkers:
    def test_one_is_killed_every_2_seconds(self, scheduler: DaskCluster) -> None:
        with swarm(scheduler.address, 2) as workers, every(2, lambda: workers.signal_one(signal.SIGKILL)):
            tasks = [Task(work, (i, 0.1), f"{i}.tar") for i in range(100)]
            assert numbers(results(scheduler.address, tasks)) == squares(100)
        assert workers.ended >= 2

    def test_they_are_preempted_10_times(self, scheduler: DaskCluster, tmp_path: Path) -> None:
        """Each time when a task has begun, and asked nicely every other time."""
        with swarm(scheduler.address, 2) as workers:
            tasks = [Task(touch_and_work, (tmp_path, i), f"{i}.tar") for i in range(100)]
            preempting = threading.Thread(target=preempt, args=(workers, tmp_path, 10))
            preempting.start()
            assert numbers(results(scheduler.address, tasks)) == squares(100)
            preempting.join()

    def test_they_are_scaled_from_zero_down_and_up_again(self, scheduler: DaskCluster, tmp_path: Path) -> None:
        with swarm(scheduler.address, 0) as workers, Client(scheduler.address, set_as_default=False) as client:
            tasks = [Task(touch_and_work, (tmp_path, i), f"{i}.tar") for i in range(100)]
            done: list[Done] = []
            job = threading.Thread(target=lambda: done.extend(results(scheduler.address, tasks)))
            job.start()
            wait_until(lambda: client.scheduler_info()["type"] == "Scheduler", "the scheduler")
            workers.resize(3)
            wait_until(lambda: len(list(tmp_path.iterdir())) >= 20, "20 tasks")
            workers.resize(0)
            client.retire_workers(list(client.scheduler_info(n_workers=-1)["workers"])[:2])
            wait_until(lambda: len(list(tmp_path.iterdir())) >= 30, "30 tasks")
            client.retire_workers(list(client.scheduler_info(n_workers=-1)["workers"]))
            workers.resize(2)
            job.join(60)
            assert numbers(done) == squares(100)

    def test_one_does_not_answer_from_the_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As one whose machine has just vanished, until Dask gives it up."""
        monkeypatch.setattr("shardtools.engine.members.ASK_SECONDS", 0.5)
        with (
            dask_cluster(workers=0, scheduler_env={"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "4s"}) as cluster,
            swarm(cluster.address, 2) as workers,
        ):
            workers.signal_one(signal.SIGSTOP)
            tasks = [Task(work, (i, 0.001), f"{i}.tar") for i in range(20)]
            assert numbers(results(cluster.address, tasks)) == squares(20)

    def test_one_does_not_answer_when_the_run_is_stopped(
        self, scheduler: DaskCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shardtools.engine.members.ASK_SECONDS", 0.5)
        with swarm(scheduler.address, 2) as workers:
            workers.signal_one(signal.SIGSTOP)
            done: list[Done] = []
            started = time.monotonic()
            engine.run([Task(fail, (), f"{i}.tar") for i in range(8)], done.append, cluster=scheduler.address)
            assert time.monotonic() - started < 30
        assert {str(one.error) for one in done} == {"this task fails"}


def preempt(workers: Swarm, folder: Path, times: int) -> None:
    for number in range(times):
        seen = len(list(folder.iterdir()))
        wait_until(lambda: len(list(folder.iterdir())) > seen, "one more task")  # noqa: B023  # called at once
        workers.signal_one(signal.SIGTERM if number % 2 else signal.SIGKILL)
        workers.await_ended(number + 1)


class TestScheduler:
    @pytest.mark.parametrize("where", ["address", "client", "file"])
    def test_it_is_replaced(self, where: str, tmp_path: Path) -> None:
        """By one at the same address, or of the same file. Its workers end, and others come."""
        port = 0 if where == "file" else free_port()
        done: list[Done] = []
        tasks = [Task(touch_and_work, (tmp_path / "started", i), f"{i}.tar") for i in range(60)]
        (tmp_path / "started").mkdir()
        file = tmp_path / "scheduler.json"
        with ExitStack() as stack:
            first = stack.enter_context(dask_cluster(workers=0, port=port))
            shutil.copy(first.scheduler_file, file)
            client = Client(first.address, set_as_default=False, timeout=1)
            stack.callback(client.close)
            place = {"address": first.address, "client": client, "file": str(file)}[where]
            before = stack.enter_context(swarm(first.address, 2))
            job = threading.Thread(target=lambda: done.extend(results(place, tasks)))
            job.start()
            wait_until(lambda: len(list((tmp_path / "started").iterdir())) >= 10, "10 tasks")
            first.scheduler.kill()
            first.scheduler.wait()
            before.resize(0)
            second = stack.enter_context(dask_cluster(workers=0, port=port))
            shutil.copy(second.scheduler_file, file)
            stack.enter_context(swarm(second.address, 2))
            job.join(60)
        assert numbers(done) == squares(60)


PROGRAMS = {
    "htupload": ("{data}/files/", "up-@3.tar"),
    "htmapper": ("-p", "{data}/upper.py", "{data}/in-@4.tar", "up-@4.tgz"),
    "htshuffle": ("--seed", "7", "--spill", "spill", "{data}/in-@4.tar", "mixed-@3.tar"),
    "htsort": ("--by", "key", "--spill", "spill", "{data}/in-@4.tar", "sorted-@3.tar"),
    "htextract": ("-o", "rows.jsonl", "--field", "txt", "{data}/in-@4.tar"),
    "htindex": ("in-@4.tar",),
}
KINDS = {
    "htupload": {"htupload-up"},
    "htmapper": {"htmapper-in"},
    "htshuffle": {"htshuffle-collect-in", "htshuffle-gather-mixed"},
    "htsort": {"htsort-collect-in", "htsort-gather-sorted"},
    "htextract": {"htextract-in"},
    "htindex": {"htindex-in"},
}
"""How tasks are called in Dask's dashboard: by program, pass and shard."""

UPPER = """
def process_sample(record):
    return {**record, "txt": record["txt"].upper()}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 4, 10)
    (folder / "upper.py").write_text(UPPER)
    (folder / "files").mkdir()
    for i in range(20):
        (folder / f"files/{i}.txt").write_text(f"text {i}")
    return folder


@pytest.fixture(scope="module")
def killed(scheduler: DaskCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that notes at which kinds of tasks workers have died: for each kind, one does at the first task."""
    folder = tmp_path_factory.mktemp("killed")
    with swarm(scheduler.address, 2), Client(scheduler.address, set_as_default=False) as client:
        client.register_plugin(EachKindKiller(folder))
        yield folder
        client.unregister_worker_plugin(f"killer-{folder}")


class TestPrograms:
    @pytest.mark.parametrize("program", PROGRAMS)
    def test_same_bytes_although_workers_die(
        self, program: str, data: Path, killed: Path, scheduler: DaskCluster, tmp_path: Path
    ) -> None:
        for kind in killed.iterdir():  # of other programs, and of other tests that use these workers
            shutil.rmtree(kind)
        for name, where in (("threads", "threads"), ("cluster", scheduler.address)):
            out = tmp_path / name
            out.mkdir()
            for shard in data.glob("in-*.tar"):
                shutil.copy2(shard, out)
            arguments = [argument.format(data=data) for argument in PROGRAMS[program]]
            outcome = call("-q", "-c", where, *arguments, cwd=out, program=program)
            assert outcome.status == 0, outcome.err
        made = snapshot(tmp_path / "threads")
        assert len(made) > 4
        assert snapshot(tmp_path / "cluster") == made
        assert {path.name for path in killed.iterdir()} == KINDS[program]


DEADLY = {
    "htmapper": ("process_sample", "record"),
    "htsort": ("sort_key", "record['key']"),
    "htextract": ("extract_sample", "record['key']"),
}
SCRIPT = """
import os

def {name}(record):
    if record["key"] == "1/0003":
        os.kill(os.getpid(), 9)
    return {ending}
"""


class TestBlame:
    def test_a_task_that_kills_its_workers_is_given_up_and_no_other(self, tmp_path: Path) -> None:
        """Though it takes its neighbours along, and those that wait, and Dask counts that against them."""
        with (
            dask_cluster(workers=0, scheduler_env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}) as cluster,
            swarm(cluster.address, 1, threads=4),
        ):
            tasks = [Task(work, (i,), f"{i}.tar") for i in range(30)]
            tasks[3] = Task(kill_worker, (tmp_path, 1000), "/d/3.tar")
            done = results(cluster.address, tasks)
        assert [one.index for one in done if one.error] == [3]
        error = done.pop(3).error
        assert isinstance(error, LostWorkersError)
        says = f"/d/3.tar: {claimed(tmp_path)} workers died that had this, 8 of them while they ran only this; "
        assert str(error).startswith(says)
        assert numbers(done) == [i * i for i in range(30) if i != 3]

    def test_a_task_may_cost_some_workers(self, scheduler: DaskCluster, tmp_path: Path) -> None:
        with swarm(scheduler.address, 1):
            done = results(scheduler.address, [Task(kill_worker, (tmp_path, 10), "/d/0.tar")])
        assert (numbers(done), claimed(tmp_path)) == ([-1], 10)

    def test_a_task_that_never_started_is_not_blamed(self, tmp_path: Path) -> None:
        """Its worker dies each time when it is about to begin, far more often than a task may cost workers."""
        with (
            dask_cluster(workers=0, scheduler_env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}) as cluster,
            swarm(cluster.address, 1),
            Client(cluster.address, set_as_default=False) as client,
        ):
            client.register_plugin(Killer(tmp_path, "work-0", 20))
            assert numbers(results(cluster.address, [Task(work, (0,), "0.tar")])) == [0]
        assert claimed(tmp_path) == 20

    @pytest.mark.parametrize("program", DEADLY)
    def test_a_shard_that_kills_its_workers_is_skipped_and_reported(
        self, program: str, scheduler: DaskCluster, tmp_path: Path
    ) -> None:
        for i in range(3):
            write_shard(tmp_path / f"in-{i}.tar", sample_files(i, 5))
        name, ending = DEADLY[program]
        (tmp_path / "deadly.py").write_text(SCRIPT.format(name=name, ending=ending))
        out = ("-o", "out.jsonl", "in-@3.tar") if program == "htextract" else ("in-@3.tar", "out-@3.tar")
        command = ("-c", scheduler.address, "-p", "deadly.py", "--report", "report.json", *out)
        with swarm(scheduler.address, 1):
            outcome = call("-v", "--on-error", "skip", *command, cwd=tmp_path, program=program)
        assert outcome.status == 3, outcome.err
        says = (
            f"{tmp_path}/in-1.tar: 12 workers died that had this, 8 of them while they ran only this; see their logs; "
        )
        report = json.loads((tmp_path / "report.json").read_text())
        assert [(entry["shard"], entry["key"]) for entry in report["skipped"]] == [(f"{tmp_path}/in-1.tar", None)]
        assert report["skipped"][0]["reason"].startswith(says)
        assert f"{program}: skipped: {says}" in outcome.err
        assert f"{program}: {tmp_path}/in-1.tar: given out again\n" in outcome.err
        assert report["incidents"]["lost_workers"] >= 1
        assert report["incidents"]["repeated_tasks"] == outcome.err.count(": given out again\n") >= 2
        assert "given out again" in outcome.out
        if program == "htmapper":
            missing = {"out-1.tar", "out-1.tar.index.npz", "out-@3.tar.json"}
            assert parts_of("out", shards=3) - {*snapshot(tmp_path)} == missing
        elif program == "htsort":
            assert json.loads((tmp_path / "out-@3.tar.json").read_text())["nsamples"] == 10
        else:
            assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 10

    def test_a_shard_that_kills_its_workers_ends_the_job(self, scheduler: DaskCluster, tmp_path: Path) -> None:
        write_shard(tmp_path / "in-1.tar", sample_files(1, 5))
        (tmp_path / "deadly.py").write_text(SCRIPT.format(name="process_sample", ending="record"))
        with swarm(scheduler.address, 1):
            outcome = call("-c", scheduler.address, "-p", "deadly.py", "in-1.tar", "out-1.tar", cwd=tmp_path)
        assert outcome.error().startswith(f"{tmp_path}/in-1.tar: 12 workers died that had this, 8 of them ")
