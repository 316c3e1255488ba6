"""What branches, tags, keys and objects of a log may be called: one rule, for what is written and what is read."""

from __future__ import annotations

import re

_REFERENCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_OBJECT = re.compile(r"data/[0-9a-f]{32}/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
MAX_KEY = 1024
"""Bytes that a key may have in UTF-8."""


def check_reference(name: object) -> str:
    """Return the name of a branch or a tag, if it can be one.

    Raises:
        ValueError: it cannot.

    >>> check_reference("v1.0")
    'v1.0'
    """
    if not isinstance(name, str) or not _REFERENCE.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a version")
    return name


def check_object(name: object) -> str:
    """Return the name of an object that commits refer to, ``data/ID/NAME``, which lies in the place itself.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(name, str) or not _OBJECT.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of an object of a log")
    return name


def check_key(key: str) -> str:
    """Return a key, if it can be one: a relative path of at most 1,024 bytes of UTF-8.

    Raises:
        ValueError: it cannot.

    >>> check_key("mnist/train/c/0/0")
    'mnist/train/c/0/0'
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{key!r} is not a key: it is not UTF-8") from error
    parts = key.split("/")
    if not 0 < size <= MAX_KEY or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{key[:100]!r} is not a key: it must be a relative path of at most {MAX_KEY} bytes")
    return key
