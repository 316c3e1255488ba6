"""How a command runs: errors as one line, signals, secrets, exit status."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

import click

from shardtools.cli.companions import check_options
from shardtools.engine import counting_incidents
from shardtools.engine.notes import notes
from shardtools.errors import JobError, OutputExistsError, ShardtoolsError, SpecError, StorageError, printable
from shardtools.redaction import conceal, remember

if TYPE_CHECKING:
    from shardtools.jobs.options import RunOptions

FAILED, USAGE, SKIPPED, INTERRUPTED = 1, 2, 3, 130

_INTERRUPTED = "{}: interrupted; run it again{}"


class Line(Protocol):
    """What was typed, as far as it matters for errors."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The shards that were named."""

    @property
    def quiet(self) -> bool:
        """Whether only errors are shown."""

    @property
    def verbose(self) -> bool:
        """Whether tracebacks are shown."""

    def run_options(self) -> RunOptions:
        """Return the options of the job."""


def run_command(program: str, line: Line, work: Callable[[], int], *, resumes: bool = True) -> None:
    """Run ``work`` and exit with the status that it returns, or with that of its error, told in one line.

    ``resumes`` says whether what was interrupted can be continued.
    """
    from shardtools.storage.pipe import results_apart

    _open_standard_streams()
    _hide_secrets()
    _show_notes(program, line)
    interrupted = _INTERRUPTED.format(program, " with --resume to continue" if resumes else "")
    _end_cleanly_on_signals(interrupted)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be bytes that are no text here
            stream.reconfigure(errors="backslashreplace")
    try:
        with results_apart(), counting_incidents():
            check_options(program)
            status = work()
    except KeyboardInterrupt:
        tell(interrupted, err=True)
        status = INTERRUPTED
    except ShardtoolsError as error:
        from shardtools.programs.suggestions import with_suggestion

        if line.verbose:
            for text in "".join(traceback.format_exception(error)).rstrip().split("\n"):
                tell(text, err=True)
        tell(f"{program}: error: {with_suggestion(error, line.sources, lambda: line.run_options().storage)}", err=True)
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


class _Notes(logging.Handler):
    def __init__(self, program: str):
        super().__init__()
        self._program = program

    def emit(self, record: logging.LogRecord) -> None:
        with _bars_aside():
            tell(f"{self._program}: {record.getMessage()}", err=True)


def _bars_aside() -> AbstractContextManager[object]:
    """Return a context in which lines can be written to a terminal that shows a bar of progress."""
    if "tqdm" not in sys.modules:
        return nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stderr)


def _show_notes(program: str, line: Line) -> None:
    """Show what a user of a cluster wants to know while a job runs, in the lines of this command."""
    notes.setLevel(logging.ERROR if line.quiet else logging.DEBUG if line.verbose else logging.INFO)
    notes.handlers = [_Notes(program)]


def _show_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    tell("".join(traceback.format_exception(kind, error, trace)).rstrip(), err=True)


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


def as_long_as_it_is_read(write: Callable[[], int]) -> int:
    """Return the status of ``write``, which writes results; 0 if whoever read standard output has had enough."""
    from shardtools.storage.pipe import results

    try:
        return write()
    except StorageError as error:
        if not isinstance(error.__cause__, BrokenPipeError):
            raise
        if (stream := results()) is not None:
            _silence(stream)
        return 0


def _silence(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or the interpreter complains when it exits
