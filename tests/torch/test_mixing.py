"""Mixtures: by weight, the same on all ranks and workers, each sample once, and resumed exactly."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from torch.utils.data import DataLoader

from shardtools.errors import JobError
from shardtools.loader import choices
from shardtools.loader.choices import Stop, choose
from shardtools.torch import Mixture, ShardIterable, mix
from tests.datasets import written_dataset
from tests.torch.conftest import samples

COUNTS = {"a": 60, "b": 30, "c": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets a, b and c, of 60, 30 and 12 samples."""
    path: Path = tmp_path_factory.mktemp("mixed")
    for name, count in COUNTS.items():
        rows = samples((count // 2, count - count // 2))
        written_dataset(
            path, f"{name}-@2.tar", [[{**row, "txt": f"{name}{row['id']}"} for row in some] for some in rows]
        )
    return path


def make(folder: Path, size: int = 3, rank: int = 0, world: int = 1, uneven: Any = "drop", **options: Any) -> Mixture:
    def source(name: str) -> ShardIterable:
        return ShardIterable(
            f"{folder}/{name}-@2.tar",
            fields=("txt",),
            decode=False,
            shuffle=True,
            batch_size=size,
            rank=rank,
            world_size=world,
            uneven=uneven,
        )

    return mix([source(name) for name in COUNTS], **{"seed": 5, "stop": "all", **options})


def texts(batches: Any) -> list[list[str]]:
    return [[text.decode() for text in batch[0]] for batch in batches]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=4),
    st.sampled_from(["first", "all", "never"]),
    st.integers(0, 200),
    st.integers(1, 40),
)
def test_choices(counts: list[int], stop: Stop, first: int, block: int) -> None:
    """Batches of a source come in order, and the choices can be entered anywhere."""
    weights = [index + 1.0 for index in range(len(counts))]
    before = choices.BLOCK
    choices.BLOCK = block
    try:
        found: list[tuple[int, int]] = []
        for some in choose(counts, weights, stop, 1, 2):
            assert some.first == len(found)
            found += zip(some.sources.tolist(), some.batches.tolist(), strict=True)
            if len(found) > 300:
                break
        later: list[tuple[int, int]] = []
        for some in choose(counts, weights, stop, 1, 2, first):
            assert some.first == first + len(later)
            later += zip(some.sources.tolist(), some.batches.tolist(), strict=True)
            if len(later) > 100:
                break
    finally:
        choices.BLOCK = before
    expected = found[first:]
    assert later[: len(expected)][:100] == expected[:100]
    for source in range(len(counts)):
        numbers = [number for chosen, number in found if chosen == source]
        assert numbers == list(range(len(numbers)))
    if stop == "all":
        assert len(found) == sum(counts)
    if stop == "first":
        assert all(number < counts[source] for source, number in found)
        assert any(sum(chosen == source for chosen, _ in found) == count for source, count in enumerate(counts))


def test_weights_are_kept() -> None:
    some = next(choose([10**9] * 3, [5, 3, 2], "never", 0, 0))
    share = np.bincount(some.sources) / len(some.sources)
    assert np.abs(share - [0.5, 0.3, 0.2]).max() < 5 * 0.5 / len(some.sources) ** 0.5


def test_all_samples_come_once(folder: Path) -> None:
    found = texts(make(folder))
    assert len(found) == len(make(folder)) == 34
    assert Counter(text for batch in found for text in batch) == {
        f"{name}{i}": 1 for name, count in COUNTS.items() for i in range(count)
    }
    assert all(len({text[0] for text in batch}) == 1 for batch in found)
    first = texts(make(folder, weights=[1, 1, 1], stop="first"))
    assert len(first) < 34 and Counter(batch[0][0] for batch in first)["c"] == 4


