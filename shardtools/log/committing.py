"""How writes become commits: collide or follow, and take others along.

    changes -> segment -> proposal, if others write too -> commit n + 1 with all proposals that do not collide

Who creates commit n + 1 has decided what it consists of. A writer that comes too late reads it: its own write may be in
it, since others take along what is proposed; or it collides, and fails; else it tries n + 2. So a writer waits for a
round or two, however many there are. (Helping each other so is the idea of wait-free objects: Herlihy, TOPLAS 1991.)
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from shardtools.errors import (
    ConflictError,
    ExistsError,
    JobError,
    StorageError,
    UnavailableError,
)
from shardtools.log import garbage
from shardtools.log.commit import (
    FORMAT,
    Commit,
    SegmentPlace,
    Write,
    dump_commit,
)
from shardtools.log.conflict import NOTHING, Footprint, collisions
from shardtools.log.expiry import object_names
from shardtools.log.log import Snapshot, as_parent, new_id, now, places_of
from shardtools.log.merging import MERGED_INLINE, Fresh, merge_tail
from shardtools.log.names import check_key
from shardtools.log.place import Place
from shardtools.log.proposals import Proposal, Queue
from shardtools.log.reading import MemorySegment
from shardtools.log.segment import Change
from shardtools.log.segment_writer import block_of, write_segment
from shardtools.log.started import Started

logger = logging.getLogger(__name__)

LISTED = 1000
"""A write that touches more keys than this does not list them in its commit."""

_HINT_EVERY = 16
_CONTENDED = 8
"""So many commits in a row that nobody else took part in, and a process expects to be alone again."""

_UNMERGED = 32
"""Beyond so many segments they are merged even if others wait."""

_MERGED_QUICKLY = 1 << 14

Rewrite = Callable[[Snapshot], list[SegmentPlace]]

Describe = Callable[[Write, Sequence[str]], str]
"""Returns what another write has done to some keys, such as "changed a, b"."""


def list_some(names: Sequence[str]) -> str:
    """Return the first three names, and how many there are besides."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _describe_keys(write: Write, keys: Sequence[str]) -> str:
    return f"changed {list_some(keys)}"


def commit(
    base: Snapshot,
    changes: Mapping[str, Change],
    *,
    removed: Sequence[str] = (),
    reads: Iterable[str] = (),
    message: str = "",
    author: str = "",
    id: str | None = None,
    describe: Describe = _describe_keys,
    started: Started | None = None,
) -> Snapshot:
    """Write ``changes``, made on top of ``base``, and return the snapshot that has them.

    ``removed`` are prefixes whose keys are removed before the changes are made. ``reads`` are keys that the changes
    depend on. Bytes of the changes lie in objects ``data/ID/…`` already, ``id`` being that of this write, which were
    written since it ``started``. ``describe`` says in a `ConflictError` what the other has done.

    Raises:
        JobError: ``base`` is a tag or a numbered commit, or a key or prefix cannot be one.
        ConflictError: others have meanwhile changed what this touches or depends on. Nothing was written.
        UnavailableError: it is not known whether it was written, since the storage does not answer.
    """
    place = base.log.place
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
        proposal = Proposal.of(base.number, write, changes)
        return _Committer(base, proposal, mine, describe=describe, started=started).run()


