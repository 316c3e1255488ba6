"""How writes become commits: collide or follow, and take others along.

    changes -> segment -> proposal, if others write too -> commit n + 1 with all proposals that do not collide

Who creates commit n + 1 has decided what it consists of. A writer that comes too late reads it: its own write may be in
it, since others take along what is proposed; or it collides, and fails; else it tries n + 2. So a writer waits for a
round or two, however many there are. (Helping each other so is the idea of wait-free objects: Herlihy, TOPLAS 1991.)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from shardtools.errors import (
    ConflictError,
    ExistsError,
    JobError,
    RefusedError,
    ShardError,
    StorageError,
    UnavailableError,
)
from shardtools.json_text import parse_json
from shardtools.log.commit import (
    FORMAT,
    Commit,
    SegmentPlace,
    Write,
    check_format,
    dump_commit,
    dump_write,
    parse_write,
)
from shardtools.log.conflict import NOTHING, Footprint, collisions, footprint
from shardtools.log.log import Log, Snapshot, as_parent, new_id, now, places_of
from shardtools.log.merging import merge_tail
from shardtools.log.names import check_key
from shardtools.log.place import Place
from shardtools.log.segment import Change
from shardtools.log.segment_writer import write_segment
from shardtools.storage import get_storage, read_limited
from shardtools.urls import name_of

logger = logging.getLogger(__name__)

LISTED = 1000
"""A write that touches more keys than this does not list them in its commit."""

_HINT_EVERY = 16
_TAKEN_ALONG = 64
_TOO_OLD = 64
"""A proposal is not taken along when its base is so many commits ago: its writer is gone."""


Rewrite = Callable[[Snapshot], list[SegmentPlace]]


@dataclass(frozen=True)
class Proposal:
    """A write that waits to be committed: it was made on top of commit ``base`` of its branch."""

    base: int
    write: Write


def commit(
    base: Snapshot,
    changes: Mapping[str, Change],
    *,
    removed: Sequence[str] = (),
    reads: Iterable[str] = (),
    message: str = "",
    author: str = "",
    id: str | None = None,
) -> Snapshot:
    """Write ``changes``, made on top of ``base``, and return the snapshot that has them.

    ``removed`` are prefixes whose keys are removed before the changes are made. ``reads`` are keys that the changes
    depend on. Bytes of the changes lie in objects ``data/ID/…`` already, ``id`` being that of this write.

    Raises:
        JobError: ``base`` is a tag or a numbered commit, or a key or prefix cannot be one.
        ConflictError: others have meanwhile changed what this touches or depends on. Nothing was written.
        UnavailableError: it is not known whether it was written, since the storage does not answer.
    """
    log, place = base.log, base.log.place
    _check_open(base)
    try:
        for key in (*changes, *(prefix.removesuffix("/") for prefix in removed)):
            check_key(key)
    except ValueError as error:
        raise JobError(str(error), fix="use another name") from error
    with place.using():
        id = id or new_id()
        segment = write_segment(place, id, changes, removed) if changes or removed else None
        touched = tuple(sorted(changes)) if len(changes) <= LISTED else None
        write = Write(id, message, author, now(), segment, touched, tuple(sorted(removed)), tuple(sorted(set(reads))))
        mine = Footprint(frozenset(changes), write.removed, frozenset(write.reads))
        return _Committer(log, Proposal(base.number, write), mine).run(base)


def replace_segments(base: Snapshot, rewrite: Rewrite, *, message: str = "", author: str = "") -> Snapshot:
    """Replace the list of live segments, and return the snapshot that has the new one; no key is touched.

    ``rewrite`` returns the new list for a snapshot: other segments with the same keys, for it neither collides with
    other writes nor do they with it. What it leaves alone at the end of the list, and what others have committed
    meanwhile, stays. If they have merged what was rewritten, it is called again with the newer snapshot. If it returns
    the old list, there is no commit.

    Raises:
        JobError: ``base`` is a tag or a numbered commit.
        UnavailableError: it is not known whether it was written, since the storage does not answer.
    """
    _check_open(base)
    with base.log.place.using():
        write = Write(new_id(), message, author, now(), None, ())
        rewriting = _Rewriting(rewrite)
        if rewriting.segments(base) == places_of(base):
            return base
        return _Committer(base.log, Proposal(base.number, write), NOTHING, rewriting).run(base)


def _check_open(base: Snapshot) -> None:
    if base.fixed is not None:
        fix = "make a branch that begins there, and write to that"
        raise JobError(f"{base.fixed} stays as it is", url=base.log.place.root, fix=fix)


class _Rewriting:
    """The list of segments that takes the place of another one, and of those that begin like it."""

    def __init__(self, rewrite: Rewrite):
        self._rewrite = rewrite
        self._old: list[SegmentPlace] | None = None
        self._new: list[SegmentPlace] = []

    def segments(self, head: Snapshot) -> list[SegmentPlace]:
        """Return the list that takes the place of that of ``head``."""
        there = places_of(head)
        if self._old is None or there[: len(self._old)] != self._old:
            new = self._rewrite(head)
            kept = 0
            while kept < min(len(new), len(there)) and new[-kept - 1] == there[-kept - 1]:
                kept += 1
            self._old, self._new = there[: len(there) - kept], new[: len(new) - kept]
        return self._new + there[len(self._old) :]


class _Committer:
    """Brings one write into a branch; ``rewriting``, if it replaces the list of segments."""

    def __init__(self, log: Log, proposal: Proposal, mine: Footprint, rewriting: _Rewriting | None = None):
        self._log = log
        self._rewriting = rewriting
        self._place = log.place
        self._proposal = proposal
        self._mine = mine
        self._proposed = False
        self._merged: dict[tuple[str, ...], SegmentPlace] = {}

    def run(self, base: Snapshot) -> Snapshot:
        head = base
        try:
            while True:
                head, done = self._catch_up(head)
                if done is not None:
                    return done
                made = self._build(head)
                if self._create(made):
                    following = self._log.following(head)
                    assert following is not None
                    if following.number % _HINT_EVERY == 0:
                        self._hint(following)
                    return following
                if not self._proposed and not self._place.single_writer and self._rewriting is None:
                    self._propose(head.branch.name)
        finally:
            if self._proposed:
                self._place.delete(self._name(head.branch.name))

    def _catch_up(self, head: Snapshot) -> tuple[Snapshot, Snapshot | None]:
        """Go on to the newest commit; the second value is the snapshot that has this write, if there is one.

        Raises:
            ConflictError: a commit on the way collides with it.
        """
        while (following := self._log.following(head)) is not None:
            head = following
            assert head.commit is not None
            if any(write.id == self._proposal.write.id for write in head.commit.writes):
                return head, head
            for write in head.commit.writes:
                if keys := collisions(self._mine, write, self._place.root):
                    raise _conflict(self._place, head, write, keys)
        return head, None

    def _build(self, head: Snapshot) -> Commit:
        """Return the next commit: this write, and what others have proposed that does not collide."""
        writes = [self._proposal.write]
        if self._proposed:
            writes += self._others(head)
        if self._rewriting is not None:
            places = self._rewriting.segments(head)
        else:
            added = [write.changes for write in writes if write.changes is not None]
            places = merge_tail(self._place, places_of(head) + added, self._merged)
        return Commit(head.branch.name, head.number + 1, as_parent(head.commit), tuple(writes), tuple(places))

    def _create(self, made: Commit) -> bool:
        """Create a commit, and return whether it is this one that was created."""
        data, digest = dump_commit(made)
        name = self._place.commit_url(made.branch, made.number).removeprefix(self._place.root)
        try:
            self._place.create(name, data)
        except ExistsError:
            pass
        except UnavailableError:  # the answer may be lost, and not the commit
            there = self._place.read_commit(made.branch, made.number)
            if there is None:
                raise
        else:
            self._place.commits.put(self._place.commit_url(made.branch, made.number), replace(made, digest=digest))
            return True
        there = self._place.read_commit(made.branch, made.number)
        return there is not None and there.digest == digest

    def _hint(self, snapshot: Snapshot) -> None:
        body = {"format": FORMAT, "number": snapshot.number}
        try:
            self._place.put(f"hints/{snapshot.branch.name}", json.dumps(body).encode() + b"\n")
        except StorageError as error:  # it only saves others a few requests
            logger.debug("no hint was written: %s", error)

    # --- proposals

    def _name(self, branch: str) -> str:
        return f"proposals/{branch}/{self._proposal.write.id}"

    def _propose(self, branch: str) -> None:
        body = {"format": FORMAT, "base": self._proposal.base, "write": dump_write(self._proposal.write)}
        self._place.put(self._name(branch), json.dumps(body, ensure_ascii=False).encode() + b"\n")
        self._proposed = True

    def _others(self, head: Snapshot) -> list[Write]:
        """Return the writes of others that can be in the next commit with this one."""
        try:
            urls = get_storage(self._place.root).list(f"{self._place.root}proposals/{head.branch.name}/")
        except RefusedError:  # then everyone is alone
            return []
        taken: list[Write] = []
        for url in urls:
            if name_of(url) == self._proposal.write.id or len(taken) == _TAKEN_ALONG:
                continue
            proposal = _read_proposal(url)
            if proposal is not None and self._fits(proposal, taken, head):
                taken.append(proposal.write)
        return taken

    def _fits(self, proposal: Proposal, taken: Sequence[Write], head: Snapshot) -> bool:
        """Return whether another write collides neither with a commit since its base nor with those taken before it."""
        theirs = footprint(proposal.write)
        if theirs is None or not head.number - _TOO_OLD <= proposal.base <= head.number:
            return False
        before = [self._proposal.write, *taken]
        for number in range(max(proposal.base + 1, head.branch.start), head.number + 1):
            committed = self._place.read_commit(head.branch.name, number)
            if committed is None or any(write.id == proposal.write.id for write in committed.writes):
                return False
            before += committed.writes
        return not any(collisions(theirs, write, self._place.root) for write in before)


def _read_proposal(url: str) -> Proposal | None:
    """Return a proposal; None if its writer has taken it back meanwhile, or it is no whole one: it will try itself."""
    try:
        body = parse_json(read_limited(url, "manifest"), url)
        check_format(body, url)
        return Proposal(int(body["base"]), parse_write(body["write"]))
    except (StorageError, ShardError, KeyError, TypeError, ValueError):
        return None


def _conflict(place: Place, head: Snapshot, write: Write, keys: Sequence[str]) -> ConflictError:
    shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3:,} more" if len(keys) > 3 else "")
    who = f" by {write.author}" if write.author else ""
    return ConflictError(
        f"commit {head.number} of {head.branch.name}{who} has changed {shown}",
        url=place.root,
        fix="read it again (refresh) and make the change on top of it",
    )
