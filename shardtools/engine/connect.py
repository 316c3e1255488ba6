"""A Dask client: of worker processes on this machine, or of a scheduler somewhere, with its workers checked."""

from __future__ import annotations

import json
import logging
import os
import pkgutil
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from distributed import Client, LocalCluster

from shardtools import __version__
from shardtools.errors import EngineError, SchedulerError

CONNECT_SECONDS = 5
"""How long a scheduler may take to answer, and then to have a worker."""

_ADDRESS = re.compile(r"([a-z]+://)?(\[[^\]/]+\]|[^:/\s]+):(\d{1,5})")
_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "tornado.application")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask from logging what `EngineError` says better, or what is normal at the end of a run."""
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
def _sigint_held() -> Iterator[None]:
    """Deliver Ctrl-C at the end. Threads and processes started meanwhile never receive it: they inherit the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def local_processes(workers: int) -> Iterator[Client]:
    """Give a client of so many new worker processes of one thread each, which end with the context.

    Ctrl-C reaches this process alone, which ends the workers in its own way.

    Raises:
        EngineError: they cannot be started.
    """
    with _quiet(), ExitStack() as stack:
        try:
            with _sigint_held():
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                )
                stack.enter_context(cluster)
                client = stack.enter_context(Client(cluster, set_as_default=False))
        except (RuntimeError, OSError) as error:
            raise EngineError(f"the local processes cannot be started: {error}", fix="use threads") from error
        yield client


@contextmanager
def connected(cluster: str) -> Iterator[Client]:
    """Give a client of the scheduler at an address, or of a scheduler file, that has usable workers.

    Raises:
        SchedulerError: no scheduler answers, it has no workers, or shardtools is not the same there as here.
    """
    address = _address_of(cluster)
    with _quiet(), ExitStack() as stack:
        try:
            client = stack.enter_context(Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise SchedulerError(
                f"no Dask scheduler answers at {cluster}",
                fix="start one with `dask scheduler`, or leave out -c",
            ) from error
        _check_workers(client, cluster)
        yield client


def _address_of(cluster: str) -> str:
    """Return the address that is written, or that stands in the scheduler file of this name."""
    if os.path.isfile(cluster):
        try:
            with open(cluster, encoding="utf-8") as file:
                return str(json.load(file)["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SchedulerError(
                "this is no Dask scheduler file", url=cluster, fix="write one with `dask scheduler --scheduler-file`"
            ) from error
    match = _ADDRESS.fullmatch(cluster)
    if not match or int(match[3]) > 65535:
        raise SchedulerError(
            f"{cluster!r} is neither an address nor a scheduler file",
            fix="give threads, processes, HOST:PORT or the path of a scheduler file",
        )
    return cluster


def _check_workers(client: Client, cluster: str) -> None:
    """Make sure that there are workers, and that they, and the scheduler, have this version of shardtools."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise SchedulerError(
            f"the scheduler at {cluster} has no workers", fix=f"start some with `dask worker {cluster}`"
        ) from error
    # Only functions of the standard library can be sent to where shardtools may not be.
    question: Any = pkgutil.resolve_name
    answers = dict(client.run(question, "shardtools:__version__", on_error="return"))
    for worker, answer in answers.items():
        _check_version(f"the worker at {worker}", answer)


def _check_version(place: str, answer: object) -> None:
    """Judge what a process answered when it was asked for its version of shardtools."""
    if answer == __version__ or isinstance(answer, OSError):  # OSError: it left just now
        return
    if isinstance(answer, ImportError):
        raise SchedulerError(f"{place} has no shardtools ({answer})", fix="run `pip install shardtools` there")
    raise SchedulerError(
        f"{place} has another shardtools: {answer} there, {__version__} here",
        fix=f"run `pip install shardtools=={__version__}` there",
    )