def test_ranks_and_workers(folder: Path) -> None:
    expected = [sorted(batch) for batch in texts(make(folder, 6))]
    for world in (1, 2, 3):
        for workers in (0, 2):
            ranks = [
                texts(DataLoader(make(folder, 6 // world, rank, world), batch_size=None, num_workers=workers))
                for rank in range(world)
            ]
            found = [sorted(text for batch in batches for text in batch) for batches in zip(*ranks, strict=True)]
            assert found == expected


def test_never_goes_on(folder: Path) -> None:
    mixture = make(folder, weights=[1, 1, 6], stop="never")
    with pytest.raises(TypeError):
        len(mixture)
    found = texts(islice(mixture, 100))
    counts = Counter(text for batch in found for text in batch if text[0] == "c")
    assert len(counts) == 12 and max(counts.values()) - min(counts.values()) <= 1 and min(counts.values()) > 10
    passes = [batch for batch in found if batch[0][0] == "c"]
    assert passes[:4] != passes[4:8], "each pass over a source has an order of its own"
    assert texts(islice(DataLoader(mixture, batch_size=None, num_workers=2), 100)) == found
    mixture.load_state_dict(mixture.state_dict(batches=70))
    assert texts(islice(mixture, 30)) == found[70:]


@pytest.mark.parametrize("stop", ["first", "all"])
def test_resuming_everywhere(folder: Path, stop: str) -> None:
    whole = texts(make(folder, stop=stop))
    for taken in range(0, len(whole) + 1, 3):
        first = make(folder, stop=stop)
        passing = iter(first)
        assert texts(next(passing) for _ in range(taken)) == whole[:taken]
        state = json.loads(json.dumps(first.state_dict()))
        second = make(folder, stop=stop)
        second.load_state_dict(state)
        passing = iter(second)
        more = min(2, len(whole) - taken)
        assert texts(next(passing) for _ in range(more)) == whole[taken : taken + more]
        third = make(folder, stop=stop)
        third.load_state_dict(second.state_dict())
        loader = DataLoader(third, batch_size=None, num_workers=2 * (taken % 2))
        assert texts(loader) == whole[taken + more :]
        assert texts(loader) == whole
        workers = make(folder, stop=stop)
        workers.load_state_dict(state)
        loader = DataLoader(workers, batch_size=None, num_workers=2)
        next(iter(loader))
        later = make(folder, stop=stop)
        if taken < len(whole):
            later.load_state_dict(workers.state_dict(batches=1))
            assert texts(later) == whole[taken + 1 :]


def test_resuming_with_another_global_batch(folder: Path) -> None:
    """Each sample still comes exactly once."""
    first = make(folder, 3)
    passing = iter(first)
    seen = texts(next(passing) for _ in range(11))
    later = make(folder, 2, uneven="uneven")
    later.load_state_dict(first.state_dict())
    seen += texts(later)
    expected = [f"{name}{i}" for name, count in COUNTS.items() for i in range(count)]
    assert sorted(text for batch in seen for text in batch) == sorted(expected)
    assert later.stats()["skipped"] == 0 and later.stats()["batches"] > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_data_loader(folder: Path, workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    whole = texts(make(folder))
    for taken in (0, 1, 7, len(whole)):
        loader = stateful(make(folder), batch_size=None, num_workers=workers)
        passing = iter(loader)
        assert texts(next(passing) for _ in range(taken)) == whole[:taken]
        later = stateful(make(folder), batch_size=None, num_workers=workers)
        later.load_state_dict(loader.state_dict())
        del passing
        assert texts(later) == whole[taken:]


def test_what_is_wrong_is_told(folder: Path) -> None:
    with pytest.raises(JobError, match="do not fit 3 datasets"):
        make(folder, weights=[1, 2])
    with pytest.raises(JobError, match="mix needs"):
        mix([])
    state = make(folder).state_dict()
    for options, what in (({"seed": 6}, "seed"), ({"stop": "first"}, "stop"), ({"weights": [1, 1, 1]}, "weights")):
        with pytest.raises(JobError, match=f"another {what}"):
            make(folder, **options).load_state_dict(state)
    with pytest.raises(JobError, match="not the state of a mixture"):
        make(folder).load_state_dict({})
    mixture = make(folder)
    passing = iter(DataLoader(mixture, batch_size=None, num_workers=1))
    next(passing)
    with pytest.raises(JobError, match="batches="):
        mixture.state_dict()
    del passing
