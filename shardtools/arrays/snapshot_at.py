"""How another process finds a snapshot again: what is pickled of it. Nothing is read before it is used there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from shardtools.log.log import Snapshot


@dataclass(frozen=True)
class SnapshotAt:
    """A commit of a branch, and the tag or number by which it was asked for."""

    branch: str
    number: int
    fixed: str | None

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Return how to find a snapshot again."""
        return cls(snapshot.branch.name, snapshot.number, snapshot.fixed)
