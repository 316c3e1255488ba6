"""How a job is run: the keywords that all functions share, checked, and made into the options of a job."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict, Unpack, get_args

from shardtools.engine import ClusterLike
from shardtools.errors import JobError
from shardtools.jobs.options import OnError, RunOptions
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.spec import parse_size, parts_of
from shardtools.storage import StorageOptions, using
from shardtools.storage.expansion import expand_sources
from shardtools.urls import at_home

if TYPE_CHECKING:
    from shardtools.jobs.script import Code

UserCode = str | os.PathLike[str] | Callable[..., object]
"""A function, or the name of a script that defines one."""


class ReadKeywords(TypedDict, total=False):
    """How a function runs that reads shards.

    ``cluster``: ``"threads"`` (the default), ``"processes"``, the ``HOST:PORT`` of a Dask scheduler, a scheduler file,
    or a `distributed.Client` or Dask cluster, which stays open.
    ``jobs``: work on so many shards at a time (None: the number of processors).
    ``overwrite``: replace outputs that exist.
    ``on_error``: ``"fail"`` at the first bad sample or shard (the default), or ``"skip"`` such and report them.
    ``report``: the URL of a JSON report.
    ``retries`` (5), ``timeout`` (60 seconds), ``cache`` (``DIR`` or ``DIR:SIZE``), ``verify``: see
    `shardtools.storage.StorageOptions`.
    ``limits``: how large data from outside may be (see `Limits`).
    """

    cluster: ClusterLike
    jobs: int | None
    overwrite: bool
    on_error: OnError
    report: str | None
    retries: int
    timeout: float
    cache: str | None
    verify: bool
    limits: Limits


class WriteKeywords(ReadKeywords, total=False):
    """How a function runs that writes shards: as one that reads, and ``resume``.

    ``resume``: keep the shards that this very job has completed before, and make the others.
    """

    resume: bool


def run_options(
    *,
    cluster: ClusterLike = "threads",
    jobs: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_error: OnError = "fail",
    report: str | None = None,
    retries: int = 5,
    timeout: float = 60.0,
    cache: str | None = None,
    verify: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> RunOptions:
    """Return the options of a job. A cache has the same folder in any working folder.

    Raises:
        JobError: ``on_error`` or ``jobs`` makes no sense.
        SpecError: ``cache`` makes no sense.
        ValueError: ``retries`` or ``timeout`` makes no sense.
    """
    choice("on_error", on_error, get_args(OnError))
    at_least("jobs", jobs, 1)
    return RunOptions(
        cluster=at_home(cluster) if isinstance(cluster, str) else cluster,
        jobs=jobs,
        overwrite=overwrite,
        resume=resume,
        on_error=on_error,
        report=None if report is None else at_home(report),
        storage=StorageOptions(retries, timeout, _cache(cache), verify, limits),
    )


def read_options(specs: Sequence[str | Iterable[str] | None], **keywords: Unpack[WriteKeywords]) -> RunOptions:
    """Return the options of a job that a Python program asks for, where the user names ``specs``.

    Raises:
        JobError: a spec is ``-``, the standard input or output of a command; or as for `run_options`.
    """
    named = [spec for spec in specs if spec]
    if "-" in (part for spec in named for part in parts_of(spec)):
        raise JobError("standard input and output are for commands", url="-", fix="give the path or URL of a file")
    return naming(run_options(**keywords), *named)


def naming(options: RunOptions, *specs: str | Iterable[str] | None) -> RunOptions:
    """Return the options for a user who names ``specs``, whose servers get the user's headers."""
    return replace(options, storage=options.storage.naming(*specs, options.report))


def count_shards(sources: str | Sequence[str], options: RunOptions) -> int:
    """Return how many shards specs name."""
    with using(options.storage):
        return len(expand_sources(sources))


def _cache(text: str | None) -> str | None:
    if text is None:
        return None
    from shardtools.storage.cache import parse_cache

    folder, size = parse_cache(at_home(text))
    return f"{os.path.abspath(folder)}:{size}"


def choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise if an option is none of its choices.

    Raises:
        JobError: it is not.
    """
    if value not in (choices := tuple(choices)):
        raise JobError(f"{_option(name)} {value} is not a choice", fix=f"give one of {', '.join(map(str, choices))}")


def at_least(name: str, value: int | None, least: int) -> None:
    """Raise if the number of an option is too small.

    Raises:
        JobError: it is.
    """
    if value is not None and value < least:
        raise JobError(f"{_option(name)} {value} is too small", fix=f"give {least} or more")


def size_of(name: str, size: int | str | None) -> int | None:
    """Return the bytes that a size such as ``"500MB"`` names.

    Raises:
        JobError: it is not a valid size.
    """
    if size is None:
        return None
    bytes_ = size if isinstance(size, int) else parse_size(size.strip())
    if bytes_ <= 0:
        raise JobError(f"{_option(name)} {size}: not a valid size", fix="write it as 500MB or 2GB")
    return bytes_


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def read_code(
    code: UserCode | None,
    names: Sequence[str],
    params: Mapping[str, object] | None = None,
    version: str | None = None,
) -> Code | None:
    """Return a script, or a function that takes the place of a script's function; None without either.

    A function that is called as one of ``names`` is used as that one, another as the first of them.
    """
    if code is None:
        return None
    if not callable(code):
        return script_of(code, params, version)
    from shardtools.jobs.functions import functions_of

    name = getattr(code, "__name__", "")
    return functions_of({name if name in names else names[0]: code}, params, version)


def script_of(path: str | os.PathLike[str], params: Mapping[str, object] | None, version: str | None) -> Code:
    """Return a script with values for its parameters.

    Raises:
        ScriptError: it cannot be read.
        JobError: a value is no plain one, or there is a version: a script's identity is its text.
    """
    from shardtools.jobs.script import read_script

    if version is not None:
        raise JobError("a version is for functions; a script is known by its text", fix="leave out version")
    for name, value in (params or {}).items():
        if not _is_literal(value):
            what = f"the parameter {name} of a script is a {type(value).__name__}"
            raise JobError(what, fix="give numbers, texts, lists or dicts, or a function in place of the script")
    return replace(read_script(at_home(os.fspath(path))), params=tuple((params or {}).items()))


def _is_literal(value: object) -> bool:
    """Return whether a value is all that its text says."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
