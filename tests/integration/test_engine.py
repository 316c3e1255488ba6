"""One suite over every way to run tasks, and what can happen to each of them: deaths, absences, Ctrl-C."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from shardtools import __version__, engine
from shardtools.engine import (
    ClusterLike,
    Connection,
    Done,
    RemoteTraceback,
    Task,
    check_cancelled,
    is_cancelled,
    watching_tasks,
)
from shardtools.errors import EngineError, JobError, LostWorkersError, NotFoundError, SchedulerError, ShardtoolsError
from shardtools.storage import count
from tests.dask_cluster import BLOCK, ROOT, DaskCluster, dask_cluster
from tests.servers import wait_until

KINDS = ["threads", "processes", "address"]
"""What a command can be given as ``-c``."""


# The tasks. Those that wait poll a condition and give up after a while, so that a failing test ends.


def square(number: int) -> int:
    return number * number


def fail_if_odd(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number


def touch(path: Path) -> None:
    path.touch()


def wait_for_cancel(folder: Path, name: str) -> None:
    """Note that the task has started, and, when it is cancelled, that it has ended."""
    (folder / f"started-{name}").touch()
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            check_cancelled()
            time.sleep(0.002)
    finally:
        (folder / f"ended-{name}").touch()


def finish_when_cancelled(folder: Path, name: str) -> str:
    """End well all the same, as a task does that has just committed its shard."""
    (folder / f"started-{name}").touch()
    wait_until(is_cancelled, "the cancellation")
    return "finished"


def fail_after(path: Path) -> None:
    wait_until(path.exists, str(path))
    raise NotFoundError("there is no such object", url="http://me:secret@host/a.tar", fix="check the name")


def ask_in_thread() -> bool:
    answers: list[bool] = []
    context = contextvars.copy_context()
    wait_until(is_cancelled, "the cancellation")
    thread = threading.Thread(target=context.run, args=(lambda: answers.append(is_cancelled()),))
    thread.start()
    thread.join()
    return answers[0]


def interval() -> tuple[float, float]:
    start = time.monotonic()
    time.sleep(0.01)
    return start, time.monotonic()


def read_for_a_while() -> None:
    """Report now and then that a sample of 100 bytes was read."""
    ended = time.monotonic() + 2.5
    while time.monotonic() < ended:
        count("samples_read")
        count("bytes_read", 100)
        time.sleep(0.01)


def call_exit() -> None:
    sys.exit(3)


class NeedsTwo(Exception):
    """An exception that is pickled well and cannot be unpickled."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first} and {second}")


def raise_needs_two() -> None:
    raise NeedsTwo("one", "two")


def raise_local() -> None:
    class Local(Exception):
        pass

    raise Local("from here")


def return_lock() -> object:
    return threading.Lock()


