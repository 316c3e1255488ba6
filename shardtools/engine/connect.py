"""A Dask client: of worker processes on this machine, or of a scheduler somewhere, with its workers checked."""

from __future__ import annotations

import json
import logging
import os
import pkgutil
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker

from distributed import Client, LocalCluster
from distributed.deploy import Cluster

from shardtools import __version__
from shardtools.engine.interrupt import sigint_held
from shardtools.engine.remote import check_needs
from shardtools.engine.task import ClusterLike, Need
from shardtools.errors import EngineError, SchedulerError, ShardtoolsError

CONNECT_SECONDS = 5
"""How long a scheduler may take to answer, and then to have a worker."""

INSTALL = "install shardtools there from the same checkout or wheel as here, with `pip install PATH`"

_ADDRESS = re.compile(r"(tcp://|tls://)?(?:\[([^\]/\s]+)\]|([^:/\s]+)):(\d{1,5})")
_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "tornado.application")


@contextmanager
def _quiet() -> Iterator[None]:
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
    with _quiet(), ExitStack() as stack:
        try:
            resource_tracker.ensure_running()  # multiprocessing would unblock the signal when it starts this one
            with sigint_held():
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # or it takes port 8787
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                )
                stack.enter_context(cluster)
                client = stack.enter_context(Client(cluster, set_as_default=False))
        except (RuntimeError, OSError) as error:
            fix = 'use threads, or do the work of the program below `if __name__ == "__main__":`'
            raise EngineError(f"the local processes cannot be started: {str(error).rstrip('.')}", fix=fix) from error
        yield client


@contextmanager
def connected(cluster: ClusterLike, needs: Sequence[Need] = ()) -> Iterator[Client]:
    """A context that gives a client of a scheduler with usable workers; ``cluster`` is as in `run`.

    A client or cluster of the caller stays open; a client that is made here is closed.

    Raises:
        SchedulerError: no scheduler answers, it has no workers, or shardtools is not the same there as here.
        ShardtoolsError: a worker does not meet ``needs``.
    """
    with _quiet(), ExitStack() as stack:
        client = cluster if isinstance(cluster, Client) else stack.enter_context(_connect(cluster))
        _refuse_unusable(client)
        check_workers(client, cluster if isinstance(cluster, str) else address_of(client), needs)
        yield client


def address_of(client: Client) -> str:
    """Return the address of a client's scheduler, for messages."""
    return client.scheduler.address if client.scheduler else "?"


def _refuse_unusable(client: Client) -> None:
    """Raise if tasks cannot be run with a client.

    Raises:
        SchedulerError: it is closed, or asynchronous.
    """
    if client.asynchronous:
        raise SchedulerError("an asynchronous Dask client cannot run a job", fix="make it without `asynchronous=True`")
    if client.status != "running":
        raise SchedulerError(f"the Dask client is {client.status}", fix="give one that is connected to a scheduler")


def _connect(cluster: str | Cluster) -> Client:
    """Return a new client of the scheduler of a cluster, at an address or of a scheduler file.

    Raises:
        SchedulerError: no scheduler answers there.
    """
    place = _read_address(cluster) if isinstance(cluster, str) else cluster
    try:
        if isinstance(place, str):
            _await_answer(place)
        return Client(place, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise SchedulerError(
            f"no Dask scheduler answers at {cluster}",
            fix="start one with `dask scheduler`, or leave out -c",
        ) from error


def _read_address(cluster: str) -> str:
    """Return the address of a scheduler: ``cluster`` itself, or the one in the scheduler file of this name."""
    if os.path.isfile(cluster):
        try:
            with open(cluster, encoding="utf-8") as file:
                return str(json.load(file)["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SchedulerError(
                "this is not a Dask scheduler file", url=cluster, fix="write one with `dask scheduler --scheduler-file`"
            ) from error
    match = _ADDRESS.fullmatch(cluster)
    if not match or int(match[4]) > 65535:
        raise SchedulerError(
            f"{cluster!r} is neither an address nor a scheduler file",
            fix="give threads, processes, HOST:PORT or the path of a scheduler file",
        )
    return cluster


def _await_answer(address: str) -> None:
    """Wait until the server at the address sends its first byte, as a scheduler does; Dask waits for it without end.

    Raises:
        OSError: nothing listens there, or it sends nothing.
    """
    match = _ADDRESS.fullmatch(address)
    if not match or match[1] == "tls://":
        return
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            left = max(0.1, deadline - time.monotonic())
            with socket.create_connection((match[2] or match[3], int(match[4])), timeout=left) as connection:
                if not connection.recv(1):
                    raise ConnectionResetError("the connection was closed at once")
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)  # it may be about to start


def check_workers(client: Client, cluster: str, needs: Sequence[Need]) -> None:
    """Check that there are workers, that all processes have this version of shardtools, and that ``needs`` are met.

    Raises:
        SchedulerError: there are no workers, or a process has another version of shardtools, or none.
        ShardtoolsError: a need is not met at a worker.
    """
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        address = f"--scheduler-file {cluster}" if os.path.isfile(cluster) else cluster
        raise SchedulerError(
            f"the scheduler at {cluster} has no workers", fix=f"start some with `dask worker {address}`"
        ) from error
    # Only functions of the standard library can be sent to a process that may not have shardtools.
    question, argument = pkgutil.resolve_name, "shardtools:__version__"
    try:
        answer = client.run_on_scheduler(question, argument)
    except ImportError as error:
        answer = error
    _check_version(f"the scheduler at {cluster}", answer)
    for worker, answer in client.run(question, argument, on_error="return").items():
        _check_version(f"the worker at {worker}", answer)
    if needs:
        for answer in client.run(check_needs, tuple(needs), on_error="return").values():
            if isinstance(answer, ShardtoolsError):
                raise answer
            if isinstance(answer, Exception) and not isinstance(answer, OSError):  # as above
                raise SchedulerError(f"the workers of {cluster} cannot be asked: {answer}") from answer


def _check_version(place: str, answer: object) -> None:
    """Raise unless ``answer``, of a process that was asked for its version of shardtools, is this version."""
    if answer == __version__ or isinstance(answer, OSError):  # OSError: it left just now
        return
    if isinstance(answer, ImportError):
        raise SchedulerError(f"{place} has no shardtools ({answer})", fix=INSTALL)
    raise SchedulerError(
        f"{place} has another shardtools: {answer} there, {__version__} here",
        fix=INSTALL,
    )
