"""Where each output begins in each run, found by tasks, and written down for those that gather the outputs.

    batches of samples -> cut_batch, a task for each: orders of a batch -> rows -> boundaries-000000 -> read_boundary

A row has for each run how many of its samples come before an output. A batch has all samples of a range of orders.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardtools.errors import CorruptError
from shardtools.jobs.exchange.chain import AnyRun
from shardtools.jobs.exchange.cuts import cuts
from shardtools.jobs.exchange.notes import GatherPlan, read_plan
from shardtools.jobs.exchange.threads import each
from shardtools.shards.columns import Texts
from shardtools.storage import ByteRange, get_storage
from shardtools.types import Ints
from shardtools.urls import folder_of

_WORD = np.dtype("<u8")


@dataclass(frozen=True)
class CutTask:
    """What one task does: find the outputs that begin in the batch at ``batch`` of the plan at ``plan``.

    ``job`` is the fingerprint of the job.
    """

    plan: str
    job: str
    batch: int


def boundaries_url(plan: str, batch: int) -> str:
    """Return where the boundaries of a batch are written down, given the URL of the plan."""
    return f"{folder_of(plan)}boundaries-{batch:06d}"


def cut_batch(task: CutTask) -> None:
    """Find where outputs begin, and write that down.

    Raises:
        StorageError: a run cannot be read, or the boundaries cannot be written.
        CorruptError: a run was damaged.
    """
    plan = read_plan(task.plan, task.job)
    low, high = plan.cuts[task.batch], plan.cuts[task.batch + 1]
    ranks = plan.ranks_of(task.batch)
    rows = _nearer(low, high, ranks) if task.batch in plan.single else find_boundaries(plan.runs, low, high, ranks)
    url = boundaries_url(task.plan, task.batch)
    with get_storage(url).create(url) as sink:
        for row in rows:
            data = row.astype(_WORD).tobytes()
            sink.write(data + zlib.crc32(data).to_bytes(_WORD.itemsize, "little"))


def find_boundaries(runs: Sequence[AnyRun], low: Ints, high: Ints, ranks: Sequence[int]) -> Ints:
    """Return a row for each of the ascending ``ranks`` among samples ``low`` to ``high`` of each run.

    Raises:
        StorageError: a run cannot be read.
        CorruptError: it was damaged.
    """
    filled = np.flatnonzero(high > low)

    def read(index: int) -> Texts:
        return runs[index].read_orders(int(low[index]), int(high[index]))

    orders = each(read, filled.tolist(), runs)
    rows = np.repeat(low[None], len(ranks), axis=0)
    rows[:, filled] += cuts(orders, ranks)
    return rows


def _nearer(low: Ints, high: Ints, ranks: Sequence[int]) -> Ints:
    """Return a row for each of ``ranks`` among samples that all have one order: they stay together, see `cuts`."""
    samples = int((high - low).sum())
    return np.stack([low if 2 * rank <= samples else high for rank in ranks])


def read_bounds(url: str, plan: GatherPlan, output: int) -> tuple[Ints, Ints]:
    """Return which samples of each run are those of an output, given the plan and its URL: from where, and up to where.

    Raises:
        StorageError: the boundaries cannot be read.
        CorruptError: they were damaged.
    """
    if not plan.outputs:
        return plan.cuts[output], plan.cuts[output + 1]
    (first, row), (last, other) = (plan.batch_of(boundary) for boundary in (output, output + 1))
    if first == last:
        low, high = _read_rows(url, plan, first, row, 2)
        return low, high
    [low] = _read_rows(url, plan, first, row, 1)
    [high] = _read_rows(url, plan, last, other, 1) if last < len(plan.cuts) - 1 else plan.cuts[-1:]
    return low, high


def _read_rows(plan_url: str, plan: GatherPlan, batch: int, row: int, count: int) -> Ints:
    url, width = boundaries_url(plan_url, batch), _WORD.itemsize * (len(plan.runs) + 1)
    [data] = get_storage(url).read_ranges(url, [ByteRange(row * width, (row + count) * width)])
    words = np.frombuffer(data, _WORD).reshape(count, -1)
    rows = words[:, :-1].astype(np.int64)
    sums = [zlib.crc32(data[at : at + width - _WORD.itemsize]) for at in range(0, len(data), width)]
    order = np.concatenate((plan.cuts[batch : batch + 1], rows, plan.cuts[batch + 1 : batch + 2]))
    if words[:, -1].tolist() != sums or (np.diff(order, axis=0) < 0).any():
        raise CorruptError("the plan in the spill is damaged", url=url, fix="delete it and run again")
    return rows
