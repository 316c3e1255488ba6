"""The members of a tar file, of any kind and in any order, as files.

    headers, one after another -> names, offsets, sizes -> Tree

Only headers are read here: listing large files costs the same as listing small ones.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from shardtools.errors import CorruptError, TruncatedError
from shardtools.shards.kinds import check_tar
from shardtools.shards.names import decode_name
from shardtools.shards.tar import BLOCK, REGULAR, own_name
from shardtools.shards.walk import END_MARK, TarHeader, page_reader, walk
from shardtools.sources.tree import REPAIR, Archive, ArchiveFiles, Tree, to_column
from shardtools.storage import check_stop, current_options
from shardtools.storage.open_files import open_file
from shardtools.types import Ints

_WINDOW = 1 << 16
_FOLDER = ord("5")
_KINDS = {ord("1"): "it is a hard link", ord("2"): "it is a link"}
_BETWEEN_CHECKS = 10_000


@dataclass
class TarFiles(ArchiveFiles):
    """Files in a tar file: ``offset`` is where the data of each file begin."""

    def take(self, rows: Ints) -> TarFiles:
        return TarFiles(self.archive, self.offset[rows], self.size[rows])

    def read(self, row: int, path: str, taken: int = 0) -> bytes:
        return self.file.read(int(self.offset[row]), int(self.size[row]), path, taken)


def list_tar(archive: Archive) -> tuple[Tree, TarFiles]:
    """Return the members of a tar file, and where they are, in the same order.

    Raises:
        CorruptError: it is damaged, or not a tar file.
        TruncatedError: it ends early.
    """
    tree = Tree(archive)
    offsets, sizes = array("q"), array("q")
    for header in _members(archive):
        name = decode_name(header.name)
        is_file = header.kind in REGULAR
        if header.kind == _FOLDER or (is_file and name.endswith("/")):
            continue
        if tree.add(name, "" if is_file else _KINDS.get(header.kind, "it is not a regular file")):
            offsets.append(header.offset)
            sizes.append(header.size)
    return tree, TarFiles(archive, to_column(offsets), to_column(sizes))


def _members(archive: Archive) -> Iterator[TarHeader]:
    """Yield the headers of members, in their order. What follows an end-of-archive mark is read as well."""
    with open_file(archive.url, archive.path) as file:
        size, url = file.size, archive.url
        read = page_reader(file.read, size, _WINDOW)
        check_tar(read(0, min(BLOCK, size)), url)
        ended, found = False, 0
        for header in walk(read, size, url=url, what="archive"):
            ended = header.kind == END_MARK
            if ended:
                continue
            if header.is_extension:
                _check_extension(header, size, url)
                continue
            if header.offset + header.size > size:
                name = decode_name(header.name)
                raise TruncatedError("the archive ends inside this member", url=url, member=name, fix=REPAIR)
            yield header
            found += 1
            if not found % _BETWEEN_CHECKS:
                check_stop()
        if not ended:
            what = f"the archive ends at byte {size} without an end-of-archive mark"
            raise TruncatedError(what, url=url, fix=REPAIR)


def _check_extension(header: TarHeader, size: int, url: str) -> None:
    """Raise if the data of an extension header are incomplete, or too large."""
    if header.offset + header.size > size:
        raise CorruptError(f"the extension header at byte {header.start} is damaged", url=url, fix=REPAIR)
    current_options().limits.check("header", header.size, url=url, member=decode_name(own_name(header.block)))
