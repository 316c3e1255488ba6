"""The arguments and options that commands share, and what they mean for a job."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from shardtools import __version__
from shardtools.errors import SpecError
from shardtools.urls import at_home

if TYPE_CHECKING:
    from shardtools.jobs.options import RunOptions
    from shardtools.limits import Limits

Function = TypeVar("Function", bound=Callable[..., Any])

_ARGUMENTS = [
    click.argument("sources", nargs=-1, required=True, metavar="SRC..."),
    click.argument("destination", metavar="DST"),
]
_RUN_OPTIONS = [
    click.option(
        "-c",
        "--cluster",
        default="threads",
        metavar="WHERE",
        show_default=True,
        help="Where tasks run: 'threads' or 'processes' of this machine, or a Dask cluster, given by the HOST:PORT "
        "of its scheduler or by a scheduler FILE.",
    ),
    click.option(
        "-j",
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Work on N shards at a time.  [default: the number of processors]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace existing outputs."),
]
_RESUME_OPTIONS = [
    click.option(
        "--resume",
        is_flag=True,
        help="Keep the shards that an earlier run of the same job has completed; make the others.",
    ),
]
_STORAGE_OPTIONS = [
    click.option(
        "--on-error",
        type=click.Choice(["fail", "skip"]),
        default="fail",
        show_default=True,
        help="At a bad sample or shard: stop, or skip it and report it.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        default=5,
        metavar="N",
        show_default=True,
        help="How often in a row to retry after a temporary failure of a server.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=60.0,
        metavar="SECONDS",
        show_default=True,
        help="How long to wait for the next bytes from a server.",
    ),
    click.option(
        "--cache",
        metavar="DIR[:SIZE]",
        help="A local folder that keeps what is read from servers, for the next time. It grows up to SIZE, such as "
        "500MB or 20GB.  [default SIZE: 10GB]",
    ),
    click.option("--verify", is_flag=True, help="Require that every shard has a sidecar and matches its checksum."),
    click.option(
        "--max",
        "maxima",
        multiple=True,
        metavar="KIND=SIZE",
        help="Raise a size limit for data from outside, as in sample=16GB. KIND is sample, value (a decoded one), "
        "header (of a member), sidecar, manifest, index (of another program) or listing (of a folder).",
    ),
]
_DRY_OPTIONS = [
    click.option("--dry-run", is_flag=True, help="Make every check, show what would be done, and write nothing."),
]
_TELL_OPTIONS = [
    click.option("--report", metavar="FILE", help="Write to FILE, as JSON, what was done and what was skipped."),
    click.option("-q", "--quiet", is_flag=True, help="Show errors only: no progress bar, no summary."),
    click.option("-v", "--verbose", is_flag=True, help="Show the tracebacks of errors, and lists in full."),
    click.version_option(__version__, "--version", prog_name="shardtools"),
]


def common_options(command: Function) -> Function:
    """Add the arguments and options that every command has that writes shards."""
    return _add(command, _ARGUMENTS, _RUN_OPTIONS, _RESUME_OPTIONS, _STORAGE_OPTIONS, _DRY_OPTIONS, _TELL_OPTIONS)


def reading_options(command: Function) -> Function:
    """Add the arguments and options that every command has that only reads shards."""
    return _add(command, _ARGUMENTS[:1], _RUN_OPTIONS, _STORAGE_OPTIONS, _TELL_OPTIONS)


_PATHS = ("sources", "destination", "output", "report", "script", "spill", "to", "cache", "cluster")
"""What may begin with ``~``."""


def _with_home(command: Function) -> Function:
    """Return a command whose paths have the home folder in place of a ``~``, which shells leave in ``--report=~/x``."""

    @wraps(command)
    def with_home(**given: Any) -> Any:
        for name in _PATHS:
            value = given.get(name)
            if isinstance(value, tuple):
                given[name] = tuple(map(at_home, value))
            elif value is not None:
                given[name] = at_home(value)
        click.get_current_context().params.update(given)
        return command(**given)

    return cast(Function, with_home)


def _add(command: Function, *groups: Sequence[Callable[[Function], Function]]) -> Function:
    command = _with_home(command)
    for option in reversed([option for group in groups for option in group]):
        command = option(command)
    return command


_NAMING = ("sources", "destination", "output", "report", "spill", "to")


def run_options(given: dict[str, Any]) -> RunOptions:
    """Return the options of a job from those of the command line; storage follows them until the command ends."""
    from shardtools.jobs.options import RunOptions
    from shardtools.storage import StorageOptions, using

    storage = StorageOptions(
        given["retries"], given["timeout"], _cache(given["cache"]), given["verify"], _limits(given["maxima"])
    ).naming(*(given.get(name) for name in _NAMING))
    click.get_current_context().with_resource(using(storage))
    return RunOptions(
        cluster=given["cluster"],
        jobs=given["jobs"],
        overwrite=given["overwrite"],
        resume=given.get("resume", False),
        on_error=given["on_error"],
        report=given["report"],
        storage=storage,
    )


def _limits(given: Sequence[str]) -> Limits:
    """Return the limits of which some were given as ``KIND=SIZE``."""
    from shardtools.limits import KINDS, Limits
    from shardtools.spec import parse_size

    sizes = {}
    for text in given:
        kind, _, size = text.partition("=")
        if kind not in KINDS or not parse_size(size):
            fix = f"write it as sample=8GB; the kinds are {', '.join(KINDS)}"
            raise SpecError(f"--max {text}: not of the form KIND=SIZE", fix=fix)
        sizes[kind] = parse_size(size)
    return Limits(**sizes)


def _cache(text: str | None) -> str | None:
    """Return the option so that it means the same folder in any working folder."""
    if text is None:
        return None
    from shardtools.storage.cache import parse_cache

    folder, size = parse_cache(text)
    return f"{os.path.abspath(folder)}:{size}"
