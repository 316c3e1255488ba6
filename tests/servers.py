"""Real servers for the tests, each on a free loopback port, stopped by its process id."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SERVE = Path(__file__).resolve().parent.parent / "scripts" / "serve"
DEADLINE_SECONDS = 60


@dataclass(frozen=True)
class NginxServer:
    """A running nginx: ``url`` ends with a slash and shows the folder ``root``.

    ``log_path`` has one line for each request: client, time, "request", status, bytes of body, seconds, "Range". A
    line is written after its answer was sent, so a test that reads it has to wait for it (`wait_until`). ``pid`` is
    the process id of scripts/serve, which runs nginx.
    """

    url: str
    root: Path
    log_path: Path
    pid: int


class ServerError(RuntimeError):
    """A server that the tests need did not start."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Poll until ``condition()`` is true.

    Raises:
        TimeoutError: it was not, within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} seconds for {what}")
        time.sleep(0.01)


@contextmanager
def running_serve(
    *arguments: str | os.PathLike[str], env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run scripts/serve as a user would, with pipes for its output and its errors, and stop it at the end."""
    environment = {name: value for name, value in os.environ.items() if name != "SERVE_USER"}
    process = subprocess.Popen(
        [sys.executable, os.fspath(SERVE), *[os.fspath(argument) for argument in arguments]],
        env={**environment, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """Stop a process by its id, by SIGKILL if nothing else helps, and close its pipes."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=20)
    except (subprocess.TimeoutExpired, ValueError):  # ValueError: the test has closed the pipes
        process.kill()
        process.wait()


def read_line(stream: IO[str]) -> str:
    """Return the first line of a pipe, "" if it ends or stays silent until the deadline."""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return stream.readline() if selector.select(DEADLINE_SECONDS) else ""


def read_url(process: subprocess.Popen[str]) -> str:
    """Return the URL that scripts/serve prints when it is ready.

    Raises:
        ServerError: it did not start; the message is its own.
    """
    assert process.stdout is not None and process.stderr is not None
    line = read_line(process.stdout)
    if not line.startswith("http://"):
        process.terminate()
        raise ServerError(process.stderr.read().strip() or "scripts/serve said nothing")
    return line.partition(" ")[0]


@contextmanager
def nginx_server(root: Path, *, writers: Mapping[str, str] | None = None) -> Iterator[NginxServer]:
    """Serve ``root`` by scripts/serve; with ``writers``, names to passwords, only they may write.

    Raises:
        ServerError: nginx is not installed, or it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="shardtools-nginx-") as folder:
        log_path = Path(folder, "access.log")
        log_path.touch()
        arguments: list[str | os.PathLike[str]] = [root, "0", "--access-log", log_path]
        if writers is not None:
            htpasswd = Path(folder, "htpasswd")
            htpasswd.write_text("".join(f"{name}:{{PLAIN}}{password}\n" for name, password in writers.items()))
            arguments += ["--htpasswd", htpasswd]
        with running_serve(*arguments) as process:
            url = read_url(process)
            # A pipe that nobody reads would stop nginx once it is full.
            threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
            yield NginxServer(url, root, log_path, process.pid)


def _drain(pipe: IO[str] | None) -> None:
    with suppress(ValueError):  # closed meanwhile
        for _ in pipe or ():
            pass
