"""What names may be, for sources whose keys and fields come from elsewhere than from the names of files."""

from __future__ import annotations

from collections.abc import Iterable

from shardtools.errors import JobError


def number_key(number: int) -> str:
    """Return the key of a sample that has none: its number, in nine digits.

    >>> number_key(7)
    '000000007'
    """
    return f"{number:09d}"


def is_key(text: str) -> bool:
    """Return whether members that are named with ``text`` read back with this key.

    >>> [is_key(text) for text in ("a/b", "a.b/c", "c.jpg", "a/", "")]
    [True, True, False, False, False]
    """
    base = text.rpartition("/")[2]
    return bool(base) and "." not in base and "\0" not in text and not text.startswith("./")


def check_fields(fields: Iterable[str], url: str, *, rename: str) -> None:
    """Raise if a name cannot be that of a field, or comes twice. ``rename`` is the fix: how fields are named.

    Raises:
        JobError: so it is.
    """
    seen = set()
    for field in fields:
        if not field or field == "key" or field.startswith("__") or "/" in field or "\0" in field:
            raise JobError(f"{field!r} is not a valid name of a field", url=url, fix=rename)
        if field in seen:
            raise JobError(f"the field {field} is given twice", url=url, fix="give each field once")
        seen.add(field)
