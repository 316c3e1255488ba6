"""A run on a Dask cluster, from the client's side: a bounded number of futures, topped up as they finish."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import dask
from distributed.scheduler import KilledWorker

from shardtools import __version__
from shardtools.engine.connect import INSTALL, check_workers
from shardtools.engine.connection import Connection
from shardtools.engine.patience import Patience
from shardtools.engine.remote import PickledOutcome, pickle_task, stop_here, unpickle_outcome, work_remotely
from shardtools.engine.task import Need, Outcome, RunState, Task
from shardtools.errors import EngineError, SchedulerError

if TYPE_CHECKING:
    from distributed import Future

COUNT_SECONDS = 5
"""How often the cluster's threads are counted."""

SETTLE_SECONDS = 0.25
"""How long to wait for one more answer after all tasks of a stopped run have ended."""

logger = logging.getLogger(__name__)


class ClusterRun:
    """One run: a bounded number of its tasks is at the cluster, in order, and topped up as tasks finish.

    Tasks are sent, and results fetched, in batches, which takes a third of the time. Dask gives the tasks of a worker
    that dies to another one, as often as ``allowed-failures`` of its configuration allows. ``needs`` are checked before
    each task. A worker with another version of shardtools ends the run, whenever it joins.
    """

    def __init__(self, connection: Connection, state: RunState, jobs: int | None, needs: Sequence[Need] = ()):
        self._connection = connection
        self._client = connection.client()
        self._address = connection.where
        self._state = state
        self._jobs = jobs
        self._needs = needs
        self._run_id = uuid.uuid4().hex
        self._finished: SimpleQueue[Future] = SimpleQueue()
        self._pending: dict[Any, tuple[int, Future]] = {}
        self._shared: dict[int, tuple[bytes, Future]] = {}
        self._sent = 0
        self._limit = 0
        self._counted = time.monotonic() - COUNT_SECONDS
        self._away: Patience | None = None

    def run(self) -> None:
        """Run the tasks.

        Raises:
            SchedulerError: the scheduler, or every worker, went away, or a worker has another version of shardtools.
        """
        try:
            self._send()
            while self._pending and not self._state.stopped:
                self._report(self._await_batch(COUNT_SECONDS))
                self._send()
            if self._state.stopped:
                self._stop()
        except BaseException:
            self._cancel()
            raise
        finally:
            for _, future in self._shared.values():
                future.release()

    def _send(self) -> None:
        """Send as many tasks as it takes to keep every thread of the cluster busy."""
        self._count_threads()
        room = self._limit - len(self._pending)
        stop = min(self._sent + room, len(self._state.tasks))
        if self._state.stopped or stop <= self._sent or room < (1 if self._jobs else self._limit // 2):
            return
        indices = range(self._sent, stop)
        tasks = [self._state.tasks[index] for index in indices]
        versions, bodies, shared = zip(*(pickle_task(task, self._needs) for task in tasks), strict=True)
        futures = self._client.map(
            work_remotely,
            versions,
            [task.name for task in tasks],
            bodies,
            [self._run_id] * len(indices),
            [[self._share(data) for data in some] for some in shared],
            key=[f"shardtools-{self._run_id}-{index:09d}" for index in indices],
            priority=-self._sent,
        )
        self._sent = stop
        for index, future in zip(indices, futures, strict=True):
            self._pending[future.key] = (index, future)
            future.add_done_callback(self._finished.put)

    def _share(self, data: bytes) -> Future:
        """Return a future of bytes that many tasks need. The scheduler keeps them, so no worker can lose them."""
        if id(data) not in self._shared:
            key = f"shardtools-{self._run_id}-shared-{len(self._shared)}"
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
                self._shared[id(data)] = data, self._client.submit(bytes, data, key=key)
        return self._shared[id(data)][1]

    def _count_threads(self) -> None:
        """Follow a cluster that grows or shrinks, and notice one that is gone."""
        now = time.monotonic()
        if now < self._counted + COUNT_SECONDS:
            return
        threads = sum(self._client.nthreads().values())
        self._counted = now
        if threads or not self._sent:
            self._away = None
        else:
            self._await_workers()
        self._limit = min(max(32, 3 * threads), self._jobs or len(self._state.tasks))

    def _await_workers(self) -> None:
        """Note that there are no workers.

        Raises:
            SchedulerError: that has been so for too long.
        """
        self._away = self._away or Patience(self._connection.wait)
        self._away.note(f"workers of the scheduler at {self._address}, which have all left")
        if not self._away.left:
            raise SchedulerError(
                f"all workers have left the scheduler at {self._address}", fix="start workers, and go on with --resume"
            )

    def _await_batch(self, seconds: float) -> list[Future]:
        """Return the futures that have finished, after waiting for the first at most ``seconds``."""
        batch: list[Future] = []
        try:
            batch.append(self._finished.get(timeout=seconds))
            while len(batch) < len(self._pending):
                batch.append(self._finished.get_nowait())
        except Empty:
            pass
        return batch

    def _report(self, batch: Sequence[Future]) -> None:
        """Report the futures of a batch, and forget them."""
        for future, answer in zip(batch, self._fetch(batch), strict=True):
            index, _ = self._pending.pop(future.key)
            future.release()
            self._refuse_other_versions(answer)
            task = self._state.tasks[index]
            if isinstance(answer, PickledOutcome):
                outcome = unpickle_outcome(answer, task)
            else:
                outcome = _outcome_of_lost_task(answer, task)
            self._state.report(index, outcome)

    def _refuse_other_versions(self, answer: PickledOutcome | Exception) -> None:
        """Raise if a task was sent to a worker with another version of shardtools, or without shardtools.

        Raises:
            SchedulerError: it was.
        """
        version = getattr(answer, "version", None)
        if version == __version__ or isinstance(answer, KilledWorker):
            return
        check_workers(
            self._client, self._address, (), self._connection.wait
        )  # its error names the worker, if it is still there
        if isinstance(answer, PickledOutcome):
            raise SchedulerError(
                f"a worker of {self._address} had another shardtools: {version} there, {__version__} here",
                fix=f"{INSTALL}, and go on with --resume",
            )

    def _fetch(self, batch: Sequence[Future]) -> list[PickledOutcome | Exception]:
        """Return what the futures hold, or what went wrong with them."""
        if all(future.status == "finished" for future in batch):
            try:
                return list(self._client.gather(list(batch)))
            except Exception:
                logger.debug("a batch was lost with its worker: fetching one by one", exc_info=True)
        return [self._fetch_one(future) for future in batch]

    def _fetch_one(self, future: Future) -> PickledOutcome | Exception:
        try:
            outcome: PickledOutcome = future.result()
        except Exception as error:
            if future.status in ("cancelled", "lost"):
                raise SchedulerError(
                    f"the scheduler at {self._address} went away, or dropped the tasks",
                    fix="see that it runs, and go on with --resume",
                ) from error
            return error
        return outcome

    def _stop(self) -> None:
        """After an error of a task: end running tasks, and report those that have finished."""
        self._stop_workers()
        while self._pending and (batch := self._await_batch(SETTLE_SECONDS)):
            self._report(batch)
        self._client.cancel([future for _, future in self._pending.values()])

    def _cancel(self) -> None:
        """After an exception in the client: end running tasks, and report nothing more."""
        if self._client.status != "running":
            return
        try:
            self._client.cancel([future for _, future in self._pending.values()])
            self._stop_workers()
        except Exception:
            logger.debug("the workers could not be told to stop", exc_info=True)

    def _stop_workers(self) -> None:
        self._client.run(stop_here, self._run_id, on_error="ignore")


def _outcome_of_lost_task(error: Exception, task: Task) -> Outcome:
    """Return the outcome of a task that Dask, not the task, has given up."""
    if isinstance(error, KilledWorker):
        lost = EngineError(
            f"each worker that ran this died, {error.allowed_failures + 1} of them",
            url=task.name,
            fix="see their logs; if memory ran out, give workers more of it, or fewer threads each",
        )
        lost.__cause__ = error
        return Outcome(None, lost)
    return Outcome(None, error)
