"""Pass 1: a group of input shards becomes runs.

    blocks -> what is chosen -> copies of their bytes, and columns -> when the task's memory is full: sorted -> run

A task reads its shards one by one, and writes a run whenever it holds as many bytes as it may.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shardtools.engine import check_cancelled
from shardtools.errors import SampleError, ShardError, ShardtoolsError, StorageError
from shardtools.jobs.choice import ShardChoice
from shardtools.jobs.choosing import ChosenBlocks
from shardtools.jobs.exchange.contents import as_run, compacted, compose, records_of
from shardtools.jobs.exchange.keying import Keying, Orderer
from shardtools.jobs.exchange.notes import Collected, read_collected, write_collected
from shardtools.jobs.exchange.reduce import COMBINE, Reducer
from shardtools.jobs.exchange.run import Run, write_run
from shardtools.jobs.exchange.run_table import PLACE, RunTable, assemble, content_hash, sums_of
from shardtools.jobs.exchange.workers import share_of
from shardtools.jobs.options import OnError
from shardtools.jobs.script import Code
from shardtools.query.condition import Seen
from shardtools.shards.indexing import checksums_of
from shardtools.shards.reader import Block, ShardReader, refuse_repeated
from shardtools.shards.samples import Members
from shardtools.shards.table import ShardTable
from shardtools.types import Bytes

SMALL = 8192
"""The mean size of spans below which they are copied together, rather than written one by one."""

_SLICES = 1024


@dataclass(frozen=True)
class CollectTask:
    """What one task does: collect ``shards``, each with the index of the input and its URL, into runs.

    A run has at most as many bytes as the task may hold: its share of ``budget``, which is that of its process. The
    URLs of runs begin with ``prefix``. ``fingerprint`` is that of the job, for resuming. With ``repeats`` a key may be
    repeated in a shard. ``combine`` is a script whose ``combine_samples`` reduces each run. ``chosen`` is what it takes
    of each shard; empty if that is all.
    """

    prefix: str
    shards: tuple[tuple[int, str], ...]
    keying: Keying
    budget: int
    fingerprint: str
    on_error: OnError = "fail"
    repeats: bool = False
    resume: bool = False
    ahead: bool = False
    combine: Code | None = None
    chosen: tuple[ShardChoice, ...] = ()


class _Waiting:
    """The samples of the next run: the bytes of their spans in one buffer, and their tables."""

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._buffer = np.empty(0, np.uint8)
        self.parts: list[RunTable] = []
        self.size = 0

    @property
    def data(self) -> Bytes:
        """The bytes so far."""
        return self._buffer[: self.size]

    def has_room(self, size: int) -> bool:
        """Return whether ``size`` more bytes fit; they always do if there are no samples yet."""
        return not self.size or self.size + size <= self._capacity

    def add(self, data: Bytes, samples: RunTable) -> None:
        """Append samples whose spans are in ``data``."""
        if self.size + len(data) > len(self._buffer):  # there is none, or one block is larger than what a run may have
            self._buffer = np.empty(max(self._capacity, len(data)), np.uint8)
        self._buffer[self.size : self.size + len(data)] = data
        self.parts.append(replace(samples, table=samples.table.shifted(self.size)))
        self.size += len(data)

    def cut(self, parts: int, size: int) -> None:
        """Forget what was added after the first ``parts`` parts, which have ``size`` bytes."""
        del self.parts[parts:]
        self.size = size

    def clear(self) -> None:
        """Forget everything, but keep the buffer, unless it is larger than usual."""
        if len(self._buffer) > self._capacity:
            self._buffer = np.empty(0, np.uint8)
        self.cut(0, 0)


class _PartlyWrittenError(Exception):
    """A shard is to be skipped, for this ``reason``, and some of its samples may be in a run already."""

    def __init__(self, ordinal: int, reason: str):
        super().__init__(reason)
        self.ordinal = ordinal
        self.reason = reason


def collect(task: CollectTask) -> Collected:
    """Write the runs of some shards, and then the note that says they are complete.

    If errors are skipped, a shard that cannot be read to its end is left out as a whole.

    Raises:
        ShardtoolsError: a shard or sample cannot be read, or a run cannot be written.
    """
    url, of = f"{task.prefix}.json", {"fingerprint": task.fingerprint, "shards": [list(shard) for shard in task.shards]}
    if task.resume and (done := read_collected(url, of)) is not None and (task.on_error == "skip" or not done.skipped):
        return done
    broken: dict[int, str] = {}
    while True:
        try:
            done = _Collector(task, broken).run()
        except _PartlyWrittenError as error:
            broken[error.ordinal] = error.reason
        else:
            break
    write_collected(url, done, of)
    return done


class _Collector:
    """Collects the shards of a task, without those that are known to be ``broken``, by their ordinal, each with why."""

    def __init__(self, task: CollectTask, broken: Mapping[int, str]):
        self._task = task
        self._broken = broken
        self._waiting = _Waiting(share_of(task.budget))
        self._runs: list[Run] = []
        self._samples = self._bytes = self._content = self._others = 0
        self._skipped: list[tuple[str, str | None, str]] = []
        self._seen = Seen()

    def run(self) -> Collected:
        for at, (ordinal, url) in enumerate(self._task.shards):
            chosen = self._task.chosen[at] if self._task.chosen else None
            if ordinal in self._broken:
                self._skipped.append((url, None, self._broken[ordinal]))
            elif chosen is None or not chosen.is_nothing:
                self._read_or_skip(ordinal, url, chosen)
        self._flush()
        content, skipped = self._content % 2**64, tuple(self._skipped)
        return Collected(tuple(self._runs), self._samples, self._bytes, content, self._others, skipped, self._seen)

    def _read_or_skip(self, ordinal: int, url: str, chosen: ShardChoice | None) -> None:
        waiting, runs, others, skipped = self._waiting, len(self._runs), self._others, len(self._skipped)
        parts, size = len(waiting.parts), waiting.size
        try:
            self._read(ordinal, url, chosen)
        except (ShardError, StorageError, SampleError) as error:
            if self._task.on_error == "fail":
                raise
            if len(self._runs) > runs:
                raise _PartlyWrittenError(ordinal, str(error)) from error
            waiting.cut(parts, size)
            self._others = others
            self._skipped[skipped:] = [(url, None, str(error))]

    def _read(self, ordinal: int, url: str, chosen: ShardChoice | None) -> None:
        orderer = Orderer(self._task.keying, ordinal)
        with closing(ShardReader(url, ahead=self._task.ahead)) as reader:
            blocks = reader if chosen is None else ChosenBlocks(chosen, reader)
            for block in blocks:
                check_cancelled()
                if not self._task.repeats:
                    refuse_repeated(block)
                self._others += block.table.other
                if chosen is not None:
                    block = compacted(block, changed=chosen.choice.picks_fields)
                self._add(block, ordinal, orderer)
            if isinstance(blocks, ChosenBlocks):
                self._seen |= blocks.seen

    def _add(self, block: Block, ordinal: int, orderer: Orderer) -> None:
        orders, failed = orderer.orders(block)
        for row, error in failed:
            if self._task.on_error == "fail":
                raise error.at(url=block.url, member=block.keys[row]) from (error.__cause__ or error)
            self._skipped.append((block.url, block.keys[row], error.what))
        places = np.empty(len(block), PLACE)
        places["ordinal"] = ordinal
        places["index"] = block.positions
        table = replace(block.table.shifted(-block.base), crc32=checksums_of(block))
        data = np.frombuffer(block.buffer, np.uint8)
        samples = RunTable(table, orders, places, sums_of(data, table.start, table.spans))
        if failed:
            samples = samples.take(np.delete(np.arange(len(block)), [row for row, _ in failed]))
        if not self._waiting.has_room(len(data)):
            self._flush()
        self._waiting.add(data, samples)

    def _flush(self) -> None:
        """Write the waiting samples as a run."""
        waiting = self._waiting
        samples = RunTable.join(waiting.parts)
        if not len(samples):  # they were skipped, or there are none
            waiting.clear()
            return
        ordered = samples.take(samples.sorted_rows())
        apart = self._task.combine is not None
        spans = in_order(waiting.data, ordered.table, together=not apart)
        if self._task.combine is not None:
            ordered, spans = self._combine(ordered, spans)
        self._runs.append(write_run(f"{self._task.prefix}-{len(self._runs):04d}", ordered, spans))
        self._samples += len(ordered)
        self._bytes += ordered.size
        self._content += content_hash(ordered.table)
        waiting.clear()

    def _combine(self, ordered: RunTable, spans: Iterator[list[Any]]) -> tuple[RunTable, Iterator[list[Any]]]:
        """Return the samples that the script's function makes of those of a run."""
        assert self._task.combine is not None
        shards = dict(self._task.shards)
        reducer = Reducer(self._task.combine, COMBINE, self._task.keying, self._skip)
        everything = [span for some in spans for span in some]
        records = records_of(ordered, 0, everything, shards)
        orders: list[bytes] = []
        places: list[tuple[int, int]] = []
        samples: list[tuple[str, Members]] = []
        ordinals = {url: ordinal for ordinal, url in self._task.shards}
        for order, first, made in reducer.reduce(records):
            samples += made
            orders += [order] * len(made)
            places += [(ordinals[first.url], first.index)] * len(made)
        table, composed = compose(samples)
        return as_run(table, composed, orders, np.array(places, PLACE)), iter([composed])

    def _skip(self, key: str, error: ShardtoolsError) -> None:
        """Skip a group of samples that a script cannot combine, or raise its error."""
        if self._task.on_error == "fail":
            raise error.at(url=self._task.shards[0][1], member=key) from (error.__cause__ or error)
        self._skipped.append((self._task.shards[0][1], key, error.what))


def in_order(data: Bytes, table: ShardTable, *, together: bool) -> Iterator[list[Any]]:
    """Yield the spans of samples in ``data``, some at a time; with ``together`` small ones come in one piece."""
    starts, sizes = table.start, table.spans
    is_small = together and bool(len(sizes)) and int(sizes.sum()) < SMALL * len(sizes)
    view = data.data
    for at in range(0, len(starts), _SLICES):
        check_cancelled()
        some = slice(at, at + _SLICES)
        if is_small:
            yield [assemble(data, starts[some], sizes[some]).data]
            continue
        stops = (starts[some] + sizes[some]).tolist()
        yield [view[start:stop] for start, stop in zip(starts[some].tolist(), stops, strict=True)]
