"""The indexes that NVIDIA's Megatron Energon writes beside shards, in a folder ``.nv-meta``.

``.info.json`` has ``shard_counts``, the number of samples of each shard, by its path from the folder that holds
``.nv-meta``. ``index.sqlite`` has, with a shard's place in that order as ``tar_file_id``, a row of ``samples`` for each
sample, its ``sample_key`` being the path up to the first dot of its last component, and a row of ``sample_parts`` for
each member, its ``part_name`` being what follows that dot. This is how megatron-energon 7.4.1 writes it.

A database may hold more than rows: views and generated columns are programs. So only real tables are read, no row may
be longer than a name can be, and there may be no more rows than the shard has room for.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Sequence
from functools import cached_property
from os.path import commonprefix
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from shardtools.errors import AccessError, CorruptError, LimitError, NotFoundError, RefusedError
from shardtools.json_text import parse_json
from shardtools.shards.foreign.listing import MAX_SAMPLES, Listing
from shardtools.shards.tar import BLOCK
from shardtools.storage import check_stop, get_storage
from shardtools.storage.limited import read_limited
from shardtools.urls import absolute, is_local, scheme_of, split_path

INFO, DATABASE = ".nv-meta/.info.json", ".nv-meta/index.sqlite"

_MISSING = (NotFoundError, AccessError, RefusedError, LimitError)
"""The errors of a hidden file that does not exist: some servers refuse all hidden files. A large file is not used."""

_TABLES = ("samples", "sample_parts")

# In whatever order: to sort, sqlite would have to make all rows before it gives out the first one.
_MEMBERS = """
SELECT sample_key, part_name, content_byte_offset, content_byte_size
FROM sample_parts JOIN samples USING (tar_file_id, sample_index) WHERE tar_file_id = ?
"""

_LONGEST = 1 << 16
"""The most bytes of a name, or of a row."""

_STEPS = 10_000
"""Steps of sqlite's machine after which it asks whether to go on; it takes some ten for a row."""

_STEPS_A_BYTE = 16
"""Steps for each byte of the database, more than to go through all of it several times."""


class EnergonIndex:
    """What Energon says of some shards. Each file is fetched when it is first needed, once.

    Many threads may use it; after a fork a new one is needed.
    """

    def __init__(self, urls: Sequence[str]):
        self._urls = urls
        self._lock = threading.Lock()
        self._counts: dict[str, int] | None = None
        self._database: _Database | None = None

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

    def listing(self, url: str, filesize: int) -> Listing | None:
        """Return the members of the plain shard at ``url``, of ``filesize`` bytes; None if they are not known.

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
                rows = self._database.members(list(known).index(name), filesize)
            names = [key + b"." + part for key, part, _, _ in rows]
            offset, size = (np.array([row[column] for row in rows], np.int64) for column in (2, 3))
        except (*_MISSING, sqlite3.Error, TypeError, ValueError, OverflowError):
            return None
        order = np.argsort(offset, kind="stable")
        return Listing([names[row] for row in order.tolist()], offset[order], size[order])

    def _shard_counts(self) -> dict[str, int]:
        """Return the numbers of samples by the names of shards; none if the file is missing or wrong."""
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
        counts = parse_json(read_limited(url, "index"), url)["shard_counts"]
        known = {str(name): count for name, count in counts.items() if type(count) is int and count <= MAX_SAMPLES}
    except (*_MISSING, CorruptError, KeyError, TypeError, AttributeError):
        return {}
    return known if len(known) == len(counts) else {}


def _open(url: str) -> _Database:
    """Return the database at ``url``: where it is, if that is a path, else from memory.

    Raises:
        StorageError: it cannot be read.
        LimitError: it is too large to be fetched.
        sqlite3.Error: it is not such a database.
    """
    size = get_storage(url).stat(url).size
    if is_local(url):
        path = quote(os.fsencode(absolute(url)))
        database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        return _Database(database, size or 0)
    data = read_limited(url, "index")
    if not data.startswith(b"SQLite format 3\0"):
        raise sqlite3.DatabaseError("it is not a database")
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.deserialize(data)
    return _Database(database, len(data))


class _Database:
    """A database of ``size`` bytes from outside; the caller must hold a lock."""

    def __init__(self, database: sqlite3.Connection, size: int):
        """Check its tables.

        Raises:
            sqlite3.Error: they are missing, or not real tables.
        """
        self._database = database
        self._most = 100 + size * _STEPS_A_BYTE // _STEPS
        self._asked = 0
        self._error: BaseException | None = None
        database.text_factory = bytes
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
        database.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _LONGEST)
        database.set_progress_handler(self._may_go_on, _STEPS)
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
        self._check_tables()

    def _check_tables(self) -> None:
        found = self._rows("SELECT name, type, rootpage, sql FROM sqlite_schema WHERE name IN (?, ?)", _TABLES, 3)
        tables = {name.decode() for name, kind, page, sql in found if kind == b"table" and page and _is_table(sql)}
        if tables != {*_TABLES} or len(found) != len(_TABLES):
            raise sqlite3.DatabaseError("it does not have the tables of Energon")

    def members(self, shard: int, filesize: int) -> list[tuple[bytes, bytes, int, int]]:
        """Return key, field, offset and size of the members of a shard of ``filesize`` bytes, in no order.

        Raises:
            sqlite3.Error: they cannot be read, or are more than there can be.
            TypeError: a name is not text.
        """
        return self._rows(_MEMBERS, (shard,), filesize // BLOCK, filesize)

    def _rows(self, query: str, values: tuple[object, ...], most: int, longest: int = _LONGEST) -> list[Any]:
        """Return the rows that a query gives: at most so many, whose texts have no more bytes together."""
        self._asked, self._error = 0, None
        rows, size = [], 0
        try:
            for row in self._database.execute(query, values):
                rows.append(row)
                size += len(row[0]) + len(row[1])
                if len(rows) > most or size > longest:
                    raise sqlite3.DatabaseError("it has more than it can have")
        except sqlite3.OperationalError as error:
            if self._error is not None:
                raise self._error from None
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT and self._asked <= self._most:
                raise KeyboardInterrupt from None  # from a signal, just before the handler could catch it
            raise
        return rows

    def _may_go_on(self) -> bool:
        """Return True to stop sqlite, which calls this from time to time. It would lose an exception raised here."""
        try:
            self._asked += 1
            check_stop()
        except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt, too
            self._error = error
            return True
        return self._asked > self._most


def _is_table(sql: bytes | None) -> bool:
    """Return whether the statement makes a real table without generated columns."""
    words = (sql or b"").upper().split()
    return words[:2] == [b"CREATE", b"TABLE"] and b"GENERATED" not in words and not _AS.search(sql or b"")


_AS = re.compile(rb"\bAS\s*\(", re.IGNORECASE)
