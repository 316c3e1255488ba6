"""How a job is run: the keywords that all functions share, checked, and made into the options of a job."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, get_args

from shardtools.engine import WAIT_SECONDS, ClusterLike, Connection, counting_incidents
from shardtools.errors import JobError, ShardtoolsError
from shardtools.jobs.choice import Choice
from shardtools.jobs.options import OnError, RunOptions, TableRequest
from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.programs.choosing import ChoiceKeywords, choice_of
from shardtools.programs.keywords import WriteKeywords, check_keywords
from shardtools.programs.suggestions import with_suggestion
from shardtools.query.table_file import Asked, parse_asked
from shardtools.shards.names import names_of
from shardtools.spec import parse_size, parts_of
from shardtools.storage import StorageOptions, using
from shardtools.storage.expansion import Sources, look_up
from shardtools.storage.index_place import index_place
from shardtools.urls import at_home

if TYPE_CHECKING:
    from shardtools.jobs.script import Code

T = TypeVar("T")

UserCode = str | os.PathLike[str] | Callable[..., object]
"""A function, or the name of a script that defines one."""


Specs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""What names shards, or sources of an upload: a spec, a path, or several."""


def run_options(
    *,
    cluster: ClusterLike = "threads",
    jobs: int | None = None,
    wait: float = WAIT_SECONDS,
    overwrite: bool = False,
    resume: bool = False,
    on_error: OnError = "fail",
    report: str | None = None,
    retries: int = 5,
    timeout: float = 60.0,
    cache: str | None = None,
    index: str | None = None,
    verify: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    table: bool | str | Sequence[str] = False,
    dimensions: bool = False,
) -> RunOptions:
    """Return the options of a job. A cache has the same folder in any working folder. A cluster is not connected yet.

    Raises:
        JobError: ``on_error``, ``jobs`` or ``wait`` makes no sense.
        SpecError: ``cache`` makes no sense.
        ValueError: ``retries`` or ``timeout`` makes no sense.
    """
    choice("on_error", on_error, get_args(OnError))
    at_least("jobs", jobs, 1)
    at_least("retries", retries, 0)
    for name, value in (("overwrite", overwrite), ("resume", resume), ("verify", verify)):
        _check_type(name, value, bool)
    _check_type("timeout", timeout, int, float)
    _check_type("limits", limits, Limits)
    return RunOptions(
        cluster=_connection(cluster, wait),
        jobs=jobs,
        overwrite=overwrite,
        resume=resume,
        on_error=on_error,
        report=None if report is None else at_home(report),
        table=_table_request(table, dimensions),
        storage=StorageOptions(retries, timeout, _cache(cache), verify, limits, index=index_place(index)),
    )


def _table_request(table: bool | str | Sequence[str], dimensions: bool) -> TableRequest | None:
    """Return what the table of a new dataset is to have, None for no table.

    Raises:
        JobError: it makes no sense.
    """
    if table is False:
        if dimensions:
            raise JobError("--dimensions needs --table", fix="add --table, or leave out --dimensions")
        return None
    return TableRequest(asked_fields(table), dimensions)


def asked_fields(table: bool | str | Sequence[str]) -> tuple[Asked, ...] | None:
    """Return which fields a user wants in a table, None for the small ones.

    Raises:
        JobError: they are not written as they must be.
    """
    if isinstance(table, bool):
        return None
    try:
        return parse_asked(names_of(table))
    except ValueError as error:
        raise JobError(f"the fields of a table are wrong: {error}", fix="write them as cls, json or txt:200") from error


def _connection(cluster: ClusterLike, wait: float) -> ClusterLike:
    """Return what all runs of a job share: one connection, if there is a cluster.

    Raises:
        JobError: ``wait`` makes no sense.
    """
    _check_type("wait", wait, int, float)
    if not wait >= 0:
        raise JobError(f"--wait {wait} is too small", fix="give 0 or more seconds")
    if isinstance(cluster, Connection) or cluster in ("threads", "processes"):
        return cluster
    return Connection(at_home(cluster) if isinstance(cluster, str) else cluster, wait)


class CallKeywords(WriteKeywords, ChoiceKeywords, total=False):
    """How any function runs."""


@dataclass(frozen=True)
class Call:
    """A call of a function: what it names, the options of its job, and what this takes of its sources."""

    sources: list[str]
    destination: str
    options: RunOptions
    choice: Choice


