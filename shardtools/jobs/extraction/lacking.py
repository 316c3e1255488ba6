"""What is said of a field or path of which no sample has a value."""

from __future__ import annotations

from collections.abc import Collection

from shardtools.errors import JobError
from shardtools.query.json_values import PathValue
from shardtools.query.names import find_source


def query_hint(name: str, fields: Collection[str]) -> str | None:
    """Return advice about the column ``name``, which is none of the ``fields``; None if it is no column either.

    >>> query_hint("jpg.width", ["jpg"])
    'htquery shows such columns: htquery SRC "select key, jpg.width from samples"'
    """
    if find_source(name, [*fields]) is None:
        return None
    return f'htquery shows such columns: htquery SRC "select key, {name} from samples"'


def no_value(name: str, fields: Collection[str], instead: Collection[PathValue]) -> JobError:
    """Return the error for ``name``; samples have ``fields``, and in place of its values what ``instead`` has.

    >>> str(no_value("json.a", ["json"], [PathValue(None, "an object", ("json.a.b",)), PathValue(None, "null")]))
    'no sample has a value at json.a: it is an object or null; name a value in the object: json.a.b'
    >>> str(no_value("json.a", ["cls", "json"], [PathValue(None, "", ("json.b",))]))
    'no sample has the field json.a; there are cls, json, json.b'
    """
    if "," in name and {part.strip() for part in name.split(",")} <= {*fields}:
        return JobError(f"{name} is several fields", fix="ask for one at a time")
    objects = {column for found in instead if found.what == "an object" for column in found.near}
    near = {column for found in instead for column in found.near}
    there = f"there are {', '.join([*sorted(fields), *sorted(near)]) or 'none'}"
    if (source := find_source(name, [*fields])) is not None and source.what not in ("value", "path"):
        query = f"select {name}, count(*) from samples group by all"
        return JobError(f"{name} is no field", fix=f'htquery counts such columns: htquery SRC "{query}"')
    kinds = sorted({found.what for found in instead} - {""})
    if not kinds:
        return JobError(f"no sample has the field {name}", fix=there)
    fix = f"name a value in the object: {', '.join(sorted(objects))}" if objects else there
    return JobError(f"no sample has a value at {name}: it is {' or '.join(kinds)}", fix=fix)
