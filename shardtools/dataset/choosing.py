"""Choose the samples for which a condition is true: from the dataset's table, or by reading the fields that it names.

condition -> the table, for shards that are as it says -> rows
          -> the fields of the other shards, by ranges -> rows -> indexes of samples
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

import numpy as np

from shardtools.dataset.shard_set import ShardSet
from shardtools.errors import AccessError, CorruptError, JobError, NotFoundError, RefusedError
from shardtools.query.ask import find_table, fresh_in, rows_in
from shardtools.query.changed import ChangedShards
from shardtools.query.condition import Answer, Condition, Seen, find_rows
from shardtools.query.key_file import KeyFile, digest_of, keys_url
from shardtools.query.table import DatasetTable
from shardtools.query.table_file import ShardState
from shardtools.query.values import samples_of
from shardtools.spec import Destination
from shardtools.storage import using
from shardtools.storage.index_place import homes_of
from shardtools.storage.stats import stat_all
from shardtools.types import Ints
from shardtools.urls import name_of

logger = logging.getLogger(__name__)


class Choosing:
    """Chooses samples of the shards that ``spec`` names; the table is looked for when it is needed first."""

    def __init__(self, spec: str | Sequence[str], shards: ShardSet):
        self._spec, self._shards = spec, shards
        self._start()

    def _start(self) -> None:
        """Know of no files, in a new process too."""
        self._looked = False
        self._table: DatasetTable | None = None
        self._fresh: list[int] = []
        self._keys: KeyFile | None = None
        self._looked_for_keys = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("_spec", "_shards")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def keys(self) -> KeyFile | None:
        """Return the file of keys, if there is one that was made for these shards, as the manifest describes them.

        Raises:
            StorageError: it cannot be read.
        """
        if not self._looked_for_keys:
            with using(self._shards.options):
                self._keys = self._find_keys()
            self._looked_for_keys = True
        return self._keys

    def _find_keys(self) -> KeyFile | None:
        shards, spec = self._shards, self._one_spec()
        if spec is None or shards.counts is None or shards.sizes is None or shards.checksums is None:
            return None
        known = zip(map(name_of, shards.urls), shards.sizes, shards.checksums, shards.counts, strict=True)
        keys = next(filter(None, map(_keys_at, homes_of(spec))), None)
        if keys is None:
            return None
        fits = keys.samples == sum(shards.counts) and keys.digest == digest_of(ShardState(*state) for state in known)
        return keys if fits else None

    def _one_spec(self) -> str | None:
        """Return the spec of the dataset, if it is one that can have files beside its shards."""
        specs = [self._spec] if isinstance(self._spec, str) else list(self._spec)
        named = Destination.of(specs[0]) if len(specs) == 1 else None
        return None if named is None else named.spec

    def table(self) -> tuple[DatasetTable, list[int]] | None:
        """Return the table and the numbers of the shards that are still as it says; None if there is none to use.

        Raises:
            StorageError: it cannot be read.
        """
        if not self._looked:
            shards = self._shards
            with using(shards.options):
                self._table = None if (spec := self._one_spec()) is None else find_table(spec)
                if self._table is not None:
                    self._fresh = fresh_in(self._table, shards.urls, shards.counts, shards.checksums, shards.validators)
            self._looked = True
        return None if self._table is None or not self._fresh else (self._table, self._fresh)

    def table_and_changed(self) -> tuple[DatasetTable, ChangedShards | None]:
        """Return the table, and the shards that are not as it says, None if all are.

        Raises:
            JobError: there is no table, or it describes no shard as it is.
            StorageError: it cannot be read, or a shard is not there.
        """
        there, fix = self.table(), "make it with htindex --table"
        if self._table is None:
            with using(self._shards.options):
                stat_all(self._shards.urls)
            raise JobError("the dataset has no table", url=self._one_spec() or self._shards.urls[0], fix=fix)
        total = len(self._shards.urls)
        if there is None:
            raise JobError(f"the table describes none of {total:,} shards as they are", url=self._table.url, fix=fix)
        table, fresh = there
        changed = tuple(sorted(set(range(total)) - set(fresh)))
        return table, ChangedShards(changed, self._shards.of_some) if changed else None

    def find(self, condition: Condition, among: Ints | None) -> Ints:
        """Return the indexes of the samples for which a condition is true, of all or of those ``among`` them.

        Raises:
            JobError: the condition does not fit its columns, or names one that no sample has.
            StorageError, ShardError: a shard cannot be read.
        """
        numbers = self._numbers(among)
        parts: dict[int, Ints] = {}
        if (there := self.table()) is not None:
            table, fresh = there
            asked = sorted(set(fresh) & set(numbers))
            parts = rows_in(table, condition, asked) or {}
        parts |= self._read(condition, [number for number in numbers if number not in parts], is_known=bool(parts))
        ends = [0, *self._shards.known_ends()]
        found_ = [parts[number] + ends[number] for number in numbers]
        chosen = np.concatenate([np.empty(0, np.int64), *found_])
        return chosen if among is None else _common(chosen, among)

    def _numbers(self, among: Ints | None) -> list[int]:
        """Return the numbers of the shards that have some samples."""
        if among is None:
            return list(range(len(self._shards.urls)))
        return self._shards.numbers_of(among)

    def _read(self, condition: Condition, numbers: Sequence[int], *, is_known: bool) -> dict[int, Ints]:
        """Return the rows of some shards, whose fields are read; ``is_known`` says that all columns are known to exist.

        If some shards do not have a column, the others are asked, so that a misspelt name is an error.
        """
        answers = self._ask(condition, numbers)
        seen = reduce(or_, (answer.seen for answer in answers), Seen())
        if not is_known and not seen.columns.issuperset(condition.columns):
            others = [number for number in range(len(self._shards.urls)) if number not in set(numbers)]
            seen = reduce(or_, (answer.seen for answer in self._ask(condition, others)), seen)
            if self._shards.known_ends()[-1]:
                seen.check(condition)
        seen.note()
        return {number: answer.rows for number, answer in zip(numbers, answers, strict=True)}

    def _ask(self, condition: Condition, numbers: Sequence[int]) -> list[Answer]:
        return self._shards.of_some(lambda number, shard: find_rows(condition, samples_of(shard, number)), numbers)


def _common(chosen: Ints, among: Ints) -> Ints:
    """Return those of the numbers ``chosen``, which rise, that are ``among`` others."""
    if not (among[1:] > among[:-1]).all():
        return chosen[np.isin(chosen, among)]
    if not len(among):
        return among
    places = np.searchsorted(among, chosen)
    places[places == len(among)] = 0
    common: Ints = chosen[among[places] == chosen]
    return common


def _keys_at(home: str) -> KeyFile | None:
    """Return the file of keys in one of the places for it; None if there is none that can be used."""
    try:
        return KeyFile(keys_url(home))
    except (NotFoundError, AccessError, RefusedError):
        return None
    except CorruptError as error:
        logger.warning("%s (it is not used)", error)
        return None
