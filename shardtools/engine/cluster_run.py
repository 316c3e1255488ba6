"""A run on a Dask cluster, from the client's side: a bounded number of futures, topped up as they finish.

    tasks -> futures at the scheduler, as many as keep its workers busy -> outcomes
          <- lost with a worker, the scheduler, or at a worker that is not used

What a task returns is small, and running it twice does no harm, so whatever is lost is given out again.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import dask
from distributed.scheduler import KilledWorker

from shardtools import __version__
from shardtools.engine.connect import check_workers
from shardtools.engine.connection import Connection
from shardtools.engine.losses import DEATHS, Losses
from shardtools.engine.members import INSTALL, Members, ask_workers, call_within
from shardtools.engine.notes import notes
from shardtools.engine.patience import Patience
from shardtools.engine.remote import (
    PickledOutcome,
    cancel_here,
    pickle_task,
    stop_here,
    topic_of,
    unpickle_outcome,
    work_remotely,
)
from shardtools.engine.task import Need, Outcome, RunState
from shardtools.errors import SchedulerError, redact
from shardtools.urls import name_of

if TYPE_CHECKING:
    from distributed import Future

COUNT_SECONDS = 2
"""How often the cluster's workers are counted."""

FETCH_SECONDS = 30
"""How long the results of finished tasks may take to arrive. Their workers may have died since."""

SETTLE_SECONDS = 0.25
"""How long to wait for one more answer after all tasks of a stopped run have ended."""

