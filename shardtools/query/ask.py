"""Ask the table of a dataset, if it has one, which samples a condition picks.

spec -> table -> the states of its shards now -> those that are as the table says -> rows of these
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shardtools.errors import CorruptError
from shardtools.query.condition import Condition, PickedRows
from shardtools.query.table import DatasetTable, fresh_shards, open_table
from shardtools.query.table_file import ShardState
from shardtools.shards.manifest import find_manifest
from shardtools.shards.sidecar import find_sidecar
from shardtools.spec import Destination
from shardtools.storage import Stat
from shardtools.storage.index_place import homes_of
from shardtools.storage.stats import stat_all, threads_for
from shardtools.storage.together import each
from shardtools.types import Ints
from shardtools.urls import name_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableAnswer:
    """The rows that a condition picks of each shard that a table describes; it has ``fields``.

    ``samples`` is the number of samples of each of these shards.
    """

    rows: Mapping[int, Ints]
    fields: tuple[str, ...] = ()
    samples: Mapping[int, int] = field(default_factory=dict)

    def condition_of(self, shard: int, condition: Condition | None) -> Condition | PickedRows | None:
        """Return the condition on the samples of a shard, as far as it is not answered; None if it picks none."""
        if condition is None or (rows := self.rows.get(shard)) is None:
            return condition
        return PickedRows(condition, rows) if len(rows) else None

    @property
    def unpicked(self) -> list[int]:
        """The numbers of the shards of which no sample is picked."""
        return [number for number, rows in self.rows.items() if not len(rows)]


def find_table(spec: str) -> DatasetTable | None:
    """Return the table of the dataset ``spec``; None if there is none that can be used, which is logged if it is wrong.

    Raises:
        StorageError: it cannot be read.
    """
    if spec == "-":
        return None
    if (named := Destination.of(spec)) is None:
        return None
    try:
        return next(filter(None, map(open_table, homes_of(named.spec))), None)
    except CorruptError as error:
        logger.warning("%s (it is not used)", error)
        return None


def fresh_in(
    table: DatasetTable,
    urls: Sequence[str],
    counts: Sequence[int] | None,
    checksums: Sequence[str] | None,
    validators: Sequence[str | None] | None,
) -> list[int]:
    """Return the numbers of the shards at ``urls`` that are as a table says.

    Their numbers of samples, checksums and validators are those of the manifest, None for unknown; storage is asked for
    their sizes, and whether they still have these validators. Of a shard that was written after the table, which may be
    another one of the same size, the sidecar must have the checksum that the table says.

    Raises:
        StorageError: a shard is not there.
    """
    was = table.facts.shards
    if [shard.name for shard in was] != list(map(name_of, urls)):
        return []
    counts = counts or [shard.samples for shard in was]
    checksums = checksums or [shard.checksum for shard in was]
    stats = stat_all(urls)
    sizes = [stat.size for stat in stats]
    now = [
        ShardState(shard.name, shard.filesize if size is None else size, checksum, count)
        for shard, size, checksum, count in zip(was, sizes, checksums, counts, strict=True)
    ]
    fresh = fresh_shards(table.facts, now)
    if validators is not None:
        fresh = [one for one in fresh if validators[one] in (None, stats[one].validator or validators[one])]
    made = table.modified
    later = [one for one in fresh if made is not None and (stats[one].modified or made) > made]
    same = each(lambda one: _has_checksum(urls[one], stats[one], was[one].checksum), later, threads_for(urls))
    replaced = {one for one, is_same in zip(later, same, strict=True) if not is_same}
    return [one for one in fresh if one not in replaced]


def _has_checksum(url: str, stat: Stat, checksum: str) -> bool:
    """Return whether the sidecar of a shard has this checksum."""
    sidecar = find_sidecar(url, stat)
    return sidecar is not None and sidecar.checksum == checksum


def rows_in(table: DatasetTable, condition: Condition, shards: Sequence[int]) -> dict[int, Ints] | None:
    """Return the rows of each of some shards that a condition picks; None if the table lacks a column of it.

    Raises:
        JobError: the condition does not fit the types of its columns.
    """
    found = table.find_rows(condition, shards)
    if found is None:
        return None
    shard, row = found
    first = np.searchsorted(shard, shards, side="left").tolist()
    last = np.searchsorted(shard, shards, side="right").tolist()
    return {number: row[a:b] for number, a, b in zip(shards, first, last, strict=True)}


def ask_table(specs: Sequence[str], urls: Sequence[str], condition: Condition | None) -> TableAnswer:
    """Return what the table of a dataset says of a condition; of no shard if there is no table that can tell.

    Raises:
        JobError: the condition does not fit the types of its columns.
        StorageError: the table cannot be read.
    """
    if condition is None or len(specs) != 1 or (table := find_table(specs[0])) is None:
        return TableAnswer({})
    if (manifest := find_manifest(specs[0], urls)) is None:
        fresh = fresh_in(table, urls, None, None, None)
    else:
        fresh = fresh_in(table, urls, manifest.counts, manifest.checksums, manifest.validators)
    rows = rows_in(table, condition, fresh)
    if rows is None:
        return TableAnswer({})
    return TableAnswer(rows, table.fields, {number: table.facts.shards[number].samples for number in rows})
