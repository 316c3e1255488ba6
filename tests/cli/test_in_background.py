"""The tests as a shell starts them with ``&`` or nohup: with signals ignored, which the commands would inherit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLED = "tests/integration/test_map_killed.py::TestInterrupted"


@pytest.mark.parametrize(
    ("shell", "name"),
    [('"$@" & wait $!', "test_report_says_so"), ("trap '' HUP; exec \"$@\"", "test_when_the_terminal_closes")],
    ids=["SIGINT", "SIGHUP"],
)
def test_a_command_that_a_test_starts_can_be_interrupted(shell: str, name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{KILLED}::{name}"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        ["bash", "-c", shell, "bash", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
