"""Training on several datasets as one, and on what was chosen: order, length and resuming are those of others."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from torch.utils.data import DataLoader

import shardtools
from shardtools.errors import ChangedError, JobError, NotFoundError, SampleError
from shardtools.reading import Dataset
from shardtools.torch import ShardBatches, ShardIterable, ShardMap, Window, mix
from tests.datasets import written_dataset

TOTAL = 90
SIZES = (20, 0, 41, 29)
FIELDS = ("id", "txt", "__key__")
ORDER = {"decode": False, "seed": 3, "shuffle": Window(3, 5, 2)}


def write(folder: Path, name: str, samples: list[dict[str, object]], sizes: tuple[int, ...]) -> str:
    ends = np.cumsum([0, *sizes]).tolist()
    shards = [samples[a:b] for a, b in zip(ends, [*ends[1:-1], len(samples)], strict=False)]
    written_dataset(folder, f"{name}-@{len(shards)}.tar", shards)
    return str(folder / f"{name}-@{len(shards)}.tar")


def numbered(i: int) -> dict[str, object]:
    return {"key": f"k/{i:03d}", "id": i}


def text(i: int) -> dict[str, object]:
    return {"key": f"k/{i:03d}", "txt": f"no {i}", "big.bin": bytes(20_000)}


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Numbers, and texts of all, aligned; of all in the opposite order; and of two of three, in other shards."""
    folder: Path = tmp_path_factory.mktemp("joined")
    everyone = list(range(TOTAL))
    some = [i for i in everyone if i % 3]
    return {
        "numbers": write(folder, "numbers", list(map(numbered, everyone)), SIZES),
        "aligned": write(folder, "aligned", list(map(text, everyone)), SIZES),
        "turned": write(folder, "turned", list(map(text, everyone[::-1])), SIZES),
        "some": write(folder, "some", list(map(text, some)), (7, 30, 0, 23)),
    }


def joined(specs: dict[str, str], other: str) -> Dataset:
    return shardtools.open([specs["numbers"], specs[other]], join="inner")


def chosen(specs: dict[str, str], other: str) -> Dataset:
    return joined(specs, other).where("id % 5 < 3 and txt <> 'no 7'")


CASES: dict[str, tuple[Callable[[dict[str, str]], Dataset], list[int]]] = {
    "aligned": (lambda specs: joined(specs, "aligned"), list(range(TOTAL))),
    "turned": (lambda specs: joined(specs, "turned"), list(range(TOTAL))),
    "some": (lambda specs: joined(specs, "some"), [i for i in range(TOTAL) if i % 3]),
    "chosen": (lambda specs: chosen(specs, "some"), [i for i in range(TOTAL) if i % 3 and i % 5 < 3 and i != 7]),
    "where": (lambda specs: shardtools.open(specs["numbers"]).where("id % 5 < 3"), []),
}

JOINS = ["aligned", "turned", "some", "chosen"]


@pytest.mark.parametrize("case", JOINS)
@pytest.mark.parametrize("fields", [FIELDS, (*FIELDS, "big.bin")])
def test_samples_belong_together(specs: dict[str, str], case: str, fields: tuple[str, ...]) -> None:
    make, expected = CASES[case]
    seen = []
    for batch in ShardBatches(make(specs), fields=fields, batch_size=7, **ORDER):
        for number, line, key in zip(*batch[:3], strict=True):
            assert line == b"no %s" % number and key == f"k/{int(number):03d}"
            seen.append(int(number))
    assert sorted(seen) == expected and seen != expected
    in_order = ShardBatches(make(specs), fields="id", batch_size=7)
    assert [int(number) for [numbers] in in_order for number in numbers] == expected


