"""The rules for the names of keys and fields: one place for shards that are read or written, and for sidecars."""

from __future__ import annotations

import re
from collections.abc import Iterable

_META = re.compile(rb"__[^/]*__(/|\Z)")  # the rule of webdataset

KEY_FIELD = "key"
"""The entry of a record that holds its key, so that no field can have this name."""


def is_special(name: str) -> bool:
    """Return whether a name is reserved for where a record came from, such as ``__url__``."""
    return name.startswith("__")


def is_field(name: str) -> bool:
    """Return whether a field can have this name.

    >>> [is_field(name) for name in ("jpg", "seg.png", "", "a/../b", "key", "__url__", "\\ud800")]
    [True, True, False, False, False, False, False]
    """
    if name == KEY_FIELD or is_special(name):
        return False
    return bool(name) and "/" not in name and "\0" not in name and _reads_back(name)


def is_key(name: str) -> bool:
    """Return whether a sample can have this key: a path whose last component is not empty and has no dot.

    >>> [is_key(name) for name in ("v1.0/a", "a", "", "a/", "a.b", "./a", "\\ud800")]
    [True, True, False, False, False, False, False]
    """
    base = name.rpartition("/")[2]
    return bool(base) and "." not in base and "\0" not in name and not name.startswith("./") and _reads_back(name)


def _reads_back(name: str) -> bool:
    """Return whether a name can be encoded, and is decoded to the same name."""
    if name.isascii():
        return True
    try:
        return decode_name(encode_name(name)) == name
    except UnicodeEncodeError:
        return False


def is_meta(name: bytes) -> bool:
    """Return whether a member is metadata of the shard, by its name: ``__info__``, ``__info__/x``."""
    return _META.match(name) is not None


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Return the key and the field in a member's name; None if the member belongs to no sample.

    >>> split_name(b"./v1.0/a.seg.png"), split_name(b"README"), split_name(b"d/.hidden.jpg")
    ((b'v1.0/a', b'seg.png'), None, None)
    """
    while name.startswith(b"./"):
        name = name[2:]
    slash = name.rfind(b"/") + 1
    dot = name.find(b".", slash)
    if not slash < dot < len(name) - 1 or is_meta(name):
        return None
    return name[:dot], name[dot + 1 :]


def names_of(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return names as a tuple; a single name may be a text.

    Raises:
        TypeError: they are something else.

    >>> names_of("cls"), names_of(["jpg", "cls"])
    (('cls',), ('jpg', 'cls'))
    """
    if isinstance(names, str):
        return (names,)
    found = tuple(names) if isinstance(names, Iterable) else (None,)
    if not all(isinstance(name, str) for name in found):
        raise TypeError(f"names are a text or a list of texts, not {names!r}")
    return found


def differ_in_case(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of names that differ only in case, which is probably a mistake.

    >>> differ_in_case(["jpg", "cls", "JPG", "Jpg"])
    [('JPG', 'Jpg', 'jpg')]
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(name.casefold(), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def name_hint(name: str, names: Iterable[str]) -> str | None:
    """Return advice about a field that does not exist, if one of ``names``, or several of them, were meant; else None.

    >>> name_hint("jpg", ["JPG", "cls"])
    'there is JPG, which differs only in case; ask for that, or htupload --rename JPG=jpg'
    >>> name_hint("jpg,cls", ["jpg", "cls", "txt"])
    "give several names as a list: ['jpg', 'cls']"
    """
    names, parts = set(names), [part.strip() for part in name.split(",")]
    if len(parts) > 1 and names.issuperset(parts):
        return f"give several names as a list: {parts}"
    others = sorted(other for other in names if other != name and other.casefold() == name.casefold())
    if not others:
        return None
    renames = " ".join(f"--rename {other}={name}" for other in others)
    return f"there is {' and '.join(others)}, which differs only in case; ask for that, or htupload {renames}"


def case_warnings(names: Iterable[str]) -> list[str]:
    """Return a warning for each group of names that differ only in case, which says how to unify them.

    >>> case_warnings(["JPG", "jpg", "cls"])
    ['fields JPG and jpg differ only in case; htupload --rename JPG=jpg makes them one']
    """
    lines = []
    for group in differ_in_case(names):
        wanted = group[-1]  # small letters come last
        renames = " ".join(f"--rename {name}={wanted}" for name in group[:-1])
        lines.append(f"fields {' and '.join(group)} differ only in case; htupload {renames} makes them one")
    return lines


def wrong_fields(names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that no field can have."""
    return [name for name in names if not is_field(name)]


def decode_name(name: bytes) -> str:
    """Return a member's name as text; bytes that are not UTF-8 survive as surrogates, as everywhere in Python."""
    return name.decode("utf-8", "surrogateescape")


def encode_name(name: str) -> bytes:
    """Return the bytes of a name; the inverse of `decode_name`."""
    return name.encode("utf-8", "surrogateescape")
