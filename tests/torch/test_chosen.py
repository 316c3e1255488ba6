"""Training on the samples that conditions chose: order, resuming, mixtures, and what is read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from torch.utils.data import DataLoader

import shardtools
from shardtools.errors import JobError
from shardtools.loader.mapping import SampleMap
from shardtools.reading import Dataset
from shardtools.torch import ShardBatches, ShardIterable, Window, mix
from tests.datasets import written_dataset
from tests.torch.conftest import TOTAL, samples

STEP = 12
"""The global batch, which 1, 2 and 4 ranks can share."""

CHOSEN = [i for i in range(TOTAL) if i % 10 < 4 and i > 3]


class Part(ShardBatches):
    """The batches of one worker of a rank."""

    def __init__(self, source: Any, worker: int | None, workers: int, **options: Any):
        super().__init__(source, **{"fields": "id", "seed": 3, "shuffle": Window(3, 5, 2), **options})
        self._worker = worker, workers

    def worker(self) -> tuple[int | None, int]:
        return self._worker


def rank_batches(source: Any, rank: int, world: int, workers: int, load: Any = None, **options: Any) -> list[list[int]]:
    """Return the batches of a rank, which so many workers make in turn; 0 is none."""
    made = []
    for worker in range(max(1, workers)):
        options = {"batch_size": STEP // world, **options}
        part = Part(source, worker if workers else None, max(1, workers), rank=rank, world_size=world, **options)
        if load is not None:  # the workers of a DataLoader are copies of a loader that has loaded the state
            part._loader.load(load, None, 1, part.split().step)
        made.append([batch[0].tolist() for batch in part])
    return [made[k % len(made)][k // len(made)] for k in range(sum(map(len, made)))]


def global_batches(source: Any, world: int = 1, workers: int = 0, load: Any = None, **options: Any) -> list[list[int]]:
    """Return each global batch, sorted, of all ranks together."""
    ranks = [rank_batches(source, rank, world, workers, load, **options) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    return [sorted(n for rank in ranks for n in rank[k]) for k in range(len(ranks[0]))]


def flat(batches: Sequence[Sequence[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


@pytest.fixture(scope="module")
def chosen(spec: str) -> Dataset:
    return shardtools.open(spec).where("cls < 4").where("id > 3")


@pytest.mark.parametrize("shuffle", [False, True, "full", Window(3, 5, 2)])
def test_order_is_the_same_for_all_ranks_and_workers(chosen: Dataset, shuffle: Any) -> None:
    expected = global_batches(chosen, shuffle=shuffle, uneven="uneven")
    assert sorted(flat(expected)) == CHOSEN
    assert (flat(expected) == CHOSEN) == (shuffle is False)
    for uneven in ("drop", "pad", "uneven"):
        expected = global_batches(chosen, shuffle=shuffle, uneven=uneven)
        assert len(expected) == len(CHOSEN) // STEP + (uneven != "drop")
        for world in (1, 2, 4):
            for workers in (0, 1, 3):
                assert global_batches(chosen, world, workers, shuffle=shuffle, uneven=uneven) == expected


def test_order_depends_on_the_samples_alone(folder: Path, chosen: Dataset, tmp_path: Path) -> None:
    """Neither on how they were chosen, nor on what was not chosen, nor on shards that have none of them."""
    again = shardtools.open(str(folder / "in-@5.tar")).where("id > 3 and cls <= 3")
    assert global_batches(again) == global_batches(chosen)
    some = [[record for record in shard if record["id"] in CHOSEN] for shard in samples()]
    written_dataset(tmp_path, "d-@3.tar", [shard for shard in some if shard])
    assert global_batches(str(tmp_path / "d-@3.tar")) == global_batches(chosen)


@pytest.mark.parametrize("shuffle", [False, True, "full"])
def test_resuming_at_every_position(chosen: Dataset, shuffle: Any) -> None:
    options = {"shuffle": shuffle, "uneven": "uneven", "batch_size": 2}
    whole = rank_batches(chosen, 0, 1, 0, **options)
    for taken in range(len(whole)):
        part = Part(chosen, None, 1, **options)
        passing = iter(part)
        assert [next(passing)[0].tolist() for _ in range(taken)] == whole[:taken]
        state = json.loads(json.dumps(part.state_dict()))
        passing.close()
        assert rank_batches(chosen, 0, 1, 0, state, **options) == whole[taken:]
        if taken % 9 == 4:
            rest = global_batches(chosen, 4, 3, state, **{**options, "batch_size": 1})
            assert sorted(flat(rest)) == sorted(flat(whole[taken:]))


def test_states_of_other_choices(spec: str, chosen: Dataset, tmp_path: Path) -> None:
    state = Part(chosen, None, 1).state_dict()
    assert state["where"]["conditions"] == ["(cls < 4)", "(id > 3)"] and state["where"]["samples"] == len(CHOSEN)
    whole = shardtools.open(spec)
    for source, what in (
        (spec, r"saved with where \(cls < 4\) and \(id > 3\), not with all samples"),
        (whole.where("cls < 3"), r"not with where \(cls < 3\)"),
    ):
        with pytest.raises(JobError, match=what):
            Part(source, None, 1).load_state_dict(state)
    with pytest.raises(JobError, match=r"saved with all samples, not with where \(cls < 4\)"):
        Part(chosen, None, 1).load_state_dict(Part(spec, None, 1).state_dict())
    changed = [[{**record, "cls": record["id"] % 5} for record in shard] for shard in samples()]  # type: ignore[operator]
    written_dataset(tmp_path, "in-@5.tar", changed)
    other = shardtools.open(str(tmp_path / "in-@5.tar")).where("cls < 4").where("id > 3")
    with pytest.raises(JobError, match=f"chose other samples: {len(CHOSEN)}, and now 80"):
        Part(other, None, 1).load_state_dict(state)


def test_only_shards_with_chosen_samples_are_read(tmp_path: Path) -> None:
    written_dataset(tmp_path, "d-@5.tar", samples((20, 20, 20, 20, 20)))
    spec = str(tmp_path / "d-@5.tar")
    shardtools.index(spec, table=True)
    some = shardtools.open(spec).where("shard in (1, 3) and cls = 2")
    for number in (0, 2, 4):
        for ending in ("", ".index.npz"):
            os.remove(tmp_path / f"d-{number}.tar{ending}")
    train = ShardIterable(some, fields=("id", "__shard__", "__index__", "__key__"), shuffle=True, batch_size=2)
    rows = sorted(row for batch in train for row in zip(batch[0].tolist(), *batch[1:], strict=True))
    assert [(n, shard, int(row), key) for n, shard, row, key in rows] == [
        (n, f"d-{n // 20}.tar", n % 20, f"k/{n:04d}") for n in (22, 32, 62, 72)
    ]
    assert train.stats()["shards"] == 2


def test_mixtures(spec: str, chosen: Dataset) -> None:
    def mixture() -> Any:
        parts = [chosen, shardtools.open(spec).where("cls > 7"), spec]
        made = [ShardIterable(part, fields="id", shuffle=True, batch_size=3, seed=i) for i, part in enumerate(parts)]
        return mix(made, [1, 1, 2], stop="all", seed=5)

    whole = [batch[0].tolist() for batch in mixture()]
    assert len(whole) == len(mixture()) == len(CHOSEN) // 3 + 20 // 3 + TOTAL // 3
    assert [batch[0].tolist() for batch in DataLoader(mixture(), batch_size=None, num_workers=2)] == whole
    for taken in range(0, len(whole), 4):
        first, second = mixture(), mixture()
        passing = iter(first)
        assert [next(passing)[0].tolist() for _ in range(taken)] == whole[:taken]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        passing.close()
        assert [batch[0].tolist() for batch in second] == whole[taken:]


@pytest.mark.parametrize("ending", ["tar", "tgz", "tar.zst"])
def test_samples_by_index_and_with_workers(folder: Path, ending: str) -> None:
    some = shardtools.open(f"{folder}/in-@5.{ending}").where("cls < 4 and id > 3")
    mapped = SampleMap(some, fields=("id", "txt"))
    assert len(mapped) == len(CHOSEN)
    assert mapped.__getitems__([5, -1, 0]) == [(CHOSEN[at], f"no {CHOSEN[at]}") for at in (5, -1, 0)]
    train = ShardIterable(some, fields="id", shuffle=True, batch_size=4, uneven="uneven")
    expected = [batch[0].tolist() for batch in train]
    assert sorted(flat(expected)) == CHOSEN
    assert [batch[0].tolist() for batch in DataLoader(train, batch_size=None, num_workers=2)] == expected


def test_joined_datasets(spec: str, tmp_path: Path) -> None:
    labels = [[{"key": f"k/{i:04d}", "label": b"%d" % i} for i in reversed(range(0, TOTAL, 3))]]
    written_dataset(tmp_path, "l-@1.tar", labels)
    joined = shardtools.open([spec, str(tmp_path / "l-@1.tar")], join="inner").where("cls < 5")
    expected = [i for i in range(0, TOTAL, 3) if i % 10 < 5]
    whole = list(ShardBatches(joined, fields=("id", "label"), decode=False, shuffle=True, batch_size=4))
    assert sorted(int(n) for batch in whole for n in batch[0]) == expected
    assert all(ids == numbers for ids, numbers in whole)
    assert global_batches(joined, 2, 3) == global_batches(joined)


def test_samples_that_no_one_chose(chosen: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    none = chosen.where("cls = 9")
    assert list(ShardBatches(none, fields="id", shuffle=True)) == []
    assert "there are no samples" in caplog.text


def test_options_of_the_storage_are_those_of_the_dataset(chosen: Dataset, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"give them to shardtools\.open"):
        ShardBatches(chosen, fields="id", cache=str(tmp_path))


def test_tensorflow(chosen: Dataset) -> None:
    pytest.importorskip("tensorflow")
    batches = chosen.where("cls = 3").to_tf(("id", "__key__"), batch_size=4)
    assert int(batches.cardinality()) == 3
    ids = np.concatenate([batch[0].numpy() for batch in batches])
    assert ids.tolist() == [i for i in CHOSEN if i % 10 == 3]
