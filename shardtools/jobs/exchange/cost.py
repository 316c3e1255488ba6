"""What an exchange costs: requests, bytes, passes, and the price of the requests on a service. No I/O.

    Shape, Services -> estimate -> Cost
                    -> choose_merge -> Merge, if gathering each output from every run would cost more

With R runs and M outputs, R * M parts of runs are read, twice each: what is known of the samples, and their spans. A
merge of groups of F runs, in K ranges of orders, reads R * K parts more, and leaves R / F * M.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, sqrt


@dataclass(frozen=True)
class Service:
    """What a storage asks for: requests to write an object of one part, to delete one, and bytes of a part.

    After ``few`` parts they have twice as many bytes.
    A read waits ``seconds``, of which several go on at a time; ``rate`` is how many bytes a second a thread moves.
    """

    puts: int = 0
    checks: int = 0
    deletes: int = 0
    part: int | None = None
    few: int | None = None
    reads: int = 1
    seconds: float = 0.02 / 16
    rate: float = 100e6
    get_price: float = 0.0
    put_price: float = 0.0

    def parts(self, size: float) -> int:
        """Return how many requests send an object of so many bytes."""
        parts = ceil(size / self.part) if self.part else 1
        if self.few is not None and parts > self.few:
            parts = self.few + ceil((parts - self.few) / 2)
        return self.puts * (parts if parts < 2 else parts + 2)


LOCAL = Service(reads=0, seconds=1e-4, rate=400e6)
WEB = Service(puts=1, checks=2, deletes=2)
S3 = Service(puts=1, deletes=1, part=8 << 20, few=16, get_price=0.4e-6, put_price=5e-6)
GS = Service(puts=1, deletes=1, part=8 << 20, get_price=0.4e-6, put_price=5e-6)
"""Prices are those of the standard class in the first regions of 2025, for GET and PUT; deleting is free."""

SERVICES = {"": LOCAL, "file": LOCAL, "http": WEB, "https": WEB, "s3": S3, "gs": GS}

THREAD_PRICE = 1.4e-5
"""Dollars for a second of a thread: 0.05 an hour. It says what a request is worth where requests are free."""

FIXED = 25
"""Requests that every job makes: locks, listings, what is noted."""


@dataclass(frozen=True)
class Services:
    """Where an exchange reads from, keeps its spill, and writes to."""

    source: Service
    spill: Service
    destination: Service


@dataclass(frozen=True)
class Shape:
    """How large an exchange is: ``size`` bytes of ``samples`` (None: unknown), in so many inputs, groups and runs.

    It writes so many ``outputs``. ``batch`` is how many bytes of spans a task of a later pass holds at a time.
    """

    inputs: int
    size: int
    samples: int | None
    groups: int
    runs: int
    outputs: int
    batch: int


@dataclass(frozen=True)
class Merge:
    """A pass that merges groups of ``fan_in`` runs each, in so many ``ranges`` of orders."""

    fan_in: int
    ranges: int


@dataclass(frozen=True)
class Cost:
    """What an exchange costs: how often the data is read and written (``passes``), requests, and estimates.

    ``dollars`` is the price of the requests, ``seconds`` how long one thread would work, without computing.
    """

    passes: int
    reads: int
    writes: int
    deletes: int
    dollars: float
    seconds: float

    @property
    def requests(self) -> int:
        """All of them."""
        return self.reads + self.writes + self.deletes

    @property
    def worth(self) -> float:
        """What is least for the best plan, in dollars."""
        return self.dollars + THREAD_PRICE * self.seconds


def parts_read(tasks: float, runs: float, shape: Shape) -> int:
    """Return how many parts of runs so many tasks read together, of so many runs each, and a batch at a time.

    Where a task gets less than a few samples of each run, it gets none of some.

    >>> parts_read(20, 12, Shape(12, 25_000_000, 1200, 12, 12, 20, batch=3_000_000))
    477
    """
    at_a_time = tasks * max(1, ceil(shape.size / max(tasks, 1) / shape.batch))

    def filled(cells: float) -> float:
        return cells if shape.samples is None or not cells else cells * (1 - exp(-shape.samples / cells))

    return round(filled(tasks * runs) + filled(at_a_time * runs))


def estimate(shape: Shape, services: Services, merge: Merge | None = None) -> Cost:
    """Return what an exchange costs, with a ``merge`` pass or without."""
    source, spill, destination = services.source, services.spill, services.destination
    reads, passes, written = 2.0 * shape.runs, 2, shape.groups + shape.runs + 3
    puts = shape.runs * spill.parts(shape.size / max(shape.runs, 1)) + (shape.groups + 3) * spill.puts
    last = shape.runs
    if merge is not None:
        last = ceil(shape.runs / merge.fan_in)
        tasks = last * merge.ranges
        reads += 2 * shape.runs + parts_read(tasks, min(merge.fan_in, shape.runs), shape) + tasks
        puts += tasks * spill.parts(shape.size / tasks) + (tasks + last) * spill.puts
        passes, written = 3, written + 2 * tasks + last
    reads += parts_read(shape.outputs, last, shape)
    looks = 2 * shape.inputs * source.reads + (shape.inputs if source is WEB else 0)
    all_reads = reads * spill.reads + written * spill.checks + looks + 2 * shape.outputs * destination.checks
    out_puts = shape.outputs * (destination.parts(shape.size / max(shape.outputs, 1)) + destination.puts)
    dollars = reads * spill.get_price + puts * spill.put_price + looks * source.get_price
    dollars += out_puts * destination.put_price
    seconds = reads * spill.seconds + looks * source.seconds
    seconds += shape.size * ((passes - 1) * 2 / spill.rate + 1 / source.rate + 1 / destination.rate)
    fixed = FIXED if destination.puts else 0
    return Cost(passes, round(all_reads) + fixed, puts + out_puts, written * spill.deletes, dollars, seconds)


def choose_merge(shape: Shape, services: Services) -> Merge | None:
    """Return the merge pass that costs least in all, None if none is worth its cost.

    >>> large = Shape(100_000, 10**14, 10**10, 66_667, 66_667, 100_000, batch=750_000_000)
    >>> choose_merge(large, Services(S3, S3, S3))
    Merge(fan_in=316, ranges=316)
    >>> choose_merge(Shape(100, 10**11, 10**7, 100, 100, 100, batch=500_000_000), Services(S3, S3, S3))
    """
    middle = round(sqrt(shape.outputs))
    tried = [Merge(fan_in, fan_in) for fan_in in {max(middle * 2**step // 8, 2) for step in range(7)}]
    wanted = [merge for merge in tried if 2 <= merge.fan_in <= shape.runs // 2]
    best = min(wanted, key=lambda merge: estimate(shape, services, merge).worth, default=None)
    if best is None or estimate(shape, services, best).worth >= estimate(shape, services).worth:
        return None
    return best
