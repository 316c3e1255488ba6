"""The side of a run that lies on a worker: doing a task, ending it, and the way of its outcome to the client."""

from __future__ import annotations

import asyncio
import pickle
import threading
import traceback
from collections import Counter
from dataclasses import dataclass

from shardtools.engine.task import Cancelled, Outcome, RemoteTraceback, Task, work
from shardtools.errors import EngineError

_lock = threading.Lock()
_tokens: dict[str, threading.Event] = {}
_running: Counter[str] = Counter()


@dataclass(frozen=True)
class Parcel:
    """An outcome on its way to the client.

    The result and the error are pickled apart, as ``body``: one that cannot be pickled, or that the client cannot
    unpickle, then costs this task and not the run. ``summary`` is what is known of it in that case.
    """

    body: bytes
    summary: str
    trace: str
    seconds: float


def work_remotely(run_id: str, task: Task) -> Parcel:
    """Run a task on a worker; raises nothing."""
    with _lock:
        token = _tokens.setdefault(run_id, threading.Event())
        _running[run_id] += 1
    try:
        return pack(work(token, task), task)
    finally:
        with _lock:
            _running[run_id] -= 1
            if not _running[run_id]:
                del _running[run_id]
                if not token.is_set():
                    del _tokens[run_id]


async def stop_here(run_id: str) -> None:
    """Cancel a run's tasks in this process, those that may still arrive too; return when none is running."""
    with _lock:
        _tokens.setdefault(run_id, threading.Event()).set()
    while _running[run_id]:
        await asyncio.sleep(0.02)


def pack(outcome: Outcome, task: Task) -> Parcel:
    """Return the outcome so that it can always travel."""
    error = outcome.error
    summary = "its result cannot be unpickled here" if error is None else f"{type(error).__name__}: {error}"
    trace = "" if error is None else "".join(traceback.format_exception(error))
    try:
        body = pickle.dumps((outcome.result, error))
    except Exception as caught:  # noqa: BLE001 - pickling runs foreign code, which raises what it likes
        problem = f"its result cannot be pickled: {caught}" if error is None else summary
        body = pickle.dumps((None, EngineError(problem, url=task.name)))
    return Parcel(body, summary, trace, outcome.seconds)


def unpack(parcel: Parcel, task: Task) -> Outcome:
    """Return the outcome, on the client."""
    result: object
    error: Exception | Cancelled | None
    try:
        result, error = pickle.loads(parcel.body)
    except Exception as caught:  # noqa: BLE001 - as above; and a class of the worker's own may not exist here
        result, error = None, EngineError(parcel.summary, url=task.name)
        error.__cause__ = caught
    if error is not None and parcel.trace:
        error.__cause__ = RemoteTraceback(parcel.trace)
    return Outcome(result, error, parcel.seconds)
