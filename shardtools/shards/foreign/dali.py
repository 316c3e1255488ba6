"""The index that NVIDIA DALI's ``wds2idx`` writes beside a shard: ``train-0000.idx`` for ``train-0000.tar``.

Version 1.2, the first with names: a line ``v1.2 SAMPLES``, and a line for each sample with ``EXTENSION OFFSET SIZE
NAME`` for each of its members, all separated by single spaces. Offsets are those of the data, in bytes. Members
that are not regular files are left out, and so are names whose last component begins with a dot. Names come from
``tar --list``, which writes a backslash before what it cannot print, or from Python, which does not.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from shardtools.errors import ShardError
from shardtools.shards.foreign.listing import Listing
from shardtools.shards.names import encode_name
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK
from shardtools.storage import check_stop
from shardtools.urls import split_path

VERSION = b"v1.2"

# An extension is all that follows the first dot of the last component, or the whole name where that has none. Where
# names have spaces there are several ways to read a line; the bounds keep trying them from taking for ever.
_MEMBER = re.compile(
    rb"(?P<extension>.{0,1024}?) (?P<offset>[0-9]{1,18}) (?P<size>[0-9]{1,18}) "
    rb"(?P<name>[^/.]{1,4096}\.(?P=extension)|(?:.{0,4096}?/)[^/.]{1,4096}\.(?P=extension)|(?P=extension))(?: |\Z)"
)
_NUMBER = re.compile(rb"[0-9]{1,18}").fullmatch
_ESCAPED = re.compile(rb"\\([0-7]{3}|[abtnvfr\\])")
_SPELT = dict(zip(b"abtnvfr", b"\a\b\t\n\v\f\r", strict=True)) | {ord("\\"): ord("\\")}


def index_url(url: str) -> str:
    """Return the URL of a shard's index: its name up to the first dot, which may not be the name's first letter.

    >>> index_url("http://host/v1.0/train-0000.part.tar?token=1")
    'http://host/v1.0/train-0000.idx?token=1'
    """
    head, path, tail = split_path(url)
    dot = path.find(".", path.rfind("/") + 2)
    return head + (path if dot < 0 else path[:dot]) + ".idx" + tail


def parse_index(data: bytes, filesize: int) -> list[Listing]:
    """Return the members that the index of a shard of ``filesize`` bytes lists; nothing if it is not such an index.

    There are two listings if its names can be read in two ways.
    """
    head, _, rest = data.partition(b"\n")
    # Counted before it is split: each member takes a block of the shard, and each line one member at least.
    lines = rest.count(b"\n")
    if not 0 < lines <= filesize // BLOCK or not rest.endswith(b"\n") or head.split(b" ") != [VERSION, b"%d" % lines]:
        return []
    members: list[tuple[bytes, int, int]] = []
    for line in rest[:-1].split(b"\n"):
        found = _members(line)
        members += found
        if not found or len(members) > filesize // BLOCK:
            return []
    names = [name for name, _, _ in members]
    offset, size = (
        np.array(column, np.int64) for column in ([at for _, at, _ in members], [size for *_, size in members])
    )
    spellings = [list(map(_unescape, names)), names] if b"\\" in data else [names]
    return [Listing(spelling, offset, size) for spelling in spellings]


def _members(line: bytes) -> list[tuple[bytes, int, int]]:
    """Return name, offset and size of the members in a line; none if it is not a line of an index."""
    words = line.split(b" ")
    parts = list(zip(words[::4], words[1::4], words[2::4], words[3::4], strict=False))
    if len(words) == 4 * len(parts) and all(map(_fits, parts)):
        return [(name, int(offset), int(size)) for _, offset, size, name in parts]
    check_stop()
    members, at = [], 0
    while at < len(line):
        found = _MEMBER.match(line, at)
        if found is None:
            return []
        members.append((found["name"], int(found["offset"]), int(found["size"])))
        at = found.end()
    return members


def _fits(part: tuple[bytes, bytes, bytes, bytes]) -> bool:
    """Return whether four words are extension, offset, size and name of a member."""
    extension, offset, size, name = part
    if not _NUMBER(offset) or not _NUMBER(size):
        return False
    base = name[name.rfind(b"/") + 1 :]
    dot = base.find(b".")
    return name == extension if dot < 0 else dot > 0 and base[dot + 1 :] == extension


def _unescape(name: bytes) -> bytes:
    def spelt(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8) & 255 if len(code) == 3 else _SPELT[code[0]]])

    return _ESCAPED.sub(spelt, name) if b"\\" in name else name


def dump_index(table: ShardTable, url: str) -> bytes:
    """Return the index of the shard at ``url``, whose table this is.

    Raises:
        ShardError: DALI cannot read an index of such a shard.
    """
    if not len(table):
        raise ShardError("it has no samples, and DALI accepts no empty index", url=url, fix="leave this shard out")
    fields = [encode_name(name) for name in table.fields]
    columns = (table.field.tolist(), table.offset.tolist(), table.size.tolist())
    members = list(zip(*columns, strict=True))
    lines = [b"%b %d" % (VERSION, len(table))]
    for key, (start, stop) in zip(table.keys.decode(), pairwise(table.first.tolist()), strict=True):
        stem = encode_name(key)
        parts = [
            b"%b %d %d %b.%b" % (fields[code], at, size, stem, fields[code]) for code, at, size in members[start:stop]
        ]
        line = b" ".join(parts)
        if len(line.split()) != 4 * len(parts):
            what = "a member's name has a space, which separates names in an index of DALI"
            raise ShardError(what, url=url, member=key, fix="rename such members, or leave this shard out")
        lines.append(line)
    return b"\n".join(lines) + b"\n"
