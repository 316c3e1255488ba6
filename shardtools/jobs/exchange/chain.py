"""Several runs, one after another, that are read as one: what a merge pass makes of a group of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from shardtools.jobs.exchange.run import Run
from shardtools.jobs.exchange.run_table import RunTable
from shardtools.shards.columns import Texts


@dataclass(frozen=True)
class Chain:
    """Runs whose samples are in order one after another; they are counted through, and so are the bytes of spans."""

    runs: tuple[Run, ...]

    @property
    def url(self) -> str:
        """The URL of the first of them, for messages."""
        return self.runs[0].url

    @property
    def count(self) -> int:
        """The number of samples."""
        return sum(run.count for run in self.runs)

    def read_orders(self, start: int, stop: int) -> Texts:
        """Return the orders of samples ``start`` to ``stop``, as `Run.read_orders`."""
        counts = [run.count for run in self.runs]
        return Texts.join([self.runs[i].read_orders(a, b) for i, a, b in _parts(counts, start, stop)])

    def read_table(self, start: int, stop: int) -> RunTable:
        """Return what is known of samples ``start`` to ``stop``, as `Run.read_table`."""
        before = list(accumulate((run.data_bytes for run in self.runs), initial=0))
        parts = []
        for i, a, b in _parts([run.count for run in self.runs], start, stop):
            part = self.runs[i].read_table(a, b)
            parts.append(replace(part, table=part.table.shifted(before[i])))
        return parts[0] if len(parts) == 1 else RunTable.join(parts)

    def read_data(self, start: int, stop: int) -> memoryview:
        """Return the bytes of spans from ``start`` to ``stop``, as `Run.read_data`."""
        sizes = [run.data_bytes for run in self.runs]
        parts = [self.runs[i].read_data(a, b) for i, a, b in _parts(sizes, start, stop)]
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


AnyRun = Run | Chain


def runs_of(runs: Iterable[AnyRun]) -> list[Run]:
    """Return the runs of all chains, in order."""
    return [part for run in runs for part in (run.runs if isinstance(run, Chain) else (run,))]


def _parts(sizes: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield which parts of each of some things, end to end, are from ``start`` to ``stop``: index, start, stop.

    >>> list(_parts([5, 0, 5], 3, 7)), list(_parts([5, 5], 5, 5))
    ([(0, 3, 5), (2, 0, 2)], [])
    """
    at = 0
    for index, size in enumerate(sizes):
        if size and start < at + size and at < stop:
            yield index, max(start - at, 0), min(stop - at, size)
        at += size
