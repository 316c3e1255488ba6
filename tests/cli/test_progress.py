"""What a user sees while htmapper works: a bar on a terminal, nothing of it anywhere else."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from pathlib import Path

from shardtools.cli.progress import command_progress
from tests.cli.command import path_of, run
from tests.datasets import write_dataset

SLOW = "import time\ndef process_sample(record):\n    time.sleep(0.002)\n    return record\n"


def on_terminal(*arguments: str, cwd: Path, columns: int = 100, program: str = "htmapper") -> tuple[int, str, str]:
    """Run a command with a terminal as its standard error; return its status, its output and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                shown.append(data)
        except OSError:  # Linux says EIO when the other side is closed
            pass

    process = subprocess.Popen([path_of(program), *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    thread = threading.Thread(target=read)
    thread.start()
    out = process.communicate(timeout=60)[0]
    thread.join()
    os.close(ours)
    return process.returncode, out.decode(), b"".join(shown).decode()


def test_bar_on_a_terminal(folder: Path) -> None:
    write_dataset(folder, 10, 20)
    (folder / "slow.py").write_text(SLOW)
    status, out, shown = on_terminal("-j", "1", "-p", "slow.py", "in-@10.tar", "out-@10.tar", cwd=folder)
    assert status == 0
    assert re.fullmatch(rf"{folder}/out-@10.tar: 10 shards, 200 samples, [\d.]+ kB in [\d.]+ s\n", out)
    lines = [line.strip() for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert re.fullmatch(r"0% \|\s+\| 0/10 shards", lines[0])
    end = r"100% \|█+\| 10/10 shards, [\d,]+ samples/s, [\d.]+ [kM]?B/s"
    between = r"\d+% \|\S+\s*\| \d/10 shards, [\d,]+ samples/s, [\d.]+ [kM]?B/s, [\d.]+ s left"
    assert re.fullmatch(end, lines[-1])
    while re.fullmatch(end, lines[-1]):  # twice, if the last shard came long enough after the one before
        lines.pop()
    assert len(lines) > 2
    assert all(re.fullmatch(between, line) for line in lines[1:]), lines
    assert max(map(len, lines)) < 100


def test_bar_fits_a_narrow_terminal(folder: Path) -> None:
    write_dataset(folder, 3, 5)
    _, _, shown = on_terminal("-p", "same.py", "in-@3.tar", "out-@3.tar", cwd=folder, columns=40)
    assert max(map(len, re.split(r"[\r\n]+", shown))) <= 40


def test_shards_that_were_there_do_not_count_as_speed(folder: Path) -> None:
    write_dataset(folder, 3, 5)
    run("-p", "same.py", "in-@3.tar", "out-@3.tar", cwd=folder)
    status, out, shown = on_terminal("--resume", "-p", "same.py", "in-@3.tar", "out-@3.tar", cwd=folder)
    assert (status, "3 shards there already" in out) == (0, True)
    assert "3/3 shards" in shown and "samples/s" not in shown


def test_error_stands_on_a_line_of_its_own(folder: Path) -> None:
    write_dataset(folder, 3, 5)
    (folder / "in-1.tar").unlink()
    status, out, shown = on_terminal("-j", "1", "-p", "same.py", "in-@3.tar", "out-@3.tar", cwd=folder)
    assert (status, out) == (1, "")
    assert shown.splitlines()[-1] == f"htmapper: error: {folder}/in-1.tar: there is no such file; check the path"


def test_quiet_has_no_bar(folder: Path) -> None:
    write_dataset(folder, 3, 5)
    assert on_terminal("-q", "-p", "same.py", "in-@3.tar", "out-@3.tar", cwd=folder) == (0, "", "")


def test_no_bar_without_a_terminal(folder: Path) -> None:
    write_dataset(folder, 3, 5)
    outcome = run("-p", "same.py", "in-@3.tar", "out-@3.tar", cwd=folder)
    assert (outcome.status, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) == 1


def test_a_line_a_minute_without_a_terminal(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with command_progress(10, quiet=False) as progress:
        for _ in range(4):
            now += 40
            progress.advance(1000, 5_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "2/10 shards, 25 samples/s, 125.0 kB/s, 5:20 min left",
        "4/10 shards, 25 samples/s, 125.0 kB/s, 4:00 min left",
    ]