def die_once(marker: Path) -> int:
    """Kill this worker, unless it was done already."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return os.getpid()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskCluster]:
    with dask_cluster(workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def client(cluster: DaskCluster) -> Iterator[Client]:
    with Client(cluster.address, set_as_default=False) as connected:
        yield connected


@pytest.fixture(params=[*KINDS, "client"])
def kind(request: pytest.FixtureRequest) -> ClusterLike:
    """What to give as ``cluster``."""
    if request.param in ("threads", "processes"):
        return str(request.param)
    if request.param == "client":
        return request.getfixturevalue("client")
    running: DaskCluster = request.getfixturevalue("cluster")
    return running.address


def run(tasks: list[Task], kind: ClusterLike, *, wait: float = 60, **options: Any) -> list[Done]:
    done: list[Done] = []
    where = kind if kind in ("threads", "processes") else Connection(kind, wait)
    with where if isinstance(where, Connection) else nullcontext():
        engine.run(tasks, done.append, cluster=where, **({"jobs": 2} | options))
    return done


def by_index(done: list[Done]) -> list[Done]:
    return sorted(done, key=lambda one: one.index)


class TestEveryKind:
    def test_every_task_is_reported_once_in_this_thread(self, kind: ClusterLike) -> None:
        tasks = [Task(square, (i,), f"/d/{i}.tar") for i in range(100)]
        threads: set[int] = set()
        done: list[Done] = []

        def on_done(one: Done) -> None:
            threads.add(threading.get_ident())
            done.append(one)

        engine.run(tasks, on_done, cluster=kind, jobs=2)
        assert [(one.index, one.task, one.result, one.error) for one in by_index(done)] == [
            (i, task, i * i, None) for i, task in enumerate(tasks)
        ]
        assert all(0 <= one.seconds < 60 for one in done)
        assert threads == {threading.get_ident()}

    def test_no_tasks(self, kind: ClusterLike) -> None:
        assert run([], kind) == []

    def test_errors_are_the_tasks_own_and_all_tasks_run_if_asked(self, kind: ClusterLike) -> None:
        done = by_index(run([Task(fail_if_odd, (i,), f"{i}") for i in range(20)], kind, stop_on_error=False))
        assert [one.result for one in done[::2]] == list(range(0, 20, 2))
        assert [(type(one.error), str(one.error)) for one in done[1::2]] == [
            (ValueError, f"{i} is odd") for i in range(1, 20, 2)
        ]
        error = done[1].error
        assert error is not None
        text = "".join(traceback.format_exception(error))
        assert "fail_if_odd" in text and 'raise ValueError(f"{number} is odd")' in text
        assert isinstance(error.__cause__, RemoteTraceback) == (kind != "threads")

    def test_first_error_stops_the_run(self, kind: ClusterLike, tmp_path: Path) -> None:
        tasks = [
            Task(wait_for_cancel, (tmp_path, "0"), "waits"),
            Task(fail_after, (tmp_path / "started-0",), "fails"),
            *(Task(touch, (tmp_path / f"later-{i}",), f"later-{i}") for i in range(200)),
        ]
        done = run(tasks, kind)
        assert (tmp_path / "ended-0").exists()
        errors = [one for one in done if one.error]
        assert [one.index for one in errors] == [1]
        assert str(errors[0].error) == "http://host/a.tar: there is no such object; check the name"
        assert isinstance(errors[0].error, FileNotFoundError)
        assert 0 not in [one.index for one in done]
        later = {path.name for path in tmp_path.glob("later-*")}
        assert later == {one.task.name for one in done if one.index > 1}
        assert len(later) < 100

    def test_what_finishes_after_the_error_is_reported(self, kind: ClusterLike, tmp_path: Path) -> None:
        done = run(
            [
                Task(finish_when_cancelled, (tmp_path, "0"), "finishes"),
                Task(fail_after, (tmp_path / "started-0",), "fails"),
            ],
            kind,
        )
        assert [(one.index, one.result, type(one.error)) for one in by_index(done)] == [
            (0, "finished", type(None)),
            (1, None, NotFoundError),
        ]

    def test_on_done_that_raises_ends_the_tasks(self, kind: ClusterLike, tmp_path: Path) -> None:
        def on_done(done: Done) -> None:
            wait_until((tmp_path / "started-1").exists, "the other task")
            raise LookupError("the report is full")

        tasks = [Task(square, (1,), "quick"), *(Task(wait_for_cancel, (tmp_path, f"{i}"), "slow") for i in range(1, 9))]
        with pytest.raises(LookupError, match="the report is full"):
            engine.run(tasks, on_done, cluster=kind, jobs=2)
        started = {path.name.removeprefix("started-") for path in tmp_path.glob("started-*")}
        assert started == {path.name.removeprefix("ended-") for path in tmp_path.glob("ended-*")}
        assert "1" in started
        assert "8" not in started

    def test_who_watches_is_told_how_far_tasks_are(self, kind: ClusterLike) -> None:
        told: list[tuple[object, int, int]] = []
        with watching_tasks(lambda *read: told.append(read)):
            run([Task(read_for_a_while, (), "a"), Task(read_for_a_while, (), "b")], kind)
        for task in {key for key, _, _ in told}:
            read = [(samples, size) for key, samples, size in told if key == task]
            assert read[:-1] and read[-1] == (0, 0)
            assert all(size > 0 and abs(size - 100 * samples) <= 100 for samples, size in read[:-1])
            assert sorted(read[:-1]) == read[:-1]
        assert len({key for key, _, _ in told}) == 2

    def test_exit_is_an_error(self, kind: ClusterLike) -> None:
        done = by_index(run([Task(call_exit, (), "/d/0.tar"), Task(square, (3,), "b")], kind, stop_on_error=False))
        assert str(done[0].error) == "/d/0.tar: SystemExit was raised"
        assert isinstance(done[0].error, EngineError)
        assert done[1].result == 9

    def test_one_job_is_one_task_at_a_time(self, kind: ClusterLike) -> None:
        spans = sorted(done.result for done in run([Task(interval, (), "") for _ in range(10)], kind, jobs=1))
        assert all(before[1] <= after[0] for before, after in pairwise(spans))

    def test_a_thread_of_a_task_sees_the_cancellation(self, kind: ClusterLike, tmp_path: Path) -> None:
        done = run([Task(ask_in_thread, (), "asks"), Task(fail_if_odd, (1,), "fails")], kind)
        assert [one.result for one in done if one.index == 0] in ([], [True])
        assert [one.index for one in done if one.error] == [1]

    @pytest.mark.parametrize("jobs", [0, -1])
    def test_no_jobs(self, kind: ClusterLike, jobs: int) -> None:
        with pytest.raises(EngineError, match="jobs cannot run anything; give 1 or more"):
            run([Task(square, (1,), "")], kind, jobs=jobs)


def test_threads_run_in_order() -> None:
    assert [done.index for done in run([Task(square, (i,), "") for i in range(1000)], "threads", jobs=1)] == list(
        range(1000)
    )


def test_ten_thousand_tasks_on_threads() -> None:
    done = run([Task(square, (i,), "") for i in range(10_000)], "threads")
    assert {one.index for one in done} == set(range(10_000)) and len(done) == 10_000


def test_hundreds_of_tasks_on_processes() -> None:
    done = run([Task(square, (i,), "") for i in range(400)], "processes")
    assert {one.index for one in done} == set(range(400)) and len(done) == 400
    assert sum(abs(one.index - place) for place, one in enumerate(done)) / len(done) < 64


def test_nothing_is_cancelled_outside_of_a_run() -> None:
    assert not is_cancelled()
    check_cancelled()
    run([Task(fail_if_odd, (1,), "")], "threads")
    assert not is_cancelled()


def test_threads_end_with_the_run() -> None:
    before = set(threading.enumerate())
    run([Task(square, (i,), "") for i in range(10)], "threads")
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("kind", ["processes", "address"], indirect=True)
class TestRemote:
    def test_what_cannot_be_pickled_costs_its_task(self, kind: ClusterLike) -> None:
        functions = [raise_needs_two, raise_local, return_lock, partial(square, 5)]
        done = by_index(
            run([Task(function, (), f"/d/{i}") for i, function in enumerate(functions)], kind, stop_on_error=False)
        )
        assert str(done[0].error) == "/d/0: NeedsTwo: one and two"
        assert str(done[1].error) == "/d/1: Local: from here"
        assert str(done[2].error).startswith("/d/2: its result cannot be pickled: ")
        assert all(isinstance(one.error, EngineError) for one in done[:3])
        assert "raise_local" in str(done[1].error.__cause__)
        assert done[3].result == 25


@contextmanager
def in_process_cluster() -> Iterator[LocalCluster]:
    """Run a scheduler and two workers as threads of this process."""
    options = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(
        n_workers=2, threads_per_worker=2, processes=False, dashboard_address=None, scheduler_kwargs=options
    ) as cluster:
        yield cluster


def announce(number: int) -> int:
    print("task", number)
    return number


class TestDaskObjects:
    def test_client_stays_open(self, client: Client) -> None:
        for _ in range(2):
            assert [one.result for one in by_index(run([Task(square, (i,), "") for i in range(5)], client))] == [
                0, 1, 4, 9, 16
            ]  # fmt: skip
        assert client.status == "running"
        assert client.submit(square, 12, pure=False).result() == 144

    def test_client_stays_open_after_an_error(self, client: Client, tmp_path: Path) -> None:
        def on_done(done: Done) -> None:
            raise LookupError("the report is full")

        with pytest.raises(LookupError):
            engine.run([Task(square, (i,), "") for i in range(9)], on_done, cluster=client)
        assert client.submit(square, 13, pure=False).result() == 169

    def test_cluster_stays_open(self) -> None:
        with in_process_cluster() as cluster:
            for _ in range(2):
                assert [one.result for one in by_index(run([Task(square, (i,), "") for i in range(5)], cluster))] == [
                    0, 1, 4, 9, 16
                ]  # fmt: skip
            assert len(cluster.workers) == 2

    def test_workers_in_this_process_leave_its_standard_output_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        with in_process_cluster() as cluster, Client(cluster, set_as_default=False) as client:
            tasks = [Task(announce, (i,), "") for i in range(4)]
            engine.run(tasks, lambda done: print("done", done.result), cluster=client)
        out = sorted(capsys.readouterr().out.splitlines())
        assert out == [f"{what} {i}" for what in ("done", "task") for i in range(4)]

    def test_its_workers_are_checked(self, tmp_path: Path) -> None:
        env = environment(tmp_path, OTHER_VERSION)
        with (
            dask_cluster(workers=1, worker_env=env) as cluster,
            Client(cluster.address, set_as_default=False) as client,
            pytest.raises(SchedulerError, match=f"another shardtools: 0.0.0 there, {__version__} here"),
        ):
            run(TASKS, client)

    def test_its_workers_must_meet_the_needs(self) -> None:
        with (
            dask_cluster(workers=1, worker_env={"LACKING": "1"}) as cluster,
            Client(cluster.address, set_as_default=False) as client,
            pytest.raises(JobError, match="/d: it is not here; bring it"),
        ):
            run(TASKS, client, needs=[IsNotLacking()])

    def test_closed_client(self, cluster: DaskCluster) -> None:
        client = Client(cluster.address, set_as_default=False)
        client.close()
        with pytest.raises(SchedulerError, match="the Dask client is closed; give one that is connected"):
            run(TASKS, client)

    def test_closed_cluster(self) -> None:
        with in_process_cluster() as cluster:
            pass
        with pytest.raises(SchedulerError, match="no Dask scheduler answers at "):
            run(TASKS, cluster)

    def test_asynchronous_client(self, cluster: DaskCluster) -> None:
        async def connect_and_run() -> None:
            async with Client(cluster.address, asynchronous=True, set_as_default=False) as client:
                run(TASKS, client)

        with pytest.raises(SchedulerError, match="an asynchronous Dask client cannot run a job; make it without"):
            asyncio.run(connect_and_run())


class TestDeath:
    def test_of_a_local_process_costs_its_task(self, tmp_path: Path) -> None:
        tasks = [Task(square, (i,), "") for i in range(50)] + [Task(die_once, (tmp_path / "dead",), "dies")]
        done = by_index(run(tasks, "processes"))
        assert [one.index for one in done] == list(range(51))
        assert [one.error for one in done] == [None] * 51

    def test_of_a_worker_costs_its_task(self, tmp_path: Path) -> None:
        with dask_cluster(workers=2) as cluster:
            tasks = [Task(die_once, (tmp_path / "dead",), "dies")] + [Task(square, (i,), "") for i in range(50)]
            done = by_index(run(tasks, cluster.address))
            assert [one.index for one in done] == list(range(51))
            assert [one.error for one in done] == [None] * 51
            assert done[0].result in [worker.pid for worker in cluster.workers]

    def test_of_every_worker_that_runs_a_task_is_its_error(self) -> None:
        done = by_index(run([Task(square, (7,), ""), Task(die, (), "/d/1.tar")], "processes", stop_on_error=False))
        assert done[0].result == 49
        assert isinstance(done[1].error, LostWorkersError)
        says = "/d/1.tar: 4 workers died that had this, 3 of them while they ran only this; see their logs; "
        assert str(done[1].error).startswith(says)

    @pytest.mark.slow
    def test_of_the_scheduler(self, tmp_path: Path) -> None:
        with dask_cluster(workers=1) as cluster:
            killer = threading.Thread(target=_kill_after, args=(cluster.scheduler, tmp_path / "started-0"))
            killer.start()
            with pytest.raises(SchedulerError, match=r"does not answer any more|\(nothing listens there"):
                run([Task(wait_for_cancel, (tmp_path, "0"), "waits")], cluster.address, wait=0)
            killer.join()

    def test_of_all_workers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shardtools.engine.cluster_run.COUNT_SECONDS", 0.05)
        with dask_cluster(workers=1) as cluster:
            killer = threading.Thread(target=_kill_after, args=(cluster.workers[0], tmp_path / "started-0"))
            killer.start()
            with pytest.raises(SchedulerError, match=r"all workers have left.*start workers"):
                run([Task(wait_for_cancel, (tmp_path, "0"), "waits")], cluster.address, wait=0.5)
            killer.join()


def _kill_after(process: subprocess.Popen[bytes], path: Path) -> None:
    wait_until(path.exists, str(path))
    process.kill()


OTHER_VERSION = """
import sys, types
sys.modules["shardtools"] = types.ModuleType("shardtools")
sys.modules["shardtools"].__version__ = "0.0.0"
"""


def environment(tmp_path: Path, code: str) -> dict[str, str]:
    """Return variables that make an interpreter run ``code`` when it starts."""
    (tmp_path / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(tmp_path)}


TASKS = [Task(square, (1,), "")]


class TestUnusable:
    def test_nothing_listens(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            start = time.monotonic()
            with pytest.raises(SchedulerError) as caught:
                run(TASKS, address, wait=0)
        assert str(caught.value) == (
            f"no Dask scheduler answers at {address} (nothing listens there); "
            "start one with `dask scheduler`, wait longer with --wait, or leave out -c"
        )
        assert time.monotonic() - start < 10

    def test_something_else_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(SchedulerError, match=rf"no Dask scheduler answers at {address} \(there is no answer\)"):
                run(TASKS, address, wait=0)

    def test_written_addresses(self, cluster: DaskCluster) -> None:
        port = cluster.address.rpartition(":")[2]
        for address in (f"tcp://{cluster.address}", f"localhost:{port}", str(cluster.scheduler_file)):
            assert run(TASKS, address)[0].result == 1

    @pytest.mark.parametrize(
        "text", ["", "thread", "localhost", "host:99999", "host:", "a b:1", "tcp://host", "tls://host:port", "ws://"]
    )
    def test_no_address(self, text: str) -> None:
        with pytest.raises(SchedulerError, match="names no Dask cluster; give threads, processes, auto, HOST:PORT"):
            run(TASKS, text)

    @pytest.mark.parametrize("text", ["{}", "[]", "\x00", '{"address": '])
    def test_no_scheduler_file(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "scheduler.json"
        file.write_text(text)
        with pytest.raises(SchedulerError, match=f"{file}: this is not a Dask scheduler file"):
            run(TASKS, str(file))

    def test_no_workers(self) -> None:
        with dask_cluster(workers=0) as cluster, pytest.raises(SchedulerError) as caught:
            run(TASKS, cluster.address, wait=0.1)
        assert str(caught.value) == (
            f"the scheduler at {cluster.address} has no workers; start some with `dask worker tcp://{cluster.address}`"
        )

    def test_no_workers_of_a_scheduler_file(self, tmp_path: Path) -> None:
        file = tmp_path / "s.json"
        with dask_cluster(workers=0) as cluster, pytest.raises(SchedulerError) as caught:
            file.write_text(json.dumps({"address": cluster.address}))
            run(TASKS, str(file), wait=0.1)
        fix = f"start some with `dask worker --scheduler-file {file}`"
        assert str(caught.value) == f"the scheduler at {file} has no workers; {fix}"

    def test_worker_without_shardtools(self, tmp_path: Path) -> None:
        with (
            dask_cluster(workers=1, worker_env=environment(tmp_path, BLOCK)) as cluster,
            pytest.raises(SchedulerError) as caught,
        ):
            run(TASKS, cluster.address)
        assert "the worker at tcp://127.0.0.1:" in str(caught.value)
        assert "has no shardtools" in str(caught.value)
        advice = "install shardtools there from the same checkout or wheel as here, with `pip install PATH`"
        assert str(caught.value).endswith(f"; {advice}")

    def test_scheduler_without_shardtools(self, tmp_path: Path) -> None:
        with (
            dask_cluster(workers=1, scheduler_env=environment(tmp_path, BLOCK)) as cluster,
            pytest.raises(SchedulerError, match=r"the scheduler at .* has no shardtools .*; install shardtools there"),
        ):
            run(TASKS, cluster.address)

    def test_worker_with_another_version(self, tmp_path: Path) -> None:
        with (
            dask_cluster(workers=1, worker_env=environment(tmp_path, OTHER_VERSION)) as cluster,
            pytest.raises(SchedulerError, match=f"another shardtools: 0.0.0 there, {__version__} here"),
        ):
            run(TASKS, cluster.address)


def another_version(folder: Path, old: bool) -> dict[str, str]:
    """Copy the package, as another version of it; an ``old`` one sends and compares no versions with tasks.

    Return the variables with which a worker has it.
    """
    shutil.copytree(ROOT / "shardtools", folder / "shardtools", ignore=shutil.ignore_patterns("__pycache__"))
    init = folder / "shardtools" / "__init__.py"
    init.write_text(init.read_text().replace(f'__version__ = "{__version__}"', '__version__ = "0.0.9"'))
    if old:
        (folder / "shardtools/engine/remote.py").write_text(OLD_REMOTE)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


OLD_REMOTE = """
from shardtools.engine.task import Need, Outcome, Task
def work_remotely(run_id, task):
    return task.function(*task.args)
