"""The tour of the README works as it stands there: from a folder of pictures to batches for training."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

README = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
TOUR = README.partition("\n## A tour\n")[2].partition("\n## ")[0]


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, check=True, text=True, timeout=120
    )
    return done.stdout


def make_photos(folder: Path) -> None:
    for name, colour in (("cat", "orange"), ("dog", "brown")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(40):
            Image.new("RGB", (100 + i, 80), colour).save(folder / "photos" / name / f"{i}.jpg")


def test_from_pictures_to_training(tmp_path: Path) -> None:
    make_photos(tmp_path)
    commands, asking = re.findall(r"```sh\n(.*?)```", TOUR, re.DOTALL)
    script, training, answers = re.findall(r"```python\n(.*?)```", TOUR, re.DOTALL)
    (tmp_path / "small.py").write_text(script)
    shown = run(["bash", "-ec", commands], tmp_path)
    for spec in ("photos-@4.tar: 4 shards", "small-@4.tar: 4 shards", "train-@2.tar: 2 shards"):
        assert re.search(rf"{re.escape(spec)}, 80 samples", shown)
    assert re.search(r"^jpg +100 to 139 +80 to 80 ", shown, re.MULTILINE)
    *_, head, cats, dogs, first, second, third = run(["bash", "-ec", asking], tmp_path).splitlines()
    assert head == "cls,pictures,bytes" and cats.startswith("0,40,") and dogs.startswith("1,40,")
    assert all(re.fullmatch(r"dog/\d+", key) for key in (first, second, third))
    pytest.importorskip("torch")
    (tmp_path / "training.py").write_text(training)
    lines = run([sys.executable, "training.py"], tmp_path).splitlines()
    assert lines == [f"{epoch} torch.Size([32, 64, 64, 3]) torch.Size([32])" for epoch in (0, 0, 1, 1)]
    (tmp_path / "answers.py").write_text(answers)
    *batches, pairs, look_up = run([sys.executable, "answers.py"], tmp_path).splitlines()
    assert batches == ["torch.Size([16, 64, 64, 3]) True"] * 2
    assert re.fullmatch(r"40 \(80, 1\d\d, 3\)", pairs) and re.fullmatch(r"True \d+ -1", look_up)


def test_from_python(tmp_path: Path) -> None:
    make_photos(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", README.partition("\n## From Python\n")[2], re.DOTALL)[:1]
    end = "print(result.counts.written, rows[0], st.open('by-class-@4.tar')[79]['cls'])\n"
    (tmp_path / "example.py").write_text(example + end)
    key = "{'key': '[^']+', 'cls': [01]}"
    assert re.fullmatch(f"80 {key} b'1'\n", run([sys.executable, "example.py"], tmp_path))
