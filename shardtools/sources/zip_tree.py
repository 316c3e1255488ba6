"""The members of a zip file as files."""

from __future__ import annotations

import bz2
import os
import stat as modes
import struct
import zipfile
import zlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from shardtools.errors import CorruptError, JobError
from shardtools.shards.compression import crc32
from shardtools.sources.tree import REPAIR, Archive, ArchiveFiles, Tree, to_column
from shardtools.sources.zip_header import FIXED_SIZE, local_header_size
from shardtools.storage import current_options
from shardtools.storage.files import os_errors
from shardtools.types import Ints

_ENCRYPTED = 1
_UNIX = 3


def _inflate(data: bytes, size: int) -> bytes:
    return zlib.decompressobj(-15).decompress(data, size + 1)


def _unbzip(data: bytes, size: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, size + 1)


_METHODS: dict[int, Callable[[bytes, int], bytes]] = {
    zipfile.ZIP_STORED: lambda data, size: data,
    zipfile.ZIP_DEFLATED: _inflate,
    zipfile.ZIP_BZIP2: _unbzip,
}


_MOST_TIMES = {zipfile.ZIP_DEFLATED: 1100, zipfile.ZIP_BZIP2: 40_000}
_MOST_MORE = 1 << 20
"""The most that data can grow when unpacked, as a factor and in bytes: a larger claim is wrong."""


@dataclass
class ZipFiles(ArchiveFiles):
    """Files in a zip file: ``offset`` is where the local header of each begins.

    ``packed`` is its compressed size in bytes, ``method`` how it is compressed, and ``checksum`` its CRC-32.
    """

    packed: Ints
    method: Ints
    checksum: Ints

    def take(self, rows: Ints) -> ZipFiles:
        columns = (self.offset, self.size, self.packed, self.method, self.checksum)
        return ZipFiles(self.archive, *(column[rows] for column in columns))

    def read(self, row: int, path: str, taken: int = 0) -> bytes:
        offset, size = int(self.offset[row]), int(self.size[row])
        current_options().limits.check("sample", taken + size, url=self.archive.url, member=path)
        header_size = local_header_size(self.file.read(offset, FIXED_SIZE, path))
        if header_size is None:
            raise self._damaged(path, "its local header is not where it should be")
        raw = self.file.read(offset + header_size, int(self.packed[row]), path, taken)
        try:
            data = _METHODS[int(self.method[row])](raw, size)
        except (zlib.error, OSError, EOFError) as error:
            raise self._damaged(path, str(error)) from error
        if len(data) != size or crc32(data) != self.checksum[row]:
            raise self._damaged(path, "its checksum is wrong")
        return data

    def _damaged(self, path: str, reason: str) -> CorruptError:
        return CorruptError(f"the member is damaged: {reason}", url=self.archive.url, member=path, fix=REPAIR)


def list_zip(archive: Archive) -> tuple[Tree, ZipFiles]:
    """Return the members of a zip file, and where they are, in the same order.

    Raises:
        CorruptError: it is damaged, or not a zip file.
        JobError: a member is encrypted, or packed in a way that is not known.
    """
    tree = Tree(archive)
    columns = tuple(array("q") for _ in range(5))
    infos, length = _infos(archive)
    for info in infos:
        if info.is_dir():
            continue
        if tree.add(info.filename, _irregular(info)):
            _check(info, length, archive.url)
            row = (info.header_offset, info.file_size, info.compress_size, info.compress_type, info.CRC)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    return tree, ZipFiles(archive, *map(to_column, columns))


def _infos(archive: Archive) -> tuple[list[zipfile.ZipInfo], int]:
    """Return the entries in the directory of a zip file, and how many bytes the file has."""
    try:
        with os_errors(archive.url), open(archive.path, "rb") as file, zipfile.ZipFile(file) as opened:
            return opened.infolist(), os.fstat(file.fileno()).st_size
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
        raise CorruptError(f"this is not a zip file, or it is damaged: {error}", url=archive.url, fix=REPAIR) from error


def _irregular(info: zipfile.ZipInfo) -> str:
    """Return why a member is not a regular file, or ""."""
    mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
    if modes.S_ISLNK(mode):
        return "it is a link"
    return "it is not a regular file" if modes.S_IFMT(mode) not in (0, modes.S_IFREG) else ""


def _check(info: zipfile.ZipInfo, length: int, url: str) -> None:
    """Raise if a member of a file of ``length`` bytes cannot be read, or if its entry in the directory is wrong."""
    if info.flag_bits & _ENCRYPTED:
        raise JobError("the member is encrypted", url=url, member=info.filename, fix="unzip it and upload the folder")
    if info.compress_type not in _METHODS:
        raise JobError(
            f"the zip compression method {info.compress_type} is not supported",
            url=url,
            member=info.filename,
            fix="unzip it and upload the folder",
        )
    most = _MOST_TIMES.get(info.compress_type, 1) * (info.compress_size + 1) + _MOST_MORE
    if not 0 <= info.header_offset <= info.header_offset + info.compress_size <= length or info.file_size > most:
        what = f"it is said to have {info.file_size:,} bytes, packed into {info.compress_size:,}"
        raise CorruptError(f"the member cannot be where, or as large as, the directory says: {what}", url=url,
                           member=info.filename, fix=REPAIR)  # fmt: skip
