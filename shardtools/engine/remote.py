"""The worker's side of a run: running a task, ending it, and sending its outcome to the client."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TextIO

from shardtools import __version__
from shardtools.engine.progress import REMOTE_SECONDS, TaskProgress
from shardtools.engine.task import Cancelled, Need, Outcome, RemoteTraceback, Task, work
from shardtools.errors import EngineError, ShardtoolsError

SHARED_SIZE = 1 << 16
"""From this size on, bytes that tasks have in common are sent once and not with each task."""

CHECK_SECONDS = 0.5
"""How often a task that waits for its turn looks whether it is cancelled."""


class _Sharing(threading.Condition):
    """How many tasks run ``alone`` in this process, or ``beside`` others, and how many are ``waiting`` to be alone."""

    alone = beside = waiting = 0


_turns = _Sharing()
_lock = threading.Lock()
_tokens: dict[str, threading.Event] = {}
_running: Counter[str] = Counter()
_printing: list[TextIO] = []


@dataclass(frozen=True)
class PickledOutcome:
    """An outcome on its way to the client, from a worker with this ``version`` of shardtools.

    The result and the error are pickled by themselves, as ``body``: if they cannot be pickled here, or unpickled at the
    client, this task fails, and not the run. Then ``summary`` says what is known.
    """

    version: str
    body: bytes
    summary: str
    trace: str
    seconds: float
    incidents: Mapping[str, int]


def pickle_task(task: Task, needs: Sequence[Need]) -> tuple[str, bytes, list[bytes]]:
    """Return what is sent of a task: the version of shardtools that it is for, the pickled task, and shared bytes.

    A worker with another version can read the version without unpickling the task. Shared bytes are the large ones that
    pickle takes for buffers: other tasks have them, too.
    """
    shared: list[bytes] = []

    def is_kept(buffer: pickle.PickleBuffer) -> bool:
        data = buffer.raw().obj
        if not isinstance(data, bytes) or len(data) < SHARED_SIZE:
            return True
        shared.append(data)
        return False

    body = pickle.dumps((task, tuple(needs)), protocol=5, buffer_callback=is_kept)
    return __version__, body, shared


def work_remotely(
    version: str,
    name: str,
    body: bytes,
    run_id: str,
    shared: Sequence[bytes] = (),
    number: int = 0,
    alone: bool = False,
    watched: bool = False,
) -> PickledOutcome:
    """Run the task ``name``, pickled by `pickle_task`, on a worker.

    A worker with another version of shardtools does not run it, and returns its version. If it is to run ``alone``, it
    does so while the process runs no other task, and the scheduler knows before that it starts. If it is ``watched``,
    the client is told now and then how far it has come. The client knows it by ``number``.

    Raises:
        OSError: the scheduler could not be told.
    """
    if version != __version__:
        return PickledOutcome(__version__, b"", f"the worker has shardtools {__version__}", "", 0.0, {})
    with _lock:
        token = _tokens.setdefault(run_id, threading.Event())
        _running[run_id] += 1
    try:
        with _place(token, alone):
            if alone and not token.is_set():
                _announce(run_id, number)
            progress = TaskProgress(partial(_tell, run_id, number), REMOTE_SECONDS) if watched else None
            return pickle_outcome(_work(token, name, body, shared, progress), name)
    finally:
        with _lock:
            _running[run_id] -= 1
            if not _running[run_id]:
                del _running[run_id]
                if not token.is_set():
                    del _tokens[run_id]


@contextmanager
def _place(token: threading.Event, alone: bool) -> Iterator[None]:
    """A context in which a task may run in this process: ``alone``, or beside others that do not have to be.

    Who has to be alone comes first. Nobody waits any longer when ``token`` is set.
    """
    with _turns:
        _turns.waiting += alone
        while not token.is_set() and (_turns.alone or (_turns.beside if alone else _turns.waiting)):
            _turns.wait(CHECK_SECONDS)
        _turns.waiting -= alone
        _turns.alone += alone
        _turns.beside += not alone
    try:
        yield
    finally:
        with _turns:
            _turns.alone -= alone
            _turns.beside -= not alone
            _turns.notify_all()


def _announce(run_id: str, number: int) -> None:
    """Let the scheduler tell the client that a task starts; return when it knows.

    Raises:
        OSError: the scheduler does not answer.
    """
    from distributed import get_worker
    from distributed.utils import sync

    worker = get_worker()
    sync(worker.loop, worker.scheduler.log_event, topic=topic_of(run_id), msg=[number])


def _tell(run_id: str, number: int, samples: int, size: int) -> None:
    """Send the client what a task has read, without waiting."""
    from distributed import get_worker

    get_worker().log_event(topic_of(run_id), [number, samples, size])


def topic_of(run_id: str) -> str:
    """Return the topic of the events of Dask with which workers tell a client what starts alone, and how far tasks are.

    An event is the number of a task, and for the latter the samples and bytes that it has read.
    """
    return f"shardtools-{run_id}"


@contextmanager
def _printing_to_stderr() -> Iterator[None]:
    """A context in which what this process prints goes to standard error. Contexts of several threads may overlap."""
    with _lock:
        _printing.append(sys.stdout)
        sys.stdout = sys.stderr
    try:
        yield
    finally:
        with _lock:
            first = _printing[0]
            _printing.pop()
            if not _printing:
                sys.stdout = first


def _work(
    token: threading.Event, name: str, body: bytes, shared: Sequence[bytes], progress: TaskProgress | None
) -> Outcome:
    try:
        task, needs = pickle.loads(body, buffers=shared)
    except Exception as error:  # noqa: BLE001 - unpickling imports and runs foreign code, which raises what it likes
        wrapped = EngineError(f"the task cannot be unpickled at the worker: {error}", url=name)
        wrapped.__cause__ = error
        return Outcome(None, wrapped)
    try:
        check_needs(needs)
    except ShardtoolsError as error:
        return Outcome(None, error)
    from distributed import get_worker

    worker = get_worker()
    in_client = worker.address.startswith("inproc://")  # a thread of the user's own process: stdout is the user's
    with nullcontext() if in_client else _printing_to_stderr():
        return work(token, task, int(worker.state.nthreads), progress)


def check_needs(needs: Sequence[Need]) -> None:
    """Call each need in this process.

    Raises:
        ShardtoolsError: one is not met.
    """
    for need in needs:
        need()


def cancel_here(run_id: str) -> None:
    """Cancel the tasks of a run in this process, also those that arrive later."""
    with _lock:
        _tokens.setdefault(run_id, threading.Event()).set()


async def stop_here(run_id: str) -> None:
    """Cancel the tasks of a run in this process, also those that arrive later; return when none is running."""
    cancel_here(run_id)
    while _running[run_id]:
        await asyncio.sleep(0.02)


def pickle_outcome(outcome: Outcome, name: str) -> PickledOutcome:
    """Return the outcome of the task ``name`` in a form that can always be sent."""
    error = outcome.error
    summary = "its result cannot be unpickled here" if error is None else f"{type(error).__name__}: {error}"
    trace = "" if error is None else "".join(traceback.format_exception(error))
    try:
        body = pickle.dumps((outcome.result, error))
    except Exception as caught:  # noqa: BLE001 - pickling runs foreign code, which raises what it likes
        problem = f"its result cannot be pickled: {caught}" if error is None else summary
        body = pickle.dumps((None, EngineError(problem, url=name)))
    return PickledOutcome(__version__, body, summary, trace, outcome.seconds, outcome.incidents)


def unpickle_outcome(pickled: PickledOutcome, task: Task) -> Outcome:
    """Return the outcome, on the client."""
    result: object
    error: Exception | Cancelled | None
    try:
        result, error = pickle.loads(pickled.body)
    except Exception as caught:  # noqa: BLE001 - as above; and a class of the worker's own may not exist here
        result, error = None, EngineError(pickled.summary, url=task.name)
        error.__cause__ = caught
    if error is not None and pickled.trace:
        error.__cause__ = RemoteTraceback(pickled.trace)
    return Outcome(result, error, pickled.seconds, pickled.incidents)
