"""Samples of one output that have the same key, or the same order.

Two samples with one key would read back as one sample, or as an error. They are found when an output is written, by its
keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from shardtools.errors import DuplicateKeyError, redact
from shardtools.jobs.exchange.keying import Keying
from shardtools.jobs.exchange.run_table import RunTable, hash_texts
from shardtools.jobs.script import Code
from shardtools.shards.names import decode_name
from shardtools.types import Ints

OnDuplicate = Literal["error", "keep", "rename", "first", "last"]
Merge = Literal["inner", "outer", "left"]
OnConflict = Literal["error", "first", "last"]


@dataclass(frozen=True)
class DuplicatePolicy:
    """What to do with samples that have the same key in one output.

    ``on_duplicate``: ``"error"``; ``"keep"`` all of them (an error if they would be neighbours, and so one sample);
    ``"rename"`` the later ones; or drop all but the ``"first"`` or ``"last"`` in the order of the input. ``unique``
    drops all but the first of those with the same order. ``merge`` makes one sample of all that have a key, for keys
    that every source has (``"inner"``), any source (``"outer"``) or the first source (``"left"``); ``on_conflict`` says
    which field to take if several samples have it. The ``reduce_samples`` of a script, ``reduce``, replaces all of
    this; it needs ``keying``, and fails or skips as ``on_error`` says.
    """

    on_duplicate: OnDuplicate = "error"
    unique: bool = False
    merge: Merge | None = None
    on_conflict: OnConflict = "error"
    reduce: Code | None = None
    keying: Keying | None = None
    on_error: str = "fail"

    @property
    def keeps_all(self) -> bool:
        """Whether every sample is written unchanged, unless there is an error."""
        return self.on_duplicate in ("error", "keep") and not (self.unique or self.merge or self.reduce)

    def facts(self) -> dict[str, Any]:
        """Return what outputs depend on, as JSON data."""
        facts: dict[str, Any] = {"on_duplicate": self.on_duplicate, "unique": self.unique, "merge": self.merge or ""}
        facts["on_conflict"] = self.on_conflict
        if self.reduce is not None:
            facts |= self.reduce.facts("reduce")
        return facts


@dataclass(frozen=True)
class Chosen:
    """Which ``rows`` of an output are written (None: all), and the new keys of those that are ``renamed``, by row."""

    rows: Ints | None
    renamed: dict[int, str]


def choose(samples: RunTable, shards: Sequence[str], policy: DuplicatePolicy) -> Chosen:
    """Return which of the sorted samples of an output are written.

    Raises:
        DuplicateKeyError: two samples have one key, which the policy does not allow; the error names both places.
    """
    rows = None
    if policy.unique:
        orders = samples.orders.tolist()
        rows = np.array([i for i, order in enumerate(orders) if i == 0 or order != orders[i - 1]], np.int64)
        samples = samples.take(rows)
    hashes = np.sort(hash_texts(samples.table.keys))
    if not (hashes[1:] == hashes[:-1]).any():
        return Chosen(rows, {})
    keys = samples.table.keys.tolist()
    groups: dict[bytes, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    groups = {key: some for key, some in groups.items() if len(some) > 1}
    if not groups:  # two keys have one hash
        return Chosen(rows, {})
    for some in groups.values():
        some.sort(key=lambda row: tuple(samples.places[row].tolist()))
    if policy.on_duplicate == "error":
        raise _refuse(samples, shards, groups, "--on-duplicate says what else to do, such as rename or first")
    if policy.on_duplicate == "keep":
        beside = {key: some for key, some in groups.items() if _touch(some)}
        if beside:
            fix = "they would be neighbours, and read back as one sample; use --on-duplicate rename"
            raise _refuse(samples, shards, beside, fix)
        return Chosen(rows, {})
    if policy.on_duplicate == "rename":
        return Chosen(rows, _rename(groups, set(keys)))
    dropped = {row for some in groups.values() for row in (some[1:] if policy.on_duplicate == "first" else some[:-1])}
    kept = np.array([row for row in range(len(keys)) if row not in dropped], np.int64)
    return Chosen(kept if rows is None else rows[kept], {})


def _touch(rows: Sequence[int]) -> bool:
    return any(b == a + 1 for a, b in pairwise(sorted(rows)))


def _rename(groups: dict[bytes, list[int]], taken: set[bytes]) -> dict[int, str]:
    renamed = {}
    for key, some in sorted(groups.items()):
        number = 0
        for row in some[1:]:
            number += 1
            while (new := key + b"~%d" % number) in taken:
                number += 1
            taken.add(new)
            renamed[row] = decode_name(new)
    return renamed


def _refuse(samples: RunTable, shards: Sequence[str], groups: dict[bytes, list[int]], fix: str) -> DuplicateKeyError:
    key, rows = min(groups.items())
    places = [place(samples, row, shards) for row in rows[:2]]
    more = f", and {len(groups) - 1:,} other keys like it" if len(groups) > 1 else ""
    what = f"two samples have this key: {places[0]} and {places[1]}{more}"
    return DuplicateKeyError(what, member=decode_name(key), fix=fix)


def place(samples: RunTable, row: int, shards: Sequence[str]) -> str:
    """Return where a sample comes from, for messages."""
    ordinal, index = samples.places[row].tolist()
    return f"sample {index} of {redact(shards[ordinal])}"
