"""The indexes that NVIDIA's Megatron Energon leaves beside shards, in a folder ``.nv-meta``.

``.info.json`` has ``shard_counts``, the number of samples of each shard, by its path from the folder that holds
``.nv-meta``. ``index.sqlite`` has, with a shard's place in that order as ``tar_file_id``, a row of ``samples`` for each
sample, its ``sample_key`` being the path up to the first dot of its last component, and a row of ``sample_parts`` for
each member, its ``part_name`` being what follows that dot. This is how megatron-energon 7.4.1 writes it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Sequence
from functools import cached_property
from os.path import commonprefix
from urllib.parse import quote, unquote

import numpy as np

from shardtools.errors import AccessError, NotFoundError, RefusedError
from shardtools.shards.listing import Listing
from shardtools.spec import absolute, is_local, scheme_of, split_path
from shardtools.storage import get_storage

INFO, DATABASE = ".nv-meta/.info.json", ".nv-meta/index.sqlite"

MAX_FETCHED = 1 << 29
"""Bytes of a database that is fetched from a server, into memory. Of a larger one nothing is used."""

_MISSING = (NotFoundError, AccessError, RefusedError)
"""What servers say of a hidden file that is not there: some refuse to speak of any."""

_MEMBERS = """
SELECT sample_key, part_name, content_byte_offset, content_byte_size
FROM sample_parts JOIN samples USING (tar_file_id, sample_index)
WHERE tar_file_id = ? ORDER BY content_byte_offset
"""


class EnergonIndex:
    """What Energon says of some shards. Nothing is fetched before it is asked for, and each file once.

    Many threads may use it; after a fork a new one is needed.
    """

    def __init__(self, urls: Sequence[str]):
        self._urls = urls
        self._lock = threading.Lock()
        self._counts: dict[str, int] | None = None
        self._database: sqlite3.Connection | None = None

    @cached_property
    def _folder(self) -> tuple[str, str] | None:
        """The URL of the folder that holds all shards, and what follows a path in their URLs; None if there is none."""
        heads, paths, tails = zip(*map(split_path, self._urls), strict=True)
        if len({*heads}) > 1 or "-" in self._urls:
            return None
        common = commonprefix(paths)  # noqa: RUF071 - what stands behind its last slash is cut off
        return heads[0] + common[: common.rfind("/") + 1], tails[0]

    def counts(self) -> list[int] | None:
        """Return the number of samples of each shard; None if it is not known of all.

        Raises:
            StorageError: the storage cannot be read.
        """
        known = self._shard_counts()
        names = map(self._name, self._urls) if known else []
        counts = [known.get(name, -1) for name in names]
        return counts if counts and min(counts) >= 0 else None

    def listing(self, url: str) -> Listing | None:
        """Return the members of the plain shard at ``url``; None if they are not known.

        Raises:
            StorageError: the storage cannot be read.
        """
        known = self._shard_counts()
        if not known or (name := self._name(url)) not in known:
            return None
        try:
            with self._lock:
                if self._database is None:
                    self._database = _open(self._file(DATABASE))
                rows = self._database.execute(_MEMBERS, (list(known).index(name),)).fetchall()
            names = [key + b"." + part for key, part, _, _ in rows]
            offset, size = (np.array([row[column] for row in rows], np.int64) for column in (2, 3))
        except (*_MISSING, sqlite3.Error, TypeError, ValueError, OverflowError):
            return None
        return Listing(names, offset, size)

    def _shard_counts(self) -> dict[str, int]:
        """Return the numbers of samples by the names of shards; none if there is no such file, or it is not right."""
        with self._lock:
            if self._counts is None:
                self._counts = {} if self._folder is None else _read_counts(self._file(INFO))
            return self._counts

    def _file(self, name: str) -> str:
        """Return the URL of a file of Energon."""
        assert self._folder is not None
        folder, tail = self._folder
        return folder + name + tail

    def _name(self, url: str) -> str:
        """Return a shard's name as Energon has it: its path from the folder."""
        assert self._folder is not None
        head, path, _ = split_path(url)
        name = (head + path).removeprefix(self._folder[0])
        return unquote(name) if scheme_of(url) in ("http", "https") else name


def _read_counts(url: str) -> dict[str, int]:
    try:
        counts = json.loads(get_storage(url).read(url))["shard_counts"]
        known = {str(name): count for name, count in counts.items() if type(count) is int}
    except (*_MISSING, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return known if len(known) == len(counts) else {}


def _open(url: str) -> sqlite3.Connection:
    """Return the database at ``url``: where it is, if that is a path, else from memory.

    Raises:
        StorageError: it cannot be read, or is too large for that.
        sqlite3.Error: it is no database.
    """
    if is_local(url):
        path = quote(os.fsencode(absolute(url)))
        database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    else:
        size = get_storage(url).stat(url).size
        if size is None or size > MAX_FETCHED:
            raise RefusedError("the database is too large to be fetched", url=url, fix="make sidecars with htindex")
        data = get_storage(url).read(url)
        if not data.startswith(b"SQLite format 3\0"):
            raise sqlite3.DatabaseError("it is no database")
        database = sqlite3.connect(":memory:", check_same_thread=False)
        database.deserialize(data)
    database.text_factory = bytes
    return database
