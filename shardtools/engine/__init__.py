"""One way to run a list of tasks: on threads, on local processes, on a Dask cluster.

    tasks -> run -> a pool of threads (threads.py), or Dask (cluster_run.py) -> work, in a thread, process or machine
         -> Done -> on_done, in the caller's thread

    places, tls, factory -> connect -> Connection, the cluster of a job: which there is, with patience
    members, losses      -> ClusterRun: which workers are used, and which tasks are given out again or given up
    incidents, progress, notes: what a user is told meanwhile

A task is pure and idempotent: it reads URLs, writes URLs and returns something small. Nothing else in shardtools knows
about Dask. A task that takes long asks `check_cancelled` now and then, which is how an error elsewhere, or Ctrl-C,
ends it cleanly wherever it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from shardtools.engine.connection import WAIT_SECONDS, Connection
from shardtools.engine.incidents import Incidents, counting_incidents, current_incidents
from shardtools.engine.progress import watching_tasks
from shardtools.engine.task import (
    Cancelled,
    ClusterLike,
    Done,
    Need,
    RemoteTraceback,
    RunState,
    Task,
    check_cancelled,
    is_cancelled,
    tasks_at_once,
)
from shardtools.errors import EngineError
from shardtools.processors import processors

__all__ = [
    "WAIT_SECONDS",
    "Cancelled",
    "ClusterLike",
    "Connection",
    "Done",
    "Incidents",
    "Need",
    "RemoteTraceback",
    "Task",
    "check_cancelled",
    "counting_incidents",
    "current_incidents",
    "is_cancelled",
    "run",
    "tasks_at_once",
    "watching_tasks",
]


def run(
    tasks: Sequence[Task],
    on_done: Callable[[Done], None],
    *,
    cluster: ClusterLike = "threads",
    jobs: int | None = None,
    stop_on_error: bool | Callable[[Exception], bool] = True,
    needs: Sequence[Need] = (),
    label: str = "",
) -> None:
    """Run ``tasks``, about in order, and call ``on_done`` in this thread with each one that has finished.

    ``cluster`` is ``"threads"``, ``"processes"`` (of this machine), or a Dask cluster: a `Connection`, which several
    runs can share, or what it takes, which is then connected to for this run only: the ``HOST:PORT`` of a scheduler,
    with any scheme of Dask before it (``tls://``), a scheduler file, ``"auto"`` (Dask's own configuration),
    ``MODULE:CALLABLE`` or ``FILE.py:CALLABLE``, a `distributed.Client` or a Dask cluster. At most ``jobs`` tasks run at
    a time; the default is the number of processors here, or all threads of the cluster. On a cluster every worker must
    meet ``needs``: they are called there before any task is sent, and before each task, as workers may join later.
    Dask's dashboard shows the tasks by ``label``, or else the name of their function, and the name of their shard.

    Workers may leave, die and join at any time, and the scheduler may be replaced: what is lost is given out again. A
    task is given up, with a `LostWorkersError`, when workers have died again and again that ran nothing else.

    With ``stop_on_error``, or if that says so of an error, the first one stops the run: no further task starts, running
    tasks are cancelled, and `run` returns when they have ended; it does not raise the error. Cancelled tasks are not
    reported. If ``on_done`` raises, or on Ctrl-C, running tasks are cancelled, and `run` waits for them before it
    raises; a second Ctrl-C ends the waiting.

    Raises:
        SchedulerError: no scheduler answers or there are no workers for as long as the connection waits, also in the
            middle of a run; or a worker that is there at the start has another version of shardtools. One that joins
            later is not used.
        ShardtoolsError: what a need raises at a worker.
        EngineError: ``jobs`` is below 1, or the local processes cannot be started.

    >>> run([Task(pow, (2, i), "x") for i in range(3)], lambda done: print(done.result), jobs=1)
    1
    2
    4
    """
    if jobs is not None and jobs < 1:
        raise EngineError(f"{jobs} jobs cannot run anything", fix="give 1 or more")
    if not tasks:
        return
    state = RunState(tasks, on_done, stop_on_error if callable(stop_on_error) else lambda _: bool(stop_on_error), label)
    workers = min(jobs or processors(), len(tasks))
    if cluster == "threads":
        from shardtools.engine.threads import run_threads

        run_threads(state, workers)
        return

    from shardtools.engine.cluster_run import ClusterRun
    from shardtools.engine.connect import check_workers, local_processes
    from shardtools.engine.losses import LOCAL_DEATHS

    if cluster == "processes":
        with local_processes(workers) as client, Connection(client) as local:
            ClusterRun(local, state, None, deaths=LOCAL_DEATHS).run()
        return
    with nullcontext(cluster) if isinstance(cluster, Connection) else Connection(cluster) as connection:
        known = check_workers(connection.client(), connection.where, needs, connection.wait)
        ClusterRun(connection, state, jobs, needs, known).run()
