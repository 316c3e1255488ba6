"""The example trains over HTTP, is killed, goes on where it was, and reaches what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

import torch

from tests.servers import NginxServer, read_line, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHUFFLE = [sys.executable, "-c", "from shardtools.cli.htshuffle import main; main()"]
EXAMPLE = [sys.executable, str(ROOT / "examples" / "train_digits.py")]


def test_training_is_killed_and_goes_on(nginx: NginxServer, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "scripts" / "lib" / "make_digits.py"), str(nginx.root)], check=True)
    source, url = f"{nginx.url}digits-@8.tgz", f"{nginx.url}shuffled-@8.tgz"
    subprocess.run([*SHUFFLE, "-q", "--seed", "1", source, url], check=True)
    checkpoint = tmp_path / "digits.pt"
    command = [*EXAMPLE, url, str(checkpoint), "--every", "7", "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            assert read_line(process.stdout).startswith("epoch 0: ")
            written = checkpoint.stat().st_mtime_ns
            wait_until(lambda: checkpoint.stat().st_mtime_ns > written, "a checkpoint in the middle of an epoch")
        finally:
            process.kill()
    state = torch.load(checkpoint)["loader"]
    assert state["epoch"] >= 1 and state["delivered"] % (7 * 32) == 0
    output = subprocess.run([*command, "--resume"], check=True, capture_output=True, text=True, timeout=200).stdout
    assert f"resumed in epoch {state['epoch']}, after {state['delivered']} samples" in output
    epochs = re.findall(r"^epoch (\d): loss [\d.]+, test accuracy ([\d.]+)%$", output, re.MULTILINE)
    assert [int(epoch) for epoch, _ in epochs] == list(range(state["epoch"], 5))
    assert float(epochs[-1][1]) >= 95
    found = re.search(r"loader: (\d+) batches, .* training waited [\d.]+ s; 0 skipped", output)
    whole = len(range(state["epoch"], 5)) * 49
    assert found is not None and int(found[1]) == whole - state["delivered"] // 32
