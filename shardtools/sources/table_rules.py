"""The rules for the columns of a table: which are keys, files and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardtools.errors import JobError
from shardtools.sources.names import check_fields

KEY_COLUMNS = ("key", "__key__", "id")
"""Columns that hold the keys by default; the first that exists."""

NUMBER = "number"
"""The rule for keys that asks for the row's number, in a table without a column of this name."""

_SHOWN = 30


@dataclass(frozen=True)
class TableRules:
    """How the rows of a table become samples.

    ``files`` has pairs of a field and the column that names its file or URL; ``values`` has pairs of a field and the
    column that holds its value. ``key`` is the column of the keys. By default (None) it is the first of `KEY_COLUMNS`
    that exists, or else the key is the row's number in nine digits, as with ``"number"``.
    """

    files: tuple[tuple[str, str], ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    key: str | None = None

    def columns(self) -> tuple[str, ...]:
        """Return the columns of the files and, after them, those of the values."""
        return tuple(column for _, column in self.files + self.values)


def check_rules(rules: TableRules, url: str) -> None:
    """Raise if the rules are wrong for any table.

    Raises:
        JobError: they are.
    """
    fields = [field for field, _ in rules.files + rules.values]
    check_fields(fields, url, rename="name fields like jpg or seg.png, as in --file jpg=path or --value cls=label")


def key_column(rules: TableRules, columns: Sequence[str], url: str) -> str | None:
    """Return the column of the keys, None if these are the rows' numbers.

    Raises:
        JobError: the table does not have the column that the rules name.
    """
    if rules.key is None:
        return next((column for column in KEY_COLUMNS if column in columns), None)
    if rules.key == NUMBER and NUMBER not in columns:
        return None
    require([rules.key], columns, url)
    return rules.key


def require(wanted: Sequence[str], columns: Sequence[str], url: str) -> None:
    """Raise if a column does not exist.

    Raises:
        JobError: one does not; the error lists those that do.
    """
    missing = next((column for column in wanted if column not in columns), None)
    if missing is not None:
        raise JobError(f"there is no column {missing!r}", url=url, fix=f"the columns are {listed(columns)}")


def no_rules(columns: Sequence[str], url: str) -> JobError:
    """Return the error for a table without rules."""
    return JobError(
        "no columns are chosen",
        url=url,
        fix=f"give --file FIELD=COLUMN or --value FIELD=COLUMN; the columns are {listed(columns)}",
    )


def listed(columns: Sequence[str]) -> str:
    """Return the names of columns for an error.

    >>> listed(["a", "b"])
    'a, b'
    """
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return ", ".join(columns[:_SHOWN]) + more
