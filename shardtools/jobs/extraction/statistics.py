"""What a dataset consists of: how many samples and fields, how large, which values.

    sources -> one task for each shard -> counts of sizes or values -> their sums

All figures are exact. For each size or value the number of times it occurs is kept, which is little even for many
samples. Sizes come from the sidecars, if there are any, without reading the shards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shardtools import engine
from shardtools.errors import CorruptError, FieldError, SampleError, ShardtoolsError, redact
from shardtools.jobs.choice import EVERYTHING, Choice, ShardChoice
from shardtools.jobs.choosing import choose
from shardtools.jobs.extraction.formats import is_binary, show
from shardtools.jobs.extraction.lacking import no_value
from shardtools.jobs.extraction.row_batches import Needs, RowBatch, RowBatches, Value, indexed
from shardtools.jobs.options import OnError, RunOptions
from shardtools.jobs.ordered import run_in_order
from shardtools.jobs.report import Skipped
from shardtools.query.condition import Seen
from shardtools.query.json_values import PathValue, fields_of, find_value
from shardtools.shards.fields import extension, kind_of
from shardtools.shards.images import open_image
from shardtools.shards.manifest import CLASS_FIELD, class_names
from shardtools.shards.reader import ShardReader
from shardtools.shards.table import ShardTable
from shardtools.storage import using
from shardtools.storage.expansion import SourceSpecs, look_up
from shardtools.units import format_count, format_size


@dataclass
class FieldStatistics:
    """How often each size in bytes occurs among the members of one field; with images, each width and height."""

    sizes: Counter[int] = field(default_factory=Counter)
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How many samples have the field."""
        return self.sizes.total()

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return sum(size * count for size, count in self.sizes.items())

    def __repr__(self) -> str:
        """Return what a person wants to see of many members: their sums."""
        return f"FieldStatistics({format_count(self.count, 'sample')}, {format_size(self.total)})"

    def as_json(self, samples: int) -> dict[str, Any]:
        """Return the statistics as JSON data; ``missing`` is the share of so many ``samples`` without the field."""
        data: dict[str, Any] = {"samples": self.count, "missing": 1 - self.count / samples if samples else 0.0}
        data["bytes"] = {**_spread(self.sizes), "total": self.total}
        if self.shapes:
            data["shapes"] = [[width, height, count] for (width, height), count in sorted(self.shapes.items())]
        return data


@dataclass
class Statistics:
    """What a dataset consists of: samples in each shard, bytes as stored, its fields, and the names of classes."""

    samples: list[int] = field(default_factory=list)
    filesize: int = 0
    fields: dict[str, FieldStatistics] = field(default_factory=dict)
    classes: list[str] | None = None
    skipped: list[Skipped] = field(default_factory=list)

    def __repr__(self) -> str:
        """Return what a person wants to see of many samples: their sums."""
        whole = f"{format_count(sum(self.samples), 'sample')} in {format_count(len(self.samples), 'shard')}"
        fields = ", ".join(f"{name} {format_size(entry.total)}" for name, entry in self.fields.items())
        return f"Statistics({whole}, {format_size(self.filesize)}: {fields})"

    def as_json(self) -> dict[str, Any]:
        """Return the statistics as JSON data; sizes in bytes."""
        samples = sum(self.samples)
        data: dict[str, Any] = {"samples": samples, "shards": len(self.samples), "filesize": self.filesize}
        if self.samples:
            data["samples_per_shard"] = _spread(Counter(self.samples))
        data["fields"] = {name: entry.as_json(samples) for name, entry in self.fields.items()}
        if self.classes is not None:
            data["classes"] = self.classes
        return data


def _spread(counts: Counter[int]) -> dict[str, float]:
    return {"min": min(counts), "median": middle(counts), "max": max(counts)}


@dataclass
class ValueCounts:
    """How often each value of one field occurs, over ``samples`` samples of which ``missing`` have none.

    ``classes`` are the names of the numbers in the field ``cls``, None if it is another field, or they are not known.
    ``seen`` says which columns of a condition any sample has, of ``looked_at`` samples. ``instead`` is what they have
    in place of a value, one of each kind.
    """

    values: Counter[Any] = field(default_factory=Counter)
    samples: int = 0
    missing: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    classes: list[str] | None = None
    seen: Seen = field(default_factory=Seen)
    looked_at: int = 0
    instead: dict[str, PathValue] = field(default_factory=dict)

    def name_of(self, value: str) -> str:
        """Return the name of the class that a value stands for, nothing if it has none."""
        names = self.classes or []
        is_number = value.strip().isdecimal() and len(value) < 20
        return names[int(value)] if is_number and int(value) < len(names) else ""


