"""Datasets for the tests of the training inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets import written_dataset

SIZES = (10, 0, 7, 36, 51)
TOTAL = sum(SIZES)


def samples(sizes: tuple[int, ...] = SIZES) -> list[list[dict[str, object]]]:
    """Return the records of shards of so many samples; sample i has ``cls`` i % 10 and ``txt`` "no i"."""
    numbers = iter(range(sum(sizes)))
    return [
        [
            {"key": f"k/{i:04d}", "cls": i % 10, "txt": f"no {i}", "id": i}
            for _, i in zip(range(size), numbers, strict=False)
        ]
        for size in sizes
    ]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one dataset as ``in-@5.tar``, ``in-@5.tgz`` and ``in-@5.tar.zst``."""
    path: Path = tmp_path_factory.mktemp("torch")
    for ending in ("tar", "tgz", "tar.zst"):
        written_dataset(path, f"in-@5.{ending}", samples())
    return path


@pytest.fixture(scope="session")
def spec(folder: Path) -> str:
    """A dataset of five shards, one of them empty."""
    return str(folder / "in-@5.tar")
