"""Several sources as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardtools.errors import DuplicateKeyError, JobError
from shardtools.shards.columns import with_zero
from shardtools.shards.reader import SeenKeys
from shardtools.sources import Part, Source
from shardtools.sources.names import number_key
from shardtools.types import Ints

_BATCH = 1 << 16


class JoinedSource(Source):
    """Several sources, one after the other. With ``numbered`` the key of a sample is its number among all."""

    def __init__(self, sources: Sequence[Source], *, numbered: bool = False):
        """Join ``sources``.

        Raises:
            JobError: more than one of them has classes.
            DuplicateKeyError: two of them have a sample with one key.
        """
        self.name = "::".join(source.name for source in sources)
        self.random_access = all(source.random_access for source in sources)
        self.reads_at_once = all(source.reads_at_once for source in sources)
        self.portable = all(source.portable for source in sources)
        self._sources = sources
        self._numbered = numbered
        self._first = with_zero(np.cumsum([len(source) for source in sources]))
        if sum(bool(source.notes()) for source in sources) > 1:
            raise JobError(
                "--class-from-folder cannot combine the classes of several sources",
                fix="give the one folder that they are in, or leave out --class-from-folder",
            )
        if not numbered:
            refuse_repeated_keys(self, "upload the sources one by one, or use --key number")

    def __len__(self) -> int:
        return int(self._first[-1])

    def key(self, row: int) -> str:
        if self._numbered:
            return number_key(row)
        source, at = self._find(row)
        return source.key(at)

    def names(self) -> Sequence[str]:
        return [name for source in self._sources for name in source.names()]

    def read_by_tasks(self) -> Sequence[str]:
        return [url for source in self._sources for url in source.read_by_tasks()]

    def place(self, row: int) -> str:
        source, at = self._find(row)
        return source.place(at)

    def sizes(self) -> Ints:
        return np.concatenate([source.sizes() for source in self._sources])

    def part(self, rows: Ints) -> JoinedPart:
        sources = np.searchsorted(self._first, rows, side="right") - 1
        parts: list[Part] = []
        places = np.zeros(len(rows), np.int64)
        which = np.zeros(len(rows), np.int64)
        for source in np.unique(sources).tolist():
            mask = sources == source
            which[mask] = len(parts)
            places[mask] = np.arange(int(mask.sum()))
            parts.append(self._sources[source].part(rows[mask] - self._first[source]))
        return JoinedPart(parts, which, places, rows if self._numbered else None)

    def notes(self) -> dict[str, Any]:
        notes: dict[str, Any] = {}
        for source in self._sources:
            notes.update(source.notes())
        return notes

    def left_out(self) -> Sequence[tuple[str, str]]:
        return [entry for source in self._sources for entry in source.left_out()]

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _find(self, row: int) -> tuple[Source, int]:
        """Return the source that has the sample at ``row``, and its row there."""
        source = int(np.searchsorted(self._first, row, side="right")) - 1
        return self._sources[source], row - int(self._first[source])


@dataclass
class JoinedPart:
    """Samples of several parts: ``which`` part each is in, and its row there (``places``).

    ``numbers`` are the keys of the samples, if these are numbered; else the parts have the keys.
    """

    parts: Sequence[Part]
    which: Ints
    places: Ints
    numbers: Ints | None

    def __len__(self) -> int:
        return len(self.which)

    def key(self, row: int) -> str:
        if self.numbers is not None:
            return number_key(int(self.numbers[row]))
        return self.parts[int(self.which[row])].key(int(self.places[row]))

    def record(self, row: int) -> dict[str, Any]:
        record = self.parts[int(self.which[row])].record(int(self.places[row]))
        if self.numbers is not None:
            record["key"] = number_key(int(self.numbers[row]))
        return record

    def value(self, row: int, field: str) -> bytes | None:
        return self.parts[int(self.which[row])].value(int(self.places[row]), field)

    def facts(self) -> Sequence[Any]:
        numbers = None if self.numbers is None else self.numbers.tolist()
        return [[list(part.facts()) for part in self.parts], self.which.tolist(), self.places.tolist(), numbers]

    def close(self) -> None:
        for part in self.parts:
            part.close()


def refuse_repeated_keys(source: Source, fix: str) -> None:
    """Raise if two samples of a source have the same key. Only hashes of the keys are kept in memory.

    Raises:
        DuplicateKeyError: two have; the error names both.
    """
    seen = SeenKeys()
    for start in range(0, len(source), _BATCH):
        keys = [source.key(row) for row in range(start, min(start + _BATCH, len(source)))]
        for again in seen.add(keys):
            key, row = keys[again], start + again
            other = next(other for other in range(len(source)) if source.key(other) == key)
            if other != row:  # else the hashes alone are the same
                places = f"{source.place(other)} and {source.place(row)}"
                raise DuplicateKeyError(f"two samples have this key: {places}", member=key, fix=fix)
