"""What flows through the benchmark: tables of rows with targets, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from benchmarks.data import Dataset


@dataclass(frozen=True)
class Done:
    """How many samples were done, and what else is to be said.

    ``tail`` is the time of the slowest hundredth over the median, 0 where single samples have no times.
    """

    samples: int
    tail: float = 0.0
    note: str = ""


Work = Callable[[], int | Done]
"""The part that is measured. Returns how many samples (members, shards: what the table counts) it has done."""


@dataclass(frozen=True)
class Row:
    """One way to do the table's work: ``call`` is the ``module:function`` that a child process runs.

    ``in_process`` is False where other programs do the work, so that the child's own memory says nothing.
    """

    name: str
    call: str
    arguments: Mapping[str, object]
    note: str = ""
    in_process: bool = True


@dataclass(frozen=True)
class Target:
    """A promise about the row called ``row``.

    With ``against``: its rate is at least ``limit`` times that row's. Without: the rate is at least, or the seconds,
    the peak (MB), the milliseconds for one sample or the tail (p99 over p50) at most, ``limit``.
    """

    row: str
    limit: float
    against: str | None = None
    figure: Literal["rate", "seconds", "peak", "each", "tail"] = "rate"


@dataclass(frozen=True)
class Table:
    """Rows that do the same work, measured in turn. ``sample_bytes`` is what a sample holds, for MB/s.

    With ``repeat`` it is not measured more often than that.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    targets: tuple[Target, ...] = ()
    data: tuple[Dataset, ...] = ()
    counts: str = "samples"
    sample_bytes: int = 0
    is_data_kept: bool = True
    repeat: int | None = None


@dataclass(frozen=True)
class Run:
    """One measurement: wall seconds, samples done, the peak resident memory in bytes of the child; see also `Done`."""

    seconds: float
    samples: int
    peak: int
    tail: float = 0.0
    note: str = ""


@dataclass
class Outcome:
    """All measurements of one row, or why there are none."""

    runs: list[Run] = field(default_factory=list)
    missing: str = ""
    failure: str = ""

    @property
    def seconds(self) -> float:
        return median(run.seconds for run in self.runs)

    @property
    def rate(self) -> float:
        """Samples a second."""
        return median(run.samples / run.seconds for run in self.runs)

    @property
    def peak(self) -> float:
        """Megabytes (1,000,000 bytes), the highest of all runs."""
        return max(run.peak for run in self.runs) / 1e6

    @property
    def each(self) -> float:
        """Milliseconds for one sample."""
        return 1000 / self.rate

    @property
    def tail(self) -> float:
        """The slowest hundredth's time over the median, the worst of all runs."""
        return max(run.tail for run in self.runs)

    @property
    def note(self) -> str:
        """What the last run said."""
        return self.runs[-1].note

    @property
    def spread(self) -> float:
        """The slowest run's seconds over the fastest's."""
        times = [run.seconds for run in self.runs]
        return max(times) / min(times)
