"""A condition on samples: one boolean expression in DuckDB's SQL, such as ``cls = 7 and json.width >= 512``.

    text -> DuckDB's parser -> Condition: its columns, and SQL with plain names for them
    samples, batch by batch -> their columns -> the rows for which it is true

The text may come from anyone. It is refused unless it is one expression without queries, and DuckDB runs it where it
can reach nothing but the columns.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from shardtools.errors import JobError
from shardtools.query.duck import session
from shardtools.query.key_file import hash_keys
from shardtools.query.names import SHOWN, ColumnSource, content_of, find_source, no_column
from shardtools.query.sql_tree import nodes_of, parse, to_sql
from shardtools.query.values import ColumnLoader, Columns, Samples
from shardtools.shards.columns import Texts
from shardtools.types import Ints
from shardtools.units import format_count

logger = logging.getLogger(__name__)

BATCH = 64 << 20
"""The bytes of fields that are looked at together."""

TextKind = Literal["condition", "expression"]
"""What errors call a text: an expression that is true or false, or one for a number."""

_FORMS: dict[TextKind, str] = {
    "condition": "write it as in \"cls = 7 and json.width >= 512 and txt like '%dog%'\"",
    "expression": 'write it as in "json.width / json.height"',
}

_REFUSED = {
    "SUBQUERY": "a query",
    "WINDOW": "a window function",
    "STAR": "*",
    "PARAMETER": "a parameter",
    "LAMBDA": "a lambda",
    "LAMBDA_REF": "a lambda",
    "DEFAULT": "a default",
}


@dataclass(frozen=True)
class Condition:
    """A condition as it was written, the ``columns`` that it names, and its ``sql``, in which these are c0, c1, ..."""

    text: str
    columns: tuple[str, ...]
    sql: str
    kind: TextKind = "condition"

    def sources(self, fields: Sequence[str]) -> dict[str, ColumnSource]:
        """Return where the columns come from, for samples that have ``fields``, without those that they do not have."""
        found = {name: find_source(name, fields) for name in self.columns}
        return {name: source for name, source in found.items() if source is not None}

    def check_type(self, connection: Any, asked: str) -> None:
        """Raise if the condition is not boolean, over the rows of ``asked`` with its columns c0, c1, ...

        Raises:
            JobError: it is not.
        """
        [row] = connection.execute(f"DESCRIBE SELECT {self.sql} FROM {asked}").fetchall()
        if row[1] not in ("BOOLEAN", '"NULL"'):
            raise JobError(f"the condition is of type {row[1]}, not true or false: {self.text}", fix=_FORMS[self.kind])

    def needs_checksums(self, fields: Sequence[str]) -> bool:
        """Return whether it is about checksums of data."""
        return any(source.what == "crc32" for source in self.sources(fields).values())

    def fields(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Return the fields of which the data must be read, of samples that have ``fields``."""
        sources = [source for source in self.sources(fields).values() if source.needs_data and not source.is_dimension]
        return tuple(dict.fromkeys(source.field for source in sources))


