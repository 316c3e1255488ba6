"""Old versions that need no longer be readable, and which objects the others need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from shardtools.errors import CorruptError, JobError
from shardtools.log.commit import FORMAT, Commit, SegmentPlace
from shardtools.log.log import Log
from shardtools.log.place import Place
from shardtools.log.reading import Segment
from shardtools.storage import get_storage
from shardtools.urls import name_of


def expire(log: Log, branch: str, first: int) -> None:
    """Let versions before commit ``first`` of a branch expire: they can no longer be resolved. Tags still can.

    No object is deleted. Commits never are: a writer with an old base could create a number again.

    Raises:
        NotFoundError: there is no such branch.
        JobError: ``first`` comes after its newest commit.
    """
    newest = log.head(branch).number
    if first > newest:
        raise JobError(f"{branch} ends with commit {newest}", url=log.place.root, fix="keep at least that one")
    with log.place.using():
        if first > log.first_kept(branch):
            body = {"format": FORMAT, "first": first}
            log.place.put(f"expired/{branch}", json.dumps(body).encode() + b"\n")


def referenced_objects(log: Log) -> set[str]:
    """Return the names of all objects below ``data/`` that the versions need which have not expired.

    Only commits and indexes of segments are read.

    Raises:
        RefusedError: the storage does not list.
        CorruptError: a commit or a segment is damaged or gone.
    """
    with log.place.using():
        return names_in(log.place, {place for commit in _live_commits(log) for place in commit.segments})


def object_names(place: Place, commit: Commit) -> set[str]:
    """Return the names of the objects that a commit needs; indexes of segments are read."""
    with place.using():
        return names_in(place, commit.segments)


def names_in(place: Place, segments: Iterable[SegmentPlace]) -> set[str]:
    """Return the names of segments and of the objects that they refer to; their indexes are read."""
    names = set()
    for segment in segments:
        names.add(segment.name)
        names.update(Segment(place.root, segment).index().objects)
    return names


def _last_number(place: Place, branch: str) -> int:
    """Return the greatest number that a commit of a branch has, by a listing: it does not stop where one is gone."""
    names = map(name_of, get_storage(place.root).list(f"{place.root}log/{branch}/"))
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def _live_commits(log: Log) -> Iterator[Commit]:
    for name in log.place.names("branches"):
        head = log.head(name)
        first = max(head.branch.start, log.first_kept(name))
        if head.commit is not None:
            yield head.commit  # which is another branch's if this one has none yet
        for number in range(first, max(head.number, _last_number(log.place, name))):
            commit = log.place.read_commit(name, number)
            if commit is None:
                url = log.place.commit_url(name, number)
                raise CorruptError("a commit is gone", url=url, fix="restore it from a copy")
            yield commit
    for name in log.place.names("tags"):
        if (tag := log.find_tag(name)) is not None:
            yield log.commit_of(tag.commit)
