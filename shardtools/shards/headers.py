"""The table of a plain local tar file, for which little more than the headers is read.

    a page that begins with a header -> its size gives the place of the next one -> all headers, end to end
      -> the table that scan.py makes of them -> offsets in the file

This is for large members. Files with anything unusual are not scanned here, but read whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from shardtools.errors import ShardError
from shardtools.shards.reader import SeenKeys, repeated_key
from shardtools.shards.scan import scan_located
from shardtools.shards.table import ShardTable
from shardtools.shards.tar import BEFORE_A_MEMBER, BLOCK, EMPTY, REGULAR, padded
from shardtools.shards.walk import END_MARK, page_reader, walk
from shardtools.storage.open_files import OpenFile, open_file

PAGE = 4096
"""Bytes to read at a time; they often have the headers of the small members beside a large one, too."""

FIRST = 128
"""The number of headers that decides whether the members are large."""

LARGE = 1 << 15
"""The mean size of members below which it is faster to read the whole file."""

USUAL = REGULAR + EMPTY + BEFORE_A_MEMBER
"""The type flags that a shard usually has: no global headers, sparse files, or unknown flags."""

LONGEST_END = 1 << 20
"""The most zeros that may follow the last member."""

LONGEST, MOST = 1 << 20, 256 << 20
"""The most bytes of one extension header, and of all; a file with more is read whole."""


def scan_headers(url: str) -> ShardTable | None:
    """Return the table of the tar file at ``url``; None if the whole file must be read for it, or to find an error.

    Raises:
        StorageError: it cannot be read.
        DuplicateKeyError: a key is repeated after other samples.
    """
    try:
        with open_file(url) as file:
            found = _read_headers(file)
        table = None if found is None else found.table(url)
    except ShardError:  # the offsets in its message would be wrong
        return None
    if table is not None:
        keys = table.keys.decode()
        if repeated := SeenKeys().add(keys):
            raise repeated_key(url, keys[repeated[0]])
    return table


def _read_headers(file: OpenFile) -> _Headers | None:
    """Return all headers of a file; None if it is unusual, or its members are small."""
    read = page_reader(file.read, file.size, PAGE)
    found = _Headers()
    kept = 0
    for start, stop, size, kind, block, _ in walk(read, file.size, verify=False):
        if kind == END_MARK:
            return found if _ends(file, start) else None
        if kind not in USUAL:
            return None
        if kind in BEFORE_A_MEMBER:
            kept += stop - start
            if size > LONGEST or kept > MOST or stop > file.size:
                return None
            block = read(start, stop)
        found.add(start, size, block)
        if len(found.starts) == FIRST and stop < FIRST * LARGE:
            return None
    return None


def _ends(file: OpenFile, at: int) -> bool:
    """Return whether only whole blocks of zeros follow, and not too many."""
    size = file.size - at
    return size % BLOCK == 0 and size <= LONGEST_END and file.read(at, file.size) == bytes(size)


@dataclass
class _Headers:
    """The headers of a file, and the data of extension headers, end to end in ``buffer``.

    Header i begins at ``places[i]`` in the buffer, and at ``starts[i]`` in the file; its data have ``sizes[i]`` bytes.
    """

    buffer: bytearray = field(default_factory=bytearray)
    places: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, start: int, size: int, blocks: bytes) -> None:
        """Append a header, which may be followed by its data."""
        self.places.append(len(self.buffer))
        self.starts.append(start)
        self.sizes.append(size)
        self.buffer += blocks

    def table(self, url: str) -> ShardTable:
        """Return the table of the samples, with offsets in the file."""
        places = np.array(self.places, np.int64)
        table = scan_located(np.frombuffer(self.buffer, np.uint8), places, np.array(self.sizes, np.int64), url)
        start_of = np.zeros(len(self.buffer) // BLOCK, np.int64)
        start_of[places // BLOCK] = self.starts
        offset = start_of[table.offset // BLOCK - 1] + BLOCK
        last = table.first[1:] - 1
        stop = offset[last] + padded(table.size[last])
        return replace(table, start=start_of[table.start // BLOCK], stop=stop, offset=offset)
