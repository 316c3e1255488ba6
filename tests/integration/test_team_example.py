"""The example of two processes that share arrays over HTTP: one labels, the other trains on what is there so far."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shardtools as st
from tests.servers import nginx_server, read_line

pytestmark = pytest.mark.slow

datasets = pytest.importorskip("sklearn.datasets")

EXAMPLE = [sys.executable, str(Path(__file__).resolve().parents[2] / "examples" / "team_arrays.py")]


def test_one_labels_and_one_trains(tmp_path: Path) -> None:
    with nginx_server(tmp_path) as server:
        url = f"{server.url}team"
        train = subprocess.Popen([*EXAMPLE, "train", url, "--seconds", "0.02"], stdout=subprocess.PIPE, text=True)
        label = [*EXAMPLE, "label", url, "--seconds", "0.2"]
        try:
            with subprocess.Popen(label, stdout=subprocess.PIPE, text=True) as killed:
                assert killed.stdout is not None
                assert read_line(killed.stdout) == "labelled 100\n"
                killed.kill()
            labelled = subprocess.run(label, check=True, capture_output=True, text=True, timeout=100).stdout
            trained = train.communicate(timeout=100)[0]
        finally:
            train.kill()
        assert train.returncode == 0
        assert labelled.splitlines()[-1] == "labelled 1000"
        found = re.findall(r"^main@(\d+): (\d+) labels, accuracy ([\d.]+)%$", trained, re.MULTILINE)
        assert [int(labels) for _, labels, _ in found] == [100 * int(number) for number, _, _ in found]
        assert len(found) > 1
        assert found[-1][1] == "1000"
        assert float(found[-1][2]) > 85
        assert trained.splitlines()[-1] == f"tagged main@{found[-1][0]}"
        hub = st.hub(url)
        digits = datasets.load_digits()
        np.testing.assert_array_equal(hub.load("digits/images:trained")[:], digits.images[:1000])
        np.testing.assert_array_equal(hub.load("digits/labels:trained")[:], digits.target[:1000])
