"""The table of a dataset: Parquet files beside its manifest, with a row for each sample.

    train-@1000.tgz.parquet, and for very large datasets train-@1000.tgz.1.parquet, ...: samples in their order
    the footer of the first: for which state of which shards it was made, and what it has of which fields

The footer says it under ``shardtools``, as JSON. `TableFacts.parse` checks all of it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shardtools.errors import CorruptError, StorageError
from shardtools.json_text import parse_json
from shardtools.query.kinds import SQL_TYPES
from shardtools.storage import ByteRange, get_storage
from shardtools.urls import beside

VERSION = 1
ENTRY = b"shardtools"
"""Where the footer has the facts."""

_BUFFER = 1 << 16

_FIX = "delete it, or make it again with htindex --table"


def table_url(spec: str, part: int = 0) -> str:
    """Return the URL of a file of the table of the dataset ``spec``.

    >>> table_url("http://host/train-@8.tgz"), table_url("http://host/train-@8.tgz", 1)
    ('http://host/train-@8.tgz.parquet', 'http://host/train-@8.tgz.1.parquet')
    """
    return beside(spec, f".{part}.parquet" if part else ".parquet")


@dataclass(frozen=True)
class ShardState:
    """The state of a shard: its name, its bytes and their checksum, and its samples."""

    name: str
    filesize: int
    checksum: str
    samples: int


@dataclass(frozen=True)
class Asked:
    """What a table has of a field: its value, or only the first ``cut`` characters of a text.

    The name of a JSON field stands for all of its paths, ``json.width`` for one.
    """

    name: str
    cut: int | None = None


@dataclass(frozen=True)
class TableFacts:
    """What a table says of itself.

    ``kinds`` are the kinds of its columns of values, ``"null"`` for those without any. ``cut`` are those of them with a
    text that is not whole. ``asked`` is what was to be in it, None for the small fields. ``files`` has the number of
    samples in each of its files. ``wrong`` counts values that were left out, by a text such as ``json: not JSON``.
    """

    shards: tuple[ShardState, ...]
    kinds: Mapping[str, str]
    asked: tuple[Asked, ...] | None = None
    cut: tuple[str, ...] = ()
    files: tuple[int, ...] = ()
    wrong: Mapping[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """The number of samples."""
        return sum(shard.samples for shard in self.shards)

    def dump(self) -> bytes:
        """Return the facts as JSON."""
        return json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True).encode()

    @classmethod
    def parse(cls, data: bytes | None, url: str) -> TableFacts:
        """Return the facts in the footer of the table at ``url``.

        Raises:
            CorruptError: it has none, or they are wrong.
        """
        try:
            found = parse_json(data or b"null")
            if not isinstance(found, dict) or found.pop("version") != VERSION:
                raise ValueError("it is not a table of this version")
            asked = found.pop("asked")
            facts = cls(
                tuple(ShardState(**shard) for shard in found.pop("shards")),
                found.pop("kinds"),
                None if asked is None else tuple(Asked(**one) for one in asked),
                tuple(found.pop("cut")),
                tuple(found.pop("files")),
                found.pop("wrong"),
            )
            facts._check()
        except (CorruptError, KeyError, TypeError, ValueError) as error:
            raise CorruptError("it is not the table of a dataset", url=url, fix=_FIX) from error
        return facts

    def _check(self) -> None:
        """Raise if a fact is of a wrong type or out of range.

        Raises:
            ValueError: one is.
        """
        counts = [*self.files, *(count for shard in self.shards for count in (shard.filesize, shard.samples))]
        texts: list[object] = [*self.cut, *self.kinds, *self.wrong]
        texts += [text for shard in self.shards for text in (shard.name, shard.checksum)]
        if not all(type(count) is int and 0 <= count < 1 << 60 for count in [*counts, *self.wrong.values()]):
            raise ValueError("a count is no count")
        if not all(isinstance(text, str) for text in texts) or not set(self.kinds.values()) <= {*SQL_TYPES, "null"}:
            raise ValueError("a name is no text")
        if sum(self.files) != self.samples or not self.files:
            raise ValueError("its files do not have its samples")


def parse_asked(texts: Sequence[str]) -> tuple[Asked, ...]:
    """Return what is to be in a table, written as ``cls``, ``json.width`` or ``txt:200``.

    Raises:
        ValueError: a number is not valid, or 0.

    >>> parse_asked(["cls", "txt:200"])
    (Asked(name='cls', cut=None), Asked(name='txt', cut=200))
    """
    found = []
    for text in texts:
        name, colon, cut = text.rpartition(":")
        if colon and not (cut.isascii() and cut.isdigit() and int(cut)):
            raise ValueError(f"{cut!r} is not a number of characters")
        found.append(Asked(name, int(cut)) if colon else Asked(text))
    return tuple(found)


AnyTable = Any
"""A table of pyarrow, which is not typed."""


def read_facts(url: str) -> TableFacts:
    """Return the facts of the table at ``url``, of which only the end is read.

    Raises:
        NotFoundError: there is no table.
        CorruptError: it is none, or damaged.
        StorageError: it cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(io.BufferedReader(RangeFile(url), _BUFFER)).metadata
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, StorageError):
            raise
        raise CorruptError("it is not a Parquet file", url=url, fix=_FIX) from error
    return TableFacts.parse((metadata or {}).get(ENTRY), url)


class RangeFile(io.RawIOBase):
    """An object as a file that is read anywhere, by ranges."""

    def __init__(self, url: str):
        super().__init__()
        self._url = url
        self._size = get_storage(url).stat(url).size or 0
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        stop = min(self._at + len(buffer), self._size)
        if stop <= self._at:
            return 0
        [data] = get_storage(self._url).read_ranges(self._url, [ByteRange(self._at, stop)])
        buffer[: len(data)] = data
        self._at = stop
        return len(data)
