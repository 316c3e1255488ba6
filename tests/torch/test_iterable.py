"""Elastic order, exact resuming, and what else a loader promises, over world sizes and workers."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import threading
import traceback
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch.utils.data import DataLoader

from shardtools.errors import JobError, SpecError
from shardtools.torch import ShardBatches, ShardIterable, ShardMap, Window, mix
from tests.datasets import write_shard, written_dataset
from tests.servers import NginxServer, wait_until
from tests.torch.conftest import TOTAL, samples

STEP = 24
"""The global batch: 24 samples, which 1, 2 and 4 ranks can share."""


def numbers(batches: Iterable[Any]) -> list[list[int]]:
    return [[int(value) for value in batch[0]] for batch in batches]


def flat(batches: Iterable[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def loaded(spec: str, workers: int = 0, **options: Any) -> Any:
    """Return a DataLoader and its dataset of sample numbers."""
    train = ShardIterable(spec, fields=("id",), **{"decode": False, "seed": 3, "shuffle": Window(3, 5, 2), **options})
    return DataLoader(train, batch_size=None, num_workers=workers), train


def global_batches(spec: str, world: int, workers: int, load: Any = None, **options: Any) -> list[list[int]]:
    """Return each global batch, sorted, of all ranks together."""
    ranks = []
    for rank in range(world):
        loader, train = loaded(spec, workers, batch_size=STEP // world, rank=rank, world_size=world, **options)
        if load is not None:
            train.load_state_dict(load)
        ranks.append(numbers(loader))
    assert len({len(rank) for rank in ranks}) == 1
    return [sorted(n for rank in ranks for n in rank[k]) for k in range(len(ranks[0]))]


@pytest.mark.parametrize("uneven", ["drop", "pad", "uneven"])
def test_the_order_is_elastic(spec: str, uneven: str) -> None:
    expected = global_batches(spec, 1, 0, uneven=uneven)
    assert len(expected) == (TOTAL // STEP if uneven == "drop" else -(-TOTAL // STEP))
    assert len(set(flat(expected))) == (TOTAL if uneven != "drop" else TOTAL // STEP * STEP)
    for world in (1, 2, 4):
        for workers in (0, 1, 3):
            assert global_batches(spec, world, workers, uneven=uneven) == expected, (world, workers)


@pytest.mark.parametrize("shuffle", [False, True, "full"])
@pytest.mark.parametrize("ending", ["tar", "tgz", "tar.zst"])
def test_each_sample_comes_once_and_is_right(folder: Path, ending: str, shuffle: Any) -> None:
    fields = ("txt", "cls", "__key__", "__shard__", "__index__", "__pad__")
    train = ShardIterable(
        f"{folder}/in-@5.{ending}", fields=fields, decode=False, shuffle=shuffle, batch_size=7, uneven="uneven"
    )
    rows = [row for batch in train for row in zip(*batch, strict=True)]
    starts = {0: 0, 2: 10, 3: 17, 4: 53}
    for txt, label, key, shard, index, pad in rows:
        number = int(txt[3:])
        assert (label, key, pad) == (b"%d" % (number % 10), f"k/{number:04d}", False)
        assert starts[int(shard[3])] + index == number
    found = [int(row[0][3:]) for row in rows]
    assert sorted(found) == list(range(TOTAL)) and (found == sorted(found)) == (shuffle is False)


def test_epochs_differ_and_come_back(spec: str) -> None:
    loader, train = loaded(spec, batch_size=8)
    first = numbers(loader)
    assert numbers(loader) == first
    train.set_epoch(1)
    second = numbers(loader)
    assert second != first and flat(second) != sorted(flat(second))
    train.set_epoch(0)
    assert numbers(loader) == first


def test_workers_that_persist_hear_of_the_epoch(spec: str) -> None:
    expected = []
    for epoch in range(3):
        loader, train = loaded(spec, batch_size=8)
        train.set_epoch(epoch)
        expected.append(numbers(loader))
    train = ShardIterable(spec, fields=("id",), decode=False, seed=3, shuffle=Window(3, 5, 2), batch_size=8)
    loader = DataLoader(train, batch_size=None, num_workers=2, persistent_workers=True)
    found = []
    for epoch in range(3):
        train.set_epoch(epoch)
        found.append(numbers(loader))
    assert found == expected
    train.load_state_dict({**train.state_dict(batches=0), "epoch": 1, "delivered": 24})
    assert numbers(loader) == expected[1][3:]


def test_spawned_workers(spec: str) -> None:
    _, train = loaded(spec, batch_size=8)
    expected = numbers(train)
    loader = DataLoader(train, batch_size=None, num_workers=2, multiprocessing_context="spawn", persistent_workers=True)
    assert numbers(loader) == expected
    train.set_epoch(7)
    assert numbers(loader) == numbers(train) != expected


# --- resuming


@pytest.mark.parametrize("shuffle", [False, True, "full", Window(2, 3, 2)])
def test_resuming_at_every_position(spec: str, shuffle: Any) -> None:
    _, train = loaded(spec, batch_size=4, uneven="uneven", shuffle=shuffle)
    whole = numbers(train)
    for taken in range(0, len(whole) + 1, 1 if shuffle is True else 5):
        _, first = loaded(spec, batch_size=4, uneven="uneven", shuffle=shuffle)
        passing = iter(first)
        assert numbers(next(passing) for _ in range(taken)) == whole[:taken]
        state = json.loads(json.dumps(first.state_dict()))
        assert len(json.dumps(state)) < 300
        passing.close()
        _, second = loaded(spec, batch_size=4, uneven="uneven", shuffle=shuffle)
        second.load_state_dict(state)
        assert second.state_dict() == state
        again = iter(second)
        more = min(2, len(whole) - taken)
        assert numbers(next(again) for _ in range(more)) == whole[taken : taken + more]
        state = second.state_dict()
        again.close()
        _, third = loaded(spec, batch_size=4, uneven="uneven", shuffle=shuffle)
        third.load_state_dict(state)
        assert numbers(third) == whole[taken + more :]
        assert numbers(third) == whole, "the pass after it is a whole one"


@pytest.mark.parametrize("uneven", ["drop", "pad", "uneven"])
def test_resuming_with_other_ranks_and_workers(spec: str, uneven: str) -> None:
    whole = global_batches(spec, 1, 0, uneven=uneven)
    for taken in range(len(whole) + 1):
        loader, train = loaded(spec, 2, batch_size=STEP // 2, rank=0, world_size=2, uneven=uneven)
        passing = iter(loader)
        for _ in range(taken):
            next(passing)
        state = train.state_dict(batches=taken)
        del passing
        for world, workers in ((1, 0), (4, 0)) if taken % 2 else ((2, 3),):
            expected = whole[taken:] if taken < len(whole) else global_batches(spec, 1, 0, state, uneven=uneven)
            assert global_batches(spec, world, workers, state, uneven=uneven) == expected
            if taken == len(whole):
                assert state["epoch"] == 1 and state["delivered"] == 0


def test_resuming_with_another_batch_size(spec: str) -> None:
    loader, train = loaded(spec, batch_size=10, uneven="uneven")
    whole = flat(numbers(loader))
    train.load_state_dict({**train.state_dict(), "epoch": 0, "delivered": 33})
    assert flat(numbers(loader)) == whole[33:]


def test_a_pass_after_the_resumed_one_is_whole_with_workers_too(spec: str) -> None:
    loader, train = loaded(spec, 3, batch_size=8)
    whole = numbers(loader)
    train.load_state_dict(train.state_dict(batches=5))
    assert numbers(loader) == whole[5:]
    assert numbers(loader) == whole


def test_states_of_workers_must_say_how_many(spec: str) -> None:
    loader, train = loaded(spec, 2, batch_size=8)
    assert train.state_dict()["delivered"] == 0
    passing = iter(loader)
    next(passing)
    with pytest.raises(JobError, match="batches="):
        train.state_dict()
    with pytest.raises(JobError, match="batches=1000 is out of range: the epoch has 13"):
        train.state_dict(batches=1000)
    del passing


def test_states_that_do_not_match(spec: str, folder: Path) -> None:
    state = loaded(spec, batch_size=8)[1].state_dict()
    for options, what in (({"seed": 4}, "seed"), ({"shuffle": "full"}, "shuffle"), ({"shuffle": False}, "shuffle")):
        with pytest.raises(JobError, match=f"another {what}"):
            loaded(spec, **options)[1].load_state_dict(state)
    with pytest.raises(JobError, match="another shards"):
        loaded(str(folder / "in-3.tar"))[1].load_state_dict(state)
    for wrong in ({}, {"version": 1}, {**state, "delivered": -1}, {**state, "delivered": "x"}, {**state, "more": 1}):
        with pytest.raises(ValueError, match="not the state of a loader"):
            loaded(spec)[1].load_state_dict(wrong)
    with pytest.raises(JobError, match="version 2"):
        loaded(spec)[1].load_state_dict({**state, "version": 2})


def test_the_state_of_a_worker_is_for_that_worker_alone(spec: str) -> None:
    """It says where its own next batch begins, which means something else to others."""
    _, train = loaded(spec, batch_size=STEP)
    state = train.state_dict(batches=1)
    train.load_state_dict(state)
    with pytest.raises(JobError, match="saved in a worker process, and this is not the same one"):
        train.load_state_dict({**state, "worker": [0, 2, STEP]})


@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_data_loader(spec: str, workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make() -> Any:
        _, train = loaded(spec, batch_size=8, uneven="uneven")
        return stateful(train, batch_size=None, num_workers=workers)

    whole = numbers(make())
    for taken in (0, 1, 2, 5, len(whole) - 1, len(whole)):
        loader = make()
        passing = iter(loader)
        assert numbers(next(passing) for _ in range(taken)) == whole[:taken]
        state = loader.state_dict()
        del passing
        later = make()
        later.load_state_dict(state)
        passing = iter(later)
        more = min(3, len(whole) - taken)
        assert numbers(next(passing) for _ in range(more)) == whole[taken : taken + more]
        state = later.state_dict()
        del passing
        last = make()
        last.load_state_dict(state)
        assert numbers(last) == whole[taken + more :]
        assert numbers(last) == whole


# --- values


def test_decoded_and_collated(spec: str) -> None:
    train = ShardIterable(spec, fields=("cls", "txt", "__index__"), decode=True, batch_size=6, threads=3)
    labels, texts, index = next(iter(train))
    assert isinstance(labels, torch.Tensor) and labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert list(texts) == [f"no {i}" for i in range(6)] and index.tolist() == list(range(6))


def test_transform_and_collate(spec: str) -> None:
    def double(label: int, text: str) -> dict[str, Any]:
        return {"label": 2 * label, "text": text}

    train = ShardIterable(spec, fields=("cls", "txt"), decode=True, transform=double, batch_size=3)
    batch = next(iter(train))
    assert batch["label"].tolist() == [0, 2, 4] and batch["text"] == ["no 0", "no 1", "no 2"]
    lists = ShardIterable(spec, fields=("cls",), decode=True, collate=None, batch_size=3)
    assert next(iter(lists)) == ([0, 1, 2],)
    own = ShardIterable(spec, fields=("cls",), decode=False, collate=len, batch_size=3)
    assert next(iter(own)) == 3


def test_numpy_batches_need_no_torch(spec: str) -> None:
    batch = next(iter(ShardBatches(spec, fields=("cls", "txt"), decode=True, batch_size=4)))
    assert isinstance(batch[0], np.ndarray) and batch[0].tolist() == [0, 1, 2, 3] and batch[1][0] == "no 0"


def test_pads_are_flagged(spec: str) -> None:
    train = ShardIterable(spec, fields=("id", "__pad__"), decode=False, batch_size=50, uneven="pad", shuffle=True)
    batches = list(train)
    pads = [pad for batch in batches for pad in batch[1]]
    assert len(pads) == 150 and sum(pads) == 150 - TOTAL and not any(pads[:TOTAL])
    assert batches[2][0][TOTAL - 100 :] == batches[0][0][: 150 - TOTAL]


def test_length(spec: str, folder: Path, tmp_path: Path) -> None:
    assert len(ShardIterable(spec, fields=("id",), decode=False, batch_size=10)) == 10
    assert len(ShardIterable(spec, fields=("id",), batch_size=10, uneven="pad", rank=1, world_size=3)) == 4
    (tmp_path / "in-0.tar").write_bytes((folder / "in-0.tar").read_bytes())
    train = ShardIterable(str(tmp_path / "in-@1.tar"), fields=("id",), decode=False, batch_size=5)
    with pytest.raises(TypeError, match="htindex"):
        len(train)
    assert numbers(train) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]] and len(train) == 2


def test_the_rank_comes_from_the_environment(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert numbers(loaded(spec, batch_size=8)[0]) == numbers(loaded(spec, batch_size=8, rank=1, world_size=2)[0])
    assert numbers(loaded(spec, batch_size=8)[0]) != numbers(loaded(spec, batch_size=8, rank=0, world_size=2)[0])
    with pytest.raises(JobError, match="rank 2 is out of range for world_size 2"):
        loaded(spec, rank=2, world_size=2)
    with pytest.raises(JobError, match="must be given together"):
        loaded(spec, rank=0)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"fields": ()}, "at least one"),
        ({"fields": ("a", "a")}, "each field once"),
        ({"fields": ("__url__",)}, "no field __url__"),
        ({"batch_size": 0}, "positive"),
        ({"uneven": "some"}, "uneven='some'"),
        ({"shuffle": "fully"}, "shuffle='fully'"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
    ],
)
def test_arguments_are_checked(spec: str, options: dict[str, Any], what: str) -> None:
    with pytest.raises(JobError, match=what):
        ShardIterable(spec, **{"fields": ("id",), **options})


@pytest.mark.parametrize("longest", [300, 9_000, 60_000])
@pytest.mark.parametrize("ending", ["tar", "tgz"])
def test_what_is_read_is_what_is_there(nginx: NginxServer, longest: int, ending: str) -> None:
    """Small samples, which are read together, large ones, and both; empty values and some that are missing."""
    rng = np.random.default_rng(longest)
    expected: dict[str, list[bytes | None]] = {}
    shards = []
    for shard in range(3):
        rows = []
        for i in range(70):
            row: dict[str, Any] = {"key": f"{shard}/{i}"}
            for name in ("a", "b", "c.d"):
                if rng.random() < 0.8 or name == "a":
                    row[name] = rng.bytes(int(rng.integers(0, longest)) if rng.random() < 0.9 else 0)
            expected[row["key"]] = [row.get("a"), row.get("c.d")]
            rows.append(row)
        shards.append(rows)
    written_dataset(nginx.root, f"in-@3.{ending}", shards)
    for base in (f"{nginx.root}/", nginx.url):
        for shuffle in (False, Window(ranges=2, rows=8, shards=2), "full"):
            spec, found = f"{base}in-@3.{ending}", {}
            skipped: list[Any] = []
            train = ShardIterable(
                spec,
                fields=("a", "__key__", "c.d"),
                decode=False,
                shuffle=shuffle,
                batch_size=4,
                uneven="uneven",
                on_error=skipped.append,
            )
            for a, keys, d in train:
                found.update({key: [x, y] for key, x, y in zip(keys, a, d, strict=True)})
            assert found == {key: row for key, row in expected.items() if None not in row}
            assert len(skipped) == sum(None in row for row in expected.values()) > 0


@pytest.mark.parametrize("size", [100, 20_000])
@pytest.mark.parametrize("turn", [1, -1])
def test_shards_of_several_kinds(tmp_path: Path, nginx: NginxServer, size: int, turn: int) -> None:
    """In one window: local files, packed and not, and one on a server."""
    sources = [f"{tmp_path}/a.tar", f"{tmp_path}/b.tgz", f"{nginx.url}c.tar", f"{tmp_path}/d.tar"][::turn]
    for source in sources:
        name = source[-5:]
        folder = nginx.root if source.startswith("http") else tmp_path
        write_shard(folder / name, [(f"{name[0]}{i}.bin", name[0].encode() * size) for i in range(20)])
    train = ShardIterable(sources, fields=("__key__", "bin"), decode=False, shuffle=True, batch_size=8, uneven="uneven")
    found = {key: value for keys, values in train for key, value in zip(keys, values, strict=True)}
    assert found == {f"{name}{i}": name.encode() * size for name in "abcd" for i in range(20)}


def wait_for(event: Any, worker: int) -> None:
    """Let the second worker begin only when the event is set."""
    assert worker == 0 or event.wait(100)


@pytest.mark.parametrize(("method", "mixed"), [("fork", False), ("fork", True), ("spawn", False)])
def test_an_epoch_set_while_workers_start(spec: str, method: str, mixed: bool) -> None:
    """As a Trainer does that goes on from a checkpoint: all workers stay in the epoch that the loader began with."""
    train = ShardIterable(spec, fields=("id",), decode=True, shuffle=True, batch_size=4, uneven="uneven")
    data = mix([train], stop="first") if mixed else train
    event = multiprocessing.get_context(method).Event()
    loader = DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context=method, worker_init_fn=partial(wait_for, event)
    )
    batches = iter(loader)
    found = next(batches)[0].tolist()
    data.set_epoch(1)
    event.set()
    found += [number for batch in batches for number in batch[0].tolist()]
    assert sorted(found) == list(range(TOTAL)) and data.epoch == 1
    if method == "fork":
        assert sorted(number for batch in loader for number in batch[0].tolist()) == list(range(TOTAL))


# --- resources


def ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("shardtools")}


def shards_open(folder: Path) -> list[str]:
    """Return the files of a folder that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(descriptor))
    return [name for name in found if name.startswith(f"{folder}/")]


@pytest.mark.parametrize("decode", [False, True])
def test_leaving_early_stops_everything(folder: Path, decode: bool) -> None:
    gc.collect()  # of what tests before left
    threads, before = ours(), len(shards_open(folder))
    for ending in ("tar", "tgz"):
        train = ShardIterable(f"{folder}/in-@5.{ending}", fields=("id",), shuffle=True, batch_size=2, decode=decode)
        for _ in train:
            assert ours() - threads
            assert len(shards_open(folder)) > before or ending == "tgz"
            break
        del train
    wait_until(lambda: ours() <= threads, "threads to end")
    wait_until(lambda: len(shards_open(folder)) <= before, "files to be closed")


def test_memory_is_bounded(tmp_path: Path) -> None:
    rows = [[{"key": f"{s}-{i}", "bin": bytes(20_000)} for i in range(100)] for s in range(8)]
    written_dataset(tmp_path, "in-@8.tar", rows)
    train = ShardIterable(
        str(tmp_path / "in-@8.tar"), fields=("bin",), decode=False, shuffle=True, batch_size=10, memory=1_000_000
    )
    assert sum(len(batch[0]) for batch in train) == 800
    stats = train.stats()
    assert stats["samples"] == 800 and stats["bytes"] == 800 * 20_000 and stats["batches"] == 80
    assert 0 < stats["peak_bytes"] <= 1_000_000
    loader = DataLoader(train, batch_size=None, num_workers=2)
    assert sum(len(batch[0]) for batch in loader) == 800
    assert train.stats()["samples"] == 1600, "workers' numbers count, too"