def check_needs(needs): pass
def pickle_task(task, needs): pass
def unpickle_outcome(pickled, task): pass
async def stop_here(run_id): pass
class PickledOutcome: pass
"""


def square_after(path: Path, number: int) -> int:
    wait_until(path.exists, str(path))
    return number * number


def run_with_a_late_worker(
    folder: Path, environ: dict[str, str], needs: Sequence[engine.Need] = ()
) -> tuple[list[BaseException], list[Done]]:
    """Run 90 tasks on a worker, and when it works on some, on another that has ``environ``; return what came of it."""
    raised: list[BaseException] = []
    done: list[Done] = []
    with dask_cluster(workers=1) as cluster:
        tasks = [Task(square_after, (folder / "joined", i), f"{i}.tar") for i in range(90)]

        def run_all() -> None:
            try:
                engine.run(tasks, done.append, cluster=cluster.address, needs=needs)
            except ShardtoolsError as error:
                raised.append(error)

        thread = threading.Thread(target=run_all)
        thread.start()
        wait_until(lambda: count_processing(cluster), "tasks at the worker")
        cluster.start_worker(environ)
        (folder / "joined").touch()
        thread.join(60)
    return raised, done


def count_processing(cluster: DaskCluster) -> int:
    with Client(cluster.address, set_as_default=False) as client:
        return sum(map(len, client.processing().values()))


@pytest.mark.parametrize("old", [False, True])
def test_a_worker_with_another_version_that_joins_late_is_not_used(
    old: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raised, done = run_with_a_late_worker(tmp_path, another_version(tmp_path / "other", old))
    assert raised == []
    assert {one.index: (one.result, one.error) for one in done} == {i: (i**2, None) for i in range(90)}
    says = f"has another shardtools: 0.0.9 there, {__version__} here, and is not used; install shardtools there"
    assert [says in record.getMessage() for record in caplog.records] == [True]


class IsNotLacking:
    """A need that every worker meets but those with the variable LACKING."""

    def __call__(self) -> None:
        if "LACKING" in os.environ:
            raise JobError("it is not here", url="/d", fix="bring it")


def test_a_worker_that_joins_late_must_meet_the_needs_too(tmp_path: Path) -> None:
    raised, done = run_with_a_late_worker(tmp_path, {"LACKING": "1"}, [IsNotLacking()])
    assert raised == []
    assert {str(one.error) for one in done if one.error} == {"/d: it is not here; bring it"}


def test_nothing_is_done_where_a_worker_does_not_meet_the_needs(tmp_path: Path) -> None:
    done: list[Done] = []
    with dask_cluster(workers=1) as cluster:
        cluster.start_worker({"LACKING": "1"})
        with pytest.raises(JobError, match="/d: it is not here; bring it"):
            engine.run(TASKS, done.append, cluster=cluster.address, needs=[IsNotLacking()])
    assert done == []


CTRL_C = """
import sys, threading
from pathlib import Path
from shardtools import engine
from tests.integration.test_engine import wait_for_cancel

