"""Arrays of a hub as training data: batches by the loader, by PyTorch's and by TensorFlow's."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.utils.data import DataLoader

import shardtools as st
from shardtools.errors import CorruptError, JobError
from shardtools.loader.batches import ShardBatches
from shardtools.torch import ShardIterable, Window

Array = npt.NDArray[Any]
ROWS = 1000


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> st.Hub:
    hub = st.hub(str(tmp_path_factory.mktemp("hub")))
    with hub.transaction() as t:
        t.array("images", shape=(ROWS, 4, 3), chunks=(40, 4, 3), dtype="uint8")[:] = images()
        t.array("labels", shape=ROWS, chunks=300, dtype="int32")[:] = np.arange(ROWS)
    return hub


def images() -> Array:
    return (np.arange(ROWS * 12) % 251).astype(np.uint8).reshape(ROWS, 4, 3)


def both(hub: st.Hub) -> dict[str, Any]:
    return {"image": hub.load("images"), "label": hub.load("labels")}


def test_batches_in_order(hub: st.Hub) -> None:
    batches = [batch for (batch,) in ShardBatches(hub.load("images"), batch_size=64)]
    assert [len(batch) for batch in batches] == [64] * 15 + [40]
    np.testing.assert_array_equal(np.concatenate(batches), images())


@pytest.mark.parametrize("shuffle", [True, "full", Window(4, 8, 2)], ids=str)
def test_arrays_are_shuffled_together(hub: st.Hub, shuffle: Any) -> None:
    train = ShardBatches({**both(hub), "plain": np.arange(ROWS)}, batch_size=32, shuffle=shuffle, seed=3)
    found, labels, plain = map(np.concatenate, zip(*train, strict=True))
    assert sorted(labels.tolist()) == list(range(ROWS)) != labels.tolist()
    np.testing.assert_array_equal(found, images()[labels])
    assert plain.tolist() == labels.tolist()
    train.set_epoch(1)
    assert np.concatenate([batch[1] for batch in train]).tolist() != labels.tolist()


def test_chunks_are_read_once_by_an_epoch(hub: st.Hub) -> None:
    class Counting:
        def __init__(self, array: st.HubArray):
            self.shape, self.dtype, self.chunks, self._array = array.shape, array.dtype, array.chunks, array
            self.read: Counter[int] = Counter()

        def __getitem__(self, index: Any) -> Any:
            rows = np.arange(ROWS)[index]
            self.read.update(np.unique(rows // self.chunks[0]).tolist())
            return self._array[index]

    array = Counting(hub.load("images"))
    assert len(list(ShardBatches(array, batch_size=ROWS, shuffle=True))) == 1
    assert array.read == Counter(range(ROWS // 40))


def test_ranks_workers_and_resuming(hub: st.Hub) -> None:
    def train(rank: int) -> ShardIterable:
        return ShardIterable(
            both(hub), fields=("label", "__index__"), shuffle=True, batch_size=16, rank=rank, world_size=2
        )

    def labels(rank: int, workers: int) -> list[int]:
        batches = DataLoader(train(rank), batch_size=None, num_workers=workers)
        return [label for batch in batches for label in batch[0].tolist()]

    one = [labels(rank, 0) for rank in (0, 1)]
    assert len(set(one[0]) | set(one[1])) == len(one[0]) + len(one[1]) == 992
    assert labels(0, 2) == one[0]
    first, second = train(0), train(0)
    taken = [label for _, batch in zip(range(5), first, strict=False) for label in batch[0].tolist()]
    second.load_state_dict(first.state_dict(batches=5))
    rest = [label for batch in second for label in batch[1].tolist()]
    assert taken + rest == one[0]


def test_transform_and_errors(hub: st.Hub, tmp_path: Path) -> None:
    [total] = next(iter(ShardIterable(hub.load("images"), transform=lambda row: (int(row.sum()),), batch_size=3)))
    assert total.tolist() == images()[:3].sum((1, 2)).tolist()
    with pytest.raises(JobError, match="one length: a has 1000, b has 3"):
        ShardBatches({"a": hub.load("images"), "b": np.zeros(3)})
    with pytest.raises(JobError, match="there is no array cls; name one of image, label"):
        ShardBatches(both(hub), fields="cls")
    with pytest.raises(JobError, match="fields is missing"):
        ShardBatches("x.tar")
    broken = st.hub(str(tmp_path / "hub"))
    array = broken.array("x", shape=8, chunks=2, dtype="int8", compressors=None)
    array[:] = range(8)
    [entry] = array.snapshot.find(["x/c/1"]).values()
    with open(broken.url + entry.name, "r+b") as file:
        file.seek(entry.offset)
        file.write(b"\xff")
    with pytest.raises(CorruptError, match="it is damaged"):
        list(ShardBatches(array, batch_size=2))
    kept = ShardBatches(array, batch_size=8, on_error="skip")
    assert [batch.tolist() for (batch,) in kept] == [[0, 1, 4, 5, 6, 7]]


def test_a_map_of_rows(hub: st.Hub) -> None:
    data = hub.load("images").to_torch()
    assert len(data) == ROWS
    np.testing.assert_array_equal(np.stack(data.__getitems__([5, -1, 5])), images()[[5, -1, 5]])
    with pytest.raises(IndexError, match="index 1000 is out of range"):
        data[ROWS]
    loader: DataLoader[Any] = DataLoader(data, batch_size=100, num_workers=2)
    torch.testing.assert_close(torch.cat(list(loader)), torch.from_numpy(images()))
    labels = hub.load("labels").to_torch(transform=functools.partial(np.add, 1))
    assert [labels[3], len(next(iter(DataLoader(labels, batch_size=7))))] == [4, 7]


def test_tensorflow(hub: st.Hub) -> None:
    pytest.importorskip("tensorflow")
    data = hub.load("images").to_tf(batch_size=300)
    assert [tuple(spec.shape) for spec in data.element_spec] == [(None, 4, 3)]
    np.testing.assert_array_equal(np.concatenate([batch.numpy() for (batch,) in data]), images())
