"""Some of the samples of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shardtools.sources import Part, Source
from shardtools.types import Ints


class ChosenSource(Source):
    """The samples at some rows of a source, as a source. The manifest says what was ``chosen``."""

    def __init__(self, source: Source, rows: Ints, chosen: Mapping[str, Any]):
        self.chosen = chosen
        self.name = source.name
        self.random_access = source.random_access
        self.portable = source.portable
        self.reads_at_once = source.reads_at_once
        self._source = source
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, row: int) -> str:
        return self._source.key(int(self._rows[row]))

    def sizes(self) -> Ints:
        sizes: Ints = self._source.sizes()[self._rows]
        return sizes

    def part(self, rows: Ints) -> Part:
        return self._source.part(self._rows[rows])

    def names(self) -> Sequence[str]:
        return self._source.names()

    def read_by_tasks(self) -> Sequence[str]:
        return self._source.read_by_tasks()

    def place(self, row: int) -> str:
        return self._source.place(int(self._rows[row]))

    def notes(self) -> dict[str, Any]:
        return self._source.notes()

    def left_out(self) -> Sequence[tuple[str, str]]:
        return self._source.left_out()

    def close(self) -> None:
        self._source.close()
