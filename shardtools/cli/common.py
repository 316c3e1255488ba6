"""What all commands share: options, progress, errors as one line, exit status."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

from shardtools import __version__
from shardtools.errors import JobError, OutputExistsError, ShardtoolsError, SpecError, printable
from shardtools.redaction import conceal, remember
from shardtools.spec import at_home

if TYPE_CHECKING:
    from shardtools.jobs.options import RunOptions
    from shardtools.limits import Limits

FAILED, USAGE, SKIPPED, INTERRUPTED = 1, 2, 3, 130

_INTERRUPTED = "{}: interrupted; run it again{}"

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
        help="Run on 'threads' or 'processes' of this machine, on the Dask scheduler at HOST:PORT, "
        "or on that of a scheduler FILE.",
    ),
    click.option(
        "-j",
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Work on N shards at a time.  [default: the number of processors]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace outputs that exist."),
]
_RESUME_OPTIONS = [
    click.option("--resume", is_flag=True, help="Keep the shards that this job has completed before; make the others."),
]
_STORAGE_OPTIONS = [
    click.option(
        "--on-error",
        type=click.Choice(["fail", "skip"]),
        default="fail",
        show_default=True,
        help="Stop at the first bad sample or shard, or leave such out and report them.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        default=5,
        metavar="N",
        show_default=True,
        help="How often in a row to try again when a server fails in a way that may pass.",
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
        help="Keep what is read from servers in a local folder of up to SIZE (such as 500M or 20GB), and read it from "
        "there the next time.  [default SIZE: 10GB]",
    ),
    click.option("--verify", is_flag=True, help="Insist that every shard that is read matches its sidecar's checksum."),
    click.option(
        "--max",
        "maxima",
        multiple=True,
        metavar="KIND=SIZE",
        help="Let things from outside be larger than usual: a 'sample', a 'value' that is decoded, a 'header' of "
        "a member, a 'sidecar', a 'manifest', an 'index' of another program, a 'listing'.",
    ),
]
_DRY_OPTIONS = [
    click.option("--dry-run", is_flag=True, help="Make every check, say what would be done, and do nothing."),
]
_TELL_OPTIONS = [
    click.option("--report", metavar="FILE", help="Write what was done and what was skipped, as JSON."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no summary; errors only."),
    click.option("-v", "--verbose", is_flag=True, help="With errors, show where in the program they came from."),
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


def run_command(program: str, verbose: bool, work: Callable[[], int], *, resumes: bool = True) -> None:
    """Run ``work`` and exit with the status that it returns, or with that of its error, told in one line.

    ``resumes`` says whether what was interrupted can be continued.
    """
    from shardtools.storage.pipe import results_apart

    _open_standard_streams()
    _hide_secrets()
    interrupted = _INTERRUPTED.format(program, " with --resume to continue" if resumes else "")
    _end_cleanly_on_signals(interrupted)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be bytes that are no text here
            stream.reconfigure(errors="backslashreplace")
    try:
        with results_apart():
            status = work()
    except KeyboardInterrupt:
        tell(interrupted, err=True)
        status = INTERRUPTED
    except ShardtoolsError as error:
        if verbose:
            for line in "".join(traceback.format_exception(error)).rstrip().split("\n"):
                tell(line, err=True)
        tell(f"{program}: error: {_with_suggestion(error)}", err=True)
        usage = isinstance(error, SpecError | JobError) and not isinstance(error, OutputExistsError)
        status = USAGE if usage else FAILED
    sys.exit(status)


def _open_standard_streams() -> None:
    """Let no file that is opened later have the descriptor of a standard stream that is closed.

    Whatever libraries print there would get into it. That standard output is closed is told when it is needed.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the process ends


class _Concealing(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return conceal(super().format(record))


def _hide_secrets() -> None:
    """Hide in all that is shown what is secret on the command line and in the environment."""
    for value in click.get_current_context().params.values():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str):
                remember(text)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Concealing())
    sys.excepthook = _show_exception


def _show_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    tell("".join(traceback.format_exception(kind, error, trace)).rstrip(), err=True)


def _with_suggestion(error: ShardtoolsError) -> ShardtoolsError:
    """Return the error with what the user may have meant, where a source is not there and something alike is."""
    from shardtools.cli.suggestions import suggest

    given = click.get_current_context().params
    meant = suggest(error, given["sources"], lambda: run_options(given).storage) if "sources" in given else None
    if meant is None:
        return error
    return type(error)(error.what, url=error.url, member=error.member, fix=f"did you mean {meant}?")


