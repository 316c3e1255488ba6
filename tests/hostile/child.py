"""Code that runs in a process of its own, of which the memory is measured."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

_END = """
import re, sys
sys.stdout.flush()
with open("/proc/self/status") as file:  # ru_maxrss would count what the parent took when it forked
    sys.stderr.write("peak " + re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1])
"""


def peak_of(code: str, cwd: Path, *, seconds: float = 100) -> tuple[str, int]:
    """Run Python code and return what it printed, and the most memory that it took, in bytes.

    Raises:
        subprocess.SubprocessError: it failed, or took too long.
    """
    path = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code) + _END],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, "python", done.stdout, done.stderr)
    return done.stdout, int(done.stderr.rpartition("peak ")[2]) << 10
