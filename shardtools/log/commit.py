"""A commit: one small object that says what a place consists of, and what was written since the commit before it.

Its bytes are a line of JSON and a line with that line's SHA-256, which the next commit repeats: so a commit that was
cut short or altered is noticed, and the history is a chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shardtools.errors import CorruptError
from shardtools.json_text import parse_json
from shardtools.log.names import check_object, check_reference

FORMAT = 1


@dataclass(frozen=True)
class Parent:
    """The commit before: its branch, number and digest."""

    branch: str
    number: int
    digest: str


@dataclass(frozen=True)
class SegmentPlace:
    """Where a segment lies: the object ``name`` of ``size`` bytes, of which the last from ``index`` on are its index.

    ``count`` is the number of its entries, ``crc32c`` that of the index.
    """

    name: str
    size: int
    index: int
    count: int
    crc32c: int


@dataclass(frozen=True)
class Write:
    """What one writer has written: its ``changes`` are a segment, None if it changes nothing.

    ``id`` is random, and makes the write this one. ``touched`` are the keys of the segment, None if they are too many
    to list here. ``removed`` are prefixes whose keys it removed, ``reads`` the keys that it depends on: nobody may have
    changed them since its base. ``time``, in ISO 8601, is that of the writer's clock and decides nothing.
    """

    id: str
    message: str
    author: str
    time: str
    changes: SegmentPlace | None
    touched: tuple[str, ...] | None
    removed: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Commit:
    """Commit ``number`` of ``branch``: its ``writes``, and all live ``segments``, from the oldest to the newest."""

    branch: str
    number: int
    parent: Parent | None
    writes: tuple[Write, ...]
    segments: tuple[SegmentPlace, ...]
    digest: str = ""

    def __repr__(self) -> str:
        messages = ", ".join(repr(write.message) for write in self.writes[:3])
        more = ", …" if len(self.writes) > 3 else ""
        return f"<Commit {self.branch}@{self.number}: {messages}{more}>"


def dump_commit(commit: Commit) -> tuple[bytes, str]:
    """Return the bytes of a commit, and its digest.

    >>> data, digest = dump_commit(Commit("main", 0, None, (), ()))
    >>> parse_commit(data, "x").digest == digest
    True
    """
    body = {"format": FORMAT, **{name: value for name, value in asdict(commit).items() if name != "digest"}}
    line = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    digest = hashlib.sha256(line).hexdigest()
    return line + b"\n" + digest.encode() + b"\n", digest


def parse_commit(data: bytes, url: str) -> Commit:
    """Return the commit of its bytes.

    Raises:
        CorruptError: it was cut short, altered, or is of a later format.
    """
    line, _, rest = data.partition(b"\n")
    digest = hashlib.sha256(line).hexdigest()
    if rest != digest.encode() + b"\n":
        fix = "restore it from a copy; the commits before it can be read with @N"
        raise CorruptError("the commit is damaged: its digest does not match", url=url, fix=fix)
    body = parse_json(line, url)
    check_format(body, url)
    try:
        return Commit(
            check_reference(body["branch"]),
            _number(body["number"]),
            None if body["parent"] is None else parse_parent(body["parent"]),
            tuple(map(parse_write, body["writes"])),
            tuple(map(_parse_place, body["segments"])),
            digest,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError("this is not a commit", url=url, fix="see what else writes to this place") from error


def dump_write(write: Write) -> dict[str, Any]:
    """Return a write as JSON data."""
    return asdict(write)


def parse_write(data: Mapping[str, Any]) -> Write:
    """Return the write of its JSON data.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    changes, touched = data["changes"], data["touched"]
    return Write(
        str(data["id"]),
        str(data["message"]),
        str(data["author"]),
        str(data["time"]),
        None if changes is None else _parse_place(changes),
        None if touched is None else _texts(touched),
        _texts(data["removed"]),
        _texts(data["reads"]),
    )


def check_format(body: Any, url: str) -> None:
    """Raise if an object of the log is of another format.

    Raises:
        CorruptError: it is.
    """
    number = body.get("format") if isinstance(body, dict) else None
    if number == FORMAT:
        return
    if isinstance(number, int) and number > FORMAT:
        raise CorruptError(f"it has format {number}, and this shardtools knows {FORMAT}", url=url, fix="upgrade it")
    raise CorruptError("this is not an object of a log", url=url, fix="see what else writes to this place")


def parse_parent(data: Mapping[str, Any]) -> Parent:
    """Return the parent of its JSON data.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return Parent(check_reference(data["branch"]), _number(data["number"]), str(data["digest"]))


def _parse_place(data: Mapping[str, Any]) -> SegmentPlace:
    size, index = _number(data["size"]), _number(data["index"])
    if not index < size:
        raise ValueError("the index of a segment lies outside of it")
    return SegmentPlace(check_object(data["name"]), size, index, _number(data["count"]), _number(data["crc32c"]))


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"not a number of a commit: {value!r}")
    return value


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("not a list of texts")
    return tuple(values)