def replace_segments(
    base: Snapshot, rewrite: Rewrite, *, message: str = "", author: str = "", started: Started | None = None
) -> Snapshot:
    """Replace the list of live segments, and return the snapshot that has the new one; no key is touched.

    ``rewrite`` returns the new list for a snapshot: other segments with the same keys, for it neither collides with
    other writes nor do they with it. What it leaves alone at the end of the list, and what others have committed
    meanwhile, stays. If they have merged what was rewritten, it is called again with the newer snapshot. If it returns
    the old list, there is no commit. Nothing that they refer to is older than when this ``started``.

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
        return _Committer(base, Proposal(base.number, write), rewriting=rewriting, started=started).run()


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

    def __init__(
        self,
        base: Snapshot,
        proposal: Proposal,
        mine: Footprint = NOTHING,
        *,
        rewriting: _Rewriting | None = None,
        describe: Describe = _describe_keys,
        started: Started | None = None,
    ):
        self._base = base
        self._log = base.log
        self._place = base.log.place
        self._write = proposal.write
        self._mine = mine
        self._describe = describe
        self._rewriting = rewriting
        self._started = started or Started()
        self._alone = rewriting is not None or self._place.single_writer
        self._merged: dict[tuple[str, ...], SegmentPlace] = {}
        self.queue = Queue(base.log, base.branch.name, proposal)

    def run(self) -> Snapshot:
        head = self._base
        try:
            if self._log.contended and not self._alone:
                self._propose()
            while True:
                head, done = self._catch_up(head)
                if done is not None:
                    return done
                if self.queue.proposed and not self.queue.await_turn(head):
                    continue
                start = time.monotonic()
                is_created = self._create_safely(self.build(head), head)
                self._log.note_pace(time.monotonic() - start)
                if is_created:
                    return self._created(head)
                if not self._alone:
                    self._log.contended = _CONTENDED
                    self._propose()
        finally:
            self.queue.leave(withdraw=not self._must_claim())

    def _created(self, head: Snapshot) -> Snapshot:
        following = self._log.following(head)
        assert following is not None and following.commit is not None
        if following.number % _HINT_EVERY == 0:
            self._hint(following)
        if self.queue.proposed and len(following.commit.writes) == 1:
            self._log.contended -= 1
        return following

    def _catch_up(self, head: Snapshot) -> tuple[Snapshot, Snapshot | None]:
        """Go on to the newest commit; the second value is the snapshot that has this write, if there is one.

        Raises:
            ConflictError: a commit on the way collides with it.
        """
        while (following := self._log.following(head)) is not None:
            head = following
            assert head.commit is not None
            if any(write.id == self._write.id for write in head.commit.writes):
                return head, head
            for write in head.commit.writes:
                if keys := collisions(self._mine, write, self._place.root):
                    raise _conflict(self._place, head, write, self._describe(write, keys))
        return head, None

    def build(self, head: Snapshot) -> Commit:
        """Return the next commit: this write, and what others have proposed that does not collide."""
        taken = [self.queue.mine, *(self.queue.others(head) if self.queue.proposed else [])]
        places = self._segments(head, taken) if self._rewriting is None else self._rewriting.segments(head)
        writes = tuple(proposal.write for proposal in taken)
        return Commit(head.branch.name, head.number + 1, as_parent(head.commit), writes, tuple(places))

    def _segments(self, head: Snapshot, taken: Sequence[Proposal]) -> list[SegmentPlace]:
        """Return the segments of the commit that takes some proposals, which touch different keys.

        As long as others wait, large ones are merged only when they are many, and who goes ahead of another, most
        likely in vain, merges none.
        """
        places, quickly = places_of(head), self.queue.proposed and len(places_of(head)) < _UNMERGED
        if quickly and not self.queue.is_first:
            return places + _written(taken)
        known = [proposal for proposal in taken if proposal.changes is not None and _written([proposal])]
        places += _written([proposal for proposal in taken if proposal.changes is None])
        limit = _MERGED_QUICKLY if quickly else MERGED_INLINE
        return merge_tail(self._place, places, self._merged, _fresh(known) if known else None, limit)

    def _propose(self) -> None:
        """Let others take the write along, unless it must claim its data: they do not look whether a gc deleted it."""
        if not self._must_claim():
            self.queue.propose()

    def _must_claim(self) -> bool:
        return self._started.elapsed() >= garbage.CLAIM_AFTER

    def _create_safely(self, made: Commit, head: Snapshot) -> bool:
        """Create a commit as `_create` does. After a long time what it refers to is claimed before."""
        if not self._must_claim():
            return self._create(made)
        names = object_names(self._place, made)
        if head.commit is not None:
            names -= object_names(self._place, head.commit)
        with garbage.claim(self._place, map(garbage.id_of, names)):
            return self._create(made)

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


def _written(proposals: Iterable[Proposal]) -> list[SegmentPlace]:
    """Return the segments that were written of proposals."""
    return [proposal.write.changes for proposal in proposals if proposal.write.changes is not None]


def _fresh(proposals: Sequence[Proposal]) -> Fresh:
    """Return the changes of proposals that say them, which touch different keys."""
    changes = {key: change for proposal in proposals for key, change in (proposal.changes or {}).items()}
    removed = tuple(prefix for proposal in proposals for prefix in proposal.write.removed)
    segment = MemorySegment(block_of(sorted(changes.items())), removed)
    ids = tuple(proposal.write.id for proposal in proposals)
    return Fresh(ids, segment, proposals[0].write.changes if len(proposals) == 1 else None)


def _conflict(place: Place, head: Snapshot, write: Write, what: str) -> ConflictError:
    who = f" by {write.author}" if write.author else ""
    return ConflictError(
        f"commit {head.number} of {head.branch.name}{who} has {what}",
        url=place.root,
        fix="read it again (refresh) and make the change on top of it",
    )
