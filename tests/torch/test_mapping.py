"""Samples by their numbers, in batches, with workers."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest

pytest.importorskip("torch")

from torch.utils.data import DataLoader, WeightedRandomSampler

from shardtools.errors import SampleError
from shardtools.torch import ShardMap
from tests.servers import wait_until
from tests.torch.conftest import TOTAL


@pytest.mark.parametrize("ending", ["tar", "tgz", "tar.zst"])
def test_samples_by_number(folder: Path, ending: str) -> None:
    data = ShardMap(f"{folder}/in-@5.{ending}", fields=("id", "__key__", "txt", "__index__", "__shard__"))
    assert len(data) == TOTAL
    assert data[20] == (20, "k/0020", "no 20", 3, f"in-3.{ending}")
    assert [row[0] for row in data.__getitems__([50, 3, 50, -1])] == [50, 3, 50, TOTAL - 1]
    assert data.__getitems__([]) == []
    with pytest.raises(IndexError, match="index 104 is out of range: the dataset has 104 samples"):
        data[104]
    assert [row[0] for row in data] == list(range(TOTAL))
    assert pickle.loads(pickle.dumps(data))[7] == data[7]
    del data
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("shardtools-map")], "threads to end")


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_data_loader(spec: str, workers: int) -> None:
    data = ShardMap(spec, fields=("id", "cls"), transform=lambda number, label: (number, 10 * label))
    data[0]
    seen = {}
    for numbers, labels in DataLoader(data, batch_size=16, shuffle=True, num_workers=workers):
        seen.update(zip(numbers.tolist(), labels.tolist(), strict=True))
    assert seen == {i: i % 10 * 10 for i in range(TOTAL)}
    sampler = WeightedRandomSampler([0.0] * (TOTAL - 1) + [1.0], 20)
    assert {int(n) for batch in DataLoader(data, 5, sampler=sampler) for n in batch[0]} == {TOTAL - 1}


def test_errors_are_named(spec: str) -> None:
    with pytest.raises(SampleError, match=r"in-2.tar \[k/0012\]: the sample has no field jpg"):
        ShardMap(spec, fields=("jpg",))[12]
