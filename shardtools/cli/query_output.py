"""The result of a query as a table for people, csv, jsonl or Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

from shardtools.cli.tables import aligned
from shardtools.errors import JobError, printable
from shardtools.jobs.extraction.extract import refuse
from shardtools.jobs.extraction.terminal import for_terminal
from shardtools.query.sql import sql_errors
from shardtools.storage import get_storage, using
from shardtools.storage.pipe import results
from shardtools.urls import name_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation

    from shardtools.jobs.options import RunOptions

Format = Literal["table", "csv", "jsonl", "parquet"]

SHOWN = 1000
"""Rows of a table for people at most."""

_BATCH = 10_000
_CELL = 100
_ENDINGS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def format_of(output: str, chosen: Format | None) -> Format:
    """Return the format of a result that is written to ``output``.

    Raises:
        JobError: neither its name nor the user says it, or they contradict each other.
    """
    ending = os.path.splitext(name_of(output))[1].lower() if output != "-" else ""
    if chosen is not None:
        if _ENDINGS.get(ending, chosen) != chosen:
            raise JobError(f"the name {name_of(output)} does not fit --format {chosen}", fix="change one of them")
        return chosen
    if output == "-":
        stream = results()
        return "table" if stream is not None and stream.isatty() else "csv"
    if ending not in _ENDINGS:
        raise JobError(f"the name {name_of(output)} says no format", fix="give --format")
    return _ENDINGS[ending]


def write_result(relation: DuckDBPyRelation, query: str, output: str, format: Format, options: RunOptions) -> None:
    """Write the rows of a relation to ``output``, which appears whole or not at all.

    Raises:
        JobError: the query fails, or pyarrow is missing, which Parquet needs.
        OutputExistsError: the output exists, and may not be replaced.
    """
    with using(options.storage):
        refuse(output, options)
        with sql_errors(query), get_storage(output).create(output) as sink:
            if format == "parquet":
                sink.write(_parquet(relation))
                return
            texts = for_terminal(sink, output)
            for text in _LINES[format](relation.columns, iter(relation.iter_rows())):
                texts.write(text.encode("utf-8", "backslashreplace"))


def _csv(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    for some in chain([[columns]], iter(lambda: list(islice(rows, _BATCH)), [])):
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([[_shown(value) for value in row] for row in some])
        yield text.getvalue()


def _jsonl(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    for row in rows:
        values = {name: _finite(value) for name, value in zip(columns, row, strict=True)}
        yield json.dumps(values, default=_plain, ensure_ascii=False, allow_nan=False) + "\n"


def _table(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    cells = [[printable(_shown(value))[:_CELL] for value in row] for row in islice(rows, SHOWN)]
    yield "".join(f"{line}\n" for line in aligned([columns, *cells]))
    if more := sum(1 for _ in rows):
        yield f"… and {more:,} more rows, which --format csv has\n"


_LINES = {"csv": _csv, "jsonl": _jsonl, "table": _table}


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, list | dict):
        return str(value)
    return json.dumps(_finite(value), default=_plain, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """Return a value with null in place of nan and infinite numbers, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return {name: _finite(item) for name, item in value.items()} if isinstance(value, dict) else value


def _plain(value: Any) -> object:
    """Return a value as JSON has it: what json asks for other types."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def _parquet(relation: DuckDBPyRelation) -> bytes:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise JobError("Parquet needs pyarrow", fix="install it: pip install 'shardtools[parquet]'") from error
    file = io.BytesIO()
    parquet.write_table(relation.to_arrow_table(), file)
    return file.getvalue()