if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    tasks = [engine.Task(wait_for_cancel, (folder, str(i)), f"{i}.tar") for i in range(100)]
    try:
        engine.run(tasks, lambda done: print("done", done.index), cluster=kind, jobs=2)
    except KeyboardInterrupt:
        print("interrupted")
        sys.exit(130)
"""


QUIET = """
import sys
from pathlib import Path
from shardtools import engine
from tests.integration.test_engine import die_once, square

if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    tasks = [engine.Task(square, (i,), f"{i}.tar") for i in range(50)]
    if kind == "processes":
        tasks += [engine.Task(die_once, (folder / "dead",), "dies")]
    engine.run(tasks, lambda done: None, cluster=kind, jobs=2)
"""


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_nothing_is_said_on_the_way(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(QUIET)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, str(script), kind, str(tmp_path)]
    ran = subprocess.run(arguments, env=environ, check=True, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("", "")


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_ctrl_c(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(CTRL_C)
    process = subprocess.Popen(
        [sys.executable, str(script), kind, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(list(tmp_path.glob("started-*"))) == 2, "two tasks that run")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out, err) == (130, "interrupted\n", "")
    assert {path.name for path in tmp_path.glob("ended-*")} == {"ended-0", "ended-1"}
    assert len(list(tmp_path.glob("started-*"))) == 2
