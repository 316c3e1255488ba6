"""A task, its outcome, and how it learns that it should end."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from shardtools.engine.incidents import Incidents, current_incidents, describe
from shardtools.engine.notes import notes
from shardtools.engine.progress import TaskProgress, Watcher, current_watcher
from shardtools.errors import EngineError, redact
from shardtools.storage import DEFAULT_OPTIONS, StorageOptions, using

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy import Cluster

    from shardtools.engine.connection import Connection

ClusterLike: TypeAlias = "str | Client | Cluster | Connection"
"""Where tasks run: ``"threads"``, ``"processes"``, or a Dask cluster, as `shardtools.engine.connection` takes it."""


@dataclass(frozen=True)
class Task:
    """A call, ``function(*args)``, to be run somewhere; ``name`` is the URL that it is about, for messages.

    It runs with the storage options ``storage``. The function is defined in a module; its arguments and its result can
    be pickled.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    name: str
    storage: StorageOptions = DEFAULT_OPTIONS


Need = Callable[[], object]
"""A check that must succeed wherever tasks run on a cluster: it can be pickled, and raises a `ShardtoolsError`."""


@dataclass(frozen=True)
class Done:
    """The outcome of the task at ``index``: its ``result`` or its ``error``, and how many seconds it ran.

    An error from a worker is the exception that was raised there; its cause is its `RemoteTraceback`.
    """

    index: int
    task: Task
    result: Any | None
    error: Exception | None
    seconds: float


class Cancelled(BaseException):
    """Raised in a task whose run must stop. Like ``asyncio.CancelledError``, ``except Exception`` does not catch it."""


class RemoteTraceback(Exception):
    """The cause of an error from a worker: the traceback of the error there, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task, which may be that it was cancelled. ``incidents`` are those of its storage."""

    result: Any | None
    error: Exception | Cancelled | None
    seconds: float = 0.0
    incidents: Mapping[str, int] = field(default_factory=dict)


_token: ContextVar[threading.Event | None] = ContextVar("shardtools_token", default=None)
_sharing: ContextVar[int] = ContextVar("shardtools_sharing", default=1)


def tasks_at_once() -> int:
    """Return how many tasks this process may run at a time, this one included: they share its memory."""
    return _sharing.get()


def is_cancelled() -> bool:
    """Return whether the task that this thread works for should end.

    A thread that a task starts can ask, too, if it runs in a copy of the task's context:
    ``Thread(target=contextvars.copy_context().run, args=(function,))``. Outside of a run the answer is False.
    """
    token = _token.get()
    return token is not None and token.is_set()


def check_cancelled() -> None:
    """Raise `Cancelled` if the task that this thread works for should end."""
    if is_cancelled():
        raise Cancelled


def work(token: threading.Event, task: Task, at_once: int = 1, progress: TaskProgress | None = None) -> Outcome:
    """Run a task in this thread and return its outcome; ``token`` is set when it should end. Raises nothing.

    ``at_once`` is what `tasks_at_once` returns in the task. ``progress`` is told how far it comes.
    """
    before = _token.set(token)
    sharing_before = _sharing.set(at_once)
    start = time.perf_counter()
    incidents = Incidents()

    def count(kind: str, amount: int) -> None:
        incidents.add(kind, amount)
        if progress is not None:
            progress.add(kind, amount)

    result: Any = None
    error: Exception | Cancelled | None = None
    try:
        check_cancelled()
        with using(task.storage, check_cancelled, count):
            result = task.function(*task.args)
    except (Exception, Cancelled) as caught:  # noqa: BLE001 - what a task raises is what came of it
        error = caught
        _forget_locals(caught)
    except BaseException as caught:  # noqa: BLE001 - a user's sys.exit() must not end a worker
        error = EngineError(f"{type(caught).__name__} was raised", url=task.name)
        error.__cause__ = caught
    finally:
        _sharing.reset(sharing_before)
        _token.reset(before)
    return Outcome(result, error, time.perf_counter() - start, incidents.counts())


def _forget_locals(error: BaseException) -> None:
    """Clear the local variables in the traceback of an error, which would keep whole blocks in memory."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:  # a chain may lead back into itself
        seen.add(id(link))
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


@dataclass
class RunState:
    """The tasks of a run, the callback for those that have ended, and whether the run is ``stopped``.

    ``stops`` says whether an error stops it. ``label`` begins the names of the tasks in Dask's dashboard.
    ``incidents`` counts what went wrong on the way; ``watcher`` is called as tasks advance.
    """

    tasks: Sequence[Task]
    on_done: Callable[[Done], None]
    stops: Callable[[Exception], bool]
    label: str = ""
    incidents: Incidents = field(default_factory=current_incidents)
    watcher: Watcher | None = field(default_factory=current_watcher)
    stopped: bool = False

    def tell(self, index: int, samples: int, size: int) -> None:
        """Tell the watcher how far the task at ``index`` has come. Any thread may call this."""
        if self.watcher is not None:
            self.watcher((id(self), index), samples, size)

    def report(self, index: int, outcome: Outcome) -> None:
        """Call ``on_done`` with the task at ``index``; its error may stop the run."""
        task, error = self.tasks[index], outcome.error
        self.tell(index, 0, 0)
        if said := describe(outcome.incidents):
            notes.debug("%s: %s", redact(task.name), ", ".join(said))
        for kind, count in outcome.incidents.items():
            self.incidents.add(kind, count)
        if isinstance(error, Cancelled):
            if self.stopped:
                return
            error = EngineError("the task ended as if it had been cancelled", url=task.name)
        if error is not None and self.stops(error):
            self.stopped = True
        self.on_done(Done(index, task, outcome.result, error, outcome.seconds))
