"""The names of arrays and versions, and under which keys of the log documents and chunks are.

    name, or name:version -> path of a Zarr node, version
    path -> "zarr.json/PATH", the key of its document
         -> "PATH/c/0/0", the key of a chunk

Documents have a prefix of their own, so that the nodes of a hub can be listed without looking at any chunk. It cannot
be the name of a node, as Zarr reserves it.
"""

from __future__ import annotations

import re
import unicodedata

from shardtools.errors import JobError, SpecError

DOCUMENT = "zarr.json"

_MAX_PART = 255
"""Bytes that a file's name may have, so that shards can be extracted."""

_MAX_PATH = 800
"""Leaves room for the numbers of a chunk in a key."""

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f:@\\]")


def split_version(name: str) -> tuple[str, str | None]:
    """Return the path and the version in a name; the version is None if there is none.

    Raises:
        SpecError: this cannot be the name of an array.

    >>> split_version("mnist/train:v0"), split_version("mnist/train@17"), split_version("x:try@3"), split_version("x")
    (('mnist/train', 'v0'), ('mnist/train', '@17'), ('x', 'try@3'), ('x', None))
    """
    if not isinstance(name, str):
        raise SpecError(f"{name!r} cannot be the name of an array: it is no text", fix="use names such as mnist/train")
    path, colon, version = name.partition(":")
    if not colon:
        path, at, version = name.partition("@")
        version = at + version
    if colon and not version:
        raise SpecError(f"{name!r} names no version", fix="write NAME:VERSION, or NAME for the newest one")
    return check_path(path), version or None


def check_new_version(name: str) -> str:
    """Return the name of a new tag or branch, which must not be taken for the number of a commit.

    Raises:
        JobError: it is a number.
    """
    if isinstance(name, str) and name.isdecimal():
        what = f"{name} cannot be the name of a tag or a branch: numbers are those of commits, which @{name} names"
        raise JobError(what, fix=f"use a name such as v{name}")
    return name


def check_path(path: str) -> str:
    """Return the path of an array or group, if it can be one: names that are joined by slashes.

    Raises:
        SpecError: it cannot.
    """
    if not isinstance(path, str) or not path:
        raise SpecError("the name of an array is empty", fix="use a name such as mnist/train")
    fix = "use names such as mnist/train"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise SpecError(f"{path[:100]!r} cannot be the name of an array: it has an empty part or dots", fix=fix)
        if part == DOCUMENT or part.startswith("__"):
            raise SpecError(f"{path[:100]!r} cannot be the name of an array: {part!r} is reserved", fix=fix)
        if _FORBIDDEN.search(part) or unicodedata.normalize("NFC", part) != part or not _is_text(part):
            what = "a control character, colon, @ or backslash, or a letter in decomposed form (Unicode NFD)"
            raise SpecError(f"{path[:100]!r} cannot be the name of an array: it has {what}", fix=fix)
        if len(part.encode()) > _MAX_PART:
            raise SpecError(f"{part[:40]!r}… is longer than {_MAX_PART} bytes", fix="use a shorter name")
    if len(path.encode()) > _MAX_PATH:
        raise SpecError(f"{path[:40]!r}… is longer than {_MAX_PATH} bytes", fix="use a shorter name")
    return path


def _is_text(part: str) -> bool:
    try:
        part.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_texts(*texts: str) -> None:
    """Raise if a message or an author cannot be written.

    Raises:
        JobError: it is no text.
    """
    for text in texts:
        if not isinstance(text, str) or not _is_text(text):
            raise JobError(f"message and author must be texts, not {text!r:.100}", fix="use a str of valid Unicode")


def document_key(path: str) -> str:
    """Return the key of the document of a node; the path of the root is "".

    >>> document_key("mnist/train"), document_key("")
    ('zarr.json/mnist/train', 'zarr.json')
    """
    return f"{DOCUMENT}/{path}" if path else DOCUMENT


def path_of_document(key: str) -> str:
    """Return the path of the node whose document has this key."""
    return key[len(DOCUMENT) + 1 :]


def member_name(key: str) -> str:
    """Return the Zarr path of what has a key, which is its name in a data shard.

    >>> member_name("zarr.json/mnist/train"), member_name("zarr.json"), member_name("mnist/train/c/0/0")
    ('mnist/train/zarr.json', 'zarr.json', 'mnist/train/c/0/0')
    """
    if key == DOCUMENT or not key.startswith(f"{DOCUMENT}/"):
        return key
    return f"{path_of_document(key)}/{DOCUMENT}"


def key_of_member(name: str) -> str:
    """Return the key of a Zarr path: what `member_name` is the reverse of.

    >>> key_of_member("mnist/train/zarr.json"), key_of_member("mnist/train/c/0")
    ('zarr.json/mnist/train', 'mnist/train/c/0')
    """
    path, _, base = name.rpartition("/")
    return document_key(path) if base == DOCUMENT else name


def parents_of(path: str) -> list[str]:
    """Return the paths of the groups that a node is in, the root first.

    >>> parents_of("a/b/c")
    ['', 'a', 'a/b']
    """
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts))]
