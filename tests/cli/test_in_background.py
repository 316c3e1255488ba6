"""The tests as a shell starts them with ``&`` or nohup: with signals ignored, which the commands would inherit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILLED = "tests/integration/test_map_killed.py::TestInterrupted"


def test_commands_that_tests_start_can_be_interrupted() -> None:
    names = [f"{KILLED}::{name}" for name in ("test_report_says_so", "test_when_the_terminal_closes")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    shell = ["bash", "-c", "trap '' INT HUP; exec \"$@\"", "bash", *command]
    done = subprocess.run(shell, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout
