"""The order of an epoch is a permutation, the same for ever, and random; and it can be entered anywhere."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.errors import JobError
from shardtools.loader import order as module
from shardtools.loader.order import Full, Shuffle, Window, Windowed, generator, make_order

COUNTS = st.lists(st.integers(0, 40), max_size=12)
WINDOWS = st.builds(Window, st.integers(1, 40), st.integers(1, 9), st.integers(1, 5))


@settings(deadline=None)
@given(COUNTS, st.one_of(WINDOWS, st.sampled_from([False, True, "full"])), st.integers(-5, 5), st.integers(0, 3))
def test_every_sample_has_one_position(counts: list[int], shuffle: Shuffle, seed: int, epoch: int) -> None:
    total = sum(counts)
    found = make_order(counts, shuffle, seed, epoch).at(np.arange(total))
    assert sorted(found.tolist()) == list(range(total))


@settings(deadline=None)
@given(COUNTS, st.one_of(WINDOWS, st.sampled_from([True, "full"])), st.data())
def test_it_is_the_same_wherever_it_is_entered(counts: list[int], shuffle: Shuffle, data: st.DataObject) -> None:
    total = sum(counts)
    whole = make_order(counts, shuffle, 1, 2).at(np.arange(total))
    positions = data.draw(st.lists(st.integers(0, total - 1), max_size=30)) if total else []
    asked = np.array(positions, np.int64)
    assert make_order(counts, shuffle, 1, 2).at(asked).tolist() == whole[asked].tolist()


@settings(deadline=None)
@given(COUNTS, WINDOWS)
def test_a_window_holds_samples_of_few_ranges(counts: list[int], window: Window) -> None:
    order = Windowed(counts, 3, 4, window)
    ends = np.cumsum(counts)
    at = 0
    while at < order.total:
        stop = order.window_stop(at)
        assert at < stop <= at + window.ranges * window.rows
        numbers = order.at(np.arange(at, stop))
        assert len(np.unique(np.searchsorted(ends, numbers, side="right"))) <= min(window.ranges, window.shards)
        at = stop


def test_it_never_changes() -> None:
    """States that were saved years ago must still be right."""
    counts = [300, 0, 200, 41]
    assert make_order(counts, True, 5, 6).at(np.arange(6)).tolist() == KNOWN["window"]
    assert make_order(counts, "full", 5, 6).at(np.arange(6)).tolist() == KNOWN["full"]
    assert make_order([3_000_000], "full", 5, 6).at(np.arange(4)).tolist() == KNOWN["feistel"]


KNOWN = {
    "window": [218, 372, 158, 385, 75, 428],
    "full": [174, 252, 107, 451, 132, 154],
    "feistel": [139186, 1920774, 2823516, 2013202],
}


def test_it_does_not_depend_on_the_process() -> None:
    code = "from shardtools.loader.order import *; print(make_order([50, 60], True, 1, 2).at(np.arange(110)).tolist())"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


@pytest.mark.parametrize("shuffle", [True, "full"])
def test_seeds_and_epochs_give_other_orders(shuffle: Shuffle) -> None:
    orders = {
        tuple(make_order([100, 100], shuffle, seed, epoch).at(np.arange(200)).tolist())
        for seed in (0, 1, -1)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 9


@pytest.mark.parametrize("small", [1 << 20, 0])
@pytest.mark.parametrize("size", [5, 13])
def test_a_full_shuffle_is_uniform(monkeypatch: pytest.MonkeyPatch, small: int, size: int) -> None:
    """Chi-square of where each sample comes to stand; five standard deviations of its distribution."""
    monkeypatch.setattr(module, "SMALL", small)
    runs = 4000
    seen = np.zeros((size, size))
    for epoch in range(runs):
        seen[np.arange(size), Full(size, 0, epoch).at(np.arange(size))] += 1
    expected = runs / size
    chi_square = float(((seen - expected) ** 2 / expected).sum())
    freedom = (size - 1) ** 2
    assert abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_pairs_of_a_full_shuffle_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", 0)
    runs, size = 6000, 6
    seen = np.zeros((size, size))
    for epoch in range(runs):
        first, second = Full(size, 1, epoch).at(np.array([0, 3])).tolist()
        seen[first, second] += 1
    expected = runs / (size * (size - 1))
    off = ~np.eye(size, dtype=bool)
    chi_square = float(((seen - expected) ** 2 / expected)[off].sum())
    freedom = size * (size - 1) - 1
    assert np.trace(seen) == 0 and abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_windows_mix_well() -> None:
    """Shards that hold one class each, the worst case: batches have most of the classes that random ones have."""
    shards, rows = 64, 512
    order = make_order([rows] * shards, True, 0, 0)
    classes = order.at(np.arange(order.total)) // rows
    distinct = np.mean([len(np.unique(batch)) for batch in classes.reshape(-1, 64)])
    random = np.mean([len(np.unique(np.random.default_rng(i).integers(0, shards, 64))) for i in range(50)])
    assert distinct > 0.7 * random
    assert abs(np.corrcoef(np.arange(order.total), order.at(np.arange(order.total)))[0, 1]) < 0.2


def test_ranks_read_their_own_ranges() -> None:
    """Every eighth position comes from an eighth of the window's ranges, or little more."""
    order = Windowed([640] * 128, 0, 0, Window(ranges=64, rows=64))
    stop = order.window_stop(0)
    ranges = [set((order.at(np.arange(rank, stop, 8)) // 64).tolist()) for rank in range(8)]
    assert sum(map(len, ranges)) <= 64 * 1.2


def test_large_datasets_are_entered_at_once() -> None:
    """A billion samples: neither time nor memory may depend on them (a table of them would take 8 GB)."""
    tracemalloc.start()
    order = make_order([100_000] * 10_000, True, 0, 0)
    assert len(set(order.at(np.arange(900_000_000, 900_010_000)).tolist())) == 10_000
    full = make_order([100_000] * 10_000, "full", 0, 0)
    assert len(set(full.at(np.arange(900_000_000, 900_010_000)).tolist())) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000_000


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**70))
def test_generators_take_any_seed(seed: int) -> None:
    assert generator(seed).random_raw(1) != generator(seed + 1).random_raw(1)


def test_windows_are_checked() -> None:
    with pytest.raises(JobError, match="positive"):
        Window(ranges=0)
