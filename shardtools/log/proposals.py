"""Writes that wait to be committed: what one writer proposes, another one takes along.

    proposals, the oldest first -> the writer of the first one creates the next commit, with all that do not collide

The others wait for that commit, which most likely has their write, too. Each of them goes ahead on its own after a
while, the sooner the older its proposal: so the writer of the first one may be dead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from shardtools.errors import RefusedError, ShardError, StorageError
from shardtools.json_text import parse_json
from shardtools.log.commit import FORMAT, Commit, Write, check_format, dump_write, parse_write
from shardtools.log.conflict import collisions, footprint
from shardtools.log.log import Log, Snapshot
from shardtools.storage import check_stop, current_options, follow, get_storage, read_limited
from shardtools.urls import name_of

_TAKEN_ALONG = 64
TOO_OLD = 64
"""A proposal is not taken along when its base is so many commits ago: its writer is gone."""

_READERS = 8
_LONGEST_QUEUE = 4
_REQUESTS_OF_A_COMMIT = 8
_SHORTEST_ROUND = 0.02
_POLLS_OF_A_ROUND = 8


@dataclass(frozen=True)
class Proposal:
    """A write that waits to be committed: it was made on top of commit ``base`` of its branch."""

    base: int
    write: Write

    @property
    def name(self) -> str:
        """The name of its object; names sort by age."""
        return f"{self.base + 1:020d}-{self.write.id}"


class Queue:
    """The proposals for a branch, seen from a writer whose own one is ``mine``."""

    def __init__(self, log: Log, branch: str, mine: Proposal):
        self._log = log
        self._place = log.place
        self._folder = f"proposals/{branch}/"
        self._mine = mine
        self._read: dict[str, Proposal] = {}
        self._finished: set[str] = set()
        self._round = 0.0  # seconds that a commit takes, about
        self.proposed = False

    def propose(self) -> None:
        """Let others take the own write along."""
        if self.proposed:
            return
        body = {"format": FORMAT, "base": self._mine.base, "write": dump_write(self._mine.write)}
        start = time.monotonic()
        self._place.put(self._folder + self._mine.name, json.dumps(body, ensure_ascii=False).encode() + b"\n")
        self._round = max(_SHORTEST_ROUND, _REQUESTS_OF_A_COMMIT * (time.monotonic() - start))
        self.proposed = True

    def leave(self) -> None:
        """Take the own proposal back, if there is one, and those away that were found to be of no use any more."""
        for name in [*self._finished, *([self._mine.name] if self.proposed else [])]:
            self._place.delete(self._folder + name)
        self.proposed = False

    def await_turn(self, head: Snapshot) -> bool:
        """Return whether it is this writer that is to create the next commit; False if there is a newer one by now."""
        names = self._waiting(head)
        rank = names.index(self._mine.name) if self._mine.name in names else 0
        end = time.monotonic() + min(rank, _LONGEST_QUEUE) * self._round
        while (left := end - time.monotonic()) > 0:
            check_stop()
            if self._log.following(head) is not None:
                return False
            time.sleep(min(left, self._round / _POLLS_OF_A_ROUND))
        return True

    def others(self, head: Snapshot) -> list[Write]:
        """Return the writes of others that can be in the next commit together with the own one, the oldest first."""
        names = [name for name in self._waiting(head) if name != self._mine.name][:_TAKEN_ALONG]
        self._read_all([name for name in names if name not in self._read])
        taken = [self._mine.write]
        for name in names:
            if (proposal := self._read.get(name)) is not None and self._fits(proposal, taken, head):
                taken.append(proposal.write)
        return taken[1:]

    def _waiting(self, head: Snapshot) -> list[str]:
        """Return the names of the proposals that are neither done nor too old, the oldest first."""
        try:
            urls = get_storage(self._place.root).list(self._place.root + self._folder)
        except RefusedError:  # then everyone is alone
            return []
        waiting = []
        for name in map(name_of, urls):
            number, _, id = name.partition("-")
            if not number.isdecimal() or name in self._finished:
                continue
            if int(number) <= head.number - TOO_OLD or id in _ids(self._since(int(number), head)):
                self._finished.add(name)
            else:
                waiting.append(name)
        return waiting

    def _since(self, number: int, head: Snapshot) -> list[Commit]:
        """Return the commits of the branch from ``number`` to ``head``."""
        numbers = range(max(number, head.branch.start), head.number + 1)
        found = [self._place.read_commit(head.branch.name, number) for number in numbers]
        return [commit for commit in found if commit is not None]

    def _read_all(self, names: Sequence[str]) -> None:
        if not names:
            return
        with ThreadPoolExecutor(min(_READERS, len(names)), "shardtools", follow, (current_options(),)) as pool:
            for name, proposal in zip(names, pool.map(self._read_one, names), strict=True):
                if proposal is not None:
                    self._read[name] = proposal

    def _read_one(self, name: str) -> Proposal | None:
        """Return a proposal; None if its writer has taken it back, or it is no whole one: that one will try itself."""
        url = self._place.root + self._folder + name
        try:
            body = parse_json(read_limited(url, "manifest"), url)
            check_format(body, url)
            found = Proposal(int(body["base"]), parse_write(body["write"]))
        except (StorageError, ShardError, KeyError, TypeError, ValueError):
            return None
        return found if found.name == name else None

    def _fits(self, proposal: Proposal, taken: Iterable[Write], head: Snapshot) -> bool:
        """Return whether a write collides neither with the commits since its base nor with those taken before it."""
        theirs = footprint(proposal.write)
        if theirs is None or proposal.base > head.number:
            return False
        root = self._place.root
        since = [write for commit in self._since(proposal.base + 1, head) for write in commit.writes]
        if any(collisions(theirs, write, root) for write in since):
            self._finished.add(proposal.name)
            return False
        return not any(collisions(theirs, write, root) for write in taken)


def _ids(commits: Iterable[Commit]) -> set[str]:
    return {write.id for commit in commits for write in commit.writes}