@pytest.mark.parametrize("case", JOINS)
def test_order_is_that_of_any_ranks_and_resumes_anywhere(specs: dict[str, str], case: str) -> None:
    dataset = CASES[case][0](specs)

    def ids(batches: Any) -> list[list[int]]:
        return [list(map(int, batch[0])) for batch in batches]

    def whole(world: int, state: Any = None) -> list[list[int]]:
        ranks = []
        for rank in range(world):
            some = ShardBatches(
                dataset, fields=FIELDS, batch_size=8 // world, rank=rank, world_size=world, uneven="drop", **ORDER
            )
            if state is not None:
                some.load_state_dict(state)
            ranks.append(ids(some))
            assert state is not None or len(some) == len(ranks[0]) == len(dataset) // 8
        return [sorted(number for rank in ranks for number in rank[k]) for k in range(len(ranks[0]))]

    one = whole(1)
    assert whole(2) == one == whole(4)
    batches = ShardBatches(dataset, fields=FIELDS, batch_size=8, uneven="drop", **ORDER)
    for position, _ in enumerate(batches):
        state = json.loads(json.dumps(batches.state_dict()))
        if position + 1 < len(one):
            assert whole(2, state) == one[position + 1 :]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_deal_the_batches_of_a_rank(specs: dict[str, str], world: int, workers: int) -> None:
    """What worker processes do, one after the other in this process."""
    dataset = chosen(specs, "some")

    def batches(rank: int) -> ShardBatches:
        return ShardBatches(dataset, fields="id", batch_size=8 // world, rank=rank, world_size=world, **ORDER)

    for rank in range(world):
        alone = list(batches(rank))
        each = [list(batches(rank)._loader.begin(rank, world, worker, workers)) for worker in range(workers)]
        assert [each[k % workers][k // workers] for k in range(len(alone))] == alone


def test_workers(specs: dict[str, str]) -> None:
    train = ShardIterable(chosen(specs, "some"), fields=FIELDS, batch_size=4, uneven="uneven", **ORDER)
    alone = [batch[0] for batch in train]
    train.set_epoch(0)
    again = ShardIterable(chosen(specs, "some"), fields=FIELDS, batch_size=4, uneven="uneven", **ORDER)
    assert [batch[0] for batch in DataLoader(again, batch_size=None, num_workers=3)] == alone
    assert len(again) == len(alone)


def test_by_join_alone(specs: dict[str, str]) -> None:
    sources = [specs["numbers"], specs["some"]]
    data = ShardMap(sources, fields=FIELDS, join="inner")
    assert len(data) == 60 and data[3] == (5, "no 5", "k/005")
    assert [row[0] for row in data.__getitems__([50, 3, 50])] == [76, 5, 76]
    batches = ShardBatches(sources, fields="txt", decode=False, join="left", on_error="skip", batch_size=9)
    assert sum(len(texts) for [texts] in batches) == 60
    with pytest.raises(SampleError, match=r"numbers-0.tar \[k/000\]: the sample has no field txt"):
        list(ShardBatches(sources, fields="txt", join="left"))
    with pytest.raises(JobError, match="say how they are put together"):
        ShardBatches([shardtools.open(spec) for spec in sources], fields="txt")


def test_a_state_is_of_one_join(specs: dict[str, str]) -> None:
    def batches(dataset: Dataset) -> ShardBatches:
        return ShardBatches(dataset, fields="id", batch_size=8, **ORDER)

    state = batches(joined(specs, "aligned")).state_dict()
    batches(joined(specs, "aligned")).load_state_dict(state)
    for other in (joined(specs, "turned"), chosen(specs, "aligned"), shardtools.open(specs["numbers"])):
        with pytest.raises(JobError, match=r"saved with (another shards|all samples, not with where)"):
            batches(other).load_state_dict(state)


def test_in_a_mixture(specs: dict[str, str]) -> None:
    def source(dataset: Any) -> ShardIterable:
        return ShardIterable(dataset, fields="id", batch_size=5, uneven="uneven", **ORDER)

    sources = [chosen(specs, "some"), specs["numbers"], CASES["where"][0](specs)]
    mixture = mix([source(one) for one in sources], stop="all")
    seen = sorted(int(number) for [numbers] in mixture for number in numbers)
    assert seen == sorted([*CASES["chosen"][1], *range(TOTAL), *(i for i in range(TOTAL) if i % 5 < 3)])
    again = mix([source(one) for one in sources], stop="all")
    batches = iter(again)
    before = [next(batches)[0] for _ in range(9)]
    resumed = mix([source(one) for one in sources], stop="all")
    resumed.load_state_dict(json.loads(json.dumps(again.state_dict())))
    assert sorted(int(number) for numbers in [*before, *(batch[0] for batch in resumed)] for number in numbers) == seen


def test_what_is_wrong_with_one_of_them(specs: dict[str, str], tmp_path: Path) -> None:
    broken = write(tmp_path, "broken", [text(i) for i in range(TOTAL)], SIZES)
    joined = shardtools.open([specs["numbers"], broken], join="inner")
    joined = pickle.loads(pickle.dumps(joined))
    write(tmp_path, "broken", [text(i) for i in [*range(61), *range(TOTAL - 1, 60, -1)]], SIZES)
    errors: list[Exception] = []
    skipping = ShardBatches(joined, fields=FIELDS, decode=False, batch_size=9, on_error=errors.append)
    assert len({key for batch in skipping for key in batch[2]}) == 61
    assert {type(error) for error in errors} == {ChangedError} and "broken-3.tar" in str(errors[0])
    os.remove(tmp_path / "broken-2.tar")
    errors.clear()
    assert len({key for batch in skipping for key in batch[2]}) == 20
    assert {type(error) for error in errors} == {ChangedError, NotFoundError}
    with pytest.raises(NotFoundError, match=r"broken-2\.tar"):
        list(ShardBatches(joined, fields=FIELDS, decode=False, batch_size=9))


def test_tensorflow(specs: dict[str, str]) -> None:
    pytest.importorskip("tensorflow")
    made = shardtools.open([specs["numbers"], specs["some"]], join="inner").to_tf(("id", "txt"), batch_size=7)
    ids, lines = zip(*made.as_numpy_iterator(), strict=True)
    assert np.concatenate(ids).tolist() == CASES["some"][1]
    assert np.concatenate(lines).tolist() == [b"no %d" % i for i in CASES["some"][1]]
    assert int(made.cardinality()) == 9
