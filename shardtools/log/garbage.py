"""Data that no version needs is deleted, but never that of a write which is about to be committed.

    collect: folders ``data/ID/`` that nothing refers to -> record -> those that an old record has, too -> deleted

A folder is deleted in the second run that finds nothing which refers to it, at least the grace period after the first.
So whatever was begun after the first run is safe for that long. A write that takes longer than `CLAIM_AFTER` seconds
makes sure by itself: it claims its folders, and then looks whether a record says that they are deleted. A collector
writes the record first, and then looks for claims. Whatever the order, one of both sees the other, and gives way: the
collector keeps the folder, the write fails. (Dekker's algorithm, with objects in place of variables.) What brings data
from another place claims it before it looks what is there already.

Who takes a proposal along does not claim its folder, so a write that must claim is not proposed. A proposal that waits
may be committed by others, so its folder is kept, and its writer does not withdraw it once it must claim: somebody may
have read it already. Nobody commits one whose base is `TOO_OLD` commits ago, so that its
writer must claim; then it is no longer looked at.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

from shardtools.errors import ConflictError, ExistsError, JobError
from shardtools.log.commit import FORMAT
from shardtools.log.expiry import referenced_objects
from shardtools.log.log import Log, new_id
from shardtools.log.place import Place
from shardtools.log.proposals import TOO_OLD
from shardtools.log.started import Started
from shardtools.storage import get_storage
from shardtools.urls import is_local, name_of, path_of, scheme_of

CLAIM_AFTER = 600
"""Seconds after which a write claims what it is about to refer to."""

LONGEST_RUN = datetime.timedelta(days=1)
"""A run that has taken so long deletes nothing more. One that began twice as long ago is dead if it has not ended."""

SHORTEST_GRACE = datetime.timedelta(hours=1)

GRACE = datetime.timedelta(days=1)

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class CollectResult:
    """What a run did: ``waiting`` folders are not needed and may be deleted later, ``deleted`` ones are gone."""

    waiting: int
    deleted: int
    objects: int


@dataclass(frozen=True)
class _Record:
    """What one run has found: ids that nothing refers to, and those that it was about to delete."""

    time: datetime.datetime
    unreferenced: frozenset[str]
    deleted: frozenset[str]
    is_done: bool = False


def collect(log: Log, grace: datetime.timedelta = GRACE, *, now: datetime.datetime | None = None) -> CollectResult:
    """Delete what was found to be of no use at least ``grace`` ago, and still is; and note what is now.

    ``now`` is the time of this run, by default that of this machine's clock, which must be right.

    Raises:
        JobError: ``grace`` is less than an hour, or it takes longer than a day.
        RefusedError: the storage does not list.
        CorruptError: a commit or a segment that says what is needed is damaged or gone. Nothing is deleted.
    """
    if grace < SHORTEST_GRACE:
        raise JobError("the grace period is less than an hour", fix="writes may take that long: choose 1h or more")
    place, time, started = log.place, now or datetime.datetime.now(datetime.UTC), Started()
    with place.using():
        records = list(_records(place))
        there = {name_of(url.rstrip("/")) for url in get_storage(place.root).folders(f"{place.root}data/")}
        unreferenced = frozenset(filter(_ID.fullmatch, there)) - _needed(place)
        old = [record.unreferenced | record.deleted for record in records if record.time + grace <= time]
        doomed = unreferenced.intersection(*[frozenset().union(*old)])
        _write_record(place, len(records), _Record(time, unreferenced, doomed))
        kept = _claimed(place) | _needed(place)  # in this order, and after the record was written
        objects = sum(_delete(place, id, started) for id in sorted(doomed - kept))
        _delete_dead_proposals(place)
        dead = [not record.is_done and record.time + 2 * LONGEST_RUN <= time for record in records]
        for number in [*compress(range(len(records)), dead), len(records)]:
            place.put(f"{_record_name(number)}.done", b'{"format": 1}\n')
    return CollectResult(len(unreferenced - doomed), len(doomed - kept), objects)


def _needed(place: Place) -> frozenset[str]:
    """Return the ids that versions need, or that proposals which wait have."""
    fresh = Log(Place(place.root, place.options, place.single_writer))  # which knows nothing of before
    waiting = {id for _, id in _proposals(fresh, dead=False)}
    return frozenset(map(id_of, referenced_objects(fresh))) | waiting


def id_of(name: str) -> str:
    """Return the id in the name of an object, ``data/ID/…``."""
    return name.split("/")[1]


# --- claims


@contextmanager
def claim(place: Place, ids: Iterable[str], *, again: bool = False) -> Iterator[None]:
    """A context in which a commit that refers to folders may be created.

    With ``again`` they may have been deleted by a run that is over, since what is missing is written in the context.

    Raises:
        ConflictError: some are being deleted, or were.
    """
    claimed = sorted(set(ids))
    name = f"claims/{new_id()}"
    try:
        place.create_document(name, {"format": FORMAT, "ids": claimed})
        runs = [record for record in _records(place) if not (again and record.is_done)]
        if any(record.deleted.intersection(claimed) for record in runs):
            what = "data of this write was deleted by a gc: the write has taken longer than its grace period"
            fix = "write again; if it needs longer, choose a longer grace period"
            if again:
                what, fix = "a gc is deleting what is to be brought here", "run it again when gc has ended"
            raise ConflictError(what, url=place.root, fix=fix)
        yield
    finally:
        place.delete(name)


def _claimed(place: Place) -> frozenset[str]:
    found = [
        place.read_document(f"claims/{name_of(url)}", lambda body: _parse_ids(body["ids"]))
        for url in get_storage(place.root).list(f"{place.root}claims/")
    ]
    return frozenset().union(*(ids for ids in found if ids is not None))  # else its write has just ended


# --- records


def _records(place: Place) -> Iterator[_Record]:
    """Yield all records, the oldest first. Their numbers have no holes, so that nothing has to be listed."""

    def parse(body: Any) -> _Record:
        time = datetime.datetime.fromisoformat(body["time"])
        if time.tzinfo is None:
            raise ValueError("a time without a zone")
        return _Record(time, _parse_ids(body["unreferenced"]), _parse_ids(body["deleted"]))

    number = 0
    while (record := place.read_document(_record_name(number), parse)) is not None:
        done = f"{place.root}{_record_name(number)}.done"
        yield replace(record, is_done=get_storage(done).exists(done))
        number += 1


def _parse_ids(ids: Any) -> frozenset[str]:
    if not isinstance(ids, list) or not all(isinstance(id, str) and _ID.fullmatch(id) for id in ids):
        raise ValueError("not a list of ids")
    return frozenset(ids)


def _record_name(number: int) -> str:
    return f"garbage/{number:020d}"


def _write_record(place: Place, number: int, record: _Record) -> None:
    body = {
        "format": FORMAT,
        "time": record.time.isoformat(timespec="seconds"),
        "unreferenced": sorted(record.unreferenced),
        "deleted": sorted(record.deleted),
    }
    try:
        place.create_document(_record_name(number), body)
    except ExistsError as error:
        fix = "run it again later, if the other one did not finish"
        raise ConflictError("another gc is running", url=place.root, fix=fix) from error


# --- deleting


def _delete(place: Place, id: str, started: Started) -> int:
    """Delete the objects of a folder, and return how many there were.

    Raises:
        JobError: the run is so long that others take it for dead.
    """
    urls = get_storage(place.root).list(f"{place.root}data/{id}/")
    for url in urls:
        if started.elapsed() > LONGEST_RUN.total_seconds():
            raise JobError("this gc has taken longer than a day", url=place.root, fix="run it again, it will go on")
        get_storage(url).delete(url)
    _delete_folder(place, f"data/{id}/")
    return len(urls)


def _delete_folder(place: Place, name: str) -> None:
    """Delete an empty folder, which the next run would look at again; S3 and Google Cloud Storage have none."""
    if is_local(place.root):
        with suppress(OSError):  # a write that lost its data goes on in it
            os.rmdir(path_of(place.root) + name)
    elif scheme_of(place.root) in ("http", "https"):
        place.delete(name)


def _proposals(log: Log, *, dead: bool) -> Iterator[tuple[str, str]]:
    """Yield the names and ids of proposals that can no longer be committed, or of those that still can."""
    place = log.place
    for branch in place.names("branches"):
        newest = log.head(branch).number
        for url in get_storage(place.root).list(f"{place.root}proposals/{branch}/"):
            number, _, id = name_of(url).partition("-")
            if number.isdecimal() and (int(number) <= newest - TOO_OLD) == dead:
                yield f"proposals/{branch}/{name_of(url)}", id


def _delete_dead_proposals(place: Place) -> None:
    for name, _ in list(_proposals(Log(place), dead=True)):
        place.delete(name)
