"""Which order samples get, and how it is computed for all samples of a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from shardtools.errors import CorruptError, SampleError
from shardtools.jobs.exchange.order import READINGS, RandomOrder, order_of_value, reversed_order
from shardtools.jobs.script import Code, failure, function
from shardtools.query.json_values import fields_of, value_in
from shardtools.shards.columns import Texts
from shardtools.shards.reader import Block
from shardtools.shards.samples import Record, field_values, records

SORT_KEY = "sort_key"
"""What a script's function is called."""


@dataclass(frozen=True)
class Keying:
    """How samples are ordered.

    ``"random"`` by ``seed``; ``"input"`` as they come; ``"key"``; ``"field"`` by the bytes of ``field``, or by the
    value in a JSON field that it leads to, as ``json.score``; ``"script"`` by what its ``sort_key(record)`` returns.
    Keys and fields are read as ``reading`` says: text, int, float, natural.
    """

    kind: Literal["random", "input", "key", "field", "script"]
    seed: int = 0
    field: str = ""
    reading: str = "text"
    reverse: bool = False
    script: Code | None = None

    def facts(self) -> dict[str, Any]:
        """Return what the order depends on, as JSON data."""
        facts: dict[str, Any] = {"kind": self.kind, "seed": self.seed, "field": self.field, "reading": self.reading}
        facts["reverse"] = self.reverse
        if self.script is not None:
            facts |= self.script.facts("script")
        return facts


Orders = tuple[Texts, list[tuple[int, SampleError]]]
"""The orders of the samples of a block, and the rows of those that have none, each with the error."""


class Orderer:
    """Computes the orders of the samples of one input shard, block by block."""

    def __init__(self, keying: Keying, ordinal: int):
        self._keying = keying
        self._random = RandomOrder(keying.seed, ordinal)
        self._ordinal = ordinal
        self._call = function(keying.script, SORT_KEY).call if keying.script else None

    def orders(self, block: Block) -> Orders:
        """Return the orders of a block's samples; one that has no order gets an empty one, and is among the errors."""
        kind, count = self._keying.kind, len(block)
        if kind == "random":
            return Texts(self._random.take(count), 16 * np.arange(1, count + 1)), []
        if kind == "input":
            rows = np.empty((count, 2), ">u8")
            rows[:, 0] = self._ordinal
            rows[:, 1] = block.positions
            return Texts(rows.view(np.uint8).reshape(-1), 16 * np.arange(1, count + 1)), []
        if kind == "script":
            return self._collect([_guarded(self._of_record, record) for record in records(block)])
        if kind == "field" and len(sources := fields_of(self._keying.field)) > 1:
            return self._of_paths(block, sources)
        values = block.table.keys.tolist() if kind == "key" else field_values(block, self._keying.field)
        read = READINGS[self._keying.reading]
        if kind == "key" and self._keying.reading == "text" and not self._keying.reverse:
            keys = block.table.keys
            if not (keys.data == 0).any():
                return Texts(keys.data, keys.ends), []
        return self._collect([_guarded(lambda value: self._of_bytes(value, read), value) for value in values])

    def _of_paths(self, block: Block, sources: Mapping[str, str]) -> Orders:
        """Return the orders by values in JSON fields."""
        read = READINGS[self._keying.reading]
        columns = {name: field_values(block, name) for name in sources}
        samples = [{name: column[row] for name, column in columns.items()} for row in range(len(block))]
        return self._collect(
            [_guarded(lambda sample: self._of_bytes(_value_in(sample, sources), read), sample) for sample in samples]
        )

    def _collect(self, found: Sequence[bytes | SampleError]) -> Orders:
        failed = [(row, order) for row, order in enumerate(found) if isinstance(order, SampleError)]
        orders = [b"" if isinstance(order, SampleError) else order for order in found]
        if self._keying.reverse:
            orders = [reversed_order(order) for order in orders]
        return Texts.of(orders), failed

    def _of_bytes(self, value: bytes | str | None, read: Callable[[bytes], bytes]) -> bytes:
        keying = self._keying
        if value is None:
            fix = "skip such samples with --on-error skip, or sort by another field"
            raise SampleError(f"the sample has no {keying.field} to sort by", fix=fix)
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        try:
            return read(data)
        except ValueError as error:
            read_as = {"int": "a whole number", "float": "a number"}.get(keying.reading, keying.reading)
            what = f"its {keying.field or 'key'} is not {read_as}: {data[:40].decode(errors='backslashreplace')}"
            fix = f"leave out :{keying.reading}, or skip such samples with --on-error skip"
            raise SampleError(what, fix=fix) from error

    def _of_record(self, record: Record) -> bytes:
        assert self._call is not None and self._keying.script is not None
        try:
            value = self._call(record)
        except (Exception, SystemExit) as error:
            raise failure(error, self._keying.script, SORT_KEY) from error
        return order_of_value(value)


def value_of(keying: Keying, record: Record | dict[str, Any]) -> Any:
    """Return the sort key of a record in the user's terms: ``reduce_samples`` gets it as the key of a group."""
    if keying.kind == "script" and keying.script is not None:
        return function(keying.script, SORT_KEY).call(record)
    value = record["key"] if keying.kind == "key" else _value_in(record, fields_of(keying.field))
    if value is None:
        raise SampleError(f"the sample has no {keying.field}", fix="sort by another field")
    if keying.reading == "int":
        return int(value)
    if keying.reading == "float":
        return float(value)
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def _value_in(sample: Mapping[str, Any], sources: Mapping[str, str]) -> bytes | None:
    """Return the value of a field, or at a path of a JSON field.

    Raises:
        SampleError: the field is not JSON.
    """
    try:
        return value_in(sample, sources)
    except CorruptError as error:
        raise SampleError(error.what, fix="correct the sample, or skip such samples with --on-error skip") from error


def _guarded(call: Callable[[Any], bytes], argument: Any) -> bytes | SampleError:
    try:
        return call(argument)
    except SampleError as error:
        return error
