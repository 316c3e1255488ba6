"""What one fault may spoil: the answers about itself, and nothing else; and how htview ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import shardtools as st
from tests.datasets import write_shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two shards with its table."""
    folder = tmp_path_factory.mktemp("faults")
    for number in range(2):
        write_shard(folder / f"good-{number}.tar", _members(3 * number))
    st.index(str(folder / "good-@2.tar"), table=True)
    return folder


def _members(first: int) -> Iterator[tuple[str, bytes]]:
    for i in range(first, first + 3):
        yield f"s{i}.cls", b"%d" % (i % 3)
        yield f"s{i}.txt", b"text %d" % i


def test_ctrl_c_ends_at_once_though_browsers_keep_connections_open(folder: Path) -> None:
    command = [sys.executable, "-m", "shardtools", "htview", str(folder / "good-@2.tar")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        assert url.hostname is not None
        connections = [HTTPConnection(url.hostname, url.port, timeout=30) for _ in range(3)]
        try:
            for connection in connections:
                connection.request("GET", f"{url.path}api/datasets")
                assert connection.getresponse().read()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=5) == ("", "") and process.returncode == 130
        finally:
            process.kill()
            for connection in connections:
                connection.close()


def test_a_program_that_shows_ends_though_browsers_keep_connections_open(folder: Path) -> None:
    program = "import sys, shardtools as st; print(st.show(sys.argv[1]), flush=True); input()"
    command = [sys.executable, "-c", program, str(folder / "good-@2.tar")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        assert url.hostname is not None
        connection = HTTPConnection(url.hostname, url.port, timeout=30)
        try:
            connection.request("GET", f"{url.path}api/datasets")
            assert connection.getresponse().read()
            process.communicate("\n", timeout=10)
            assert process.returncode == 0
        finally:
            process.kill()
            connection.close()
