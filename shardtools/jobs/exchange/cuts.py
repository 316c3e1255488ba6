"""Where each output begins in each run, so that the outputs together have all samples in order.

    sorted orders of the runs, ranks -> the same cut through every run

A cut is found by its rank among the samples of all runs. The orders are compared 8 bytes at a time; samples with equal
bytes are compared further. (A selection in several sorted lists; Varman and others, 1991.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shardtools.jobs.exchange.order import prefixes
from shardtools.shards.columns import Texts
from shardtools.types import Ints

_STEP = 8


def ranks(samples: int, outputs: int) -> list[int]:
    """Return where each output begins among so many samples, and their number; sizes differ by one at most.

    >>> ranks(10, 4)
    [0, 2, 5, 7, 10]
    """
    return [samples * output // outputs for output in range(outputs + 1)]


def cuts(orders: Sequence[Texts], wanted: Sequence[int]) -> Ints:
    """Return for each of the ascending ranks ``wanted``, and each run, how many of its samples come before the cut.

    Samples with the same order stay together: a cut that falls among them moves to the nearer end of them.

    >>> cuts([Texts.of([b"a", b"c", b"c"]), Texts.of([b"b", b"c", b"d"])], [0, 2, 3, 6]).tolist()
    [[0, 0], [1, 1], [1, 1], [3, 3]]
    """
    found = np.zeros((len(wanted), len(orders)), np.int64)
    low = np.zeros(len(orders), np.int64)
    high = np.array([len(texts) for texts in orders], np.int64)
    _cut(orders, [texts.starts for texts in orders], low, high, list(enumerate(wanted)), 0, found)
    return found


def _cut(
    orders: Sequence[Texts],
    starts: Sequence[Ints],
    low: Ints,
    high: Ints,
    wanted: Sequence[tuple[int, int]],
    skip: int,
    found: Ints,
) -> None:
    """Fill the rows of ``found`` for ranks among the samples ``low`` to ``high``, whose first ``skip`` bytes are equal.

    Each of ``wanted`` is a row, and a rank counted from the first of these samples.
    """
    total = int((high - low).sum())
    inner = []
    for row, rank in wanted:
        if rank <= 0:
            found[row] = low
        elif rank >= total:
            found[row] = high
        else:
            inner.append((row, rank))
    if not inner:
        return
    parts = [
        prefixes(texts.data, begin[a:b] + skip, texts.ends[a:b])
        for texts, begin, a, b in zip(orders, starts, low.tolist(), high.tolist(), strict=True)
    ]
    together = np.sort(np.concatenate(parts))
    values, of_rank = np.unique(together[[rank for _, rank in inner]], return_inverse=True)
    first = np.stack([np.searchsorted(part, values, "left") for part in parts], axis=1) + low
    last = np.stack([np.searchsorted(part, values, "right") for part in parts], axis=1) + low
    before, after = (first - low).sum(axis=1).tolist(), (last - low).sum(axis=1).tolist()
    groups: dict[int, list[tuple[int, int]]] = {}
    for (row, rank), value in zip(inner, of_rank.tolist(), strict=True):
        if rank == before[value]:
            found[row] = first[value]
        else:
            groups.setdefault(value, []).append((row, rank - before[value]))
    for value, inside in groups.items():
        if _end_there(orders, starts, first[value], last[value], skip + _STEP):
            for row, rank in inside:
                found[row] = first[value] if 2 * rank <= after[value] - before[value] else last[value]
        else:
            _cut(orders, starts, first[value], last[value], inside, skip + _STEP, found)


def _end_there(orders: Sequence[Texts], starts: Sequence[Ints], low: Ints, high: Ints, skip: int) -> bool:
    """Return whether the orders of samples, equal in their first ``skip`` bytes, have no more bytes."""
    for texts, begin, a, b in zip(orders, starts, low.tolist(), high.tolist(), strict=True):
        if a < b and int((texts.ends[a:b] - begin[a:b]).max()) > skip:
            return False
    return True
