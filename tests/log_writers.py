"""Processes that write to one log at the same time, for tests and measurements."""

from __future__ import annotations

import os
import random
import selectors
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_WRITER = """
import sys, time
from shardtools.errors import ConflictError
from shardtools.log.committing import commit
from shardtools.log.log import Log
from shardtools.log.segment import Entry

url, who, count, how = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
log = Log.open(url)
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    key = "shared" if how == "shared" else f"{who}/{number}"
    start = time.monotonic()
    while True:
        base = log.head()
        before = base.find([key]).get(key)
        entry = Entry("data/" + 32 * "0" + "/a.tar", 0 if before is None else before.offset + 1, 1, 1)
        try:
            commit(base, {key: entry}, author=who, message=f"{who} {number}")
            break
        except ConflictError:
            if how == "apart":
                raise
    print(f"{who} {number} {time.monotonic() - start:.6f}", flush=True)
"""


@dataclass(frozen=True)
class Acknowledged:
    """A commit that a process was told is done, after so many seconds; ``message`` is that of its write."""

    message: str
    seconds: float


def start_writer(url: str, who: str, count: int, how: str) -> subprocess.Popen[str]:
    """Start a process that makes ``count`` commits to the log at ``url`` once it is let go.

    Each is of a key of its own with ``how`` "apart", and of the same one, to which it adds 1, with "shared".
    """
    command = [sys.executable, "-c", _WRITER, url, who, str(count), how]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def let_go(writers: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until all are ready, and let them begin together."""
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()


def acknowledged(text: str) -> list[Acknowledged]:
    """Return what a process has said; a last line that is cut off does not count."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [Acknowledged(message, float(seconds)) for message, seconds in lines]


def run_writers(url: str, processes: int, count: int, how: str = "apart", prefix: str = "") -> list[Acknowledged]:
    """Return what so many processes were told, of which each makes ``count`` commits.

    Raises:
        AssertionError: one of them has failed.
    """
    writers = [start_writer(url, f"{prefix}{who}", count, how) for who in range(processes)]
    try:
        let_go(writers)
        said = [made for writer in writers for made in acknowledged(writer.communicate(timeout=500)[0])]
    finally:
        for writer in writers:
            writer.kill()
    assert [writer.returncode for writer in writers if writer.returncode] == []
    return said


def kill_writers(url: str, hows: Mapping[str, str], draws: random.Random) -> list[Acknowledged]:
    """Return what processes were told, one for each of ``hows``, which says how it writes, until it was killed.

    Whenever one of them has made a commit, any that is left is killed.

    Raises:
        AssertionError: one has ended by itself, or none makes a commit any more.
    """
    writers = {who: start_writer(url, who, 1_000_000, how) for who, how in hows.items()}
    left, texts = [*writers], dict.fromkeys(writers, "")
    try:
        let_go([*writers.values()])
        with selectors.DefaultSelector() as selector:
            for who, writer in writers.items():
                assert writer.stdout is not None
                selector.register(writer.stdout, selectors.EVENT_READ, who)
            while selector.get_map():
                events = selector.select(timeout=100)
                assert events
                for key, _ in events:
                    data = os.read(key.fd, 1 << 16)
                    texts[key.data] += data.decode()
                    if not data:
                        assert key.data not in left
                        selector.unregister(key.fileobj)
                    for _ in range(min(data.count(b"\n"), len(left))):
                        writers[left.pop(draws.randrange(len(left)))].kill()
    finally:
        for writer in writers.values():
            writer.kill()
            writer.communicate(timeout=60)
    return [made for text in texts.values() for made in acknowledged(text)]