def test_one_field_is_given_as_it_is(spec: str) -> None:
    """And not taken for the names of its letters."""
    for train in (
        ShardIterable(spec, fields="id", decode=False),
        ShardBatches(spec, fields="id", decode=False),
        ShardMap(spec, fields="id"),
    ):
        assert len(next(iter(train))) == 1
    assert flat(numbers(ShardBatches(spec, fields="id", decode=False))) == list(range(TOTAL))


@pytest.mark.parametrize("shard", [0, 2, 4])
def test_samples_that_the_manifest_hides(tmp_path: Path, shard: int) -> None:
    """A shard that has none, as the manifest says, is opened by a rank, so that the epoch ends with an error."""
    written_dataset(tmp_path, "in-@5.tar", samples())
    path = tmp_path / "in-@5.tar.json"
    manifest = json.loads(path.read_bytes())
    manifest["shardlist"][shard]["nsamples"] = 0
    path.write_text(json.dumps(manifest))
    failed = 0
    for rank in range(2):
        for workers in (0, 2):
            train = ShardIterable(
                str(tmp_path / "in-@5.tar"), fields="id", decode=False, shuffle=True, rank=rank, world_size=2
            )
            try:
                list(DataLoader(train, batch_size=None, num_workers=workers))
            except SpecError as error:
                failed += 1
                assert f"in-{shard}.tar: it has" in str(error) and "and 0 in the manifest" in str(error)
                traceback.clear_frames(error.__traceback__)  # or PyTorch's workers wait for the garbage collector
    assert failed
    with pytest.raises(SpecError, match="and 0 in the manifest"):
        list(ShardMap(str(tmp_path / "in-@5.tar"), fields="id"))
