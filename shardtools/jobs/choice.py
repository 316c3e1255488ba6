"""What a job takes of its sources: which samples, and which of their fields."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardtools.errors import JobError
from shardtools.query.condition import Condition, PickedRows, RandomShare, Seen, Where
from shardtools.query.names import find_source
from shardtools.shards.manifest import CLASS_FIELD
from shardtools.shards.names import name_hint


@dataclass(frozen=True)
class Choice:
    """Which samples and fields a job takes of its sources; all of them by default.

    ``where`` is a condition on samples, ``sample`` a share of them, chosen by ``seed`` and their keys, and ``limit`` a
    number: the first so many of those that the others choose. ``fields`` are the fields to keep (all if there are
    none), ``drop`` those to leave out, and ``rename`` has pairs of an old and a new name. These, and the condition,
    name fields as they are in the sources. A sample that keeps no field is left out.

    ``class_from`` is a field, or a path of JSON, whose texts become class numbers, as the field ``cls``. ``classes``
    are the names of these, once they were found.
    """

    where: Condition | None = None
    fields: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    limit: int | None = None
    sample: float | None = None
    seed: int = 0
    class_from: str | None = None
    classes: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out or renamed."""
        return not self.facts()

    @property
    def picks_fields(self) -> bool:
        """Whether samples may lose fields, or get other names of them."""
        return bool(self.fields or self.drop or self.rename or self.class_from)

    def facts(self) -> dict[str, Any]:
        """Return what is chosen as JSON data, for manifests and fingerprints; nothing if it is everything."""
        facts: dict[str, Any] = {"where": None if self.where is None else self.where.text}
        facts |= {"fields": [*self.fields], "drop": [*self.drop], "rename": [list(pair) for pair in self.rename]}
        facts |= {"limit": self.limit, "sample": None if self.sample is None else [self.sample, self.seed]}
        facts["class_from"] = self.class_from
        return {name: value for name, value in facts.items() if value not in (None, [])}

    def narrowed(self, where: Condition | PickedRows | None) -> Where | None:
        """Return which samples are wanted, where the condition is as far answered as ``where`` says."""
        return where if self.sample is None else RandomShare(self.sample, self.seed, where)

    def keeps(self, field: str) -> bool:
        """Return whether the field of this name is, where it is kept, what it is in the sources."""
        return field not in self.drop and not any(field in pair for pair in self.rename)

    def facts_of(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the manifests of the sources say of the samples, as far as it is true of what is chosen."""
        changed = dict(facts)
        if not self.keeps(CLASS_FIELD):
            changed.pop("classes", None)
        return {**changed, "classes": [*self.classes]} if self.class_from else changed

    def kept(self, fields: Sequence[str]) -> list[str]:
        """Return which of some fields are kept."""
        return [name for name in fields if (not self.fields or name in self.fields) and name not in self.drop]

    def names_of(self, fields: Sequence[str]) -> list[str]:
        """Return the names that fields have for the job, of those that are kept.

        >>> Choice(drop=("txt",), rename=(("JPG", "jpg"),)).names_of(["JPG", "cls", "txt"])
        ['jpg', 'cls']
        """
        names = dict(self.rename)
        more = [CLASS_FIELD] if self.class_from and fields else []
        return [*(names.get(name, name) for name in self.kept(fields)), *more]

    def check(self, seen: Seen) -> None:
        """Raise if all samples were seen, and none has a field or column that is named.

        Raises:
            JobError: none has it.
        """
        if self.where is not None:
            seen.check(self.where)
        self._check_fields(seen.fields)

    def check_fields(self, fields: Collection[str]) -> None:
        """Raise if samples that have no other ``fields`` cannot have a field or column that is named.

        Raises:
            JobError: they cannot.
        """
        if self.where is not None:
            there = [name for name in self.where.columns if find_source(name, [*fields]) is not None]
            Seen(frozenset(there), frozenset(fields)).check(self.where)
        self._check_fields(fields)

    def _check_fields(self, fields: Collection[str]) -> None:
        for name in self.named_fields():
            if name not in fields:
                fix = name_hint(name, fields) or f"there are {', '.join(sorted(fields))}"
                raise JobError(f"no sample has the field {name}", fix=fix)

    def named_fields(self) -> Iterator[str]:
        """Yield the fields that are named to be kept, left out or renamed."""
        yield from self.fields
        yield from self.drop
        yield from (old for old, _ in self.rename)


EVERYTHING = Choice()
"""The choice that leaves nothing out."""


@dataclass(frozen=True)
class ShardChoice:
    """What a task takes of one shard, which is ``number`` of its dataset.

    ``where`` is which samples are wanted, as far as that is not answered, and ``limit`` the most of them. If it is 0,
    the shard is not read.
    """

    choice: Choice = EVERYTHING
    number: int = 0
    where: Where | None = None
    limit: int | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether the shard has no sample that is wanted."""
        return self.limit == 0

    def facts(self) -> dict[str, Any]:
        """Return what the samples depend on besides the shard, for a fingerprint; nothing if all are taken."""
        facts = self.choice.facts()
        if "limit" in facts:
            facts["taken"] = self.limit
        if self.choice.classes:
            facts["classes"] = [*self.choice.classes]
        return {"choice": facts, "number": self.number} if facts else {}


@dataclass(frozen=True)
class ChosenShards:
    """A choice of a dataset: what to take of each shard, and what is known of its samples before any was read.

    ``unpicked`` is how many samples are known to be in the shards of which the table says that none is wanted.
    """

    choice: Choice
    shards: tuple[ShardChoice, ...]
    seen: Seen = Seen()  # noqa: RUF009 - it is frozen
    unpicked: int = 0

    def facts(self) -> dict[str, Any]:
        """Return what the samples of all shards depend on besides these, for a fingerprint."""
        taken = [] if self.choice.limit is None else [part.limit for part in self.shards]
        return {"choice": self.choice.facts(), "classes": [*self.choice.classes], "taken": taken}

    def check(self, seen: Seen, taken: int) -> None:
        """Raise if no sample has a field or column that is named, given what was ``seen`` of those that were read.

        Values that were wrong are noted in the log. If as many samples were ``taken`` as the limit allows, there may be
        others that have it.

        Raises:
            JobError: none has it.
        """
        whole = self.seen | seen
        whole.note()
        if whole.fields and (self.choice.limit is None or taken < self.choice.limit):
            self.choice.check(whole)