@dataclass(frozen=True)
class Seen:
    """Which ``columns`` of a condition some samples have, and for messages their ``fields`` and columns of JSON.

    ``wrong`` says how many values were null since they are not what they should be, by a text such as
    ``json: not JSON``.
    """

    columns: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()
    wrong: tuple[tuple[str, int], ...] = ()

    def __or__(self, other: Seen) -> Seen:
        paths = self.paths if len(self.paths) > SHOWN else self.paths | other.paths
        wrong = Counter(dict(self.wrong)) + Counter(dict(other.wrong)) if self.wrong or other.wrong else {}
        return Seen(self.columns | other.columns, self.fields | other.fields, paths, tuple(sorted(wrong.items())))

    def as_json(self) -> list[Any]:
        """Return it as JSON data."""
        return [sorted(self.columns), sorted(self.fields), sorted(self.paths), dict(self.wrong)]

    @classmethod
    def of_json(cls, data: Any) -> Seen:
        """Return what `as_json` returned.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(data, list) or [type(part) for part in data] != [list, list, list, dict]:
            raise ValueError("these are not columns")
        *names, wrong = data
        counts = [type(count) is int and count > 0 for count in wrong.values()]
        if not all([*counts, *(isinstance(name, str) for part in names for name in part)]):
            raise ValueError("these are not columns")
        columns, fields, paths = map(frozenset, names)
        return cls(columns, fields, paths, tuple(sorted(wrong.items())))

    def note(self) -> None:
        """Say in the log how many values were null since they are wrong."""
        for what, count in self.wrong:
            logger.warning("%s null for the condition: %s", format_count(count, "value"), what)

    def check(self, condition: Where) -> None:
        """Raise if all samples were seen, and none has a column of the condition.

        Raises:
            JobError: none has it.
        """
        for name in condition.columns:
            if name not in self.columns:
                kind = condition.kind if isinstance(condition, Condition) else "condition"
                raise no_column(kind, name, self.fields, self.paths)


@dataclass(frozen=True)
class Answer:
    """The rows of samples for which a condition is true, and what the samples have."""

    rows: Ints
    seen: Seen = Seen()


@dataclass(frozen=True)
class PickedRows:
    """A condition on the samples of one shard whose answer is known: the ``rows``, which rise."""

    condition: Condition
    rows: Ints

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the condition."""
        return self.condition.columns

    def needs_checksums(self, fields: Sequence[str]) -> bool:
        """Return whether it is about checksums of data, which is done with."""
        return False

    def fields(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Return the fields of which the data must be read: none."""
        return ()

    def among(self, samples: Samples) -> Answer:
        """Return which of some samples are picked."""
        start, stop = samples.first, samples.first + len(samples.table)
        low, high = np.searchsorted(self.rows, [start, stop]).tolist()
        return Answer(self.rows[low:high] - start, Seen(frozenset(self.columns), frozenset(samples.table.fields)))


@dataclass(frozen=True)
class RandomShare:
    """A share of all samples, or of those that ``inner`` picks. It depends only on ``seed`` and their keys."""

    share: float
    seed: int
    inner: Condition | PickedRows | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the condition."""
        return () if self.inner is None else self.inner.columns

    def needs_checksums(self, fields: Sequence[str]) -> bool:
        """Return whether it is about checksums of data."""
        return self.inner is not None and self.inner.needs_checksums(fields)

    def fields(self, fields: Sequence[str]) -> tuple[str, ...]:
        """Return the fields of which the data must be read, of samples that have ``fields``."""
        return () if self.inner is None else self.inner.fields(fields)

    def among(self, samples: Samples) -> Answer:
        """Return which of some samples are picked."""
        rows = np.flatnonzero(draws(samples.table.keys, self.seed) < self.share)
        if self.inner is None:
            return Answer(rows, Seen(fields=frozenset(samples.table.fields)))
        answer = find_rows(self.inner, samples)
        return Answer(np.intersect1d(rows, answer.rows, assume_unique=True), answer.seen)


Where = Condition | PickedRows | RandomShare
"""Which samples are wanted."""


def draws(keys: Texts, seed: int) -> npt.NDArray[np.float64]:
    """Return for each key a number from 0 to 1 that is random, and always the same for a key and a seed.

    >>> draws(Texts.of([b"a", b"b"]), 1).round(3).tolist()
    [0.64, 0.03]
    """
    words = np.empty((len(keys), 2), "<u8")
    words[:, 0], words[:, 1] = hash_keys(keys), seed
    hashes = hash_keys(Texts(words.view(np.uint8).reshape(-1), 16 * np.arange(1, len(keys) + 1)))
    return (hashes >> np.uint64(11)) / np.float64(1 << 53)


def parse_condition(text: str, kind: TextKind = "condition") -> Condition:
    """Return the condition, or expression for a number, that is written in ``text``.

    Raises:
        JobError: it is not one expression.

    >>> condition = parse_condition("cls == 7 and not json.a.b like 'x%'")
    >>> condition.columns
    ('cls', 'json.a.b')
    >>> parse_condition("cls = = 7")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    shardtools.errors.JobError: the condition cannot be read: syntax error at or near "=", here: cls = ^= 7; ...
    """
    if not text.strip():
        raise JobError(f"the {kind} is empty", fix=_FORMS[kind])
    head = "SELECT (\n"
    with session() as connection:
        tree = parse(connection, f"{head}{text}\n)")
        if tree["error"]:
            if tree.get("error_type") != "parser":
                raise JobError(f"the {kind} is not one expression: {text}", fix=_FORMS[kind])
            raise unreadable(kind, text, tree, len(head.encode()), _FORMS[kind])
        empty = parse(connection, "SELECT 1")
        expression = _only_expression(kind, text, tree["statements"], empty["statements"])
        names = _rename(kind, text, expression)
        sql = to_sql(connection, tree)
    return Condition(text, tuple(names), sql.removeprefix("SELECT "), kind)


def unreadable(kind: str, text: str, tree: Mapping[str, Any], head: int, fix: str) -> JobError:
    """Return the error for a text that DuckDB cannot parse, after ``head`` other bytes, with a mark where it fails."""
    what = f"the {kind} cannot be read: {tree['error_message']}"
    data, at = text.encode(), int(tree.get("position") or 0) - head
    if at >= len(data.rstrip()):
        what = f"the {kind} ends too early: {text.strip()}"
    elif at >= 0:
        what = f"{what}, here: {data[:at].decode(errors='replace')}^{data[at:].decode(errors='replace')}"
    return JobError(what, fix=fix)


def _only_expression(kind: TextKind, text: str, found: Sequence[Any], empty: Sequence[Any]) -> Any:
    """Return the expression of the statement ``SELECT expression``.

    Raises:
        JobError: there is more than that.
    """
    if len(found) == 1 and found[0]["node"]["type"] == "SELECT_NODE" and len(found[0]["node"]["select_list"]) == 1:
        node, plain = dict(found[0]["node"]), dict(empty[0]["node"])
        [expression] = node.pop("select_list")
        plain.pop("select_list")
        for part in (node, plain):  # it says where in the text it is
            part["from_table"] = {**part["from_table"], "query_location": None, "query_location_length": None}
        if node == plain and not expression.get("alias"):
            return expression
    raise JobError(f"the {kind} is not one expression: {text}", fix=_FORMS[kind])


def _rename(kind: TextKind, text: str, expression: Any) -> dict[str, str]:
    """Give each column within an expression a plain name; return these by their own names.

    Raises:
        JobError: there is something else than columns, constants, and functions of these.
    """
    names: dict[str, str] = {}
    for node in nodes_of(expression):
        if (what := node.get("class")) in _REFUSED:
            raise JobError(f"the {kind} has {_REFUSED[what]}, which it may not: {text}", fix=_FORMS[kind])
        if what == "COLUMN_REF":
            name = ".".join(node["column_names"])
            node["column_names"] = [names.setdefault(name, f"c{len(names)}")]
    return names


def find_rows(condition: Where, samples: Samples) -> Answer:
    """Return the rows, of those of ``samples``, for which the condition is true.

    Raises:
        JobError: the condition does not fit the types of its columns.
        StorageError, ShardError: the data of fields cannot be read.
    """
    if not isinstance(condition, Condition):
        return condition.among(samples)
    rows, seen = [np.empty(0, np.int64)], Seen()
    for start, part in in_batches(condition, samples):
        answer = _find(condition, part)
        rows.append(answer.rows + start)
        seen |= answer.seen
    return Answer(np.concatenate(rows), seen)


def in_batches(condition: Condition, samples: Samples) -> Iterator[tuple[int, Samples]]:
    """Yield samples in batches, each with its first row."""
    table = samples.table
    sizes = np.zeros(len(table), np.int64)
    for field in condition.fields(table.fields):
        members = table.members_of(field)
        sizes[members >= 0] += table.size[members[members >= 0]]
    numbers = np.cumsum(sizes) // BATCH
    bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(table)]
    if len(bounds) == 2:
        yield 0, samples
        return
    for start, stop in pairwise(bounds):
        yield start, samples.slice(start, stop)


