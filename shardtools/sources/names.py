"""The names of keys and fields in sources where they do not come from the names of files."""

from __future__ import annotations

from collections.abc import Iterable

from shardtools.errors import JobError
from shardtools.shards.names import is_field


def number_key(number: int) -> str:
    """Return the key of a sample that has no other: its number, in nine digits.

    >>> number_key(7)
    '000000007'
    """
    return f"{number:09d}"


def check_fields(fields: Iterable[str], url: str, *, rename: str) -> None:
    """Raise if a field's name is not valid, or repeated. ``rename`` is the advice in the error: how to name fields.

    Raises:
        JobError: a name is not valid, or repeated.
    """
    seen = set()
    for field in fields:
        if not is_field(field):
            raise JobError(f"{field!r} is not a valid name of a field", url=url, fix=rename)
        if field in seen:
            raise JobError(f"the field {field} is given twice", url=url, fix="give each field once")
        seen.add(field)
