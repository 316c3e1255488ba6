"""DuckDB's own tree of a query or an expression: parsed, changed, and written as SQL again.

text -> parse -> tree -> nodes_of: each node, which may be changed -> to_sql -> text
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Node = dict[str, Any]


def parse(connection: DuckDBPyConnection, text: str) -> Node:
    """Return the tree of a text, or, if its ``error`` is true, what is wrong with it."""
    [(answer,)] = connection.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
    tree: Node = json.loads(answer)
    return tree


def to_sql(connection: DuckDBPyConnection, tree: Node) -> str:
    """Return a tree as SQL."""
    [(sql,)] = connection.execute("SELECT json_deserialize_sql(?)", [json.dumps(tree)]).fetchall()
    return str(sql)


def nodes_of(part: Any) -> Iterator[Node]:
    """Yield the nodes of a part of a tree, each before those within it."""
    if isinstance(part, dict):
        yield part
    if isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from nodes_of(inner)


def columns_of(part: Any) -> Iterator[Node]:
    """Yield the nodes that are columns; their ``column_names`` are the parts of a name."""
    return (node for node in nodes_of(part) if node.get("class") == "COLUMN_REF")
