"""Objects of a log, copied to another place: what a commit needs, and whether what arrives is what was written.

commit -> segments that are new -> objects that they name, and the CRC-32C of each entry
object -> stream of the source, checked as it passes -> the same name at the destination
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np

from shardtools.arrays.chunk_reader import THREADS, run_each
from shardtools.errors import CorruptError, NotFoundError
from shardtools.log.commit import Commit, SegmentPlace
from shardtools.log.place import Place
from shardtools.log.reading import Segment
from shardtools.log.segment import ROW, Rows
from shardtools.storage import Stream, check_stop, get_storage

_PIECE = 1 << 22
_FIX = "restore it from a copy, or run `hub.verify()` to see what else is damaged"


@dataclass(frozen=True, eq=False)
class CopiedObject:
    """An object to copy, and what is known of it: rows with offset, size and CRC-32C of parts of it.

    ``size`` is None if it is not known, as that of a data shard.
    """

    name: str
    parts: Rows
    size: int | None = None


def objects_of(place: Place, commits: Sequence[Commit], known: set[str]) -> list[CopiedObject]:
    """Return the objects that commits need, without those that are ``known``, to which they are added.

    What a write has changed, as a segment of its own, may be gone when it was merged.

    Raises:
        CorruptError: a segment is damaged, or gone.
    """
    live = {segment.name: segment for commit in commits for segment in commit.segments}
    written = {
        write.changes.name: write.changes
        for commit in commits
        for write in commit.writes
        if write.changes is not None and write.changes.name not in live
    }
    wanted: dict[str, CopiedObject] = {}

    def find(segment: SegmentPlace) -> list[CopiedObject]:
        if segment.name in written and _size(place, segment.name) is None:
            return []
        with place.using():
            return list(_of_segment(Segment(place.root, segment), known))

    for segments in (written, live):  # those of one write are small, and name most objects
        new = [segment for name, segment in segments.items() if name not in known]
        for found in run_each(find, new, THREADS):
            wanted |= {some.name: some for some in found if some.name not in wanted}
        known.update(wanted)
    return list(wanted.values())


def _of_segment(segment: Segment, known: set[str]) -> Iterator[CopiedObject]:
    index, place = segment.index(), segment.place
    own = [(0, 0, block.offset, block.size, block.crc32c) for block in index.blocks]
    own.append((0, 0, place.index, place.size - place.index, place.crc32c))
    yield CopiedObject(place.name, np.array(own, ROW), place.size)
    new = {number: name for number, name in enumerate(index.objects, 1) if name not in known}
    if new:
        blocks = [block.rows for block in segment.scan(keep=False)]
        rows = np.concatenate([np.empty(0, ROW), *blocks])
        rows = rows[np.argsort(rows["object"], kind="stable")]
        for number, name in new.items():
            start, stop = np.searchsorted(rows["object"], [number, number + 1])
            yield CopiedObject(name, rows[start:stop])


def copy_object(source: Place, target: Place, wanted: CopiedObject) -> int:
    """Copy an object, unless it is there whole, and return how many bytes were copied.

    Raises:
        CorruptError: it is gone at the source, or not what was written. Nothing was written then.
        StorageError: one of the places cannot be read or written.
    """
    there = _size(target, wanted.name)
    if there is not None and there == wanted.size:
        return 0
    url = source.root + wanted.name
    try:
        with source.using():
            stream = get_storage(url).open(url)
    except NotFoundError as error:
        raise CorruptError("an object that a commit refers to is gone", url=url, fix=_FIX) from error
    with stream:
        if there is not None and there == stream.stat.size:
            return 0
        return _copy(stream, url, target, wanted)


def _copy(stream: Stream, url: str, target: Place, wanted: CopiedObject) -> int:
    check = _Check(wanted.parts, url)
    to = target.root + wanted.name
    with target.using(), get_storage(to).create(to) as sink:
        while piece := stream.read(_PIECE):
            check_stop()
            check.take(piece)
            sink.write(piece)
        for size in (wanted.size, stream.stat.size):
            check.finish(size)
    if (arrived := _size(target, wanted.name)) != check.position:
        what = f"{check.position:,} bytes were written, and {arrived or 0:,} have arrived"
        raise CorruptError(what, url=to, fix="copy again")
    return check.position


def _size(place: Place, name: str) -> int | None:
    url = place.root + name
    with place.using():
        try:
            return get_storage(url).stat(url).size
        except NotFoundError:
            return None


class _Check:
    """Compares the bytes of an object, which come piece by piece, with the CRC-32C of its parts."""

    def __init__(self, parts: Rows, url: str):
        self._url = url
        rows = parts[np.argsort(parts["offset"])]
        self._starts, self._expected = rows["offset"].astype(np.int64), rows["crc32c"].tolist()
        self._stops = self._starts + rows["size"].astype(np.int64)
        self._sums = [0] * len(rows)
        self._first = 0
        self.position = 0

    def take(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            CorruptError: a part that ends in it is not what was written.
        """
        start, self.position = self.position, self.position + len(piece)
        last = int(np.searchsorted(self._starts, self.position))
        for number in range(self._first, last):
            begin, end = int(self._starts[number]), int(self._stops[number])
            if end > start:
                part = piece[max(begin - start, 0) : end - start]
                self._sums[number] = google_crc32c.extend(self._sums[number], part)
            if start < end <= self.position and self._sums[number] != self._expected[number]:
                raise CorruptError(f"its bytes from {begin:,} to {end:,} are damaged", url=self._url, fix=_FIX)
        while self._first < last and self._stops[self._first] <= self.position:
            self._first += 1

    def finish(self, size: int | None) -> None:
        """Check that all parts have come, and that the object has ``size`` bytes, if that is known.

        Raises:
            CorruptError: it has not.
        """
        needed = int(self._stops.max(initial=0))
        if self.position < needed or size not in (None, self.position):
            what = f"it has {self.position:,} bytes, and should have {max(needed, size or 0):,}"
            raise CorruptError(what, url=self._url, fix=_FIX)
