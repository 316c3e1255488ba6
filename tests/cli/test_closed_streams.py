"""Standard streams that are closed, as ``>&-`` in a shell leaves them: an error in one line, or nothing at all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import path_of
from tests.datasets import members, write_dataset


def run_shell(line: str, folder: Path) -> tuple[int, str]:
    """Run a line of a shell; return its status and what it wrote to standard error."""
    outcome = subprocess.run(
        ["sh", "-c", line], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PATH": f"{Path(path_of('x')).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    return outcome.returncode, outcome.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "same.py").write_text("def process_sample(record):\n    return record\n")
    write_dataset(tmp_path, 2, 3)
    return tmp_path


@pytest.mark.parametrize(
    "what", ["-f cls", "--keys", "--stats", "--count cls", "--histogram cls", "--index 1", "--index 1 -f cls"]
)
def test_rows_need_standard_output(folder: Path, what: str) -> None:
    status, err = run_shell(f"htextract in-@2.tar {what} >&-", folder)
    assert status == 1
    assert err == "htextract: error: -: there is no standard output; open it, or name a file to write\n"


def test_rows_to_a_standard_output_that_is_for_reading(folder: Path) -> None:
    status, err = run_shell("htextract in-@2.tar --keys 1</dev/null", folder)
    assert status == 1
    assert err == "htextract: error: -: it was not opened for this; check where it was redirected to\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_what_is_written_elsewhere_is_written(folder: Path, closed: str) -> None:
    """And no file that is opened has the descriptor of a stream, into which libraries may print."""
    (folder / "loud.py").write_text(
        "import os\n"
        "def process_sample(record):\n"
        "    for fd in (1, 2):\n"
        "        try:\n"
        "            os.write(fd, b'noise')\n"
        "        except OSError:\n"
        "            pass\n"
        "    return record\n"
    )
    commands = ["htextract in-@2.tar -f cls -o rows.tsv", "htmapper -p loud.py -j 1 in-@2.tar out-@2.tar"]
    for command in commands:
        status, err = run_shell(f"{command} {closed}", folder)
        assert status == 0, err
    assert len((folder / "rows.tsv").read_text().splitlines()) == 6
    for i in range(2):
        assert members(folder / f"out-{i}.tar") == members(folder / f"in-{i}.tar")


def test_an_error_that_nobody_can_read(folder: Path) -> None:
    for program in ("htextract none.tar", "htmapper -p same.py none.tar out.tar", "htshuffle none.tar out.tar"):
        status, err = run_shell(f"{program} 2>&-", folder)
        assert (status, err) == (1, "")
