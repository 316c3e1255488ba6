"""What is said of a query that names what there is not: of the columns and datasets of the user, not those within.

DuckDB's message -> the name that is wrong -> names like it
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

from shardtools.query.names import DIMENSIONS, SHOWN

_PLACES = re.compile(r"block|blocks|offset\..*|__.*")
"""Columns of a table that say where data is, which nobody means by another name."""

_COLUMN = re.compile(r'Referenced column "(.+?)" not found|does not have a column named "(.+?)"')
_TABLE = re.compile(r'Referenced table "(.+?)" not found')
_DATASET = re.compile(r"Table with name (.+?) does not exist")


def explain_names(message: str, query: str, tables: Mapping[str, Collection[str]]) -> tuple[str, str] | None:
    """Return what is wrong, and what to do, if DuckDB says of a query over ``tables`` with columns that a name is.

    >>> explain_names('Referenced column "clss" not found in FROM clause! ...', "", {"samples": ["cls", "block"]})
    ('there is no column clss', 'did you mean cls?')
    >>> query = "select json.lable from samples"
    >>> explain_names('Referenced table "json" not found! ...', query, {"samples": ["json.label"]})
    ('there is no column json.lable', 'did you mean json.label?')
    >>> explain_names("Table with name x does not exist! ...", "from x", {"a": [], "b": []})
    ('there is no dataset x', 'there are a, b')
    """
    if (match := _DATASET.search(message)) is not None:
        fix = f"the dataset is called {next(iter(tables))}" if len(tables) == 1 else _advice(match[1], tables)
        return f"there is no dataset {match[1]}", fix
    within = re.findall(r'"(.+?)"', message.partition("Candidate bindings: ")[2])  # also those of inner queries
    columns = [name for some in [*tables.values(), within] for name in some if not _PLACES.fullmatch(name)]
    if (match := _COLUMN.search(message)) is not None:
        name = match[1] or match[2]
        inner = [column for column in columns if column.startswith(f"{name}.")]
        fix = _advice(name, inner or columns, near=not inner)
        is_text = fix.startswith("there are") and not inner and "." not in name
        return f"there is no column {name}", f"{fix}; a text has single quotes: '{name}'" if is_text else fix
    if (match := _TABLE.search(message)) is not None:
        whole = re.search(rf"\b{re.escape(match[1])}\.[\w.]+", query, re.IGNORECASE)
        name = match[1] if whole is None else whole[0]
        return f"there is no column {name}", _advice(name, columns)
    return None


def _advice(name: str, names: Collection[str], *, near: bool = True) -> str:
    """Return which of ``names`` was perhaps meant, or which there are; that is all without ``near``."""
    field, _, last = name.rpartition(".")
    if last in DIMENSIONS and f"size.{field}" in names:
        return "htindex --table --dimensions adds the widths and heights of images"
    small = {one.lower(): one for one in names}
    if near and (close := get_close_matches(name.lower(), small, 1)):
        return f"did you mean {small[close[0]]}?"
    listed = [*dict.fromkeys(names)]
    more = [f"and {len(listed) - SHOWN:,} more"] if len(listed) > SHOWN else []
    return f"there are {', '.join([*listed[:SHOWN], *more])}"
