"""The keywords that functions share: their types for checkers of types, and spelled out for `help`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, TypedDict, TypeVar

from shardtools.engine import ClusterLike
from shardtools.jobs.options import OnError
from shardtools.limits import Limits

Function = TypeVar("Function", bound=Callable[..., Any])


class ReadKeywords(TypedDict, total=False):
    """How a function runs that reads shards.

    ``cluster``: ``"threads"`` (the default), ``"processes"``, or a Dask cluster: its scheduler's ``HOST:PORT``, with
    any scheme of Dask before it, a scheduler file, ``"auto"`` (the client that Dask uses already, or the scheduler in
    its configuration), ``"MODULE:CALLABLE"`` or ``"FILE.py:CALLABLE"``, whose client or cluster is closed at the end,
    or a `distributed.Client` or Dask cluster, which stays open.
    ``jobs``: work on so many shards at a time (None: the number of processors).
    ``wait``: how many seconds to wait for the scheduler, and for a worker while there is none (300).
    ``overwrite``: replace outputs that exist.
    ``on_error``: ``"fail"`` at the first bad sample or shard (the default), or ``"skip"`` such and report them.
    ``report``: the URL of a JSON report.
    ``retries``: how often in a row to try again when a server fails in a way that may pass (5).
    ``timeout``: how many seconds to wait for the next bytes from a server (60).
    ``cache``: ``DIR`` or ``DIR:SIZE``, a folder that keeps what is read from servers.
    ``index``: the URL of a place for sidecars, manifests and tables that do not lie beside their shards.
    ``verify``: insist that every shard that is read matches its sidecar's checksum.
    ``limits``: how large data from outside may be, as ``Limits(sample=8_000_000_000)``.
    """

    cluster: ClusterLike
    jobs: int | None
    wait: float
    overwrite: bool
    on_error: OnError
    report: str | None
    retries: int
    timeout: float
    cache: str | None
    index: str | None
    verify: bool
    limits: Limits


class WriteKeywords(ReadKeywords, total=False):
    """How a function runs that writes shards: as one that reads, and these.

    ``resume``: keep the shards that this very job has completed before, and make the others.
    ``table``: make the dataset's table, too: with the values of its small fields (True), or of those that are listed,
    as ``["cls", "json", "txt:200"]``. Its result is in ``result.tables``.
    ``dimensions``: with ``table``, also the widths and heights of images, as ``jpg.width``.
    """

    resume: bool
    table: bool | str | Sequence[str]
    dimensions: bool


READ = (ReadKeywords,)
WRITE = (*READ, WriteKeywords)


def spelled_out(keywords: Sequence[type[Any]], *parts: Callable[..., Any]) -> Callable[[Function], Function]:
    """Return a decorator that lets `help` and editors show the keywords that stand for ``**keywords`` of a function.

    ``keywords`` are `TypedDict` classes, each of which explains some; the last one has all of them. The ``parts`` are
    functions that have them, with their defaults; of two that have one, the first counts.
    """
    names = keywords[-1].__optional_keys__
    lines = [line for some in keywords for line in (inspect.getdoc(some) or "").split("\n")[2:]]

    def decorate(function: Function) -> Function:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = {parameter.name for parameter in own}
        more = {
            name: parameter
            for part in reversed(parts)
            for name, parameter in inspect.signature(part).parameters.items()
            if name in names - taken
        }
        function.__signature__ = inspect.Signature([*own, *more.values()])  # type: ignore[attr-defined]
        told = "\n".join(["The keywords that it shares with others:", "", *(f"    {line}" for line in lines)])
        function.__doc__ = re.sub(r"See\s+`[\w.]+`\s+for\s+``keywords``\.", lambda _: told, function.__doc__ or "")
        return function

    return decorate


def check_keywords(function: Callable[..., Any], keywords: Iterable[str]) -> None:
    """Raise if a function has been called with a keyword that it does not have.

    Raises:
        TypeError: it has.
    """
    known = inspect.signature(function).parameters
    for name in keywords:
        if name not in known:
            near = get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"{function.__name__}() has no keyword {name}{meant}")
