"""Samples of a source whose texts become class numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shardtools.errors import CorruptError, SampleError
from shardtools.jobs.classes import class_number
from shardtools.query.json_values import fields_of, value_in
from shardtools.shards.manifest import CLASS_FIELD
from shardtools.shards.tar import member_size
from shardtools.sources import CLASS_TEXT, Part
from shardtools.sources.chosen import ChosenSource
from shardtools.types import Ints


class ClassSource(ChosenSource):
    """Chosen samples with class numbers, made of the texts of ``field``; ``names`` are those of all classes."""

    def __init__(self, source: ChosenSource, field: str, names: tuple[str, ...]):
        super().__init__(source, np.arange(len(source)), source.chosen or {})
        self._field = field
        self._names = names

    def sizes(self) -> Ints:
        sizes: Ints = super().sizes() + member_size(1)
        return sizes

    def part(self, rows: Ints) -> ClassPart:
        return ClassPart(super().part(rows), self._field, self._names)

    def notes(self) -> dict[str, Any]:
        return {**super().notes(), "classes": list(self._names)}


@dataclass
class ClassPart:
    """The samples of ``part``, with numbers of the classes ``names`` made of the texts of the field ``source``."""

    part: Part
    source: str
    names: tuple[str, ...]
    _numbers: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.part)

    def key(self, row: int) -> str:
        return self.part.key(row)

    def record(self, row: int) -> dict[str, Any]:
        if not self._numbers:
            self._numbers = {name: number for number, name in enumerate(self.names)}
        record = self.part.record(row)
        text = class_text(record, self.source)
        record.pop(CLASS_TEXT, None)
        if CLASS_FIELD in record and self.source != CLASS_FIELD:
            fix = f"leave that out, or give it another name than {CLASS_FIELD}"
            raise SampleError("the sample has a class", member=record["key"], fix=fix)
        record[CLASS_FIELD] = class_number(text, self.source, self._numbers)
        return record

    def value(self, row: int, field: str) -> bytes | None:
        return self.part.value(row, field)

    def facts(self) -> Sequence[Any]:
        return [self.part.facts(), self.source, list(self.names)]

    def close(self) -> None:
        self.part.close()


def class_fields(source: str) -> Mapping[str, str]:
    """Return the fields that may have the text of a class, each with the path in it."""
    return {CLASS_TEXT: "", **fields_of(source)}


def class_text(sample: Mapping[str, bytes | None], source: str) -> bytes | None:
    """Return the text that is the class of a sample.

    Raises:
        SampleError: its JSON is none.
    """
    try:
        return value_in(sample, class_fields(source))
    except CorruptError as error:
        raise SampleError(f"{source}: {error.what}", fix="correct the sample") from error
