"""One sample of a dataset, by its key or its number, with no more of the dataset read than needed.

    number -> manifest, or the sidecars -> shard and row -> sidecar -> ranges of the shard -> the sample
    key    -> the sidecars -> shard and row -> …

Shards without a sidecar are read from their start.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from shardtools import engine
from shardtools.errors import JobError, NotFoundError, RefusedError, SpecError
from shardtools.jobs.extraction.chunks import indexed
from shardtools.jobs.extraction.gathering import run_in_order
from shardtools.jobs.options import RunOptions, expand_sources
from shardtools.shards.members import IndexedShard
from shardtools.shards.reader import Block, ShardReader
from shardtools.spec import Destination, name_of
from shardtools.storage import get_storage, using


@dataclass(frozen=True)
class Sample:
    """A sample as it is stored: the ``url`` of its shard, its position ``row`` there, its ``key``, and its fields."""

    url: str
    row: int
    key: str
    fields: dict[str, bytes]


class _FoundIt(Exception):
    """Ends the search."""


def find_key(url: str, key: str) -> int | None:
    """Return the row of the sample with this key in a shard, None if there is none."""
    shard = indexed(url)
    if shard is not None:
        keys = shard.table.keys.tolist()
        return keys.index(key) if key in keys else None
    with closing(ShardReader(url)) as reader:
        for block in reader:
            engine.check_cancelled()
            if key in block.keys:
                return block.index + block.keys.index(key)
    return None


def count_samples(url: str) -> int:
    """Return how many samples a shard has."""
    shard = indexed(url)
    if shard is not None:
        return len(shard.sidecar)
    with closing(ShardReader(url)) as reader:
        return sum(map(len, reader))


def sample_with_key(sources: str | Sequence[str], key: str, options: RunOptions = RunOptions()) -> Sample:  # noqa: B008
    """Return the first sample that has this key.

    Raises:
        JobError: there is none.
    """
    with using(options.storage):
        urls = expand_sources(sources)
        found: list[tuple[str, int]] = []
        waiting = iter(urls)

        def take(row: int | None) -> None:
            url = next(waiting)
            if row is not None:
                found.append((url, row))
                raise _FoundIt

        tasks = [engine.Task(find_key, (url, key), url, options.storage) for url in urls]
        try:
            run_in_order(tasks, take, options)
        except _FoundIt:
            return read_sample(*found[0])
    raise JobError(f"no sample has the key {key}", fix="htextract --keys lists them all")


def sample_at(sources: str | Sequence[str], index: int, options: RunOptions = RunOptions()) -> Sample:  # noqa: B008
    """Return the sample at a position of the dataset, from 0; -1 is the last.

    Raises:
        JobError: there are not as many.
    """
    with using(options.storage):
        urls = expand_sources(sources)
        counts = _told_counts(sources, urls)
        for told in (counts, None):
            if told is None:
                told = []
                run_in_order(
                    [engine.Task(count_samples, (url,), url, options.storage) for url in urls], told.append, options
                )
            ends = np.cumsum(told)
            total = int(ends[-1])
            position = index + total if index < 0 else index
            if not 0 <= position < total:
                raise JobError(f"there is no sample {index}: they are {total:,}, from 0 to {total - 1}")
            shard = int(np.searchsorted(ends, position, side="right"))
            row = position - (int(ends[shard - 1]) if shard else 0)
            if told is not counts or count_samples(urls[shard]) == told[shard]:
                return read_sample(urls[shard], row)
    raise AssertionError("the counts were taken from the shards")


def _told_counts(sources: str | Sequence[str], urls: Sequence[str]) -> list[int] | None:
    """Return the samples of each shard as the manifest tells, None if there is none that is about these shards."""
    specs = [sources] if isinstance(sources, str) else list(sources)
    if len(specs) != 1:
        return None
    try:
        manifest = Destination(specs[0]).manifest
        entries = json.loads(get_storage(manifest).read(manifest))["shardlist"]
        if [name_of(entry["url"]) for entry in entries] == [name_of(url) for url in urls]:
            return [int(entry["nsamples"]) for entry in entries]
    except (SpecError, NotFoundError, RefusedError, ValueError, KeyError, TypeError):
        pass  # the sidecars, or the shards, tell it as well
    return None


def read_sample(url: str, row: int) -> Sample:
    """Return the sample at a row of a shard."""
    shard = indexed(url)
    if shard is not None and shard.can_enter:
        return _by_ranges(shard, row)
    with closing(ShardReader(url)) as reader:
        for block in reader:
            if row < block.index + len(block):
                return _from_block(block, row - block.index)
    raise JobError(f"the shard has no sample {row}", url=url, fix="run again; it was replaced meanwhile")


def _by_ranges(shard: IndexedShard, row: int) -> Sample:
    table = shard.table
    members = np.arange(table.first[row], table.first[row + 1])
    names = [table.fields[code] for code in table.field[members].tolist()]
    return Sample(shard.url, row, table.keys[row], dict(zip(names, shard.read(members), strict=True)))


def _from_block(block: Block, row: int) -> Sample:
    table = block.table
    fields = {}
    for member in range(int(table.first[row]), int(table.first[row + 1])):
        start = int(table.offset[member]) - block.base
        fields[table.fields[table.field[member]]] = block.buffer[start : start + int(table.size[member])].tobytes()
    return Sample(block.url, block.index + row, table.keys[row], fields)
