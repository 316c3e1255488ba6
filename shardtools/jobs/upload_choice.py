"""Which samples of a source htupload takes, found before they are laid out in shards.

keys, or records batch by batch -> Samples -> the condition, the share, the limit -> rows -> ChosenSource
the texts of a field of these -> names of classes -> ClassSource
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np

from shardtools.engine import check_cancelled
from shardtools.errors import JobError, ShardtoolsError
from shardtools.jobs.choice import Choice
from shardtools.jobs.classes import sorted_names
from shardtools.jobs.options import OnError
from shardtools.jobs.upload_classes import ClassSource, class_fields, class_text
from shardtools.query.condition import Seen, Where, find_rows
from shardtools.query.names import find_source
from shardtools.query.values import Samples
from shardtools.shards.columns import Texts
from shardtools.shards.names import encode_name
from shardtools.shards.samples import Composer
from shardtools.shards.table import ShardTable
from shardtools.shards.writer import NewSamples
from shardtools.sources import Source
from shardtools.sources.chosen import ChosenSource
from shardtools.types import Ints

_ROWS = 8192
_BYTES = 64 << 20


def choose_samples(source: Source, choice: Choice, on_error: OnError) -> Source:
    """Return the samples of a source that are chosen: by a condition, a share, a limit.

    A condition on data reads samples in their order, until there are enough. One that cannot be read is taken if errors
    are skipped: the task that packs it says why.

    Raises:
        JobError: nothing is chosen, no sample has a column of the condition, or it needs the data of many files.
        ShardtoolsError: a sample cannot be read.
    """
    if choice.is_everything:
        return source
    where = choice.narrowed(choice.where)
    rows = np.arange(len(source)) if where is None else _matching(source, where, choice, on_error)
    rows = rows[: choice.limit]
    if not len(rows):
        raise JobError("no sample is chosen", url=source.name, fix="check --where and --sample")
    chosen = ChosenSource(source, rows, choice.facts())
    if choice.class_from is None:
        return chosen
    return ClassSource(chosen, choice.class_from, _class_names(chosen, choice.class_from))


def _class_names(source: Source, field: str) -> tuple[str, ...]:
    """Return the names of the classes that the texts of a field are; of other fields no files are read.

    Raises:
        JobError: a sample has no text, or there are too many.
    """
    texts: set[str] = set()
    fields = class_fields(field)
    with closing(source.part(np.arange(len(source)))) as part:
        for row in range(len(source)):
            check_cancelled()
            text = class_text({name: part.value(row, name) for name in fields}, field)
            if text is None:
                fix = "add it, or leave such samples out"
                raise JobError(f"the sample has no {field}", url=source.place(row), member=source.key(row), fix=fix)
            texts.add(text.decode("utf-8", "surrogateescape"))
    return sorted_names(field, texts)


def _matching(source: Source, where: Where, choice: Choice, on_error: OnError) -> Ints:
    """Return the rows that are wanted; if there is a limit, as many of them at least."""
    reads = choice.where is not None and any(find_source(name, ()) is None for name in where.columns)
    if reads and not source.reads_at_once:
        what = "a condition on what files hold would need all of them to be read one by one"
        fix = "choose by key or row, or with --include and --exclude; or upload all, and use htshuffle --where"
        raise JobError(what, url=source.name, fix=fix)
    found, seen, count = [np.empty(0, np.int64)], Seen(), 0
    for samples in _read(source, on_error) if reads else _by_keys(source):
        check_cancelled()
        if isinstance(samples, int):
            rows = np.array([samples])
        else:
            answer = find_rows(where, samples)
            rows, seen = answer.rows + samples.first, seen | answer.seen
        found.append(rows)
        count += len(rows)
        if choice.limit is not None and count >= choice.limit:
            return np.concatenate(found)
    seen.note()
    if choice.where is not None and reads:
        seen.check(choice.where)
    return np.concatenate(found)


def _by_keys(source: Source) -> Iterator[Samples]:
    """Yield all samples without fields."""
    for start in range(0, len(source), _ROWS):
        keys = Texts.of([encode_name(source.key(row)) for row in range(start, min(start + _ROWS, len(source)))])
        nothing, places = np.empty(0, np.int64), np.zeros(len(keys), np.int64)
        table = ShardTable(keys, places, places, np.zeros(len(keys) + 1, np.int64), (), nothing, nothing, nothing)
        yield Samples(table, lambda fields, rows: [], first=start)


def _read(source: Source, on_error: OnError) -> Iterator[Samples | int]:
    """Yield all samples, some at a time, and the rows of those that cannot be read if errors are skipped."""
    composer = Composer()
    with closing(source.part(np.arange(len(source)))) as part:
        made = NewSamples()
        for row in range(len(source)):
            try:
                made.add(*composer.compose(part.record(row)))
            except ShardtoolsError:
                if on_error == "fail":
                    raise
                if len(made):
                    yield _samples(made, row - len(made))
                yield row
                made = NewSamples()
            if len(made) >= _ROWS or made.size >= _BYTES:
                yield _samples(made, row + 1 - len(made))
                made = NewSamples()
        if len(made):
            yield _samples(made, len(source) - len(made))


def _samples(made: NewSamples, first: int) -> Samples:
    """Return new samples, of which the first is at row ``first`` of the source."""
    table, _ = made.build()

    def read(fields: Sequence[str], rows: slice) -> list[list[bytes | None]]:
        columns = [table.members_of(field)[rows].tolist() for field in fields]
        return [[made.values[member] if member >= 0 else None for member in column] for column in columns]

    return Samples(table, read, first=first)
