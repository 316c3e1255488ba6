"""Commits of one place, brought to another: what `Hub.pull` and `Hub.push` do.

    branches and tags of both places -> what is missing, or an error: they have diverged
    some commits -> their objects, copied and checked (``copying.py``) -> the same commits, created in their order

All names in a log are relative to its place, so that its objects are the same bytes everywhere. A commit is created
when all that it needs is there. So who is killed leaves a place that can be read, and goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from shardtools.arrays.chunk_reader import THREADS, run_each
from shardtools.arrays.copying import copy_object, objects_of
from shardtools.engine import Task
from shardtools.engine import ordered as engine
from shardtools.errors import (
    ConflictError,
    CorruptError,
    ExistsError,
    JobError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from shardtools.log.commit import FORMAT, Commit, Parent, parse_commit
from shardtools.log.expiry import object_names
from shardtools.log.garbage import claim, id_of
from shardtools.log.log import MAIN, Log, Snapshot, as_parent
from shardtools.log.place import MARK
from shardtools.log.versions import Branch, Tag
from shardtools.shards.names import names_of
from shardtools.storage.limited import read_limited, read_optional

_TOGETHER = 32
"""So many commits are read, and their objects copied, at a time."""


@dataclass(frozen=True)
class SyncResult:
    """What was brought to the other place: commits, new tags, and the objects that were missing there."""

    commits: int = 0
    tags: int = 0
    objects: int = 0
    nbytes: int = 0


Progress = Callable[[SyncResult], object]
"""Called with what was done so far, now and then."""


@dataclass(frozen=True)
class _Step:
    """A branch to bring: the commits that follow number ``base``, which is ``before``, up to ``last``.

    Those before ``first`` have expired, without those in ``kept``, which tags or other branches need. ``there`` is the
    branch at the target, None if it is new.
    """

    branch: Branch
    there: Snapshot | None
    base: int
    before: Parent | None
    last: int
    first: int
    kept: frozenset[int]

    def is_live(self, number: int) -> bool:
        """Return whether a commit can be read."""
        return number >= self.first or number in self.kept

    def runs(self) -> Iterator[range]:
        """Yield numbers of commits that are brought together. The last of them can be read, if one after it can."""
        start = self.base + 1
        while start <= self.last:
            stop = max(min(start + _TOGETHER, self.last + 1), min(self.first, self.last) + 1)
            yield range(start, stop)
            start = stop


def sync(
    source: Log,
    target: Log,
    *,
    branches: str | Iterable[str] | None = None,
    tags: str | Iterable[str] | None = None,
    progress: Progress | None = None,
) -> SyncResult:
    """Bring what ``target`` lacks of the branches and tags of ``source``; nothing else of it is changed.

    Without ``branches`` and ``tags`` all are brought; with ``branches`` alone, those tags whose commits come along. A
    branch brings with it the commits that it began on.

    Raises:
        ConflictError: both places have commits of a branch that the other one lacks, or others for a name. Nothing was
            copied. Or others write to the target at the same time.
        NotFoundError: there is no such branch or tag.
        RefusedError: the storage does not list branches and tags.
        CorruptError: something at the source is gone or damaged. What was copied before it can be read.
    """
    if source.place.root == target.place.root:
        raise JobError("both places are the same", url=source.place.root, fix="name another one")
    wanted = _choose(source, branches, tags)
    steps = [_plan(source, target, branch, wanted) for branch in wanted.in_order()]
    new_tags = [tag for tag in wanted.tags if _is_new(tag, target)]
    run = _Transfer(source, target, progress)
    run.begin([step.there for step in steps if step.there is not None])
    for step in steps:
        run.bring(step)
    for tag in new_tags:
        run.bring_tag(tag)
    run.finish()
    return run.result


# --- what to bring


class _Wanted:
    """What is to be brought: up to which commit of each branch, which tags, and which commits have to be readable."""

    def __init__(self, source: Log):
        self.tags: list[Tag] = []
        self.lasts: dict[str, int] = {}
        self.read: set[tuple[str, int]] = set()
        self._source = source
        self._branches: dict[str, Branch] = {}

    def add_branch(self, name: str) -> None:
        """Add a branch, with all of its commits."""
        head = self._source.head(name)
        self._add(name, head.number)
        if head.commit is not None and head.commit.branch != name:
            self.read.add((head.commit.branch, head.commit.number))

    def add_tag(self, tag: Tag) -> None:
        """Add a tag, and its commit with all before it."""
        self.tags.append(tag)
        self._add(tag.commit.branch, tag.commit.number)
        self.read.add((tag.commit.branch, tag.commit.number))

    def _add(self, name: str, number: int) -> None:
        if name not in self._branches:
            with self._source.place.using():
                branch = self._source.find_branch(name)
            if branch is None:
                what = f"the branch {name} is gone, and others need it"
                raise CorruptError(what, url=self._source.place.root, fix="restore branches/ from a copy")
            if branch.origin is not None:
                self._add(branch.origin.branch, branch.origin.number)
            self._branches[name] = branch  # after the one that it began on
        self.lasts[name] = max(number, self.lasts.get(name, -1))

    def in_order(self) -> list[Branch]:
        """Return the branches, each after the one that it began on."""
        return list(self._branches.values())


def _choose(source: Log, branches: str | Iterable[str] | None, tags: str | Iterable[str] | None) -> _Wanted:
    wanted = _Wanted(source)
    for name in _list(source, source.branches) if branches is None else names_of(branches):
        wanted.add_branch(name)
    for name in _list(source, source.tags) if tags is None else names_of(tags):
        with source.place.using():
            tag = source.find_tag(name)
        if tag is None:
            raise NotFoundError(f"there is no tag {name}", url=source.place.root, fix="see hub.tags()")
        comes_along = tag.commit.number <= wanted.lasts.get(tag.commit.branch, -1)
        if comes_along or branches is None or tags is not None:
            wanted.add_tag(tag)
    return wanted


def _list(log: Log, names: Callable[[], Sequence[str]]) -> Sequence[str]:
    try:
        return names()
    except RefusedError as error:
        fix = "name what to bring: branches=['main'], tags=[]"
        raise RefusedError("the storage does not list branches and tags", url=log.place.root, fix=fix) from error


# --- what is missing


def _plan(source: Log, target: Log, branch: Branch, wanted: _Wanted) -> _Step:
    """Return what to bring of a branch.

    Raises:
        ConflictError: the branch has diverged.
    """
    name, last = branch.name, wanted.lasts[branch.name]
    with target.place.using():
        known, taken = target.find_branch(name), target.find_tag(name)
    if taken is not None:
        raise _name_conflict(f"{name} is a branch at one place and a tag", target)
    there, base, before = None, branch.start - 1, branch.origin
    if known is not None:
        there = target.head(name)
        base = there.number
        common = min(base, last)
        same = common < branch.start or _digest(source, name, common) == _digest(target, name, common)
        if (known.start, known.origin) != (branch.start, branch.origin) or not same:
            raise _diverged(source.head(name), there)
        if base >= branch.start:
            before = as_parent(there.commit)
    kept = frozenset(number for other, number in wanted.read if other == name)
    return _Step(branch, there, base, before, last, first_of(source, name), kept)


def first_of(log: Log, branch: str) -> int:
    """Return the number of the first commit of a branch that has not expired."""
    with log.place.using():
        return log.first_kept(branch)


def _digest(log: Log, branch: str, number: int) -> str | None:
    with log.place.using():
        commit = log.place.read_commit(branch, number)
    return None if commit is None else commit.digest


def _is_new(tag: Tag, target: Log) -> bool:
    """Return whether the target lacks a tag.

    Raises:
        ConflictError: it has another one of this name.
    """
    with target.place.using():
        there, branch = target.find_tag(tag.name), target.find_branch(tag.name)
    if branch is not None:
        raise _name_conflict(f"{tag.name} is a tag at one place and a branch", target)
    if there is not None and there.commit != tag.commit:
        mine, other = _name(tag.commit), _name(there.commit)
        raise _name_conflict(f"the tag {tag.name} is {mine} at one place and {other}", target)
    return there is None


def _name_conflict(what: str, target: Log) -> ConflictError:
    fix = "leave it out (branches=, tags=), or use another name"
    return ConflictError(f"{what} at the other", url=target.place.root, fix=fix)


def _diverged(mine: Snapshot, other: Snapshot) -> ConflictError:
    heads = [f"{_name(as_parent(head.commit))} at {head.log.place.root}" for head in (mine, other)]
    return ConflictError(
        f"{mine.branch.name} has diverged: its newest commit is {heads[0]}, and {heads[1]}",
        fix="leave it out (branches=), or write the changes of one place again on top of the other",
    )


def _name(commit: Parent | None) -> str:
    return "none" if commit is None else f"{commit.branch}@{commit.number} ({commit.digest[:12]})"


# --- bringing it


class _Transfer:
    """Brings commits and tags, and counts what was done."""

    def __init__(self, source: Log, target: Log, progress: Progress | None):
        self._source, self._target, self._progress = source.place, target.place, progress
        self._target_log = target
        self._known: set[str] = set()  # objects that are at the target
        self._is_log = False
        self.result = SyncResult()

    def begin(self, heads: Sequence[Snapshot]) -> None:
        """Begin. ``heads`` are the newest commits at the target, and what they need is there."""
        with self._target.using():
            self._is_log = self._target.read_document(MARK, bool) is not None
        if not self._is_log:
            self._create(f"branches/{MAIN}", self._read(f"branches/{MAIN}"))
        for head in heads:
            if head.commit is not None:
                self._known |= object_names(self._target, head.commit)

    def bring(self, step: _Step) -> None:
        """Bring the commits of a branch.

        Raises:
            ConflictError: others write to it at the same time.
        """
        name = step.branch.name
        if step.there is None:
            self._create(f"branches/{name}", self._read(f"branches/{name}"))
        before = step.before
        for numbers in step.runs():
            names = [f"log/{name}/{number:020d}" for number in numbers]
            bodies = list(run_each(self._read, names, THREADS))
            commits = [self._parse(*named) for named in zip(names, bodies, strict=True)]
            with self._copied([commit for commit in commits if step.is_live(commit.number)]):
                for path, body, commit in zip(names, bodies, commits, strict=True):
                    if commit.parent != before:
                        raise _altered(self._source.root + path)
                    before = Parent(name, commit.number, commit.digest)
                    self._create(path, body)
                    self._count(commits=1)
            if numbers.start < step.first:
                self._expire(name, min(step.first, step.last + 1))
            self.finish()
        if step.base < step.last:
            self._put(f"hints/{name}", {"number": step.last})

    def bring_tag(self, tag: Tag) -> None:
        """Bring a tag, and what its commit needs."""
        with self._source.using():
            commit = self._source.read_commit(tag.commit.branch, tag.commit.number)
        if commit is None or commit.digest != tag.commit.digest:
            raise _altered(self._source.commit_url(tag.commit.branch, tag.commit.number))
        with self._copied([commit]):
            self._create(f"tags/{tag.name}", self._read(f"tags/{tag.name}"))
        self._count(tags=1)

    def finish(self) -> None:
        """Make the target a log, if it is none: the last step, since others may write to it from then on."""
        if not self._is_log:
            self._create(MARK, self._read(MARK))
            self._is_log = True

    # --- objects

    @contextmanager
    def _copied(self, commits: Sequence[Commit]) -> Iterator[None]:
        """A context in which what commits need is at the target, where no gc deletes it."""
        wanted = objects_of(self._source, commits, self._known)
        if not wanted:
            yield
            return
        with self._target.using(), claim(self._target, (id_of(some.name) for some in wanted), again=True):
            tasks = [Task(copy_object, (self._source, self._target, some), some.name) for some in wanted]
            engine.run_each(tasks, lambda _, size: self._count(objects=int(size > 0), nbytes=size), jobs=THREADS)
            yield

    def _read(self, name: str) -> bytes:
        url = self._source.root + name
        with self._source.using():
            return read_limited(url, "manifest")

    def _parse(self, name: str, body: bytes) -> Commit:
        url = self._source.root + name
        commit = parse_commit(body, url)
        if not name.endswith(f"/{commit.branch}/{commit.number:020d}"):
            raise _altered(url)
        return commit

    def _create(self, name: str, body: bytes) -> None:
        """Create an object of the log, unless the same one is there.

        Raises:
            ConflictError: there is another one, which others have just created.
        """
        with self._target.using():
            try:
                self._target.create(name, body)
            except (ExistsError, UnavailableError) as error:  # the answer may be lost, and not the object
                there = read_optional(self._target.root + name, "manifest")
                if there is None:
                    raise
                if _meaning(there) != _meaning(body):
                    what = "others have just written this to the place, too"
                    fix = "bring it here first (pull); if both have new commits, see what the error says then"
                    raise ConflictError(what, url=self._target.root + name, fix=fix) from error

    def _expire(self, branch: str, first: int) -> None:
        """Note that commits of a branch before ``first`` came without what they need."""
        if first > first_of(self._target_log, branch):
            self._put(f"expired/{branch}", {"first": first})

    def _put(self, name: str, body: Mapping[str, object]) -> None:
        with self._target.using():
            self._target.put(name, json.dumps({"format": FORMAT, **body}).encode() + b"\n")

    def _count(self, **done: int) -> None:
        values = {name: getattr(self.result, name) + count for name, count in done.items()}
        self.result = replace(self.result, **values)
        if self._progress is not None:
            self._progress(self.result)


def _meaning(body: bytes) -> object:
    """Return what an object of a log says; a branch may have been made by another program."""
    line, _, rest = body.partition(b"\n")
    try:
        found = json.loads(line)
    except ValueError:
        return body
    return (found.get("commit", found), rest) if isinstance(found, dict) else body


def _altered(url: str) -> CorruptError:
    return CorruptError("this is not the commit that belongs here", url=url, fix="restore it from a copy")
