"""Which commits of a branch stay when the old ones expire."""

from __future__ import annotations

import datetime
import re

from shardtools.arrays.chunk_order import batched
from shardtools.arrays.chunk_reader import THREADS, run_each
from shardtools.errors import JobError
from shardtools.log.expiry import expire as expire_before
from shardtools.log.log import Snapshot

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def expire(head: Snapshot, keep: int | None, older_than: str | None) -> int:
    """Let commits of a branch expire, given by its newest one; see `Hub.expire`."""
    if keep is None and older_than is None:
        raise JobError("nothing says which commits expire", fix="give keep (--keep N) or older_than (--older-than 30d)")
    if keep is not None and keep < 1:
        raise JobError(f"keep {keep} is too small", fix="give 1 or more")
    if head.commit is None:
        raise JobError("there is no commit yet", url=head.log.place.root, fix="write something first")
    firsts = []
    if keep is not None:
        firsts.append(head.number - keep + 1)
    if older_than is not None:
        firsts.append(_first_since(head, older_than))
    first = max(head.branch.start, min(firsts))
    expire_before(head.log, head.branch.name, first)
    with head.log.place.using():
        return max(first, head.log.first_kept(head.branch.name))


def _first_since(head: Snapshot, age: str) -> int:
    """Return the number of the first commit that is younger than an age; that of the newest one if none is.

    The clock of a writer may be wrong, so what comes after a young commit is young whatever its time says.
    """
    oldest = datetime.datetime.now(datetime.UTC) - parse_age(age)
    place, name = head.log.place, head.branch.name
    with place.using():
        begin = max(head.branch.start, head.log.first_kept(name))

        def is_young(number: int) -> bool:
            commit = place.read_commit(name, number)
            return commit is not None and max(_time(write.time) for write in commit.writes) >= oldest

        for numbers in batched(range(begin, head.number), THREADS):
            for number, young in zip(numbers, run_each(is_young, numbers, THREADS), strict=True):
                if young:
                    return number
    return head.number


def parse_age(age: str) -> datetime.timedelta:
    """Return an age that is written as ``12h``, ``30d`` or ``8w``.

    Raises:
        JobError: it is none.
    """
    match = re.fullmatch(r"(\d{1,5})([hdw])", age)
    if match is None:
        raise JobError(f"{age} is not an age", fix="write it as 12h, 30d or 8w")
    return datetime.timedelta(**{_UNITS[match[2]]: int(match[1])})


def _time(text: str) -> datetime.datetime:
    """Return the time that a commit names; one that is no time is old."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
