"""The shard index of wids, version 1: a JSON file that lists shards and how many samples each has.

    {"wids_version": 1, "shardlist": [{"url": "train-0000.tar", "nsamples": 1000}, ...]}

Besides its own ``shardlist``, or instead, it may have ``datasets``, each with a ``shardlist`` or with the
``source_url`` of another index. A URL is relative to the index that contains it, or to its ``base``. The manifest of a
dataset is such an index, too (see ``manifest.py``). ``trust.py`` says which URLs it may contain.

wids itself (0.1.11) reads only plain tar files with names that fit into a header.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardtools.errors import CorruptError, ShardError, SpecError, redact
from shardtools.json_text import parse_json
from shardtools.shards.foreign.listing import MAX_SAMPLES
from shardtools.shards.manifest import ShardEntry
from shardtools.shards.names import encode_name
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BLOCK
from shardtools.shards.trust import check_place
from shardtools.spec import MAX_SHARDS
from shardtools.storage.limited import read_limited
from shardtools.urls import absolute, folder_of, identity, name_of, scheme_of, split_path

KIND = "wids-shard-index-v1"

_NAME, _SIZE = 100, 8**11
"""What a header has room for: bytes of a name, and the size that is too large for its digits."""

_QUERY = re.compile(r"[?#].*", re.DOTALL)


@dataclass(frozen=True)
class ShardIndex:
    """What the index at ``url`` says: the URLs of shards, how many samples each has, and their fields or None."""

    url: str
    urls: list[str]
    counts: list[int]
    fields: tuple[str, ...] | None


def is_index(spec: str | Sequence[str]) -> bool:
    """Return whether a spec names a shard index instead of shards.

    >>> is_index("http://host/train.json?token=1"), is_index(["train.json"]), is_index("train-@3.tgz")
    (True, True, False)
    """
    if not isinstance(spec, str):
        return len(spec) == 1 and is_index(spec[0])
    return split_path(spec)[1].endswith(".json")


def read_index(spec: str | Sequence[str], *, trusted: bool = False) -> ShardIndex:
    """Return what the index that ``spec`` names says. Only one that is ``trusted`` may name places outside of its own.

    Raises:
        SpecError: it is not such an index, names no shards, or a shard twice, or a URL that it may not name.
        LimitError: it is too large.
        StorageError: it, or one that it refers to, cannot be read.
    """
    url = absolute(spec if isinstance(spec, str) else spec[0])
    index = _load(url)
    found: list[tuple[str, int]] = []
    seen: set[str] = set()
    for place, shard, count in _shards(url, index, trusted):
        check_place(shard, place, url, trusted=trusted)
        if (same := identity(shard)) in seen:
            raise _broken(url, f"it lists {name_of(shard)} twice")
        seen.add(same)
        found.append((shard, count))
        if len(found) > MAX_SHARDS:
            raise _broken(url, f"it lists more than {MAX_SHARDS:,} shards")
    if not found:
        raise _broken(url, "it lists no shards")
    fields = index.get("fields")
    named = tuple(map(str, fields)) if isinstance(fields, dict) and fields else None
    return ShardIndex(url, [shard for shard, _ in found], [count for _, count in found], named)


def _load(url: str) -> dict[str, Any]:
    try:
        index = parse_json(read_limited(url, "manifest"), url)
    except CorruptError as error:
        raise _broken(url, error.what) from error
    if not isinstance(index, dict) or not (index.get("wids_version") == 1 or index.get("__kind__") == KIND):
        raise _broken(url, 'it has no "wids_version": 1')
    return index


def _shards(url: str, index: dict[str, Any], trusted: bool) -> Iterator[tuple[str, str, int]]:
    """Yield the index, URL and number of samples of each shard: first its own, then those of its datasets."""
    yield from _listed(url, url, index.get("shardlist", []))
    parts = index.get("datasets", [])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise _broken(url, "its datasets are not a list of objects")
    for part in parts:
        place = url
        if "source_url" in part:
            place = _resolve(url, url, part["source_url"])
            check_place(place, url, url, trusted=trusted)
            part = _load(place)
            if "datasets" in part or "source_url" in part:
                raise _broken(place, "it refers to further datasets, and another one refers to it")
        if "shardlist" not in part:
            raise _broken(place, "a dataset has no shardlist")
        base = _resolve(place, place, f"{part['base']}/") if "base" in part else place
        yield from _listed(place, base, part["shardlist"])


def _listed(url: str, base: str, shardlist: Any) -> Iterator[tuple[str, str, int]]:
    if not isinstance(shardlist, list):
        raise _broken(url, "its shardlist is not a list")
    for index, entry in enumerate(shardlist):
        count = entry.get("nsamples") if isinstance(entry, dict) else None
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_SAMPLES:
            raise _broken(url, f"shard {index} of a shardlist has no number of samples")
        yield url, _resolve(url, base, entry.get("url")), count


def _resolve(url: str, base: str, reference: Any) -> str:
    """Return the URL that ``reference`` means in the index at ``url``, relative to the file or folder ``base``.

    What follows the path of an http URL, such as a token, is taken from ``base`` where it has none of its own.
    """
    if not isinstance(reference, str) or not reference:
        raise _broken(url, "a shard or dataset has no URL")
    try:
        encode_name(reference)
    except UnicodeEncodeError as error:
        raise _broken(url, "a URL contains half a surrogate pair") from error
    if scheme_of(reference) not in ("", "-"):
        return absolute(reference)
    head, path, tail = split_path(base)
    if scheme_of(base) in ("http", "https"):
        match = _QUERY.search(reference)
        reference, tail = (reference[: match.start()], match[0]) if match else (reference, tail)
    joined = reference if reference.startswith("/") else f"{path.rpartition('/')[0]}/{reference}"
    if not {".", ".."}.isdisjoint(joined.split("/")):
        joined = posixpath.normpath(joined) + "/" * joined.endswith("/")
    return absolute(head + joined + tail)


def build_index(destination: str, name: str, shards: Sequence[ShardEntry]) -> bytes:
    """Return the index of ``shards`` as the bytes of its file, which is to be at the URL ``destination``.

    The URLs of shards in its folder, or below that, are relative to it.
    """
    folder = folder_of(absolute(destination))
    index = {
        "__kind__": KIND,
        "wids_version": 1,
        "name": name,
        "shardlist": [
            {"url": _relative(shard.url, folder), "nsamples": shard.nsamples, "filesize": shard.filesize}
            for shard in shards
        ],
    }
    return json.dumps(index, indent=1).encode() + b"\n"


def check_readable(table: ShardTable, url: str) -> None:
    """Raise if wids would not read the shard at ``url`` as ``table`` describes it.

    wids takes names and sizes only from the last header of a member, from fields of 100 and 11 bytes. It ignores
    extension headers, and the prefix of a name.

    Raises:
        ShardError: it would find other names.
    """
    lengths = np.repeat(table.keys.sizes, table.counts)
    of_fields = np.array([len(encode_name(name)) for name in table.fields], np.int64)
    lengths = lengths + 1 + (of_fields[table.field] if len(of_fields) else 0)
    if len(long := np.flatnonzero(lengths > _NAME)):
        what = f"the name of a member has {lengths[long[0]]} bytes, and wids reads {_NAME} of them"
        raise _unreadable(table, int(long[0]), what, url)
    if len(large := np.flatnonzero(table.size >= _SIZE)):
        raise _unreadable(table, int(large[0]), "a member has 8 GiB or more, which wids cannot read", url)
    text = table.keys.data.tobytes()
    if text.isascii() and b"\n" not in text and all(name.isascii() and "\n" not in name for name in table.fields):
        return
    for row, extended in enumerate((table.heads > BLOCK).tolist()):
        name = table.name(row)
        if "\n" in name or not (name.isascii() or (name.isprintable() and not extended)):
            raise _unreadable(table, row, "wids does not read the letters of a member's name", url)


def _unreadable(table: ShardTable, row: int, what: str, url: str) -> ShardError:
    fix = "rename such members, or leave this shard out"
    return ShardError(what, url=url, member=table.name(row), fix=fix)


def _relative(url: str, folder: str) -> str:
    head, path, _ = split_path(url)
    return (head + path)[len(folder) :] if (head + path).startswith(folder) else redact(url)


def _broken(url: str, what: str) -> SpecError:
    fix = "check it, or name the shards, as in train-@1000.tgz"
    return SpecError(f"this is not a shard index of wids: {what}", url=url, fix=fix)
