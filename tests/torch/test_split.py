"""Positions are dealt so that each is delivered once, and every rank gets the same number of batches."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools.loader.split import Split, Uneven, worker_share

NUMBERS = st.integers(1, 9)


def batches(split: Split, workers: int = 1) -> list[list[int]]:
    """Return the positions of each batch of a rank, from as many streams as there are workers."""
    found: dict[int, list[int]] = {}
    for worker in range(workers):
        share = worker_share(split, worker, workers)
        at = 0
        for batch in range(share.count):
            size = share.sizes(batch)
            found[share.number(batch)] = share.positions(at, at + size).tolist()
            at += size
        assert at == share.length
        assert [p for number in sorted(found) if number % workers == worker for p in found[number]] == (
            share.positions(0, at).tolist()
        )
    assert sorted(found) == list(range(split.count))
    return [found[number] for number in sorted(found)]


@settings(deadline=None)
@given(st.integers(0, 200), NUMBERS, NUMBERS, NUMBERS, st.sampled_from(["drop", "pad", "uneven"]), st.integers(0, 250))
def test_dealing(total: int, size: int, world: int, workers: int, uneven: Uneven, start: int) -> None:
    ranks = [batches(Split(total, size, rank, world, uneven, start), workers) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1, "every rank gets the same number of batches"
    dealt = Counter(position for rank in ranks for batch in rank for position in batch)
    assert set(dealt.values()) <= {1}
    left = set(range(start, total))
    if uneven == "drop":
        assert set(dealt) <= left and len(left - set(dealt)) == len(left) % (size * world)
    else:
        assert left <= set(dealt)
    repeats = set(dealt) - left
    if uneven == "pad" and left:
        assert len(dealt) % (size * world) == 0 and len(repeats) < size * world
    if uneven == "uneven":
        assert not repeats or len(left) < world
        assert all(1 <= len(batch) <= size + 1 for rank in ranks for batch in rank)
    for number in range(len(ranks[0]) - 1):
        step = size * world
        whole = [position for rank in ranks for position in rank[number]]
        assert sorted(whole) == list(range(start + number * step, start + (number + 1) * step)) or uneven == "uneven"


@settings(deadline=None)
@given(st.integers(0, 60), NUMBERS, NUMBERS, st.sampled_from(["drop", "pad", "uneven"]), st.integers(0, 40))
def test_going_on(total: int, size: int, world: int, uneven: Uneven, done: int) -> None:
    """What follows after some batches is the rest of what would have come."""
    whole = Split(total, size, 0, world, uneven)
    done = min(done, whole.count)
    rest = Split(total, size, 0, world, uneven, whole.delivered(done))
    assert batches(rest) == batches(whole)[done:]
    for workers in (1, 3):
        share = worker_share(whole, 1 % workers, workers)
        mine = batches(whole)[1 % workers :: workers]
        for taken in range(len(mine) + 1):
            later = worker_share(Split(total, size, 0, world, uneven, whole.delivered(share.number(taken))), 0, workers)
            assert batches(later.split)[::workers] == mine[taken:]
