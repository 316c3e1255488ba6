"""What a loader has done so far, as counters of all threads and worker processes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

NAMES = (
    "batches", "samples", "bytes", "waited", "skipped", "repeated", "shards", "peak_bytes",
    "retries", "cache_hits", "cache_misses",
)  # fmt: skip


class Stats:
    """Counters of one process, in a row of an array that others may read."""

    def __init__(self, row: Any = None):
        self._row = np.zeros(len(NAMES)) if row is None else row
        self._lock = threading.Lock()

    def add(self, **amounts: float) -> None:
        """Add to some of the counters."""
        with self._lock:
            for name, amount in amounts.items():
                self._row[NAMES.index(name)] += amount

    def count(self, what: str, amount: int) -> None:
        """Add to a counter that storage reports, if it is one of these; see `shardtools.storage.using`."""
        if what in NAMES:
            self.add(**{what: amount})

    def peak(self, size: int) -> None:
        """Note how many bytes are held."""
        with self._lock:
            at = NAMES.index("peak_bytes")
            self._row[at] = max(self._row[at], size)