MOST_RETURNS = 100
"""How often a task may come back without having run, for reasons that are not its own, before the run is given up."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sent:
    """A task at the cluster: its ``index``, its future, and the ``workers`` that may run it if not all may."""

    index: int
    future: Future
    workers: frozenset[str] | None


@dataclass(frozen=True)
class _Started:
    """A message of a worker: a task starts, alone."""

    index: int


class ClusterRun:
    """One run: a bounded number of its tasks is at the cluster, in order, and topped up as tasks finish.

    Tasks are sent, and results fetched, in batches, which takes a third of the time. ``needs`` are checked before each
    task. ``known`` are workers whose version of shardtools has been checked; the others are asked when they join.
    ``deaths`` is how many workers a task may cost (see `shardtools.engine.losses`).
    """

    def __init__(
        self,
        connection: Connection,
        state: RunState,
        jobs: int | None,
        needs: Sequence[Need] = (),
        known: Iterable[str] = (),
        deaths: int = DEATHS,
    ):
        self._connection = connection
        self._client = connection.client()
        self._members = Members(self._client, state.incidents, known)
        self._losses = Losses(deaths)
        self._state = state
        self._jobs = jobs
        self._needs = needs
        self._run_id = uuid.uuid4().hex
        self._arrived: SimpleQueue[Future | _Started] = SimpleQueue()
        self._waiting = list(range(len(state.tasks)))
        self._pending: dict[Any, _Sent] = {}
        self._there: set[int] = set()
        self._shared: dict[int, tuple[bytes, Future]] = {}
        self._sendings = 0
        self._returns: Counter[int] = Counter()
        self._limit = 0
        self._counted = time.monotonic() - COUNT_SECONDS
        self._away: Patience | None = None
        self._silence: Patience | None = None
        self._hears = False

    def run(self) -> None:
        """Run the tasks.

        Raises:
            SchedulerError: the scheduler, or every worker, was away for too long, or tasks come back all the time.
        """
        try:
            while (self._waiting or self._pending) and not self._state.stopped:
                for index, outcome in self._step():
                    self._state.report(index, outcome)
            if self._state.stopped:
                self._stop()
        except BaseException:
            self._cancel()
            raise
        finally:
            if self._hears and self._client.status == "running":
                self._client.unsubscribe_topic(topic_of(self._run_id))
            for _, future in self._shared.values():
                future.release()

    def _step(self) -> list[tuple[int, Outcome]]:
        """Send tasks, wait for a moment, and return what has come of some; connect again if that is necessary."""
        try:
            if self._client.status != "running":
                self._connect_again()
            self._count()
            self._send()
            outcomes = self._outcomes(self._await_batch(COUNT_SECONDS))
            self._silence = None
            return outcomes
        except SchedulerError:
            raise
        except Exception as error:
            if self._client.status == "running" and not isinstance(error, OSError):
                raise
            logger.debug("the scheduler could not be asked", exc_info=True)
            where = self._connection.where
            self._silence = self._silence or Patience(self._connection.wait)
            if not self._silence.pause(f"an answer of the scheduler at {where}"):
                what = f"the scheduler at {where} does not answer any more"
                raise SchedulerError(what, fix="see that it runs, and go on with --resume") from error
            return []

    def _connect_again(self) -> None:
        """Connect to the scheduler again, or to one that has replaced it, and give out again all that was there."""
        notes.warning("the scheduler at %s went away; connecting again", self._connection.where)
        for sent in list(self._pending.values()):
            self._take_back(sent)
        self._shared.clear()
        self._hears = False
        self._client = self._connection.renew()
        self._members = Members(self._client, self._state.incidents)
        known = check_workers(self._client, self._connection.where, self._needs, self._connection.wait)
        self._members = Members(self._client, self._state.incidents, known)
        self._counted = 0.0

    def _hear(self, event: tuple[float, Sequence[int]]) -> None:
        """Take a message of a worker, in Dask's thread."""
        index, *read = event[1]
        if not read:
            self._arrived.put(_Started(index))
        elif index in self._there:
            self._state.tell(index, *read)

    def _send(self) -> None:
        """Send as many tasks as it takes to keep every thread of the cluster busy."""
        room = self._limit - len(self._pending)
        if not self._waiting or room < (1 if self._jobs else max(1, self._limit // 2)):
            return
        if self._members.allowed == frozenset():  # all that are there have another version
            return
        indices = [heappop(self._waiting) for _ in range(min(room, len(self._waiting)))]
        try:
            self._submit(indices)
        except Exception:
            for index in indices:
                heappush(self._waiting, index)
            raise

    def _submit(self, indices: Sequence[int]) -> None:
        workers = self._members.allowed
        suspects = list(map(self._losses.is_suspect, indices))
        if not self._hears and (any(suspects) or self._state.watcher is not None):
            self._client.subscribe_topic(topic_of(self._run_id), self._hear)
            self._hears = True
        tasks = [self._state.tasks[index] for index in indices]
        versions, bodies, shared = zip(*(pickle_task(task, self._needs) for task in tasks), strict=True)
        futures = self._client.map(
            work_remotely,
            versions,
            [task.name for task in tasks],
            bodies,
            [self._run_id] * len(indices),
            [[self._share(data) for data in some] for some in shared],
            indices,
            suspects,
            [self._state.watcher is not None] * len(indices),
            key=[self._key(index) for index in indices],
            priority=-indices[0],
            workers=sorted(workers) if workers else None,
        )
        for index, future in zip(indices, futures, strict=True):
            self._pending[future.key] = _Sent(index, future, workers)
            self._there.add(index)
            future.add_done_callback(self._arrived.put)

    def _key(self, index: int) -> str:
        """Return a name for a task at the cluster that no other has. Dask's dashboard groups them by its beginning."""
        self._sendings += 1
        task = self._state.tasks[index]
        label = self._state.label or getattr(task.function, "__name__", "shardtools")
        name = re.sub(r"[^\w-]", "", f"{label.replace('_', '-')}-{name_of(task.name).partition('.')[0]}")
        return f"{name}-{self._run_id[:12]}-{self._sendings}"

    def _share(self, data: bytes) -> Future:
        """Return a future of bytes that many tasks need. The scheduler keeps them, so no worker can lose them."""
        if id(data) not in self._shared:
            key = f"shardtools-{uuid.uuid4().hex}-shared-{len(self._shared)}"
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
                self._shared[id(data)] = data, self._client.submit(bytes, data, key=key)
        return self._shared[id(data)][1]

    def _count(self, *, now: bool = False) -> None:
        """Follow a cluster that grows or shrinks, and notice one that is gone."""
        if not now and time.monotonic() < self._counted + COUNT_SECONDS:
            return
        self._members.look()
        self._counted = time.monotonic()
        for sent in list(self._pending.values()):
            if sent.workers is not None and self._members.are_gone(sent.workers):
                self._take_back(sent)
        if self._members.threads:
            self._away = None
        else:
            self._note_absence()
        self._limit = min(max(32, 3 * self._members.threads), self._jobs or len(self._state.tasks))

    def _note_absence(self) -> None:
        """Note that all workers are away.

        Raises:
            SchedulerError: they have been away for too long.
        """
        where, complaint = self._connection.where, self._members.complaint
        self._away = self._away or Patience(self._connection.wait)
        self._away.note(f"workers of the scheduler at {where}, which has none now")
        if not self._away.left:
            raise SchedulerError(
                f"all workers have left the scheduler at {where}{complaint and f', and {complaint}'}",
                fix=INSTALL if complaint else "start workers, and go on with --resume",
            )

    def _await_batch(self, seconds: float) -> list[Future]:
        """Return the futures that have finished, after waiting for the first at most ``seconds``."""
        batch: list[Future] = []
        try:
            self._take(batch, self._arrived.get(timeout=seconds))
            while len(batch) < len(self._pending):
                self._take(batch, self._arrived.get_nowait())
        except Empty:
            pass
        return batch

    def _take(self, batch: list[Future], arrived: Future | _Started) -> None:
        if isinstance(arrived, _Started):
            self._losses.note_start(arrived.index)
        elif arrived.key in self._pending:  # else it has been given out again meanwhile
            batch.append(arrived)

    def _outcomes(self, batch: Sequence[Future]) -> list[tuple[int, Outcome]]:
        """Return what has come of the tasks of a batch; those that are to be given out again are waiting then."""
        outcomes = []
        for future, answer in zip(batch, self._fetch(batch), strict=True):
            sent = self._pending[future.key]
            outcome = self._judge(sent.index, answer)
            if outcome is None:
                self._take_back(sent)
            else:
                self._forget(sent)
                outcomes.append((sent.index, outcome))
        return outcomes

    def _fetch(self, batch: Sequence[Future]) -> list[PickledOutcome | Exception | None]:
        """Return what the futures hold, or what went wrong with them; None if the result is lost."""
        finished = {future.key: future for future in batch if future.status == "finished"}
        held: dict[Any, PickledOutcome | Exception | None] = {}
        try:
            held = call_within(
                self._client, FETCH_SECONDS, lambda: self._client.gather(finished, errors="skip", asynchronous=True)
            )
        except TimeoutError:
            logger.debug("results were lost with their workers", exc_info=True)
        for future in batch:
            if future.status == "error":
                held[future.key] = future.exception()
        return [held.get(future.key) for future in batch]

    def _judge(self, index: int, answer: PickledOutcome | Exception | None) -> Outcome | None:
        """Return the outcome of a task, None if it is to be given out again.

        Raises:
            SchedulerError: that has happened too often, though not by any fault of it.
        """
        task = self._state.tasks[index]
        if isinstance(answer, KilledWorker):
            self._members.note_loss(answer.last_worker.address)
            lost = self._losses.judge(index, task.name, answer, self._connection.where)
            return None if lost is None else Outcome(None, lost)
        if isinstance(answer, PickledOutcome) and answer.version == __version__:
            self._losses.note_end(index)
            return unpickle_outcome(answer, task)
        self._losses.forget_starts(index)
        if answer is not None:
            self._count(now=True)
        if isinstance(answer, Exception) and self._members.allowed is None:  # no worker of another version is there
            return Outcome(None, answer)
        self._returns[index] += 1
        if self._returns[index] > MOST_RETURNS:
            raise SchedulerError(
                f"the scheduler at {self._connection.where} drops the tasks, or has no usable workers: "
                f"{self._members.complaint}",
                fix="see its log, and go on with --resume",
            )
        return None

    def _forget(self, sent: _Sent) -> None:
        del self._pending[sent.future.key]
        self._there.discard(sent.index)
        sent.future.release()

    def _take_back(self, sent: _Sent) -> None:
        """Let a task wait to be given out again."""
        notes.debug("%s: given out again", redact(self._state.tasks[sent.index].name))
        self._state.incidents.add("repeated_tasks")
        self._forget(sent)
        heappush(self._waiting, sent.index)
        self._state.tell(sent.index, 0, 0)

    def _stop(self) -> None:
        """After an error of a task: end running tasks, and report those that have finished."""
        self._stop_workers()
        while self._pending and (batch := self._await_batch(SETTLE_SECONDS)):
            for index, outcome in self._outcomes(batch):
                self._state.report(index, outcome)
        self._client.cancel([sent.future for sent in self._pending.values()])

    def _cancel(self) -> None:
        """After an exception in the client: end running tasks, and report nothing more."""
        if self._client.status != "running":
            return
        try:
            self._client.cancel([sent.future for sent in self._pending.values()])
            self._stop_workers()
        except Exception:
            logger.debug("the workers could not be told to stop", exc_info=True)

    def _stop_workers(self) -> None:
        """Cancel what runs at the workers and wait until it has ended, except at those that do not answer."""
        answers = ask_workers(self._client, cancel_here, self._run_id)
        living = [worker for worker, answer in answers.items() if not isinstance(answer, Exception)]
        if living:
            self._client.run(stop_here, self._run_id, workers=living, on_error="ignore")
