"""The parts of a condition that are joined by AND, so that each can be answered where its columns are.

``cls = 7 and json.width >= 512`` -> DuckDB's parser -> ``cls = 7``, ``json.width >= 512``
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from shardtools.query.condition import Condition, misfit
from shardtools.query.duck import session
from shardtools.query.sql_tree import columns_of, parse, to_sql


def conjuncts(condition: Condition) -> list[Condition]:
    """Return conditions that are all true where ``condition`` is; their ``text`` is that of the whole.

    >>> from shardtools.query.condition import parse_condition
    >>> [part.columns for part in conjuncts(parse_condition("a = 7 and (b > 3 or c) and b + a < 9"))]
    [('a',), ('b', 'c'), ('b', 'a')]
    """
    with session() as connection:
        tree = parse(connection, f"SELECT {condition.sql}")
        [expression] = tree["statements"][0]["node"]["select_list"]
        parts = list(_operands(expression))
        if len(parts) == 1:
            return [condition]
        found = []
        for part in parts:
            names = _renumber(part, condition)
            alone = copy.deepcopy(tree)
            alone["statements"][0]["node"]["select_list"] = [part]
            sql = f"CAST(({to_sql(connection, alone).removeprefix('SELECT ')}) AS BOOLEAN)"
            found.append(replace(condition, columns=tuple(names), sql=sql))
    return found


def is_true_of_nothing(condition: Condition) -> bool:
    """Return whether a condition is true where all of its columns are null.

    Raises:
        JobError: it cannot be computed, whatever its columns are.

    >>> from shardtools.query.condition import parse_condition
    >>> [is_true_of_nothing(parse_condition(text)) for text in ("cls = 7", "cls is null")]
    [False, True]
    """
    nulls = ", ".join(f"NULL AS c{number}" for number in range(len(condition.columns))) or "NULL AS c0"
    import duckdb

    with session() as connection:
        try:
            found = connection.execute(f"SELECT CAST({condition.sql} AS BOOLEAN) FROM (SELECT {nulls})").fetchall()
        except duckdb.Error as error:
            raise misfit(condition, str(error)) from error
    return bool(found[0][0])


def _operands(node: Any) -> Iterator[Any]:
    if node.get("type") != "CONJUNCTION_AND":
        yield node
        return
    for child in node["children"]:
        yield from _operands(child)


def _renumber(expression: Any, condition: Condition) -> dict[str, str]:
    """Number the columns within an expression anew, and return these numbers by name."""
    names: dict[str, str] = {}
    for node in columns_of(expression):
        name = condition.columns[int(node["column_names"][0][1:])]
        node["column_names"] = [names.setdefault(name, f"c{len(names)}")]
    return names
