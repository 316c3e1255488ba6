"""Writes that wait to be committed: what one writer proposes, another one takes along.

    proposals, the oldest first -> the writer of the first one creates the next commit, with all that do not collide

The others wait for that commit, which most likely has their write, too. Each of them goes ahead on its own after a
while, the sooner the older its proposal: so the writer of the first one may be dead. How long commits take is measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from shardtools.errors import RefusedError, ShardError, StorageError
from shardtools.forks import PerProcess
from shardtools.json_text import parse_json
from shardtools.log.commit import FORMAT, Commit, Write, check_format, dump_write, parse_write
from shardtools.log.conflict import collisions, footprint
from shardtools.log.log import Log, Snapshot
from shardtools.log.names import check_key, check_object
from shardtools.log.segment import Change, Entry
from shardtools.storage import check_stop, get_storage
from shardtools.storage.limited import read_limited
from shardtools.urls import name_of

_TAKEN_ALONG = 64
TOO_OLD = 64
"""A proposal is not taken along when its base is so many commits ago: its writer is gone."""

_readers = PerProcess(lambda: ThreadPoolExecutor(4, "shardtools-log"))
_REQUESTS_OF_A_COMMIT = 4
_SHORTEST_PACE = 0.01
_PATIENCE = 2
_LONGEST_QUEUE = 8
_POLLS = 3  # in the time that a commit takes
_RELISTED_AFTER = 3
_LEFT_BEHIND = 8
"""A proposal that is done is deleted by others than its writer when its base is so many commits ago."""

_MOST_ENTRIES = 256
"""A proposal of so many changes says what they are, so that who takes it along need not read its segment."""

_LARGEST = 1 << 62


@dataclass(frozen=True)
class Proposal:
    """A write that waits to be committed: it was made on top of commit ``base`` of its branch.

    ``changes`` are those of the write, None if they are many.
    """

    base: int
    write: Write
    changes: Mapping[str, Change] | None = None

    @classmethod
    def of(cls, base: int, write: Write, changes: Mapping[str, Change]) -> Proposal:
        """Return the proposal of a write, with its changes unless they are many."""
        return cls(base, write, changes if len(changes) <= _MOST_ENTRIES else None)

    @property
    def name(self) -> str:
        """The name of its object; names sort by age."""
        return f"{self.base + 1:020d}-{self.write.id}"

    def dump(self) -> bytes:
        """Return the bytes of its object."""
        body = {"format": FORMAT, "base": self.base, "write": dump_write(self.write)}
        if self.changes is not None and self.write.touched is not None:
            body["entries"] = [self.changes[key] for key in self.write.touched]
        return json.dumps(body, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes, url: str) -> Proposal:
        """Return the proposal of its bytes.

        Raises:
            ShardError, KeyError, TypeError, ValueError: it is none.
        """
        body = parse_json(data, url)
        check_format(body, url)
        write, entries = parse_write(body["write"]), body.get("entries")
        if entries is None or write.touched is None:
            return cls(int(body["base"]), write)
        changes = dict(zip(map(check_key, write.touched), map(_parse_change, entries), strict=True))
        return cls(int(body["base"]), write, changes)


def _parse_change(data: Any) -> Change:
    if data is None:
        return None
    name, *numbers = data
    if len(numbers) != 3 or not all(type(number) is int and 0 <= number <= _LARGEST for number in numbers):
        raise ValueError("not the place of a key")
    if numbers[2] >> 32:
        raise ValueError("not a checksum")
    return Entry(check_object(name), *numbers)


class Queue:
    """The proposals for a branch, seen from a writer whose own one is ``mine``."""

    def __init__(self, log: Log, branch: str, mine: Proposal):
        self.mine = mine
        self.proposed = False
        self.is_first = False
        """Whether no other waits that has proposed its write on top of an earlier commit, or as early."""
        self._log = log
        self._place = log.place
        self._folder = f"proposals/{branch}/"
        self._passed_over = 0  # commits while it waited: who made the first may have asked before, the next ones not
        self._names: list[str] | None = None  # those that were there when it was last asked
        self._listed_at = -1  # the newest commit then
        self._read: dict[str, Proposal] = {}
        self._finished: set[str] = set()
        self._newest = 0  # the number of the newest commit that was seen

    def propose(self) -> None:
        """Let others take the own write along."""
        if self.proposed:
            return
        start = time.monotonic()
        self._place.put(self._folder + self.mine.name, self.mine.dump())
        if not self._log.pace:
            self._log.pace = max(_SHORTEST_PACE, _REQUESTS_OF_A_COMMIT * (time.monotonic() - start))
        self.proposed = True

    def leave(self, *, withdraw: bool) -> None:
        """Take the own proposal back, if there is one and with ``withdraw``, and away those that were left behind."""
        left = [name for name in self._finished if int(name.partition("-")[0]) <= self._newest - _LEFT_BEHIND]
        for name in [*left, *([self.mine.name] if self.proposed and withdraw else [])]:
            self._place.delete(self._folder + name)
        self.proposed = False

    def await_turn(self, head: Snapshot) -> bool:
        """Return whether it is this writer that is to create the next commit; False if there is a newer one by now."""
        start = time.monotonic()
        while True:
            older = [name for name in self._waiting(head) if name < self.mine.name]
            self.is_first = not older
            end = start + (_PATIENCE + min(len(older), _LONGEST_QUEUE)) * self._log.pace
            if not older or end <= time.monotonic() or self._passed_over > 1:
                return True
            if self._await_commit(head, min(end, time.monotonic() + _RELISTED_AFTER * self._log.pace)):
                self._passed_over += 1
                return False
            self._names = None

    def _await_commit(self, head: Snapshot, end: float) -> bool:
        """Return whether there is a newer commit, as soon as there is; False at the time ``end``."""
        while (left := end - time.monotonic()) > 0:
            check_stop()
            if self._log.following(head) is not None:
                return True
            time.sleep(min(left, self._log.pace / _POLLS))
        return False

    def others(self, head: Snapshot) -> list[Proposal]:
        """Return the proposals of others that can be in the next commit together with the own one, the oldest first."""
        if self._listed_at != head.number:
            self._names = None
        names = [name for name in self._waiting(head) if name != self.mine.name][:_TAKEN_ALONG]
        self._read_all([name for name in names if name not in self._read])
        taken: list[Proposal] = []
        for name in names:
            if (proposal := self._read.get(name)) is not None:
                writes = [self.mine.write, *(other.write for other in taken)]
                if self._fits(proposal, writes, head):
                    taken.append(proposal)
        return taken

    def _waiting(self, head: Snapshot) -> list[str]:
        """Return the names of the proposals that are neither done nor too old, the oldest first."""
        if self._names is None:
            self._names, self._listed_at = self._list(), head.number
        waiting, self._newest = [], head.number
        for name in self._names:
            number, _, id = name.partition("-")
            if not number.isdecimal() or name in self._finished:
                continue
            if int(number) <= head.number - TOO_OLD or id in _ids(self._since(int(number), head)):
                self._finished.add(name)
            else:
                waiting.append(name)
        return waiting

    def _list(self) -> list[str]:
        try:
            return [name_of(url) for url in get_storage(self._place.root).list(self._place.root + self._folder)]
        except RefusedError:  # then everyone is alone
            return []

    def _since(self, number: int, head: Snapshot) -> list[Commit]:
        """Return the commits of the branch from ``number`` to ``head``."""
        numbers = range(max(number, head.branch.start), head.number + 1)
        found = [self._place.read_commit(head.branch.name, number) for number in numbers]
        return [commit for commit in found if commit is not None]

    def _read_all(self, names: Sequence[str]) -> None:
        if len(names) < 2:
            found: Iterator[Proposal | None] = map(self._read_one, names)
        else:
            contexts = [copy_context() for _ in names]
            found = _readers.get().map(lambda context, name: context.run(self._read_one, name), contexts, names)
        for name, proposal in zip(names, found, strict=True):
            if proposal is not None:
                self._read[name] = proposal

    def _read_one(self, name: str) -> Proposal | None:
        """Return a proposal; None if its writer has taken it back, or it is no whole one: that one will try itself."""
        url = self._place.root + self._folder + name
        try:
            found = Proposal.parse(read_limited(url, "manifest"), url)
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
