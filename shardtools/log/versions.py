"""What commits are known by besides their numbers: branches, which go on, and tags, which stay."""

from __future__ import annotations

from dataclasses import dataclass

from shardtools.log.commit import Parent


@dataclass(frozen=True)
class Branch:
    """A branch: the number of its first commit, and the commit that it began at, None for the first branch."""

    name: str
    start: int
    origin: Parent | None


@dataclass(frozen=True)
class Tag:
    """A name for a commit, for ever."""

    name: str
    commit: Parent
    message: str
    author: str
    time: str
