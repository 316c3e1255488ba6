"""The commands as a user types them: as a process, or, for the many cases of one thing, in this one."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from shardtools.engine.notes import notes

HTMAPPER = str(Path(sys.executable).parent / "htmapper")
SECRET = "s3cr3t"
"""The password that tests use; no output may ever have it."""

Argument = str | os.PathLike[str]


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit status, its standard output and its standard error."""

    status: int
    out: str
    err: str
    program: str = "htmapper"

    def error(self, status: int = 1) -> str:
        """Return the text of the one line that it failed with, without its beginning."""
        assert self.status == status, self
        assert SECRET not in self.err + self.out
        lines = self.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith(f"{self.program}: error: "), self.err
        assert "; " in lines[0], f"it says nothing about what to do: {lines[0]}"
        return lines[0].removeprefix(f"{self.program}: error: ")


def path_of(program: str) -> str:
    """Return the path of a command."""
    return str(Path(sys.executable).parent / program)


def start(
    *arguments: Argument, cwd: Path, env: Mapping[str, str] | None = None, program: str = "htmapper"
) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own, as a shell does."""
    return subprocess.Popen(
        [path_of(program), *map(os.fspath, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes], seconds: float = 60) -> Outcome:
    """Wait for a process and return its outcome."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    program = Path(str(process.args[0] if isinstance(process.args, list) else process.args)).name
    return Outcome(process.returncode, out.decode(), err.decode(), program)


def run(*arguments: Argument, cwd: Path, env: Mapping[str, str] | None = None, program: str = "htmapper") -> Outcome:
    """Run the command as a process, to its end."""
    return finish(start(*arguments, cwd=cwd, env=env, program=program))


@contextmanager
def _as_before(folder: Path) -> Iterator[None]:
    """Undo what a command may change in its process."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(name) for name in signals]
    before = os.getcwd()
    level, shown = notes.level, notes.handlers
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        notes.setLevel(level)
        notes.handlers = shown
        for name, handler in zip(signals, handlers, strict=True):
            signal.signal(name, handler)


def call(*arguments: Argument, cwd: Path, program: str = "htmapper") -> Outcome:
    """Run the command in this process."""
    main = importlib.import_module(f"shardtools.cli.{program}").main
    with _as_before(cwd):
        result = CliRunner().invoke(main, list(map(os.fspath, arguments)), prog_name=program)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr, program)


def check_failure(*arguments: Argument, cwd: Path, status: int = 1, program: str = "htmapper") -> str:
    """Run a command that fails and leaves nothing, with and without -v, and return its message."""
    message = call(*arguments, cwd=cwd, program=program).error(status)
    verbose = call("-v", *arguments, cwd=cwd, program=program)
    assert verbose.status == status
    assert verbose.err.startswith("Traceback (most recent call last):\n") or "\nTraceback (most" in verbose.err
    assert verbose.err.splitlines()[-1] == f"{program}: error: {message}"
    assert SECRET not in verbose.err
    return message
