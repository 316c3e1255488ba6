"""Old versions that need no longer be readable, and which objects the others need."""

from __future__ import annotations

import json
from collections.abc import Iterator

from shardtools.errors import JobError, NotFoundError
from shardtools.log.commit import FORMAT, Commit
from shardtools.log.log import Log
from shardtools.log.reading import Segment


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
        places = {place for commit in _live_commits(log) for place in commit.segments}
        names = {place.name for place in places}
        for place in places:
            names.update(Segment(log.place.root, place).index().objects)
        return names


def _live_commits(log: Log) -> Iterator[Commit]:
    for name in log.place.names("branches"):
        head = log.head(name)
        first = max(head.branch.start, log.first_kept(name))
        if head.commit is not None:
            yield head.commit  # which is another branch's if this one has none yet
        for number in range(first, head.number):
            commit = log.place.read_commit(name, number)
            if commit is None:
                raise NotFoundError("a commit is gone", url=log.place.commit_url(name, number), fix="restore it")
            yield commit
    for name in log.place.names("tags"):
        if (tag := log.find_tag(name)) is not None:
            yield log.commit_of(tag.commit)