@dataclass(frozen=True)
class StatisticsTask:
    """What one task does: measure the members of the shard ``source``, and with ``decode`` its images."""

    source: str
    decode: bool
    on_error: OnError


@dataclass(frozen=True)
class CountTask:
    """What one task does: count the values of ``field`` in ``source``, as text, or as numbers if ``numbers``.

    ``field`` may also lead into a JSON field, as ``json.label``.

    ``chosen`` is what it takes of the shard.
    """

    source: str
    field: str
    numbers: bool
    chosen: ShardChoice
    on_error: OnError


def middle(counts: Mapping[Any, int]) -> float:
    """Return the median of values, given how often each occurs.

    >>> middle({1: 2, 10: 1, 5: 1}), middle({3: 1})
    (3.0, 3.0)
    """
    values = sorted(counts)
    ends = np.cumsum([counts[value] for value in values])
    total = int(ends[-1])
    low, high = np.searchsorted(ends, [(total - 1) // 2, total // 2], side="right")
    return float(values[int(low)] + values[int(high)]) / 2


def _no_statistics(url: str, reason: str) -> Statistics:
    return Statistics(skipped=[Skipped(redact(url), None, reason)])


def _no_counts(url: str, reason: str) -> ValueCounts:
    return ValueCounts(skipped=[Skipped(redact(url), None, reason)])


def shard_statistics(task: StatisticsTask) -> Statistics:
    """Return the statistics of one shard.

    Raises:
        ShardtoolsError: it cannot be read, or an image in it.
    """
    statistics = Statistics()
    try:
        _measure(task, statistics)
        if task.decode:
            _decode(task, statistics)
    except ShardtoolsError as error:
        if task.on_error == "fail":
            raise
        return _no_statistics(task.source, str(error))
    return statistics


def _measure(task: StatisticsTask, statistics: Statistics) -> None:
    shard = indexed(task.source)
    if shard is not None:
        statistics.samples.append(len(shard.sidecar))
        statistics.filesize = shard.sidecar.filesize
        _add_sizes(statistics, shard.table)
        return
    samples = 0
    with closing(ShardReader(task.source)) as reader:
        for block in reader:
            engine.check_cancelled()
            samples += len(block)
            _add_sizes(statistics, block.table)
        statistics.filesize = reader.stat.size or 0
    statistics.samples.append(samples)


def _add_sizes(statistics: Statistics, table: ShardTable) -> None:
    for code, name in enumerate(table.fields):
        sizes, counts = np.unique(table.size[table.field == code], return_counts=True)
        if len(sizes):
            entry = statistics.fields.setdefault(name, FieldStatistics())
            entry.sizes.update(dict(zip(sizes.tolist(), counts.tolist(), strict=True)))


def _decode(task: StatisticsTask, statistics: Statistics) -> None:
    images = tuple(name for name in statistics.fields if kind_of(extension(name)) == "image")
    if not images:
        return
    for batch in RowBatches(task.source, Needs(images)):
        for name, column in batch.columns.items():
            shapes = statistics.fields[name].shapes
            for key, data in zip(batch.keys, column, strict=True):
                if not isinstance(data, bytes):
                    continue
                try:
                    shapes[_shape(data)] += 1
                except ValueError as error:
                    member = f"{key}.{name}"
                    if task.on_error == "fail":
                        fix = "replace the image, or skip such images with --on-error skip"
                        raise FieldError(str(error), url=task.source, member=member, fix=fix) from error
                    statistics.skipped.append(Skipped(redact(task.source), key, f"{name}: {error}"))


def _shape(data: bytes) -> tuple[int, int]:
    """Return the width and height of an image, without decoding it.

    Raises:
        ValueError: it is not an image.
    """
    with open_image(data) as image:
        return image.size


def count_values(task: CountTask) -> ValueCounts:
    """Return how often each value occurs in one shard.

    Raises:
        ShardtoolsError: it cannot be read, or a value is not a number and numbers are counted.
    """
    counts = ValueCounts()
    try:
        _count(task, counts)
    except ShardtoolsError as error:
        if task.on_error == "fail":
            raise
        return _no_counts(task.source, str(error))
    return counts


def _count(task: CountTask, counts: ValueCounts) -> None:
    sources = fields_of(task.field)
    described = is_binary(task.field) and not task.numbers and len(sources) == 1
    needs = Needs(() if described else tuple(sources), tuple(sources) if described else (), task.chosen.where)
    batches = RowBatches(task.source, needs, task.chosen.number)
    for whole in batches:
        batch = whole.head(task.chosen.limit, counts.samples)
        column = _column(task, batch, sources, counts)
        counts.samples += len(batch)
        counts.missing += column.count(None)
        if not task.numbers:
            counts.values.update(show(value) for value in column if value is not None)
            continue
        for key, value in zip(batch.keys, column, strict=True):
            if value is None:
                continue
            try:
                counts.values[float(show(value))] += 1
            except ValueError:
                what = f"{show(value)[:50]!r} is not a number"
                if task.on_error == "fail":
                    member = f"{key}.{task.field}"
                    fix = "choose another field, or skip such samples with --on-error skip"
                    raise SampleError(what, url=task.source, member=member, fix=fix) from None
                counts.skipped.append(Skipped(redact(task.source), key, what))
    counts.seen, counts.looked_at = batches.seen, batches.samples


def _column(task: CountTask, batch: RowBatch, sources: Mapping[str, str], counts: ValueCounts) -> Sequence[Value]:
    """Return the values that are counted; None for a sample that has none, or whose JSON is skipped.

    Raises:
        SampleError: a sample's JSON is none.
    """
    if len(sources) == 1:
        return batch.columns[task.field]
    column: list[Value] = []
    for row, key in enumerate(batch.keys):
        try:
            found = find_value({name: batch.columns[name][row] for name in sources}, sources)
            column.append(found.text)
            if found.text is None:
                counts.instead.setdefault(found.what, found)
        except CorruptError as error:
            what = f"{task.field}: {error.what}"
            if task.on_error == "fail":
                fix = "correct the sample, or skip such samples with --on-error skip"
                raise SampleError(what, url=task.source, member=key, fix=fix) from error
            counts.skipped.append(Skipped(redact(task.source), key, what))
            column.append(None)
    return column


def run_statistics(
    sources: SourceSpecs,
    *,
    decode: bool = False,
    options: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    on_shard: Callable[[Statistics], None] | None = None,
) -> Statistics:
    """Return what the dataset consists of; with ``decode``, width and height of its images, too.

    Raises:
        ShardtoolsError: a shard cannot be read.
    """
    total = Statistics()

    def add(statistics: Statistics) -> None:
        total.samples += statistics.samples
        total.filesize += statistics.filesize
        total.skipped += statistics.skipped
        for name, entry in statistics.fields.items():
            sums = total.fields.setdefault(name, FieldStatistics())
            sums.sizes.update(entry.sizes)
            sums.shapes.update(entry.shapes)

    with using(options.storage):
        named = look_up(sources)
        tasks = [
            engine.Task(shard_statistics, (StatisticsTask(url, decode, options.on_error),), url, options.storage)
            for url in named.urls
        ]
        run_in_order(tasks, add, options, on_shard, label="htextract-stats", skipped=_no_statistics)
        total.classes = class_names(named)
    total.fields = dict(sorted(total.fields.items()))
    return total


def run_counts(
    sources: SourceSpecs,
    field: str,
    *,
    numbers: bool = False,
    choice: Choice = EVERYTHING,
    options: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    on_shard: Callable[[ValueCounts], None] | None = None,
) -> ValueCounts:
    """Return how often each value of ``field`` occurs in what is chosen: its text, or with ``numbers`` its number.

    Raises:
        JobError: no sample has the field, or a column of the condition.
        ShardtoolsError: a shard cannot be read, or a value is not a number.
    """
    total = ValueCounts()

    def add(counts: ValueCounts) -> None:
        total.values.update(counts.values)
        total.samples += counts.samples
        total.missing += counts.missing
        total.skipped += counts.skipped
        total.seen |= counts.seen
        total.looked_at += counts.looked_at
        total.instead = {**counts.instead, **total.instead}

    with using(options.storage):
        named = look_up(sources)
        urls = named.urls
        chosen = choose(choice, named, options)
        tasks = [
            engine.Task(count_values, (CountTask(url, field, numbers, part, options.on_error),), url, options.storage)
            for url, part in zip(urls, chosen.shards, strict=True)
            if not part.is_nothing
        ]
        run_in_order(tasks, add, options, on_shard, label="htextract-count", skipped=_no_counts)
        chosen.check(total.seen, total.samples)
        if total.samples and total.missing == total.samples:
            raise no_value(field, _fields_of(urls[0]), total.instead.values())
        total.classes = class_names(named) if field == CLASS_FIELD else None
    return total


def _fields_of(url: str) -> Sequence[str]:
    return sorted(shard_statistics(StatisticsTask(url, decode=False, on_error="skip")).fields)
