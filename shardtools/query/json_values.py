"""Values at paths of JSON fields, sample by sample, as text.

    the name of a column -> the fields that it may be, or lead into -> their data -> the text of its value

Names mean what they mean in conditions (see names.py and json_paths.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from shardtools.json_text import parse_json
from shardtools.query.names import content_of

Data = Mapping[str, bytes | None]
"""The data of fields of a sample."""

_NEAR = 12
"""The most columns that are named where there is no value."""


def fields_of(name: str) -> dict[str, str]:
    """Return the fields that a column may come from, each with the path in it, nothing if it is the field itself.

    >>> fields_of("cls"), fields_of("json.a.b"), fields_of("x.json.a")
    ({'cls': ''}, {'json.a.b': '', 'json': 'a.b'}, {'x.json.a': '', 'x.json': 'a'})
    """
    dots = [at for at, letter in enumerate(name) if letter == "."]
    inner = {name[:at]: name[at + 1 :] for at in reversed(dots) if content_of(name[:at]) == "JSON"}
    return {name: "", **inner}


@dataclass(frozen=True)
class PathValue:
    """What a sample has at a path: the ``text`` of a value, or None if ``what`` is there: null, an object, or nothing.

    Then ``near`` are some of the columns in this object, or else of all of the JSON.
    """

    text: bytes | None
    what: Literal["null", "an object", ""] = ""
    near: tuple[str, ...] = ()


def value_in(sample: Data, sources: Mapping[str, str]) -> bytes | None:
    """Return the value of a column of a sample, given the fields that it may come from; None if it has none.

    Raises:
        CorruptError: a field that it may come from is not JSON.

    >>> value_in({"json": b'{"a": {"b": 0.50}, "c": [1, "x"]}'}, {"json.a.b": "", "json": "a.b"})
    b'0.50'
    """
    return find_value(sample, sources).text


def find_value(sample: Data, sources: Mapping[str, str]) -> PathValue:
    """Return what a sample has as a column, given the fields that it may come from.

    Raises:
        CorruptError: a field that it may come from is not JSON.

    >>> find_value({"json": b'{"a": {"b": 0.50}, "c": 1}'}, {"json.a": "", "json": "a"})
    PathValue(text=None, what='an object', near=('json.a.b',))
    """
    for field, path in sources.items():
        if (data := sample.get(field)) is not None:
            return _value_at(data, field, path) if path else PathValue(data)
    return PathValue(None)


def _value_at(data: bytes, field: str, path: str) -> PathValue:
    whole = _numbers_as_text(data)
    found = _find(whole, path)
    if found is None or found[1] is None:
        return PathValue(None, "" if found is None else "null", _names_in(whole, field))
    value = found[1]
    if isinstance(value, dict):
        return PathValue(None, "an object", _names_in(value, f"{field}.{path}"))
    if isinstance(value, list):
        exact = _find(parse_json(data), path)
        value = json.dumps(exact and exact[1], ensure_ascii=False, separators=(",", ":"))
    elif isinstance(value, bool):
        value = "true" if value else "false"
    return PathValue(str(value).encode("utf-8", "surrogatepass"))


def _names_in(value: Any, at: str) -> tuple[str, ...]:
    return tuple(f"{at}.{name}" for name in islice(value, _NEAR)) if isinstance(value, dict) else ()


def _numbers_as_text(data: bytes) -> Any:
    """Return JSON data in which numbers are as they are written."""
    try:
        return json.loads(data, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return parse_json(data)  # which says what is wrong


def _find(value: Any, path: str) -> tuple[int, Any] | None:
    """Return what `_walk` does: by the names as they are, else in small or capital letters."""
    return _walk(value, path, str) or _walk(value, path, str.lower)


def _walk(value: Any, path: str, fold: Callable[[str], str]) -> tuple[int, Any] | None:
    """Return how many parts a path through objects has, as few as possible, and what is there; None for nothing."""
    best: tuple[int, Any] | None = None
    for name, inner in value.items() if isinstance(value, dict) else ():
        if fold(name) == fold(path):
            return 1, inner
        if fold(path).startswith(f"{fold(name)}.") and (found := _walk(inner, path[len(name) + 1 :], fold)) is not None:
            best = min(best or (found[0] + 2, None), (found[0] + 1, found[1]), key=lambda entry: entry[0])
    return best