def _find(condition: Condition, samples: Samples) -> Answer:
    import duckdb

    with session() as connection:
        asked, seen = load_columns(connection, condition, samples)
        try:
            if seen.columns.issuperset(condition.columns):
                condition.check_type(connection, asked)
            query = f"SELECT n FROM {asked} WHERE {condition.sql} ORDER BY n"
            rows = np.asarray(connection.execute(query).fetchnumpy()["n"], np.int64)
        except duckdb.Error as error:
            raise misfit(condition, str(error)) from error
    return Answer(rows, seen)


def load_columns(connection: Any, condition: Condition, samples: Samples) -> tuple[str, Seen]:
    """Read the columns of a condition; return SQL for these, as c0, c1, ... beside the row n, and what there is.

    Raises:
        StorageError, ShardError: the data of fields cannot be read.
    """
    fields = samples.table.fields
    sources = condition.sources(fields)
    paths: dict[str, list[str]] = {}
    for source in sources.values():
        if source.needs_data and content_of(source.field) == "JSON":
            paths.setdefault(source.field, []).extend([source.column] if source.what == "path" else [])
    own = dict.fromkeys(source for source in sources.values() if source.is_dimension or not source.needs_data)
    loader = ColumnLoader(connection, samples)
    columns = loader.load(condition.fields(fields), own, paths)
    present = {name: column for name, source in sources.items() if (column := source.column) in columns.found}
    wrong = tuple((f"{field}: {why}", count) for (field, why), count in sorted(columns.wrong.items()))
    seen = Seen(frozenset(present), frozenset(fields), frozenset(loader.paths[:SHOWN]), wrong)
    return _asked(condition, columns, present), seen


def misfit(condition: Condition, message: str) -> JobError:
    """Return the error for a condition that DuckDB refuses, with the names that columns have for the user."""
    what = message.partition("\n")[0]
    what = re.sub(r"\bc([0-9]+)\b", lambda match: condition.columns[int(match[1])], what.partition(": ")[2] or what)
    what = f"the {condition.kind} does not fit its columns: {what}, in: {condition.text}"
    return JobError(what, fix="see docs/query.md")


def _asked(condition: Condition, columns: Columns, present: Mapping[str, str]) -> str:
    parts = ["n"]
    for number, name in enumerate(condition.columns):
        column = columns.found.get(present.get(name, ""))
        if column is None or not column.kinds.found:  # nothing but NULL, of no type
            parts.append(f"NULL AS c{number}")
        else:
            parts.append(f"{column.cast(column.kinds.kind)} AS c{number}")
    return f"(SELECT {', '.join(parts)} FROM read)"
