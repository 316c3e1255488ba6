"""How the values of a table are spread: a histogram of each column of numbers, and how many samples each class has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from shardtools.query.duck import identifier
from shardtools.query.table import DatasetTable

BINS = 30
"""The most bins of a histogram."""

COLUMNS = 64
"""The most columns that have a histogram."""

CLASSES = 100
"""The most classes that are listed."""


@dataclass(frozen=True)
class Histogram:
    """How the ``count`` finite values of a column are spread between ``low`` and ``high``, both of which occur.

    ``bins`` counts them in intervals of one length; of a few whole numbers each has a bin of its own, whose length is
    ``step``. ``other`` counts the samples whose value is null, infinite or NaN, ``not_finite`` those with a
    value. Without finite values ``low`` and ``high`` are None, and there are no bins.
    """

    column: str
    kind: str
    count: int
    other: int
    low: float | None
    high: float | None
    step: float
    bins: tuple[int, ...]
    not_finite: int = 0


@dataclass(frozen=True)
class ClassCount:
    """How many samples have the class ``number``, None if unknown, and its ``name``, None if it has none."""

    number: int
    name: str | None
    count: int | None


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset in its ``field``, the largest first, or by number if they were not counted.

    Of many only some are listed: ``more`` is the number of the others, and ``more_samples`` that of their samples,
    None if unknown. ``without`` is the number of samples without a class.
    """

    field: str
    listed: tuple[ClassCount, ...]
    more: int = 0
    more_samples: int | None = None
    without: int | None = None


def find_histograms(table: DatasetTable) -> tuple[Histogram, ...]:
    """Return a histogram of each column of numbers, of the first `COLUMNS` of them.

    Raises:
        CorruptError: the table is damaged.
    """
    kinds = table.facts.kinds
    names = [name for name in table.columns if kinds.get(name) in ("bool", "int", "huge", "float")][:COLUMNS]
    if not names:
        return ()
    asked = ", ".join(
        f"{call} FILTER ({test}isfinite({value}))"
        for value in map(_float, names)
        for call, test in (("count(*)", ""), (f"min({value})", ""), (f"max({value})", ""), ("count(*)", "NOT "))
    )
    with _damages(table):
        [row] = table.cursor().execute(f"SELECT {asked} FROM {table.source_of(names)}").fetchall()
    return tuple(
        replace(_histogram(table, name, kinds[name], *row[4 * at : 4 * at + 3]), not_finite=row[4 * at + 3])
        for at, name in enumerate(names)
    )


def _float(name: str) -> str:
    return f"{identifier(name)}::DOUBLE"


def _histogram(
    table: DatasetTable, name: str, kind: str, count: int, low: float | None, high: float | None
) -> Histogram:
    other = table.facts.samples - count
    if low is None or high is None:
        return Histogram(name, kind, count, other, None, None, 1.0, ())
    value = _float(name)
    half = f"({value} / 2 - {low / 2!r})"  # whole differences may be infinite
    is_whole = kind != "float" and high - low < BINS
    width = high / BINS - low / BINS
    number = int(high - low) + 1 if is_whole else BINS if width / 2 else 1
    step = 1.0 if is_whole or number == 1 else width
    place = f"least(floor({half} / {step / 2!r}), {number - 1})::INTEGER" if number > 1 else "0"
    sql = f"SELECT {place} AS bin, count(*) FROM {table.source_of([name])} WHERE isfinite({value}) GROUP BY bin"
    with _damages(table):
        found = dict(table.cursor().execute(sql).fetchall())
    return Histogram(name, kind, count, other, low, high, step, tuple(found.get(i, 0) for i in range(number)))


def count_classes(table: DatasetTable, field: str, names: Sequence[str] | None) -> Classes | None:
    """Return how many samples have each class; None if the table does not have the ``field`` as whole numbers.

    Raises:
        CorruptError: the table is damaged.
    """
    if table.facts.kinds.get(field) != "int":
        return None
    column, source = identifier(field), table.source_of([field])
    counts = f"(SELECT {column} AS number, count(*) AS n FROM {source} WHERE {column} IS NOT NULL GROUP BY 1)"
    with _damages(table):
        cursor = table.cursor()
        [(number, total)] = cursor.execute(f"SELECT count(*), sum(n)::BIGINT FROM {counts}").fetchall()
        listed = cursor.execute(f"SELECT number, n FROM {counts} ORDER BY n DESC, number LIMIT {CLASSES}").fetchall()
    total = total or 0
    return Classes(
        field,
        tuple(ClassCount(value, _name_of(names, value), count) for value, count in listed),
        number - len(listed),
        total - sum(count for _, count in listed),
        table.facts.samples - total,
    )


def named_classes(field: str, names: Sequence[str]) -> Classes:
    """Return classes of which only the names are known."""
    listed = tuple(ClassCount(number, name, None) for number, name in enumerate(names[:CLASSES]))
    return Classes(field, listed, len(names) - len(listed))


def _name_of(names: Sequence[str] | None, number: int) -> str | None:
    return names[number] if names is not None and 0 <= number < len(names) else None


@contextmanager
def _damages(table: DatasetTable) -> Iterator[None]:
    """A context in which what DuckDB raises says that the table is damaged."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise table.damaged(str(error)) from error
