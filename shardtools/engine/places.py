"""Where a Dask scheduler is: its address, as it was typed, as its scheduler file or as Dask's configuration says."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from dataclasses import dataclass

import dask
from distributed.comm.addressing import parse_address
from distributed.comm.registry import backends

from shardtools.errors import SchedulerError

AUTO = "auto"
"""What stands for the scheduler of Dask's own configuration."""

_HOST_PORT = re.compile(r"(?:\[[^\]/\s]+\]|[^:/\s]+):(\d{1,5})")
_NO_PLACE = (
    "give threads, processes, auto, HOST:PORT, SCHEME://HOST:PORT, a scheduler file, MODULE:CALLABLE or "
    "FILE.py:CALLABLE"
)


class NotYet(Exception):
    """There is no scheduler yet: what is ``awaited``, and what to say if it does not come."""

    def __init__(self, awaited: str, failure: str):
        super().__init__(failure)
        self.awaited = awaited
        self.failure = failure


@dataclass(frozen=True)
class SchedulerPlace:
    """Where a scheduler is: its ``address``, which begins with its ``scheme``."""

    scheme: str
    address: str


def find_place(text: str) -> SchedulerPlace:
    """Return where the scheduler is that ``text`` names: ``auto``, an address, or the path of a scheduler file.

    Raises:
        SchedulerError: it names none.
        NotYet: its scheduler file is not there yet, or not complete.
    """
    if text == AUTO:
        return _place(_configured())
    if "://" not in text and (os.path.isfile(text) or _looks_like_file(text)):
        return _place(_read_file(text))
    return _place(text)


def _configured() -> str:
    address = dask.config.get("scheduler-address", None)
    if not address:
        raise SchedulerError(
            "Dask's configuration has no scheduler-address",
            fix="set it there or as DASK_SCHEDULER_ADDRESS=tcp://HOST:8786, or give -c HOST:PORT",
        )
    return str(address)


def _looks_like_file(text: str) -> bool:
    """Return whether a path that is not there is to be awaited, as a scheduler file that a scheduler will write."""
    return text.endswith(".json") and "\0" not in text


def _read_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if not text:
            raise NotYet(f"the scheduler file {path}, which is empty", f"the scheduler file {path} is empty")
        return str(json.loads(text)["address"])
    except FileNotFoundError as error:
        raise NotYet(f"the scheduler file {path}", f"there is no scheduler file {path}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchedulerError(
            "this is not a Dask scheduler file", url=path, fix="write one with `dask scheduler --scheduler-file`"
        ) from error


def _place(text: str) -> SchedulerPlace:
    """Return the place that an address names.

    Raises:
        SchedulerError: it is none, or Dask knows no such scheme.
    """
    scheme, location = parse_address(text)
    if scheme not in (known := known_schemes()):
        raise SchedulerError(
            f"{text!r}: Dask here knows no addresses of the form {scheme}://", fix=f"it knows {', '.join(known)}"
        )
    is_plain = scheme in ("tcp", "tls", "ws", "wss")
    if scheme in ("ws", "wss"):
        location = location.rstrip("/")
    match = _HOST_PORT.fullmatch(location)
    if (is_plain or "://" not in text) and (not match or int(match[1]) > 65535):
        raise SchedulerError(f"{text!r} names no Dask cluster", fix=_NO_PLACE)
    return SchedulerPlace(scheme, f"{scheme}://{location}")


def known_schemes() -> list[str]:
    """Return the schemes of addresses that Dask can use here, also those of packages that add some."""
    added = importlib.metadata.entry_points(group="distributed.comm.backends")
    return sorted({*backends, *(point.name for point in added)})
