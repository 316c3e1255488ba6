"""Consecutive rows in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shardtools.types import Ints


def batches(sizes: Ints, limit: int, rows: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield start and stop of batches, each with at most ``limit`` bytes, or a single row, and at most ``rows`` rows.

    >>> list(batches(np.array([3, 3, 9, 1, 1, 1]), 6, rows=2))
    [(0, 2), (2, 3), (3, 5), (5, 6)]
    """
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + limit, side="right")), start + 1)
        if rows is not None:
            stop = min(stop, start + rows)
        yield start, stop
        start = stop
