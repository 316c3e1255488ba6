"""Batches of samples that are alike: each of one bucket, on all ranks, as many on each, and resumed exactly."""

from __future__ import annotations

import json
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from torch.utils.data import DataLoader

import shardtools
from shardtools.errors import JobError
from shardtools.loader.buckets import find_buckets
from shardtools.reading import Dataset
from shardtools.torch import ShardBatches, ShardIterable, Window, mix
from tests.datasets import written_dataset
from tests.torch.test_chosen import STEP, Part, flat, global_batches, rank_batches

RATIO = "json.width / json.height"
EDGES = [1, 2]
TOTAL = 110


def ratio_of(i: int) -> float | None:
    """Return the ratio of a sample; some have none."""
    return None if i % 11 == 3 else (i * 7 % 50) / 20


def bucket_of(i: int) -> int:
    ratio = ratio_of(i)
    return 3 if ratio is None else sum(ratio >= edge for edge in EDGES)


def record(i: int) -> dict[str, object]:
    sides = {} if ratio_of(i) is None else {"width": i * 7 % 50, "height": 20}
    return {"key": f"k/{i:04d}", "id": i, "cls": i % 5, "json": sides}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("buckets")
    ends = [0, 20, 20, 61, TOTAL]
    written_dataset(folder, "b-@4.tar", [[record(i) for i in range(a, b)] for a, b in pairwise(ends)])
    return str(folder / "b-@4.tar")


@pytest.fixture(scope="module")
def dataset(spec: str) -> Dataset:
    """The same, with a table, which says at once how wide and high samples are."""
    shardtools.index(spec, table=True)
    return shardtools.open(spec)


OPTIONS: dict[str, Any] = {"bucket_by": RATIO, "buckets": EDGES}


