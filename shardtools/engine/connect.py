"""A Dask client: of worker processes on this machine, or of a scheduler somewhere, with its workers checked."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from distributed import Client, LocalCluster
from distributed.comm import CommClosedError, connect, parse_host_port
from distributed.security import Security
from distributed.utils import LoopRunner

from shardtools.engine.interrupt import sigint_held
from shardtools.engine.members import ARGUMENT, INSTALL, QUESTION, ask_workers, describe_version, is_usable
from shardtools.engine.patience import Patience
from shardtools.engine.places import NotYet, SchedulerPlace, find_place
from shardtools.engine.remote import check_needs
from shardtools.engine.task import Need
from shardtools.engine.tls import CERT, ENCRYPTED, describe_refusal, no_tls, security_for
from shardtools.errors import EngineError, SchedulerError, ShardtoolsError

if TYPE_CHECKING:
    from distributed.deploy import Cluster

CONNECT_SECONDS = 5
"""How long a scheduler may take to answer an attempt to connect."""

PROBE_SECONDS = 1
"""How long to look for the reason why it did not."""

_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "tornado.application")


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which Dask does not log: an `EngineError` says more, or it is normal at the end of a run."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def local_processes(workers: int) -> Iterator[Client]:
    """A context that gives a client of new worker processes of one thread each, which end with the context.

    Only this process receives Ctrl-C; it ends the workers itself.

    Raises:
        EngineError: they cannot be started.
    """
    with quiet(), ExitStack() as stack:
        try:
            resource_tracker.ensure_running()  # multiprocessing would unblock the signal when it starts this one
            with sigint_held():
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    scheduler_kwargs={
                        "dashboard": False,
                        "dashboard_address": "127.0.0.1:0",
                        "allowed_failures": 0,
                    },  # or it takes port 8787
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                )
                stack.enter_context(cluster)
                client = stack.enter_context(Client(cluster, set_as_default=False))
        except (RuntimeError, OSError) as error:
            fix = 'use threads, or do the work of the program below `if __name__ == "__main__":`'
            raise EngineError(f"the local processes cannot be started: {str(error).rstrip('.')}", fix=fix) from error
        yield client


def refuse_unusable(client: Client) -> None:
    """Raise if tasks cannot be run with a client.

    Raises:
        SchedulerError: it is closed, or asynchronous.
    """
    if client.asynchronous:
        raise SchedulerError("an asynchronous Dask client cannot run a job", fix="make it without `asynchronous=True`")
    if client.status != "running":
        raise SchedulerError(f"the Dask client is {client.status}", fix="give one that is connected to a scheduler")


def client_of(cluster: Cluster) -> Client:
    """Return a new client of a cluster.

    Raises:
        SchedulerError: its scheduler does not answer.
    """
    try:
        return Client(cluster, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        fix = "give a cluster that is not closed"
        raise SchedulerError(f"no Dask scheduler answers at {cluster}", fix=fix) from error


def connect_to(text: str, wait: float, security: Security | None = None) -> Client:
    """Return a new client of the scheduler at a place that `find_place` understands, after at most ``wait`` seconds.

    ``security`` is used instead of that of Dask's configuration.

    Raises:
        SchedulerError: no scheduler answers there in time, or it cannot be used.
    """
    patience = Patience(wait)
    while True:
        try:
            return _attempt(text, security)
        except NotYet as error:
            if not patience.pause(error.awaited):
                fix = "start one with `dask scheduler`, wait longer with --wait, or leave out -c"
                raise SchedulerError(error.failure, fix=fix) from error
        except SchedulerError:
            raise
        except (ImportError, RuntimeError, TypeError, ValueError, Warning) as error:
            package = "install distributed-ucxx here and there" if text.startswith("ucx://") else None
            raise SchedulerError(f"the scheduler at {text} cannot be used: {error}", fix=package) from error


def _attempt(text: str, security: Security | None) -> Client:
    place = find_place(text)
    trusted = security or security_for(place.address, place.scheme)
    try:
        _await_answer(place, trusted, text)
        return Client(place.address, timeout=CONNECT_SECONDS, security=trusted, set_as_default=False)
    except SchedulerError:
        raise
    except OSError as error:
        at = f"at {text} ({_reason_of(error, place)})"
        raise NotYet(f"the scheduler {at}", f"no Dask scheduler answers {at}") from error


def _await_answer(place: SchedulerPlace, security: Security, where: str) -> None:
    """Return when a scheduler has answered as one. Dask's client would wait for the first answer without end.

    Raises:
        OSError: nothing listens there, or it does not answer in time.
        SchedulerError: TLS cannot be agreed on.
    """

    async def knock() -> None:
        arguments = security.get_connection_args("client")
        comm = await asyncio.wait_for(connect(place.address, CONNECT_SECONDS, **arguments), 1.5 * CONNECT_SECONDS)
        await comm.close()

    runner = LoopRunner()
    runner.start()
    try:
        runner.run_sync(knock)
    except Exception as error:
        for link in _chain(error):
            if isinstance(link, ssl.SSLError) and not isinstance(link, ssl.SSLEOFError):
                raise describe_refusal(where, link) from error
        if place.scheme in ENCRYPTED and "cannot convert to SSL" in str(error):  # it has spoken first
            raise no_tls(where) from error
        raise
    finally:
        runner.stop()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    link: BaseException | None = error
    for _ in range(20):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _reason_of(error: OSError, place: SchedulerPlace) -> str:
    """Return in a few words why a scheduler could not be reached."""
    links = list(_chain(error))
    try:
        if not any(isinstance(link, CommClosedError | ssl.SSLEOFError) for link in links):
            socket.create_connection(parse_host_port(place.address), PROBE_SECONDS).close()  # Dask says only: timed out
    except OSError as failed:
        links.append(failed)
    except ValueError:  # an address without a port
        pass
    if any(isinstance(link, socket.gaierror) for link in links):
        return "its name is unknown"
    if any(isinstance(link, ConnectionRefusedError) or "refused" in str(link) for link in links):
        return "nothing listens there"
    if any(isinstance(link, CommClosedError | ssl.SSLEOFError) for link in links):
        hints = {"tcp": "; one with TLS has an address tls://HOST:PORT", "tls": f"; perhaps it does not accept {CERT}"}
        return f"the connection was closed{hints.get(place.scheme, '')}"
    return "there is no answer"


def check_workers(client: Client, where: str, needs: Sequence[Need], wait: float) -> set[str]:
    """Check that there are workers, that all processes have this version of shardtools, and that ``needs`` are met.

    If there are no workers yet, wait for the first. A cluster that grows with its work is given some. Return the
    addresses of the workers.

    Raises:
        SchedulerError: there are no workers, or a process has another version of shardtools, or none.
        ShardtoolsError: a need is not met at a worker.
    """
    if not client.nthreads():
        _await_workers(client, where, wait)
    try:
        answer = client.run_on_scheduler(QUESTION, ARGUMENT)
    except ImportError as error:
        answer = error
    _check_version(f"the scheduler at {where}", answer)
    answers = ask_workers(client, QUESTION, ARGUMENT)
    for worker, answer in answers.items():
        _check_version(f"the worker at {worker}", answer)
    for answer in ask_workers(client, check_needs, tuple(needs)).values() if needs else ():
        if isinstance(answer, ShardtoolsError):
            raise answer
        if isinstance(answer, Exception) and not isinstance(answer, OSError):  # it left just now
            raise SchedulerError(f"the workers of {where} cannot be asked: {answer}") from answer
    return {worker for worker, answer in answers.items() if is_usable(answer)}


def _await_workers(client: Client, where: str, wait: float) -> None:
    """Wait for the first worker, with a task that makes a cluster start one that otherwise would not.

    Raises:
        SchedulerError: none comes.
    """
    patience = Patience(wait)
    task = client.submit(os.getpid, key=f"shardtools-hello-{uuid.uuid4().hex}")
    try:
        while not client.nthreads():
            if not patience.pause(f"workers of the scheduler at {where}"):
                worker = f"--scheduler-file {where}" if os.path.isfile(where) else client.scheduler.address
                raise SchedulerError(
                    f"the scheduler at {where} has no workers", fix=f"start some with `dask worker {worker}`"
                )
    finally:
        task.release()


def _check_version(place: str, answer: object) -> None:
    """Raise unless ``answer``, of a process that was asked for its version of shardtools, is this version."""
    if (what := describe_version(answer)) is not None:
        raise SchedulerError(f"{place} {what}", fix=INSTALL)
