"""Finding keys in the newest commits without reading their segments, as far as the commits say what they touched.

    newest commit -> commits before it, in memory -> one whose segments were read: what none since has touched, it knows

Who writes at the same time as others has read their commits anyway, and each of these has new segments.
"""

from __future__ import annotations

from collections.abc import Iterable

from shardtools.errors import CorruptError
from shardtools.log import reading
from shardtools.log.commit import Commit, Write
from shardtools.log.place import Place
from shardtools.log.reading import Segment
from shardtools.log.segment import Entry

_LOOKED_AT = 32
"""After so many commits their segments are read, which are few by then."""


class Lookup:
    """Finds keys in commits of the log at ``place``. Safe in threads."""

    def __init__(self, place: Place):
        self._place = place
        self._read: dict[str, Commit] = {}  # of each branch a commit whose segments were searched

    def find(self, commit: Commit | None, keys: Iterable[str]) -> dict[str, Entry]:
        """Return where the bytes of keys lie as of a commit; keys that there are not are left out.

        Raises:
            CorruptError: a segment is damaged, or gone.
        """
        if commit is None:
            return {}
        wanted = set(keys)
        known = self._read.get(commit.branch)
        touched = None if known is None else self._touched_since(known, commit, wanted)
        if known is not None and touched is not None:
            try:
                return self._search(known, wanted - touched) | self._search(commit, touched)
            except CorruptError:  # what only the older one needs may have been deleted since
                pass
        found = self._search(commit, wanted)
        self._read[commit.branch] = commit
        return found

    def _search(self, commit: Commit, keys: set[str]) -> dict[str, Entry]:
        return reading.find([Segment(self._place.root, segment) for segment in commit.segments], keys) if keys else {}

    def _touched_since(self, known: Commit, commit: Commit, keys: set[str]) -> set[str] | None:
        """Return those of ``keys`` that were written between two commits; None if the commits do not say it."""
        touched: set[str] = set()
        for _ in range(_LOOKED_AT):
            if commit.number == known.number:
                return touched if commit.digest == known.digest else None
            for write in commit.writes:
                if write.touched is None or _moves_segments(write):
                    return None
                touched.update(keys.intersection(write.touched))
                if write.removed:
                    touched.update(key for key in keys if key.startswith(write.removed))
            before = commit.parent
            if before is None or before.branch != known.branch:
                return None
            earlier = self._place.commits.get(self._place.commit_url(before.branch, before.number))
            if earlier is None:
                return None
            commit = earlier
        return None


def _moves_segments(write: Write) -> bool:
    """Return whether a write may be upkeep, after which the bytes of keys lie elsewhere."""
    return write.changes is None