@pytest.mark.parametrize("shuffle", [False, True, "full", Window(3, 5, 2)])
def test_batches_are_of_one_bucket_and_the_same_for_all_ranks_and_workers(dataset: Dataset, shuffle: Any) -> None:
    sizes = np.bincount([bucket_of(i) for i in range(TOTAL)])
    assert (sizes > 0).all() and (sizes % STEP > 0).any()
    for uneven in ("drop", "pad", "uneven"):
        options = {**OPTIONS, "shuffle": shuffle, "uneven": uneven}
        expected = global_batches(dataset, **options)
        assert all(len({bucket_of(i) for i in batch}) == 1 for batch in expected)
        assert len(expected) == sum(size // STEP + (uneven != "drop" and size % STEP > 0) for size in sizes)
        assert len(ShardBatches(dataset, fields="id", batch_size=STEP, **options)) == len(expected)
        if uneven == "uneven":
            assert sorted(flat(expected)) == list(range(TOTAL))
        else:
            assert {len(batch) for batch in expected} == {STEP}
            assert uneven == "pad" or len(set(flat(expected))) == len(flat(expected))
            assert uneven == "drop" or set(flat(expected)) == set(range(TOTAL))
        for world in (1, 2, 4):
            for workers in (0, 1, 3):
                found = global_batches(dataset, world, workers, **options)
                if uneven == "uneven":  # a rank without a sample of the last ones repeats one
                    assert list(map(set, found)) == list(map(set, expected))
                else:
                    assert found == expected


def test_the_order_is_that_of_the_table_too(spec: str, tmp_path: Path) -> None:
    """Numbers from a table, of two of three shards, and from the fields are the same, and so are quantiles."""
    shards = [[record(i) for i in range(a, a + 30)] for a in (0, 30, 60)]
    written_dataset(tmp_path, "t-@3.tar", shards)
    where = str(tmp_path / "t-@3.tar")
    before = find_buckets(shardtools.open(where), RATIO, 4)
    shardtools.index(where, table=True)
    written_dataset(tmp_path, "t-@3.tar", [*shards[:2], [{**some, "cls": 77} for some in shards[2]]])
    after = find_buckets(shardtools.open(where), RATIO, 4)
    assert before.describe() == after.describe()
    assert before.counts[:4].min() >= 17 and before.counts[4] == sum(ratio_of(i) is None for i in range(90))
    assert find_buckets(shardtools.open(where).where("cls = 77"), RATIO, EDGES).counts.tolist() == [
        sum(bucket_of(i) == bucket for i in range(60, 90)) for bucket in range(4)
    ]


@pytest.mark.parametrize(("shuffle", "uneven"), [(True, "drop"), ("full", "uneven"), (False, "pad")])
def test_resuming_at_every_position(dataset: Dataset, shuffle: Any, uneven: str) -> None:
    options = {**OPTIONS, "shuffle": shuffle, "uneven": uneven, "batch_size": 4}
    whole = rank_batches(dataset, 0, 1, 0, **options)
    for taken in range(len(whole)):
        part = Part(dataset, None, 1, **options)
        passing = iter(part)
        assert [next(passing)[0].tolist() for _ in range(taken)] == whole[:taken]
        state = json.loads(json.dumps(part.state_dict()))
        passing.close()
        assert rank_batches(dataset, 0, 1, 0, state, **options) == whole[taken:]
        if taken % 5 == 2:
            rest = global_batches(dataset, 4, 3, state, **{**options, "batch_size": 1})
            assert list(map(set, rest)) == list(map(set, whole[taken:]))


def test_states_of_other_buckets(dataset: Dataset) -> None:
    state = Part(dataset, None, 1, batch_size=4, **OPTIONS).state_dict()
    for options, what in (
        ({"bucket_by": "json.width / 20"}, r"another bucket_by: json\.width / json\.height, not json\.width / 20"),
        ({"buckets": [1, 3]}, r"another edges of buckets: \[1\.0, 2\.0\], not \[1\.0, 3\.0\]"),
        ({"bucket_by": None, "buckets": 8}, r"another bucket_by: json\.width / json\.height, not None"),
        ({"batch_size": 8}, "global batches of 4, not 8"),
    ):
        with pytest.raises(JobError, match=what):
            Part(dataset, None, 1, **{"batch_size": 4, **OPTIONS, **options}).load_state_dict(state)


def test_with_a_condition_and_in_mixtures(dataset: Dataset, spec: str) -> None:
    some = dataset.where("cls < 3")

    def mixture(batch_size: int = 3) -> Any:
        options = {"fields": "id", "shuffle": True, "batch_size": batch_size}
        return mix([ShardIterable(some, **options, **OPTIONS), ShardIterable(spec, **options)], stop="all", seed=5)

    whole = [batch[0].tolist() for batch in mixture()]
    bucketed = ShardIterable(some, fields="id", shuffle=True, batch_size=3, **OPTIONS)
    alone = [set(batch[0].tolist()) for batch in bucketed]
    assert len(whole) == len(alone) + TOTAL // 3
    assert all(len(set(map(bucket_of, batch))) == 1 and {i % 5 for i in batch} <= {0, 1, 2} for batch in alone)
    assert [batch for batch in map(set, whole) if batch in alone] == alone
    assert [batch[0].tolist() for batch in DataLoader(mixture(), batch_size=None, num_workers=2)] == whole
    first, second = mixture(), mixture()
    passing = iter(first)
    list(zip(range(20), passing, strict=False))
    state = json.loads(json.dumps(first.state_dict()))
    second.load_state_dict(state)
    assert [batch[0].tolist() for batch in second] == whole[state["batches"] :]
    with pytest.raises(JobError, match="other global batches"):
        mixture(6).load_state_dict(state)


def test_joined_datasets(dataset: Dataset, spec: str, tmp_path: Path) -> None:
    lengths = [[{"key": f"k/{i:04d}", "n.cls": i % 4} for i in reversed(range(0, TOTAL, 2))]]
    written_dataset(tmp_path, "l-@1.tar", lengths)
    joined = shardtools.open([spec, str(tmp_path / "l-@1.tar")], join="left")
    batches = global_batches(joined, bucket_by='"n.cls"', buckets=[1, 2], uneven="uneven")
    assert sorted(flat(batches)) == list(range(TOTAL))
    assert all(len({i % 4 if i % 2 == 0 else None for i in batch}) == 1 for batch in batches)
    with pytest.raises(JobError, match="several of the joined datasets"):
        Part(joined, None, 1, bucket_by='json.width * "n.cls"')


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"bucket_by": "json.nope / 2"}, r"bucket_by: the expression names json\.nope, but no sample"),
        ({"bucket_by": "key"}, "bucket_by: the expression does not fit its columns"),
        ({"bucket_by": "json.width /"}, "bucket_by: the expression ends too early: json.width /"),
        ({"bucket_by": " "}, "bucket_by is empty"),
        ({"bucket_by": "cls", "buckets": 0}, "buckets=0 is neither"),
        ({"bucket_by": "cls", "buckets": [2, 1]}, r"buckets=\[2, 1\] is neither"),
        ({"bucket_by": "cls", "buckets": []}, r"buckets=\[\] is neither"),
    ],
)
def test_arguments_are_checked(dataset: Dataset, options: dict[str, Any], what: str) -> None:
    with pytest.raises(JobError, match=what):
        Part(dataset, None, 1, **options)


def test_arrays_have_no_columns() -> None:
    with pytest.raises(JobError, match="not for arrays"):
        ShardBatches(np.arange(10), bucket_by="cls")


def test_shapes_of_a_batch_are_alike(tmp_path: Path) -> None:
    """What it is for: texts of about one length need little padding."""
    rng = np.random.default_rng(0)
    texts = ["x" * int(length) for length in rng.integers(1, 200, 400)]
    written_dataset(tmp_path, "w-@1.tar", [[{"key": f"{i:03d}", "txt": text} for i, text in enumerate(texts)]])
    train = ShardBatches(f"{tmp_path}/w-@1.tar", fields="txt", batch_size=10, shuffle=True, bucket_by="size.txt")
    batches = [[len(text) for text in batch[0]] for batch in train]
    assert sorted(chain.from_iterable(batches)) == sorted(map(len, texts))
    assert max(max(batch) - min(batch) for batch in batches) <= 40
