"""The workers of a cluster during a run: which there are, and which have another version of shardtools."""

from __future__ import annotations

import asyncio
import pkgutil
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from distributed import Client

from shardtools import __version__
from shardtools.engine.incidents import Incidents
from shardtools.engine.notes import notes

ASK_SECONDS = 10
"""How long workers may take to say their version. One that just went away may never answer."""

# Only functions of the standard library can be sent to a process that may not have shardtools.
QUESTION = pkgutil.resolve_name
ARGUMENT = "shardtools:__version__"

INSTALL = "install shardtools there from the same checkout or wheel as here, with `pip install PATH`"


def call_within(client: Client, seconds: float, call: Callable[[], Awaitable[Any]]) -> Any:
    """Return the result of an asynchronous call of a client.

    Raises:
        TimeoutError: it takes longer.
    """

    async def run() -> Any:
        return await call()

    return client.sync(run, callback_timeout=seconds)


def ask_workers(
    client: Client, function: Callable[..., Any], argument: object, workers: Iterable[str] | None = None
) -> dict[str, Any]:
    """Return what a function returns or raises at each worker; a TimeoutError for one that does not answer in time."""
    asked = list(client.nthreads()) if workers is None else list(workers)

    async def ask(some: list[str]) -> dict[str, Any]:
        asking = client.run(function, argument, workers=some, on_error="return", asynchronous=True)
        try:
            answers: dict[str, Any] = await asyncio.wait_for(asking, ASK_SECONDS)
        except TimeoutError as error:
            return dict.fromkeys(some, error)
        return answers

    async def ask_each() -> dict[str, Any]:
        answers = await asyncio.gather(*(ask([worker]) for worker in asked))
        return {worker: answer for some in answers for worker, answer in some.items()}

    answers = call_within(client, 2 * ASK_SECONDS, lambda: ask(asked))
    if all(isinstance(answer, TimeoutError) for answer in answers.values()):  # one is enough
        answers = call_within(client, 2 * ASK_SECONDS, ask_each)
    return dict(answers)


def describe_version(answer: object) -> str | None:
    """Return what is wrong with a process that has answered so to the question for its version, None if nothing is."""
    if answer == __version__ or isinstance(answer, OSError):  # OSError: it left just now
        return None
    if isinstance(answer, ImportError):
        return f"has no shardtools ({answer})"
    return f"has another shardtools: {answer} there, {__version__} here"


def is_usable(answer: object) -> bool:
    """Return whether a worker may be used that has answered so: one that does not answer may, as tasks ask again."""
    return answer == __version__ or isinstance(answer, TimeoutError)


class Members:
    """The workers of a client's cluster. Those with another version of shardtools are not used, with a message.

    Those that leave are counted as ``incidents``.
    """

    def __init__(self, client: Client, incidents: Incidents, known: Iterable[str] = ()):
        self._client = client
        self._incidents = incidents
        self._good = set(known)
        self._bad: dict[str, str] = {}
        self._lost: set[str] = set()
        self._present: dict[str, int] = {}

    @property
    def threads(self) -> int:
        """The number of threads of all workers that are used."""
        return sum(threads for worker, threads in self._present.items() if worker not in self._bad)

    @property
    def allowed(self) -> frozenset[str] | None:
        """The workers that may be used; None if all may."""
        if self._bad.keys().isdisjoint(self._present):
            return None
        return frozenset(self._present.keys() & self._good)

    @property
    def complaint(self) -> str:
        """What is wrong with a worker that is there and not used, "" if there is none."""
        return next(
            (f"the worker at {worker} {what}" for worker, what in self._bad.items() if worker in self._present), ""
        )

    def are_gone(self, workers: frozenset[str]) -> bool:
        """Return whether none of these workers is there any more."""
        return workers.isdisjoint(self._present)

    def note_loss(self, worker: str) -> None:
        """Note that a worker has left, which is counted once."""
        if worker not in self._lost:
            self._lost.add(worker)
            self._incidents.add("lost_workers")
            notes.debug("the worker at %s has left", worker)

    def look(self) -> None:
        """Find out which workers there are, and ask new ones for their version.

        Raises:
            OSError: the scheduler does not answer.
        """
        before = self._present
        self._present = call_within(self._client, ASK_SECONDS, lambda: self._client.nthreads(asynchronous=True))
        for worker in before.keys() - self._present.keys():
            self.note_loss(worker)
        new = self._present.keys() - self._good - self._bad.keys()
        if not new:
            return
        answers = ask_workers(self._client, QUESTION, ARGUMENT, new)
        for worker, answer in answers.items():
            if (what := describe_version(answer)) is not None:
                self._bad[worker] = what
                notes.warning("the worker at %s %s, and is not used; %s", worker, what, INSTALL)
            elif is_usable(answer):
                self._good.add(worker)
