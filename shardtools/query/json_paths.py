"""The paths of JSON texts, and what is at them.

    the structures of texts, as DuckDB writes them -> paths and the kinds of what is there -> a name and SQL for each

A path leads through objects, not through lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from shardtools.errors import CorruptError
from shardtools.json_text import parse_json
from shardtools.query.duck import literal
from shardtools.query.kinds import Kind

Path = tuple[str, ...]

DEEPEST = 64
"""The deepest nesting of a text whose paths are looked at."""

What = Kind | Literal["null", "object"]
"""What a text has at a path."""

_WHATS: dict[str, What] = {
    "NULL": "null",
    "BOOLEAN": "bool",
    "BIGINT": "int",
    "UBIGINT": "int",
    "HUGEINT": "int",
    "DOUBLE": "float",
    "VARCHAR": "text",
    "JSON": "object",  # without names, or with one twice
}


def find_paths(structure: str) -> dict[Path, What] | None:
    """Return what a JSON text with this structure has at each path; None if it is nested too deeply.

    A list is text, as DuckDB writes it.

    >>> find_paths('{"a":"UBIGINT","b":{"c":["DOUBLE"],"d":"NULL"}}')
    {('a',): 'int', ('b',): 'object', ('b', 'c'): 'text', ('b', 'd'): 'null'}
    >>> find_paths('"VARCHAR"')
    {}
    """
    try:
        return {path: what for path, what in _walk(parse_json(structure), ()) if path}
    except (CorruptError, _TooDeepError):
        return None


class _TooDeepError(Exception):
    pass


def _walk(structure: Any, at: Path) -> Iterator[tuple[Path, What]]:
    if len(at) > DEEPEST:
        raise _TooDeepError
    if isinstance(structure, dict):
        yield at, "object"
        for name, inner in structure.items():
            yield from _walk(inner, (*at, name))
    elif isinstance(structure, list):
        yield at, "text"
    else:
        yield at, _WHATS[structure]


def path_names(field: str, paths: Iterable[Path]) -> dict[str, Path]:
    """Return the column of each path of a field; of those with equal names the one with fewer parts, then the first.

    >>> path_names("json", [("a.b",), ("a", "b"), ("c",)])
    {'json.a.b': ('a.b',), 'json.c': ('c',)}
    """
    names: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (len(path), path)):
        names.setdefault(".".join((field, *path)), path)
    return names


def sql_path(path: Path) -> str:
    r"""Return a path as DuckDB's JSON functions take it, as a literal.

    >>> print(sql_path(("a", "b.c")), sql_path(("", 'd"/')))
    '$."a"."b.c"' '//d"~1'
    """
    if all(name and '"' not in name and "\\" not in name for name in path):
        return literal("$" + "".join(f'."{name}"' for name in path))
    return literal("".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path))
