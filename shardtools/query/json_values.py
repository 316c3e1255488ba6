"""Values at paths of JSON fields, sample by sample, as text.

    the name of a column -> the fields that it may be, or lead into -> their data -> the text of its value

Names mean what they mean in conditions (see names.py and json_paths.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from shardtools.json_text import parse_json
from shardtools.query.names import content_of

Data = Mapping[str, bytes | None]
"""The data of fields of a sample."""


def fields_of(name: str) -> dict[str, str]:
    """Return the fields that a column may come from, each with the path in it, nothing if it is the field itself.

    >>> fields_of("cls"), fields_of("json.a.b"), fields_of("x.json.a")
    ({'cls': ''}, {'json.a.b': '', 'json': 'a.b'}, {'x.json.a': '', 'x.json': 'a'})
    """
    dots = [at for at, letter in enumerate(name) if letter == "."]
    inner = {name[:at]: name[at + 1 :] for at in reversed(dots) if content_of(name[:at]) == "JSON"}
    return {name: "", **inner}


def value_in(sample: Data, sources: Mapping[str, str]) -> bytes | None:
    """Return the value of a column of a sample, given the fields that it may come from; None if it has none.

    Raises:
        CorruptError: a field that it may come from is not JSON.

    >>> value_in({"json": b'{"a": {"b": 0.50}, "c": [1, "x"]}'}, {"json.a.b": "", "json": "a.b"})
    b'0.50'
    """
    for field, path in sources.items():
        if (data := sample.get(field)) is not None:
            return data if not path else _value_at(data, path)
    return None


def _value_at(data: bytes, path: str) -> bytes | None:
    value = _find(_numbers_as_text(data), path)
    if value is None or isinstance(value, dict):
        return None
    if isinstance(value, list):
        value = json.dumps(_find(parse_json(data), path), ensure_ascii=False, separators=(",", ":"))
    elif isinstance(value, bool):
        value = "true" if value else "false"
    return str(value).encode("utf-8", "surrogatepass")


def _numbers_as_text(data: bytes) -> Any:
    """Return JSON data in which numbers are as they are written."""
    try:
        return json.loads(data, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return parse_json(data)  # which says what is wrong


def _find(value: Any, path: str) -> Any:
    """Return what is at a path through objects: by the names as they are, else in small or capital letters."""
    for fold in (str, str.lower):
        if (found := _walk(value, path, fold)) is not None:
            return found[1]
    return None


def _walk(value: Any, path: str, fold: Callable[[str], str]) -> tuple[int, Any] | None:
    """Return what is at a path, and how many parts the path has: as few as possible."""
    best: tuple[int, Any] | None = None
    for name, inner in value.items() if isinstance(value, dict) else ():
        if fold(name) == fold(path):
            return 1, inner
        if fold(path).startswith(f"{fold(name)}.") and (found := _walk(inner, path[len(name) + 1 :], fold)) is not None:
            best = min(best or (found[0] + 2, None), (found[0] + 1, found[1]), key=lambda entry: entry[0])
    return best
