"""Arrays by name and version where there is no room, and where many append at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shardtools as st
from shardtools.errors import StorageError
from tests.backends import running
from tests.disks import small_disk

ROOT = Path(__file__).resolve().parents[2]

APPENDING = """
import sys
import shardtools as st

array = st.hub(sys.argv[1]).load("x")
print("ready", flush=True)
sys.stdin.readline()
for number in range(3):
    array.append([[int(sys.argv[2]), number]])
"""


@pytest.mark.parametrize("backend", ["local", "nginx"])
def test_a_full_disk_in_the_middle_of_a_transaction(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error of one line, all commits before can be read, and the same can be written when there is room."""
    monkeypatch.setenv("SHARDTOOLS_RETRIES", "0")
    values = np.random.default_rng(0).integers(0, 255, (5, 1 << 19), np.uint8)
    with small_disk(tmp_path / "disk") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(2 << 20))
        with running(backend, disk) as url:
            hub = st.hub(f"{url}/place")
            array = hub.array("x", shape=4, chunks=2, dtype="int32")
            array[:] = [1, 2, 3, 4]

            def write() -> None:
                with hub.transaction() as t:
                    t["x"][:] = 5
                    t.array("big", values.shape, (1, 1 << 19), "uint8")[:] = values

            with pytest.raises(StorageError, match=r"no space left|its disk may be full") as caught:
                write()
            assert "\n" not in str(caught.value) and caught.value.fix
            fresh = st.hub(hub.url)
            assert (fresh.list(), fresh.load("x")[:].tolist()) == (["x"], [1, 2, 3, 4])
            assert fresh.snapshot().number == hub.snapshot().number == 1
            assert fresh.verify().is_whole
            filler.unlink()
            write()
            fresh = st.hub(hub.url)
            assert fresh.load("x")[:].tolist() == [5] * 4
            np.testing.assert_array_equal(fresh.load("big")[:], values)
            assert fresh.verify().is_whole


@pytest.mark.parametrize("backend", ["local", "nginx"])
def test_many_processes_that_append(backend: str, tmp_path: Path) -> None:
    """None fails, though all collide, and no row is lost or there twice."""
    with running(backend, tmp_path) as url:
        hub = st.hub(f"{url}/place")
        hub.array("x", shape=(0, 2), chunks=(4, 2), dtype="int64")
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", APPENDING, hub.url, str(who)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for who in range(8)
        ]
        try:
            for process in processes:
                assert process.stdout is not None and process.stdout.readline() == "ready\n"
            for process in processes:
                process.communicate("\n", timeout=200)
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0] * 8
        rows = st.hub(hub.url).load("x")[:].tolist()
        assert sorted(rows) == [[who, number] for who in range(8) for number in range(3)]
        assert all([row for row in rows if row[0] == who] == [[who, i] for i in range(3)] for who in range(8))
