"""The arguments and options that commands share, and what they mean for a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from shardtools import __version__
from shardtools.cli.numbers import Seconds, Whole
from shardtools.engine import WAIT_SECONDS, current_incidents
from shardtools.errors import JobError, SpecError
from shardtools.urls import at_home

if TYPE_CHECKING:
    from shardtools.jobs.options import OnError, RunOptions
    from shardtools.limits import Limits

Function = TypeVar("Function", bound=Callable[..., Any])


class Needed(click.Argument):
    """An argument without which an error names all those of the command: the last one gets what was typed first."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Return the value.

        Raises:
            UsageError: there is none.
        """
        try:
            return super().process_value(ctx, value)
        except click.MissingParameter as error:
            *first, last = [str(one.metavar) for one in ctx.command.params if isinstance(one, click.Argument)]
            needed = f"{', '.join(first)} and {last} are" if first else f"{last} is"
            raise click.UsageError(f"Missing argument: {needed} needed.", ctx) from error


def once(fix: str) -> dict[str, Any]:
    """Return what an option is made with of which a second one would replace the first in silence."""

    def only(context: click.Context, option: click.Parameter, values: tuple[Any, ...]) -> Any:
        if len(values) > 1:
            raise click.UsageError(f"{option.opts[0]} is given twice; {fix}.", context)
        return values[0] if values else None

    return {"multiple": True, "callback": only}


_ARGUMENTS = [
    click.argument("sources", cls=Needed, nargs=-1, required=True, metavar="SRC..."),
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
        "or SCHEME://HOST:PORT of its scheduler, by a scheduler FILE, by 'auto' (Dask's own configuration), or by "
        "MODULE:CALLABLE or FILE.py:CALLABLE, which returns a Dask client or cluster.",
    ),
    click.option(
        "--wait",
        type=Seconds(zero=True),
        default=WAIT_SECONDS,
        metavar="SECONDS",
        show_default=True,
        help="How long to wait for the scheduler, and for workers while there are none.",
    ),
    click.option(
        "-j",
        "--jobs",
        type=Whole(least=1),
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
PATIENCE_OPTIONS = [
    click.option(
        "--retries",
        type=Whole(least=0),
        default=5,
        metavar="N",
        show_default=True,
        help="How often in a row to retry after a temporary failure of a server.",
    ),
    click.option(
        "--timeout",
        type=Seconds(),
        default=60.0,
        metavar="SECONDS",
        show_default=True,
        help="How long to wait for the next bytes from a server.",
    ),
]
"""How patient a command is with servers."""

TABLE_OPTION = click.option(
    "--table", is_flag=True, help="Also make the dataset's table, a Parquet file with a row for each sample."
)
DIMENSIONS_OPTION = click.option(
    "--dimensions", is_flag=True, help="With --table: also the widths and heights of images, from their heads."
)
_TABLE_OPTIONS = [
    TABLE_OPTION,
    click.option(
        "--table-field",
        "table_fields",
        multiple=True,
        metavar="FIELD[:N],...",
        help="With --table: fields, or paths such as json.width, whose values the table has; of a text the first N "
        "characters. May be repeated.  [default: small fields]",
    ),
    DIMENSIONS_OPTION,
]

INDEX_OPTION = click.option(
    "--index",
    metavar="URL",
    help="A place for the sidecars, manifests and tables of shards that one cannot write beside. It is asked first.",
)

_STORAGE_OPTIONS = [
    click.option(
        "--on-error",
        type=click.Choice(["fail", "skip"]),
        default="fail",
        show_default=True,
        help="At a bad sample or shard: stop, or skip it and report it.",
    ),
    *PATIENCE_OPTIONS,
    click.option(
        "--cache",
        metavar="DIR[:SIZE]",
        help="A local folder that keeps what is read from servers, for the next time. It grows up to SIZE, such as "
        "500MB or 20GB.  [default SIZE: 10GB]",
    ),
    click.option(
        "--max",
        "maxima",
        multiple=True,
        metavar="KIND=SIZE",
        help="Raise a size limit for data from outside, as in sample=16GB. KIND is sample, value (a decoded one), "
        "header (of a member), sidecar, manifest, index (of another program) or listing (of a folder).",
    ),
]
_SIDECAR_OPTIONS = [
    INDEX_OPTION,
    click.option("--verify", is_flag=True, help="Require that every shard has a sidecar and matches its checksum."),
]
_DRY_OPTIONS = [
    click.option(
        "--dry-run",
        is_flag=True,
        help="Make every check that needs no data, show what would be done, and write nothing.",
    ),
]
_TELL_OPTIONS = [
    click.option("--report", metavar="FILE", help="Write to FILE, as JSON, what was done and what was skipped."),
    click.option("-q", "--quiet", is_flag=True, help="Show errors only: no progress bar, no summary."),
    click.option("-v", "--verbose", is_flag=True, help="Show the tracebacks of errors, and all lines of a dry run."),
    click.version_option(__version__, "--version", prog_name="shardtools"),
]


@dataclass(frozen=True)
class CommandLine:
    """The arguments and options that commands share, as they were typed, with the home folder in place of a ``~``."""

    sources: tuple[str, ...]
    cluster: str
    jobs: int | None
    wait: float
    overwrite: bool
    on_error: OnError
    retries: int
    timeout: float
    cache: str | None
    maxima: tuple[str, ...]
    report: str | None
    quiet: bool
    verbose: bool
    index: str | None = None
    verify: bool = False
    destination: str = ""
    resume: bool = False
    dry_run: bool = False
    table: bool = False
    table_fields: tuple[str, ...] = ()
    dimensions: bool = False

    def run_options(self, *named: str | None) -> RunOptions:
        """Return the options of the job, for a user who also names ``named``; storage follows them until the end.

        What they open is closed then.

        Raises:
            SpecError: a limit or the cache makes no sense.
        """
        from shardtools.programs.running import naming, run_options
        from shardtools.storage import using

        options = run_options(
            cluster=self.cluster,
            jobs=self.jobs,
            wait=self.wait,
            overwrite=self.overwrite,
            resume=self.resume,
            on_error=self.on_error,
            report=self.report,
            retries=self.retries,
            timeout=self.timeout,
            cache=self.cache,
            index=self.index,
            verify=self.verify,
            limits=_limits(self.maxima),
            table=(split_names(self.table_fields) or True) if self.table else False,
            dimensions=self.dimensions,
        )
        options = naming(options, self.sources, self.destination, *named)
        context = click.get_current_context()
        context.with_resource(using(options.storage, counter=current_incidents().add))
        context.call_on_close(options.close)
        return options


def split_names(texts: Iterable[str]) -> tuple[str, ...]:
    """Return names that are separated by commas, or in several texts.

    Raises:
        JobError: a text has none.
    """
    names: list[str] = []
    for text in texts:
        found = [name.strip() for name in text.split(",") if name.strip()]
        if not found:
            raise JobError(f"there is no name in {text!r}", fix="give names, as in jpg,cls, or leave out the option")
        names += found
    return tuple(names)


def refuse_options(why: str, *names: str) -> Callable[[Function], Function]:
    """Return what lets a command say ``why`` it has no options of these names; no help shows them."""

    def refuse(context: click.Context, option: click.Parameter, value: object) -> None:
        if value is not None:
            raise click.UsageError(f"{option.opts[0]}: {why}", context)

    def add(command: Function) -> Function:
        for name in names:
            known_as = f"refused{name.replace('-', '_')}"  # a command may have a parameter that is called so
            command = click.option(name, known_as, hidden=True, expose_value=False, callback=refuse)(command)
        return command

    return add


def arg_option(what: str) -> Callable[[Function], Function]:
    """Return the option that gives ``what`` keyword arguments."""
    return click.option(
        "-a",
        "--arg",
        "assignments",
        multiple=True,
        metavar="NAME=VALUE",
        help=f"A keyword argument for {what}; may be repeated.",
    )


def common_options(command: Function) -> Function:
    """Add the arguments and options that every command has that reads and writes shards; it gets them as ``line``."""
    groups = (_ARGUMENTS, _RUN_OPTIONS, _RESUME_OPTIONS, _TABLE_OPTIONS, _STORAGE_OPTIONS, _SIDECAR_OPTIONS)
    return add_options(command, "line", CommandLine, *groups, _DRY_OPTIONS, _TELL_OPTIONS)


def making_options(command: Function) -> Function:
    """Add the arguments and options of a command that makes shards of something else; it gets them as ``line``."""
    groups = (_ARGUMENTS, _RUN_OPTIONS, _RESUME_OPTIONS, _TABLE_OPTIONS, _STORAGE_OPTIONS, _DRY_OPTIONS, _TELL_OPTIONS)
    return add_options(command, "line", CommandLine, *groups)


def copying_options(command: Function) -> Function:
    """Add the arguments and options of a command that writes the shards that it reads; it gets them as ``line``."""
    groups = (_ARGUMENTS, _RUN_OPTIONS, _RESUME_OPTIONS, _STORAGE_OPTIONS, _SIDECAR_OPTIONS)
    return add_options(command, "line", CommandLine, *groups, _DRY_OPTIONS, _TELL_OPTIONS)


def reading_options(command: Function) -> Function:
    """Add the arguments and options that every command has that only reads shards; it gets them as ``line``."""
    groups = (_ARGUMENTS[:1], _RUN_OPTIONS, _STORAGE_OPTIONS, _SIDECAR_OPTIONS, _TELL_OPTIONS)
    return add_options(command, "line", CommandLine, *groups)


def add_options(
    command: Function, name: str, kind: type[object], *groups: Sequence[Callable[[Function], Function]]
) -> Function:
    """Add options to a command, which gets those that the dataclass ``kind`` has as one argument, ``name``."""
    members = {member.name for member in fields(kind)}  # type: ignore[arg-type]  # it is a dataclass

    @wraps(command)
    def with_options(**given: Any) -> Any:
        for option in _PATHS & given.keys():
            given[option] = _with_home(given[option])
        click.get_current_context().params.update({option: given[option] for option in _PATHS & given.keys()})
        own = {option: value for option, value in given.items() if option not in members}
        return command(**own, **{name: kind(**{option: given[option] for option in members & given.keys()})})

    wrapped = cast(Function, with_options)
    for option in reversed([option for group in groups for option in group]):
        wrapped = option(wrapped)
    return wrapped


_PATHS = {"sources", "destination", "output", "report", "script", "spill", "to", "cache", "index", "cluster"}
"""What may begin with ``~``, which shells leave in ``--report=~/x``."""


def _with_home(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(at_home, value))
    return value if value is None else at_home(value)


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