@contextmanager
def called(
    function: Callable[..., Any],
    sources: Specs,
    destination: str | os.PathLike[str] | None = None,
    *others: str | None,
    seed: int | None = None,
    **keywords: Unpack[CallKeywords],
) -> Iterator[Call]:
    """A context of a call of ``function``, whose user names ``sources``, ``destination`` and ``others``.

    ``seed`` is that of its choice, if it has one.

    Raises:
        TypeError: there is no such keyword, or the sources are no specs.
        JobError: a spec is ``-``, the standard input or output of a command; or as for `run_options` and `choice_of`.
        ShardtoolsError: one from within, with what was perhaps meant by a source that is not there.
    """
    check_keywords(function, keywords)
    specs = specs_of(sources)
    target = None if destination is None else os.fspath(destination)
    named = [*specs, *(name for name in (target, *others) if name)]
    if "-" in parts_of(named):
        raise JobError("standard input and output are for commands", url="-", fix="give the path or URL of a file")
    given: dict[str, Any] = dict(keywords)
    chosen = {name: given.pop(name) for name in ChoiceKeywords.__optional_keys__ & given.keys()}
    options = naming(run_options(**given), *named)
    try:
        with counting_incidents() as incidents, using(options.storage, counter=incidents.add):
            yield Call(specs, target or "", options, choice_of(**chosen, seed=seed))
    except ShardtoolsError as error:
        suggested = with_suggestion(error, specs, lambda: options.storage)
        if suggested is error:
            raise
        raise suggested from error
    finally:
        options.close()


def specs_of(sources: Specs) -> list[str]:
    """Return specs as a list of texts.

    Raises:
        TypeError: they are none.

    >>> specs_of("a-@2.tar")
    ['a-@2.tar']
    """
    if isinstance(sources, str | os.PathLike):
        return [os.fspath(sources)]
    if isinstance(sources, Iterable) and not isinstance(sources, bytes | Mapping):
        specs = list(sources)
        if all(isinstance(spec, str | os.PathLike) for spec in specs):
            return [os.fspath(spec) for spec in specs]
    fix = "; give its spec, and where= for some of its samples" if hasattr(sources, "conditions") else ""
    raise TypeError(f"sources are a path, a URL or a list of such, not of type {type(sources).__name__}{fix}")


def naming(options: RunOptions, *specs: str | Iterable[str] | None) -> RunOptions:
    """Return the options for a user who names ``specs``, whose servers get the user's headers."""
    return replace(options, storage=options.storage.naming(*specs, options.report))


def named_by(specs: Sequence[str], options: RunOptions) -> Sources:
    """Return the shards that specs name, for the job and for its progress."""
    with using(options.storage):
        return look_up(specs)


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
    if value is None:
        return
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise JobError(f"{_option(name)} {value!r} is not a whole number", fix=f"give {least} or more")
    if value < least:
        raise JobError(f"{_option(name)} {value} is too small", fix=f"give {least} or more")


def _check_type(name: str, value: object, *types: type) -> None:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        what = f"{_option(name)} {value!r} is of type {type(value).__name__}"
        raise JobError(what, fix=f"give {' or '.join(kind.__name__ for kind in types)}")


def pairs_of(name: str, pairs: Mapping[str, T] | None) -> tuple[tuple[str, T], ...]:
    """Return the entries of a dict that a user has given as pairs.

    Raises:
        JobError: it is not a dict.
    """
    if pairs is None:
        return ()
    if not isinstance(pairs, Mapping):
        raise JobError(f"{name} is of type {type(pairs).__name__}", fix="give a dict")
    return tuple(pairs.items())


def size_of(name: str, size: int | str | None) -> int | None:
    """Return the bytes that a size such as ``"500MB"`` names.

    Raises:
        JobError: it is not a valid size.
    """
    if size is None:
        return None
    bytes_ = size if isinstance(size, int) else parse_size(size.strip()) if isinstance(size, str) else 0
    if bytes_ <= 0:
        raise JobError(f"{_option(name)} {size}: not a valid size", fix="write it as 500MB or 2GB")
    return bytes_


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def read_code(
    code: UserCode,
    names: Sequence[str],
    params: Mapping[str, object] | None = None,
    version: str | None = None,
    *,
    resumes: bool,
) -> Code:
    """Return a script, or a function that takes the place of a script's function.

    A function that is called as one of ``names`` is used as that one, another as the first of them. ``resumes`` says
    whether the job continues an earlier one, which must have had the same function.
    """
    if not callable(code):
        if not isinstance(code, str | os.PathLike):
            what = f"the function is of type {type(code).__name__}"
            raise JobError(what, fix="give a function, or the name of a script")
        return script_of(code, params, version)
    from shardtools.jobs.functions import functions_of

    pairs_of("params", params)
    name = getattr(code, "__name__", "")
    return functions_of({name if name in names else names[0]: code}, params, version, resumes=resumes)


def script_of(path: str | os.PathLike[str], params: Mapping[str, object] | None, version: str | None) -> Code:
    """Return a script with values for its parameters.

    Raises:
        ScriptError: it cannot be read.
        JobError: a value is no plain one, or there is a version: a script's identity is its text.
    """
    from shardtools.jobs.script import read_script

    if version is not None:
        raise JobError("a version is for functions; a script is known by its text", fix="leave out version")
    pairs = pairs_of("params", params)
    for name, value in pairs:
        if not _is_literal(value):
            what = f"the parameter {name} of a script is a {type(value).__name__}"
            raise JobError(what, fix="give numbers, texts, lists or dicts, or a function in place of the script")
    return replace(read_script(at_home(os.fspath(path))), params=pairs)


def _is_literal(value: object) -> bool:
    """Return whether a value is all that its text says."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
