"""The members of a tar file, of any kind and in any order, as files.

    headers, one after another -> names, offsets, sizes -> Tree

Only headers are read here, and what members hold is skipped: listing costs the same for large and small files.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from shardtools.errors import CorruptError, TruncatedError
from shardtools.shards.kinds import check_tar
from shardtools.shards.names import decode_name
from shardtools.shards.tar import (
    BLOCK,
    PAX,
    PAX_GLOBAL,
    TYPE_AT,
    checksum_holds,
    extended_name,
    header_name,
    own_name,
    parse_number,
    parse_pax,
)
from shardtools.sources import Ints
from shardtools.sources.tree import REPAIR, Archive, ArchiveFiles, Tree, to_column
from shardtools.storage import check_stop, current_options
from shardtools.storage.files import os_errors

_WINDOW = 1 << 16
_ZEROS = bytes(BLOCK)
_LONG_NAME, _LONG_LINK, _SPARSE = b"LKS"
_FILES = b"0\x007"
_FOLDER = ord("5")
_KINDS = {ord("1"): "it is a hard link", ord("2"): "it is a link"}
_WITHOUT_DATA = b"123456"


@dataclass
class TarFiles(ArchiveFiles):
    """Files in a tar file: ``offset`` is where the data of each begin."""

    def take(self, rows: Ints) -> TarFiles:
        return TarFiles(self.archive, self.offset[rows], self.size[rows])

    def read(self, row: int, path: str, taken: int = 0) -> bytes:
        return self.file.read(int(self.offset[row]), int(self.size[row]), path, taken)


def list_tar(archive: Archive) -> tuple[Tree, TarFiles]:
    """Return the members of a tar file, and where they are, numbered alike.

    Raises:
        CorruptError: it is damaged, or no tar file.
        TruncatedError: it ends early.
    """
    tree = Tree(archive)
    offsets, sizes = array("q"), array("q")
    for member in _Headers(archive):
        if member.kind == _FOLDER or (member.kind in _FILES and member.name.endswith("/")):
            continue
        reason = "" if member.kind in _FILES else _KINDS.get(member.kind, "it is not a regular file")
        if tree.add(member.name, reason):
            offsets.append(member.offset)
            sizes.append(member.size)
    return tree, TarFiles(archive, to_column(offsets), to_column(sizes))


@dataclass(frozen=True, slots=True)
class _Member:
    kind: int
    name: str
    offset: int
    size: int


class _Headers:
    """The members of a tar file, in their order. What follows an end-of-archive mark is read as well."""

    def __init__(self, archive: Archive):
        self._url = archive.url
        self._path = archive.path
        self._fd = -1
        self._length = 0
        self._window = b""
        self._begin = 0

    def __iter__(self) -> Iterator[_Member]:
        with os_errors(self._url):
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._length = os.fstat(self._fd).st_size
                yield from self._members()
            finally:
                os.close(self._fd)

    def _members(self) -> Iterator[_Member]:
        check_tar(self._block(0), self._url)
        at, ended, found = 0, False, 0
        name: bytes | None = None
        resized: int | None = None
        while len(header := self._block(at)) == BLOCK:
            if header == _ZEROS:
                at, ended = at + BLOCK, True
                continue
            kind, size = header[TYPE_AT], self._size_of(header, at)
            ended = False
            if kind in (PAX, PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
                payload = self._payload(header, at, size)
                name = extended_name(kind, payload, offset=at, url=self._url) or name
                if kind == PAX and b"size=" in payload:
                    resized = self._pax_size(payload, at)
            else:
                if resized is not None and kind not in _WITHOUT_DATA:
                    size = resized
                full = decode_name(own_name(header) if name is None else name)
                if at + BLOCK + size > self._length:
                    raise TruncatedError("the archive ends inside this member", url=self._url, member=full, fix=REPAIR)
                yield _Member(kind, full, at + BLOCK, size)
                name = resized = None
                found += 1
                if not found % _BETWEEN_CHECKS:
                    check_stop()
            at += BLOCK + -(-size // BLOCK) * BLOCK
        if not ended:
            raise TruncatedError(
                f"the archive ends at byte {self._length} without an end-of-archive mark", url=self._url, fix=REPAIR
            )

    def _block(self, at: int) -> bytes:
        if not self._begin <= at <= self._begin + len(self._window) - BLOCK:
            self._window, self._begin = os.pread(self._fd, _WINDOW, at), at
        start = at - self._begin
        return self._window[start : start + BLOCK]

    def _size_of(self, header: bytes, at: int) -> int:
        if not checksum_holds(header):
            raise CorruptError(f"the header checksum at byte {at} is wrong", url=self._url, fix=REPAIR)
        if header[TYPE_AT] == _SPARSE:
            raise CorruptError(
                "sparse members are not supported",
                url=self._url,
                member=header_name(header),
                fix="make the archive again with tar without --sparse",
            )
        if header[TYPE_AT] in _WITHOUT_DATA:
            return 0
        try:
            return parse_number(header[124:136])
        except ValueError as error:
            raise CorruptError(
                "the header's size is not a number", url=self._url, member=header_name(header), fix=REPAIR
            ) from error

    def _payload(self, header: bytes, at: int, size: int) -> bytes:
        """Return what an extension header says of the next member."""
        if at + BLOCK + size > self._length:
            raise CorruptError(f"the extension header at byte {at} is damaged", url=self._url, fix=REPAIR)
        current_options().limits.check("header", size, url=self._url, member=header_name(header))
        return os.pread(self._fd, size, at + BLOCK)

    def _pax_size(self, payload: bytes, at: int) -> int | None:
        try:
            value = parse_pax(payload).get("size")
            if value is not None and not value.isdigit():  # a negative one would lead back, for ever
                raise ValueError("not a decimal number")
            return None if value is None else int(value)
        except ValueError as error:
            raise CorruptError(f"malformed pax header at byte {at}", url=self._url, fix=REPAIR) from error


_BETWEEN_CHECKS = 10_000
