"""How a job finds what it takes of its sources.

Choice -> the dataset's table -> with a limit, shards are looked at until there are enough -> a ShardChoice for each
ShardReader -> blocks -> ChosenBlocks -> blocks of the chosen samples and fields
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from shardtools import engine
from shardtools.errors import JobError, SampleError, ShardError, StorageError
from shardtools.jobs.choice import Choice, ChosenShards, ShardChoice
from shardtools.jobs.classes import class_number, texts_in, with_classes
from shardtools.jobs.extraction.row_batches import Needs, RowBatches, samples_of_block
from shardtools.jobs.inputs import Input, look_at
from shardtools.jobs.options import OnError, RunOptions
from shardtools.jobs.ordered import run_in_order
from shardtools.query.ask import ask_table
from shardtools.query.condition import PickedRows, Seen, find_rows
from shardtools.query.conjuncts import conjuncts, is_true_of_nothing
from shardtools.query.names import find_source
from shardtools.shards.manifest import CLASS_FIELD, Manifest
from shardtools.shards.reader import Block
from shardtools.shards.table import renumber, repeated_fields
from shardtools.storage import current_options
from shardtools.storage.expansion import Sources
from shardtools.types import Ints


def choose(choice: Choice, sources: Sources, options: RunOptions) -> ChosenShards:
    """Return what to take of each shard.

    With a limit, shards are looked at in their order until there are enough samples: one, then two, then four at a
    time, and so on.

    Raises:
        JobError: the condition does not fit the types of its columns, or shards cannot be looked at.
        ShardtoolsError: the table, or a shard that is looked at, cannot be read.
    """
    known = ask_table(sources.specs, sources.urls, choice.where)
    shards = []
    for number in range(len(sources.urls)):
        where = known.condition_of(number, choice.where)
        limit = 0 if where is None and choice.where is not None else None
        shards.append(ShardChoice(choice, number, choice.narrowed(where), limit))
    seen = Seen()
    if known.rows and choice.where is not None:
        seen = Seen(frozenset(choice.where.columns), frozenset(known.fields))
    if choice.limit is not None:
        shards = _limited(shards, sources.urls, choice.limit, options)
    unpicked = sum(known.samples[number] for number in known.unpicked)
    return ChosenShards(choice, tuple(shards), seen, unpicked)


def _limited(shards: Sequence[ShardChoice], urls: Sequence[str], left: int, options: RunOptions) -> list[ShardChoice]:
    """Return the same choices, of ``left`` samples together."""
    limited: list[ShardChoice] = []
    step = 1
    while left and len(limited) < len(shards):
        some = shards[len(limited) : len(limited) + step]
        for chosen, count in zip(some, _count_each(some, urls, left, options), strict=True):
            limit = left if count is None else min(count, left)
            limited.append(replace(chosen, limit=limit))
            left -= 0 if count is None else limit
        step *= 2
    return limited + [replace(chosen, limit=0) for chosen in shards[len(limited) :]]


def _count_each(some: Sequence[ShardChoice], urls: Sequence[str], most: int, options: RunOptions) -> list[int | None]:
    """Return how many samples are wanted of each shard, up to ``most``; None where it does not matter, or is not known.

    It does not matter for the last shard, of which the task takes what is left.
    """
    counts: list[int | None] = []
    asked: list[int] = []
    for at, chosen in enumerate(some):
        counts.append(0 if chosen.is_nothing else None)
        if isinstance(chosen.where, PickedRows):
            counts[at] = len(chosen.where.rows)
        elif not chosen.is_nothing and chosen.number < len(urls) - 1:
            asked.append(at)
    if any(urls[some[at].number] == "-" for at in asked):
        raise JobError("standard input cannot be read twice", url="-", fix="name it last, or leave out --limit")
    of = [ChosenCount(urls[some[at].number], replace(some[at], limit=most), options.on_error) for at in asked]
    tasks = [engine.Task(count_chosen, (task,), task.url, options.storage) for task in of]
    found: list[int | None] = []
    run_in_order(tasks, found.append, options, label="choose")
    for at, count in zip(asked, found, strict=True):
        counts[at] = count
    return counts


@dataclass(frozen=True)
class ChosenCount:
    """What one task does: count the chosen samples of the shard ``url``, up to their limit."""

    url: str
    chosen: ShardChoice
    on_error: OnError


def count_chosen(task: ChosenCount) -> int | None:
    """Return how many samples are chosen; None if the shard cannot be read and errors are skipped.

    Raises:
        ShardtoolsError: the shard cannot be read.
    """
    count, most = 0, task.chosen.limit or 0
    try:
        for batch in RowBatches(task.url, Needs(where=task.chosen.where), task.chosen.number):
            count += len(batch)
            if count >= most:
                break
    except (ShardError, StorageError):
        if task.on_error == "fail":
            raise
        return None  # the task that takes the samples reports why
    return min(count, most)


def check_names(
    choice: Choice, sources: Sources, manifests: Mapping[str, Manifest | None], options: RunOptions
) -> None:
    """Raise if no sample has a field or column that is named, as far as manifests say which fields there are.

    What they say is looked up in the sidecars.

    Raises:
        JobError: none has it.
    """
    found = [manifest.fields if manifest else None for manifest in manifests.values()]
    if choice.is_everything or not found or None in found:
        return
    try:
        choice.check_fields({name for fields in found for name in fields or ()})
    except JobError:
        inputs = look_at(sources, {}, options)
        if all(entry.fields is not None for entry in inputs):
            choice.check_fields({name for entry in inputs for name in entry.fields or ()})
    check_each(choice, dict(zip(manifests, found, strict=True)))


def fields_of_each(sources: Sources, inputs: Sequence[Input]) -> dict[str, Collection[str] | None]:
    """Return the fields of the shards that each single spec names, None for unknown."""
    found: dict[str, Collection[str] | None] = {}
    left = iter(inputs)
    for part in sources.parts:
        known = [entry.fields for entry in islice(left, len(part.urls))]
        found[part.spec] = None if None in known else {name for fields in known for name in fields or ()}
    return found


def check_each(choice: Choice, fields: Mapping[str, Collection[str] | None]) -> None:
    """Raise if a condition would leave out all of one of several specs, for want of fields that it has not.

    That is so if a part of it, between AND, has none of its columns there, and is not true of nulls.

    Raises:
        JobError: it would.
    """
    parts = [] if choice.where is None or len(fields) < 2 else conjuncts(choice.where)
    parts = [part for part in parts if part.columns and not is_true_of_nothing(part)]
    for spec, there in fields.items():
        for part in parts if there else ():
            if not any(find_source(name, [*(there or ())]) for name in part.columns):
                what = f"the condition is about {', '.join(part.columns)}, which no sample of this source has"
                raise JobError(what, url=spec, fix="choose from the other source first: htshuffle --no-shuffle --where")


class ChosenBlocks:
    """The blocks of a shard with the samples and fields that are chosen of them.

    ``samples`` counts those that were looked at, and ``seen`` says which fields and columns they have.
    """

    def __init__(self, chosen: ShardChoice, blocks: Iterable[Block]):
        self._chosen = chosen
        self._blocks = blocks
        self._left = chosen.limit
        self._numbers = {name: number for number, name in enumerate(chosen.choice.classes)}
        self.samples = 0
        self.seen = Seen()

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks, also those of which nothing is chosen. No more are read when there are enough samples.

        With ``verify`` the rest is read, too: the checksum is that of the whole shard.

        Raises:
            JobError: the condition does not fit the types of its columns.
            SampleError: a sample would have two fields of one name.
            ShardtoolsError: the shard cannot be read.
        """
        if self._left == 0:
            return
        for block in self._blocks:
            yield self._choose(block)
            if self._left == 0 and not current_options().verify:
                return

    def _choose(self, block: Block) -> Block:
        chosen = self._chosen
        self.seen |= Seen(fields=frozenset(block.table.fields))
        self.samples += len(block)
        rows = np.arange(len(block))
        if chosen.where is not None:
            answer = find_rows(chosen.where, samples_of_block(block, chosen.where, chosen.number, block.index))
            self.seen |= answer.seen
            rows = answer.rows
        if self._left is not None:
            rows = rows[: self._left]
            self._left -= len(rows)
        block = _with_rows(block, rows)
        if chosen.choice.class_from is None:
            return _with_fields(block, chosen.choice)
        return self._with_classes(block, chosen.choice.class_from)

    def _with_classes(self, block: Block, source: str) -> Block:
        """Return the samples of a block with their fields and class.

        Raises:
            SampleError: a sample has another class already, or a text that is the name of none.
        """
        numbers = []
        for row, text in enumerate(texts_in(block, source)):
            try:
                numbers.append(class_number(text, source, self._numbers))
            except SampleError as error:
                raise error.at(url=block.url, member=block.keys[row]) from error
        choice = self._chosen.choice
        if source == CLASS_FIELD:
            choice = replace(choice, drop=(*choice.drop, CLASS_FIELD))
        with_fields = _with_fields(block, choice, keep_all=True)
        if len(again := np.flatnonzero(with_fields.table.members_of(CLASS_FIELD) >= 0)):
            fix = f"leave it out with --drop {CLASS_FIELD}, or give it another name"
            raise SampleError("the sample has a class", url=block.url, member=block.keys[int(again[0])], fix=fix)
        return with_classes(with_fields, numbers)


