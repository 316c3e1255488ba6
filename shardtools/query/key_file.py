"""The keys of a dataset, sorted by a hash: any key is found by reading a few kilobytes.

    keys -> hashes of 64 bits -> entries, sorted by hash -> train-@1000.tgz.keys
    a key -> its hash -> where among all entries must it be, if hashes are spread evenly? -> a range -> the entry

The file has a head of 64 bytes: ``MAGIC``, the number of entries, the bytes of a row's number, and a digest of the
states of the shards for which it was made. An entry has a word, the sample's index in the dataset, and the first block
of its span. The word is the hash without its last byte, which says about how many blocks the span has.

Of n hashes that are spread evenly, those below any point are n * point on average, with a deviation of half a square
root of n at most. So an entry is within 2 square roots of n of its place, but for one key in 15,000 at most, for which
more is read.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import CorruptError, RefusedError
from shardtools.query.table_file import ShardState
from shardtools.shards.columns import Texts, spread, with_zero
from shardtools.shards.table import ShardTable
from shardtools.storage import ByteRange, get_storage
from shardtools.storage.ranges import coalesce
from shardtools.types import Ints
from shardtools.urls import beside, is_local

MAGIC = b"shardtools keys\x03"
HEAD = 64

Hashes = npt.NDArray[np.uint64]
Entries = npt.NDArray[Any]
"""Entries: a structured array with the columns of `entry_type`."""

IN_MEMORY = 1 << 22
"""The most entries that are sorted in memory at once."""

_BUCKETS = 256
_CHUNK = 1 << 16
_GAP = 1 << 12
_PIECE = 1 << 26
"""About how many bytes of the file are held in memory at a time."""

_LOW = np.uint64(0xFF)
_UNKNOWN = 255
"""The code of a span that is too long for any other: from 252 MB on."""

_ODD = np.uint64(0x9E3779B97F4A7C15)


def keys_url(spec: str) -> str:
    """Return the URL of the file of keys of the dataset ``spec``.

    >>> keys_url("http://host/train-@8.tgz")
    'http://host/train-@8.tgz.keys'
    """
    return beside(spec, ".keys")


def digest_of(states: Iterable[ShardState]) -> bytes:
    """Return 16 bytes that are those of these shards, in these states."""
    return blake2b(json.dumps([astuple(state) for state in states]).encode(), digest_size=16).digest()


def entry_type(samples: int) -> np.dtype[Any]:
    """Return the type of an entry, in a dataset of so many samples."""
    row = "<u4" if samples < 1 << 32 else "<u8"
    return np.dtype([("word", "<u8"), ("index", row), ("block", "<u4")])


def code_lengths(blocks: Ints) -> Ints:
    """Return a code of one byte for numbers of blocks: exact below 32, else as a number up to a sixteenth larger.

    >>> code_lengths(np.array([0, 31, 32, 33, 34, 1 << 30])).tolist()
    [0, 31, 32, 33, 33, 255]
    """
    blocks = blocks.astype(np.int64)  # they may come in a type without a sign
    exponent = np.maximum(np.frexp(blocks.astype(np.float64))[1] - 5, 0).astype(np.int64)
    mantissa = -(-blocks >> exponent)
    codes: Ints = np.where(blocks < 32, blocks, 16 * exponent + mantissa)
    return np.minimum(codes, _UNKNOWN)


def longest(code: int) -> int | None:
    """Return the largest number of blocks that has a code; None if it may be any.

    >>> [longest(code) for code in (0, 31, 32, 33, 254, 255)]
    [0, 31, 32, 34, 491520, None]
    """
    if code == _UNKNOWN:
        return None
    return code if code < 32 else (16 + code % 16) << (code // 16 - 1)


# --- hashes


def hash_keys(keys: Texts) -> Hashes:
    """Return the hash of each key: the finalizer of splitmix64 over its length and its words of 8 bytes.

    >>> [hex(number) for number in hash_keys(Texts.of([b"", b"a", b"dir/00001234"])).tolist()]
    ['0xe220a8397b1dcdaf', '0x5e025f9ade9eaf3e', '0x8887a6f0d95017b1']
    """
    hashes = np.empty(len(keys), np.uint64)
    for start in range(0, len(keys), _CHUNK):
        stop = min(start + _CHUNK, len(keys))
        hashes[start:stop] = _hash(keys.slice(start, stop))
    return hashes


def hashes_in(table: ShardTable) -> Hashes:
    """Return the hashes of the keys of a shard, as `texts_of` writes them."""
    keys = table.keys
    return hash_keys(keys if keys.data.tobytes().isascii() else texts_of(keys.decode()))


def _hash(keys: Texts) -> Hashes:
    sizes = keys.sizes
    words = (sizes + 7) // 8
    padded = np.zeros(int(words.sum()) * 8, np.uint8)
    first = with_zero(np.cumsum(words))[:-1]
    padded[spread(first * 8, sizes)] = keys.data
    values = padded.view("<u8")
    hashes = _mix(sizes.astype(np.uint64))
    for number in range(int(words.max(initial=0))):
        there = np.flatnonzero(words > number)
        hashes[there] = _mix(hashes[there] ^ values[first[there] + number])
    return hashes


def _mix(numbers: Hashes) -> Hashes:
    numbers = numbers + _ODD
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = numbers ^ (numbers >> np.uint64(31))
    return mixed


# --- writing


class KeySorter:
    """Sorts entries of ``samples`` samples; of many, in files of a temporary folder."""

    def __init__(self, samples: int):
        self._type = entry_type(samples)
        self._held: list[Entries] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if samples > IN_MEMORY:
            self._folder = tempfile.TemporaryDirectory(prefix="shardtools-keys-")

    def add(self, hashes: Hashes, first: int, block: Ints, blocks: Ints) -> None:
        """Add samples, whose indexes are from ``first`` on, with their spans."""
        entries = np.empty(len(hashes), self._type)
        entries["word"] = hashes & ~_LOW | code_lengths(blocks).astype(np.uint64)
        entries["index"], entries["block"] = np.arange(first, first + len(hashes)), block
        if self._folder is None:
            self._held.append(entries)
            return
        bucket = (hashes >> np.uint64(56)).astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        bounds = np.searchsorted(bucket[order], np.arange(_BUCKETS + 1))
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            with open(self._path(number), "ab") as file:
                file.write(entries[order[bounds[number] : bounds[number + 1]]].tobytes())

    def _path(self, number: int) -> str:
        assert self._folder is not None
        return os.path.join(self._folder.name, f"{number:03d}")

    def pieces(self) -> Iterator[bytes]:
        """Yield all entries, sorted by hash and index, as bytes."""
        if self._folder is None:
            yield _sorted(np.concatenate([np.empty(0, self._type), *self._held]))
            return
        for number in range(_BUCKETS):
            if os.path.exists(self._path(number)):
                yield _sorted(np.fromfile(self._path(number), self._type))
        self._folder.cleanup()


def _sorted(entries: Entries) -> bytes:
    hashes = entries["word"] >> np.uint64(8)
    order = np.argsort(hashes)  # several times as fast as a stable one, which is needed if a key is there twice
    ordered = hashes[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.argsort(hashes, kind="stable")
    return entries[order].tobytes()


def head_of(samples: int, states: Iterable[ShardState]) -> bytes:
    """Return the head of a file of keys."""
    width = entry_type(samples)["index"].itemsize
    head = MAGIC + samples.to_bytes(8, "little") + width.to_bytes(8, "little") + digest_of(states)
    return head.ljust(HEAD, b"\0")


# --- reading


class KeyFile:
    """The file of keys at ``url``, of which only the head is read at first; ``digest`` is that of its shards.

    Raises:
        NotFoundError: there is none.
        CorruptError: it is no such file.
        StorageError: it cannot be read.
    """

    def __init__(self, url: str):
        self._url = url
        storage = get_storage(url)
        size = storage.stat(url).size if is_local(url) else None  # of another one it would be a request more
        [head] = storage.read_ranges(url, [ByteRange(0, HEAD)]) if size is None or size >= HEAD else [b""]
        self.samples = int.from_bytes(head[16:24], "little")
        self.digest = head[32:48]
        self._type = entry_type(self.samples)
        whole = HEAD + self.samples * self._type.itemsize
        width = self._type["index"].itemsize.to_bytes(8, "little")
        if len(head) != HEAD or head[:16] != MAGIC or head[24:32] != width or size not in (None, whole):
            raise CorruptError("it is not a file of keys", url=url, fix="make it again with htindex --table")

    def find(self, hashes: Hashes) -> list[Entries]:
        """Return for each hash the entries that have it, which are in the order of samples.

        Raises:
            CorruptError: the file is damaged.
            StorageError: it cannot be read.
        """
        found: dict[int, Entries] = {}
        left = np.argsort(hashes)
        reach = int(2 * np.sqrt(self.samples)) + 16
        while len(left):
            place = (hashes[left] / 2.0**64 * self.samples).astype(np.int64)
            start, stop = np.maximum(place - reach, 0), np.minimum(place + reach, self.samples)
            new = stop - np.maximum(start, np.concatenate((start[:1], stop[:-1])))
            parts = np.flatnonzero(np.diff(np.cumsum(new * self._type.itemsize) // _PIECE)) + 1
            missed: list[int] = []
            for some in np.split(np.arange(len(left)), parts):
                missed += self._look(hashes, left[some], start[some], stop[some], found)
            left, reach = np.array(missed, np.int64), 4 * reach
        if any((entries["index"] >= self.samples).any() for entries in found.values()):
            raise CorruptError("an index of a sample is out of range", url=self._url, fix="run htindex --table again")
        return [found[number] for number in range(len(hashes))]

    def _look(self, hashes: Hashes, left: Ints, start: Ints, stop: Ints, found: dict[int, Entries]) -> list[int]:
        """Look for hashes in parts of the file; return those that may be in another part."""
        width = self._type.itemsize
        spans = coalesce(HEAD + start * width, HEAD + stop * width, _GAP)
        try:
            bodies = get_storage(self._url).read_ranges(self._url, spans.ranges)
        except RefusedError as error:
            raise CorruptError("the file was cut short", url=self._url, fix="run htindex --table again") from error
        parts = [np.frombuffer(body, self._type) for body in bodies]
        missed = []
        for number, span in zip(left.tolist(), spans.span.tolist(), strict=True):
            entries = parts[span] if parts else np.empty(0, self._type)
            column, wanted = entries["word"], hashes[number] & ~_LOW
            low = int(np.searchsorted(column, wanted, "left"))
            high = int(np.searchsorted(column, wanted | _LOW, "right"))
            first = (int(spans.start[span]) - HEAD) // width if parts else 0
            if (low == 0 and first > 0) or (high == len(entries) and first + high < self.samples):
                missed.append(number)
            else:
                found[number] = entries[low:high].copy()
        return missed


def texts_of(keys: Sequence[str]) -> Texts:
    """Return keys as a column, of the bytes that they have in a table."""
    return Texts.of(
        [key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").encode() for key in keys]
    )