def _end_cleanly_on_signals(message: str) -> None:
    """Let the signals that ask a program to end do what Ctrl-C does. Whoever asks again does not want to wait."""
    asked = False

    def interrupt(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            os.write(sys.stderr.fileno(), f"{message}\n".encode())
            os._exit(INTERRUPTED)
        asked = True
        raise KeyboardInterrupt

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:  # as nohup and a shell's & leave it
            signal.signal(name, interrupt)


def tell(text: str, *, err: bool = False) -> None:
    """Write a line to standard output or standard error; that nobody reads it any more changes nothing.

    On standard error, and where it would get to a terminal, it is without secrets, and what comes from outside, such as
    keys, is escaped.
    """
    from shardtools.storage.pipe import results

    stream = sys.stderr if err else results()
    if stream is None:  # it is closed
        return
    if err or stream.isatty():
        text = printable(conceal(text))
    try:
        click.echo(text, file=stream)
    except BrokenPipeError:
        _silence(stream)


def silence_stdout() -> None:
    """Let what is still written to standard output go nowhere: its reader has gone away."""
    from shardtools.storage.pipe import results

    if (stream := results()) is not None:
        _silence(stream)


def _silence(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or the interpreter complains when it exits


class Progress:
    """Shows how far a job has come, on standard error: a bar on a terminal, else a line a minute.

    The bar is one of shards or, where their number is known before, of ``samples``.
    """

    def __init__(self, shards: int, quiet: bool, *, samples: int | None = None):
        self._shards = shards
        self._all_samples = samples
        self._done = self._samples = self._bytes = self._resumed = self._kept = 0
        self._started = self._told = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Any = None
        self._quiet = quiet
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            layout = "{percentage:3.0f}% |{bar:20}| {desc}"
            total = shards if samples is None else samples
            self._bar = tqdm(total=total, bar_format=layout, dynamic_ncols=True, file=sys.stderr, desc=self._text())

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is, so that other lines can follow."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, samples: int, size: int, *, resumed: bool = False) -> None:
        """Count one more shard, of ``samples`` samples and ``size`` bytes read that `add` has not counted."""
        with self._lock:
            self._done += 1
            if resumed:
                self._resumed += 1
                self._kept += samples
            else:
                self._samples += samples
                self._bytes += size
            self._show(1 if self._all_samples is None else samples)

    def add(self, samples: int, size: int) -> None:
        """Count samples and bytes of a shard that is not complete; any thread may call this."""
        with self._lock:
            self._samples += samples
            self._bytes += size
            self._show(0 if self._all_samples is None else samples)

    def _show(self, step: int) -> None:
        if self._bar is not None:
            self._bar.set_description_str(self._text(), refresh=False)
            self._bar.update(step)
        elif not self._quiet and time.monotonic() - self._told >= 60:
            self._told = time.monotonic()
            tell(self._text() if self._rates() else f"{self._text()}, all there already", err=True)

    def _text(self) -> str:
        parts = [f"{self._done}/{self._shards} shards"]
        if self._all_samples is not None:
            parts = [f"{self._kept + self._samples:,}/{self._all_samples:,} samples, {format_size(self._bytes)}"]
        return ", ".join([*parts, *filter(None, [self._rates()])])

    def _rates(self) -> str:
        """Return how fast it goes and how long it will take, "" while that is unknown."""
        if self._all_samples is None:  # those that were there say nothing of how long the others take
            done, left = self._done - self._resumed, self._shards - self._done
        else:
            done, left = self._samples, self._all_samples - self._samples - self._kept
        if not done:
            return ""
        seconds = max(time.monotonic() - self._started, 1e-6)
        rates = f"{self._samples / seconds:,.0f} samples/s, {format_size(self._bytes / seconds)}/s"
        return f"{rates}, {format_seconds(seconds / done * left)} left" if left else rates


def format_count(number: int, noun: str) -> str:
    """Return a number of things as people read it.

    >>> format_count(1, "shard"), format_count(1000, "shard")
    ('1 shard', '1,000 shards')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_size(size: float) -> str:
    """Return a number of bytes as people read it.

    >>> format_size(999), format_size(2.5e9)
    ('999 B', '2.5 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_seconds(seconds: float) -> str:
    """Return a time as people read it.

    >>> format_seconds(3.21), format_seconds(75), format_seconds(7322)
    ('3.2 s', '1:15 min', '2:02 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