def _with_rows(block: Block, rows: Ints) -> Block:
    """Return some samples of a block."""
    if len(rows) == len(block):
        return block
    table = replace(block.table.take(rows), other=block.table.other)
    repeated = np.flatnonzero(np.isin(rows, block.repeated)).tolist()
    return replace(block, table=table, repeated=tuple(repeated), rows=block.positions[rows])


def _with_fields(block: Block, choice: Choice, *, keep_all: bool = False) -> Block:
    """Return the samples of a block with the chosen fields, under their new names; or all, also those without any.

    Raises:
        SampleError: a sample would have two fields of one name.
    """
    there = block.table.fields
    kept = choice.kept(there)
    if len(kept) < len(there):
        table = block.table.only(kept)
        block = replace(block, table=table)
        block = block if keep_all else _with_rows(block, np.flatnonzero(table.counts))
    if not {old for old, _ in choice.rename} & {*kept}:
        return block
    names, codes = dict(choice.rename), dict[str, int]()
    table = replace(block.table, fields=tuple(names.get(name, name) if name in kept else "" for name in there))
    table = replace(table, field=renumber(table, codes), fields=tuple(codes))
    twice = repeated_fields(table.counts, table.field, len(codes))
    if len(twice):
        row, code = divmod(int(twice[0]), len(codes))
        what = f"the sample would have two fields called {table.fields[code]}"
        raise SampleError(
            what, url=block.url, member=block.keys[row], fix="rename to another name, or drop one of them"
        )
    return replace(block, table=table)
