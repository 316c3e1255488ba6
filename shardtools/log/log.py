"""A log: branches of commits, tags, and the writes of many writers, in one order for everyone.

Log.head -> Snapshot -> find, scan
changes -> segment -> Snapshot.commit: collides? -> commit n + 1, if there is none -> Snapshot
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from shardtools.errors import CorruptError, ExistsError, JobError, NotFoundError, redact
from shardtools.log import reading
from shardtools.log.commit import FORMAT, Commit, Parent, SegmentPlace, parse_parent
from shardtools.log.lookup import Lookup
from shardtools.log.names import check_reference
from shardtools.log.place import MARK, Place
from shardtools.log.segment import Entry
from shardtools.log.versions import Branch, Tag
from shardtools.storage import DEFAULT_OPTIONS, StorageOptions
from shardtools.urls import absolute, at_home

T = TypeVar("T")

MAIN = "main"

_NEWEST_WEIGHT = 0.3


@dataclass(frozen=True)
class Snapshot:
    """A place as it was after one commit; what others write later does not change it.

    ``commit`` is None if there was none yet. ``branch`` is the branch that a write on top of it goes to. ``fixed`` is
    the tag or number by which it was asked for: nothing can be written on top of that.
    """

    log: Log
    branch: Branch
    commit: Commit | None
    fixed: str | None = None

    def __repr__(self) -> str:
        return f"<Snapshot {self.branch.name}@{self.number} of {redact(self.log.place.root)}>"

    @property
    def number(self) -> int:
        """The number of its commit; that of the branch's first commit minus one if there is none yet."""
        if self.commit is not None and self.commit.branch == self.branch.name:
            return self.commit.number
        return self.branch.start - 1

    @property
    def segments(self) -> list[reading.Segment]:
        """The live segments, from the oldest to the newest."""
        return [reading.Segment(self.log.place.root, place) for place in places_of(self)]

    def find(self, keys: Iterable[str]) -> dict[str, Entry]:
        """Return where the bytes of keys lie; keys that there are not are left out."""
        with self.log.place.using():
            return self.log.lookup.find(self.commit, keys)

    def scan(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """Yield the keys that begin with ``prefix``, in their order, and where their bytes lie."""
        for block in self._each(reading.merged(self.segments, prefix)):
            yield from block.entries()

    def history(self) -> Iterator[Commit]:
        """Yield its commit and those before it, the newest first.

        Raises:
            CorruptError: a commit is missing, damaged, or not the one that the next one follows.
        """
        commit = self.commit
        while commit is not None:
            yield commit
            with self.log.place.using():
                commit = self.log.parent_of(commit)

    def _each(self, items: Iterator[T]) -> Iterator[T]:
        """Yield items of a generator that reads, whose storage follows the options of the place."""
        while True:
            with self.log.place.using():
                item = next(items, None)
            if item is None:
                return
            yield item


class Log:
    """The log at a URL: many processes may have it open, and write to it, at the same time."""

    def __init__(self, place: Place):
        self.place = place
        self.lookup = Lookup(place)
        self.contended = 0
        """How many of the next commits others are expected to compete with."""
        self.pace = 0.0
        """Seconds that a commit takes with what others have proposed, about; 0 if that is not known yet."""
        self._known: dict[str, int] = {}
        self._branches: dict[str, Branch] = {}

    @classmethod
    def open(
        cls, url: str, *, create: bool = False, single_writer: bool = False, options: StorageOptions = DEFAULT_OPTIONS
    ) -> Log:
        """Return the log at ``url``; ``create`` makes a new one if there is none.

        Raises:
            NotFoundError: there is none.
            CorruptError: there is something else.
            ConflictUnsupportedError: the storage cannot create an object only if there is none.
        """
        place = Place(absolute(at_home(url)).rstrip("/") + "/", options.naming(url), single_writer)
        with place.using():
            if place.read_document(MARK, lambda body: body) is None:
                if not create:
                    fix = "check the URL, or make one by writing to it"
                    raise NotFoundError("there is no log here", url=place.root, fix=fix)
                _create_once(place, f"branches/{MAIN}", _branch_document(Branch(MAIN, 0, None)))
                _create_once(place, MARK, {"format": FORMAT})
        return cls(place)

    def note_pace(self, seconds: float) -> None:
        """Take into account how long a commit has just taken."""
        self.pace += (seconds - self.pace) * _NEWEST_WEIGHT if self.pace else seconds

    # --- versions

    def head(self, branch: str = MAIN) -> Snapshot:
        """Return the newest commit of a branch.

        Raises:
            NotFoundError: there is no such branch.
        """
        with self.place.using():
            found = self.find_branch(branch)
            if found is None:
                raise self._unknown(branch)
            return self._at(found, self._newest(found))

    def resolve(self, version: str) -> Snapshot:
        """Return the snapshot that a version names: a branch, a tag, ``@17``, or ``BRANCH@17``.

        Raises:
            NotFoundError: there is no such version; the error says what there is.
        """
        name, at, number = version.rpartition("@")
        with self.place.using():
            if at:
                branch = self.find_branch(name or MAIN)
                if branch is None or not number.isdecimal() or not self._is_on(branch, int(number)):
                    raise self._unknown(version)
                found = self._at(branch, int(number))
                if found.commit is not None and found.commit.number < self.first_kept(found.commit.branch):
                    fix = "use a tag, or a later one"
                    raise NotFoundError(f"version {version} has expired", url=self.place.root, fix=fix)
                return replace(found, fixed=version)
            if (tag := self.find_tag(version)) is not None:
                branch = self.find_branch(tag.commit.branch)
                commit = self.commit_of(tag.commit)
                if branch is None:
                    url = f"{self.place.root}branches/{tag.commit.branch}"
                    raise CorruptError("the branch of a tag is gone", url=url, fix="restore it from a copy")
                return Snapshot(self, branch, commit, version)
            return self.head(version)

    def branch(self, name: str, start: Snapshot) -> Snapshot:
        """Make a branch that begins at a snapshot; return its head.

        Raises:
            JobError: this cannot be its name.
            ExistsError: there is a branch or a tag of this name.
        """
        number = start.number if start.commit is None else start.commit.number
        made = Branch(name, number + 1, as_parent(start.commit))
        self._create("branches", name, _branch_document(made))
        return Snapshot(self, made, start.commit)

    def tag(self, name: str, snapshot: Snapshot, *, message: str = "", author: str = "") -> Tag:
        """Give a commit a name, for ever.

        Raises:
            JobError: this cannot be its name, or there is no commit yet.
            ExistsError: there is a branch or a tag of this name.
        """
        parent = as_parent(snapshot.commit)
        if parent is None:
            raise JobError("there is no commit yet that could have a tag", fix="write something first")
        tag = Tag(name, parent, message, author, now())
        body = {"format": FORMAT, "commit": vars(parent), "message": message, "author": author, "time": tag.time}
        self._create("tags", name, body)
        return tag

    def branches(self) -> list[str]:
        """Return the names of the branches, sorted.

        Raises:
            RefusedError: the storage does not list.
        """
        with self.place.using():
            return self.place.names("branches")

    def tags(self) -> list[str]:
        """Return the names of the tags, sorted.

        Raises:
            RefusedError: the storage does not list.
        """
        with self.place.using():
            return self.place.names("tags")

    def find_branch(self, name: str) -> Branch | None:
        """Return a branch, None if there is none."""
        if (known := self._branches.get(name)) is not None:
            return known

        def parse(body: Mapping[str, Any]) -> Branch:
            origin = None if body["origin"] is None else parse_parent(body["origin"])
            start = body["start"]
            if type(start) is not int or start != (0 if origin is None else origin.number + 1):
                raise ValueError("not the start of a branch")
            return Branch(name, start, origin)

        found = self.place.read_document(f"branches/{name}", parse) if _is_reference(name) else None
        if found is not None:
            self._branches[name] = found
        return found

    def first_kept(self, branch: str) -> int:
        """Return the number of the first commit of a branch that has not expired."""
        return self.place.read_document(f"expired/{branch}", lambda body: int(body["first"])) or 0

    def find_tag(self, name: str) -> Tag | None:
        """Return a tag, None if there is none."""

        def parse(body: Mapping[str, Any]) -> Tag:
            return Tag(name, parse_parent(body["commit"]), *(str(body[part]) for part in ("message", "author", "time")))

        return self.place.read_document(f"tags/{name}", parse) if _is_reference(name) else None

    # --- commits

    def commit_of(self, parent: Parent) -> Commit:
        """Return the commit that another one, a branch or a tag names.

        Raises:
            CorruptError: it is gone, or another one.
        """
        url = self.place.commit_url(parent.branch, parent.number)
        commit = self.place.read_commit(parent.branch, parent.number)
        if commit is None:
            raise CorruptError("a commit that the history needs is gone", url=url, fix="restore it from a copy")
        if commit.digest != parent.digest:
            what = "the history was altered: this is not the commit that the next one follows"
            raise CorruptError(what, url=url, fix="restore it from a copy")
        return commit

    def parent_of(self, commit: Commit) -> Commit | None:
        """Return the commit before, None if there is none.

        Raises:
            CorruptError: it is gone, or another one.
        """
        return None if commit.parent is None else self.commit_of(commit.parent)

    def following(self, snapshot: Snapshot) -> Snapshot | None:
        """Return the snapshot of the next commit of its branch, None if there is none yet.

        Raises:
            CorruptError: it does not follow the snapshot's commit.
        """
        commit = self.place.read_commit(snapshot.branch.name, snapshot.number + 1)
        if commit is None:
            return None
        if commit.parent != as_parent(snapshot.commit):
            url = self.place.commit_url(commit.branch, commit.number)
            raise CorruptError("the commit does not follow the one before it", url=url, fix="restore it from a copy")
        self._known[commit.branch] = max(commit.number, self._known.get(commit.branch, 0))
        return Snapshot(self, snapshot.branch, commit)

    def _at(self, branch: Branch, number: int) -> Snapshot:
        if number >= branch.start:
            commit = self.place.read_commit(branch.name, number)
            assert commit is not None
            return Snapshot(self, branch, commit)
        commit = None if branch.origin is None else self.commit_of(branch.origin)
        while commit is not None and commit.number > number:
            commit = self.parent_of(commit)
        return Snapshot(self, branch, commit)

    def _is_on(self, branch: Branch, number: int) -> bool:
        return 0 <= number < branch.start or self.place.has_commit(branch.name, number)

    def _newest(self, branch: Branch) -> int:
        """Return the number of the newest commit of a branch: from one that there is, in steps that double."""
        place, name = self.place, branch.name
        newest = max(branch.start - 1, self._known.get(name, -1))
        if newest >= branch.start and place.read_commit(name, newest + 1) is None:
            return newest
        newest = max(newest, self._hint(branch))
        step = 1
        while place.has_commit(name, newest + step):
            newest += step
            step *= 2
        while step > 1:
            step //= 2
            if place.has_commit(name, newest + step):
                newest += step
        if newest < branch.start and place.has_commit(name, branch.start + 1):
            if place.has_commit(name, branch.start):  # others have made both since the first look
                return self._newest(branch)
            url = place.commit_url(name, branch.start)
            raise CorruptError("the first commit is gone", url=url, fix="restore it from a copy")
        self._known[name] = newest
        return newest

    def _hint(self, branch: Branch) -> int:
        """Return the number of a commit that there is, by the hint; a number below all of them without one."""
        try:
            hinted = self.place.read_document(f"hints/{branch.name}", lambda body: int(body["number"]))
        except CorruptError:  # it only helps, and the next commit writes another one
            return -1
        if hinted is None or hinted < branch.start or not self.place.has_commit(branch.name, hinted):
            return -1
        return hinted

    # --- names

    def _create(self, folder: str, name: str, body: dict[str, Any]) -> None:
        """Create a branch or a tag, of a name that neither a branch nor a tag has."""
        try:
            check_reference(name)
        except ValueError as error:
            fix = "use up to 100 letters, digits and . _ + -, and begin with a letter or digit"
            raise JobError(str(error), fix=fix) from error
        with self.place.using():
            there = "tag" if self.find_tag(name) else "branch" if self.find_branch(name) else None
            try:
                if there is None:
                    self.place.create_document(f"{folder}/{name}", body)
                    return
            except ExistsError:  # another process was faster
                there = "tag" if folder == "tags" else "branch"
        raise ExistsError(f"there is a {there} {name} already", url=self.place.root, fix="choose another name")

    def _unknown(self, version: str) -> NotFoundError:
        there = "the storage does not list what there is"
        if self.place.lists():
            there = ", ".join(self.place.names("branches") + self.place.names("tags"))[:300]
            there = f"there is {there}, and @N for a commit"
        return NotFoundError(f"there is no version {version}", url=self.place.root, fix=there)


def _is_reference(name: str) -> bool:
    try:
        check_reference(name)
    except ValueError:
        return False
    return True


def _create_once(place: Place, name: str, body: dict[str, Any]) -> None:
    try:
        place.create_document(name, body)
    except ExistsError:  # another process makes the log at the same time
        return


def _branch_document(branch: Branch) -> dict[str, Any]:
    origin = None if branch.origin is None else vars(branch.origin)
    return {"format": FORMAT, "start": branch.start, "origin": origin}


def as_parent(commit: Commit | None) -> Parent | None:
    """Return how the next commit names this one."""
    return None if commit is None else Parent(commit.branch, commit.number, commit.digest)


def places_of(snapshot: Snapshot) -> list[SegmentPlace]:
    """Return where the live segments of a snapshot lie, from the oldest to the newest."""
    return [] if snapshot.commit is None else list(snapshot.commit.segments)


def now() -> str:
    """Return the time in UTC, in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def new_id() -> str:
    """Return an id that no other write has."""
    return secrets.token_hex(16)
