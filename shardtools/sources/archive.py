"""Tar and zip archives of any layout as samples: their members are the files of a tree.

    local zip, or uncompressed tar -> listed -> tasks read the members where they are
    compressed tar, or on a server -> unpacked into a temporary file -> the same

On Linux the temporary file has no name, so that nothing is left of it, however the job ends; other local processes open
it through this process.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shardtools.errors import CorruptError, FullError, ShardError, StorageError, TruncatedError
from shardtools.shards.compression import GZIP_MAGIC, ZSTD_MAGIC, Readable, unpack
from shardtools.sources.files import FileRules, FileSource
from shardtools.sources.tar_tree import list_tar
from shardtools.sources.tree import REPAIR, Archive, stamp_of
from shardtools.sources.zip_tree import list_zip
from shardtools.storage import check_stop, get_storage
from shardtools.storage.files import os_errors, storage_error
from shardtools.urls import absolute, scheme_of

ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")

_PIECE = 4 << 20
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_HEAD = 6


def _as_is(stream: Any, url: str) -> Readable:
    reader: Readable = stream
    return reader


def _unpack_shard(stream: Any, url: str) -> Readable:
    return unpack(stream.read(_HEAD), stream, url)


def _unpack_bz2(stream: Any, url: str) -> Readable:
    return bz2.BZ2File(stream)


def _unpack_xz(stream: Any, url: str) -> Readable:
    return lzma.LZMAFile(stream)


_UNPACKERS: dict[bytes, Callable[[Any, str], Readable]] = {
    GZIP_MAGIC: _unpack_shard,
    ZSTD_MAGIC: _unpack_shard,
    b"BZh": _unpack_bz2,
    b"\xfd7zXZ\0": _unpack_xz,
}
"""The first bytes of compressed files, and how to unpack them."""


class ArchiveSource(FileSource):
    """The files of an archive; ``spill`` is the temporary file with the unpacked archive, or None."""

    spill: _Spill | None = None
    reads_at_once = True

    def close(self) -> None:
        super().close()
        if self.spill is not None:
            self.spill.file.close()


def open_archive(name: str, rules: FileRules) -> ArchiveSource:
    """Return the members of a tar or zip file as a source; close it at the end. Hidden members are left out.

    Raises:
        NotFoundError: there is no such archive.
        CorruptError: it is damaged, or neither tar nor zip.
        TruncatedError: it ends early.
        JobError: there is nothing in it, or the rules do not fit.
        DuplicateKeyError: two members have one name, or two samples would have one key.
        FullError: there is no room to unpack it.
    """
    url = absolute(name)
    archive, spill = _find(url)
    try:
        with os_errors(url), open(archive.path, "rb") as file:
            is_zip = file.read(4) in _ZIP or url.lower().endswith(".zip")
        tree, files = list_zip(archive) if is_zip else list_tar(archive)
        paths, numbers = tree.finish(rules)
        source = ArchiveSource(url, paths, files.take(numbers), rules, tree.left_out, portable=spill is None)
    except BaseException:
        if spill is not None:
            spill.file.close()
        raise
    source.spill = spill
    return source


@dataclass(frozen=True)
class _Spill:
    """A temporary file, and the path by which processes of this machine can open it."""

    file: Any
    path: str


def _find(url: str) -> tuple[Archive, _Spill | None]:
    """Return the archive at ``url`` as a local uncompressed file: the archive itself, or a temporary file."""
    with get_storage(url).open(url) as raw, io.BufferedReader(raw, _PIECE) as stream:
        head = stream.peek(_HEAD)[:_HEAD]
        unpacker = next((unpacker for magic, unpacker in _UNPACKERS.items() if head.startswith(magic)), None)
        local = scheme_of(url) == "" and raw.stat.size is not None
        if local and unpacker is None:
            stamp = stamp_of(raw.fileno())
            return Archive(url, url, stamp, stamp), None
        version = stamp_of(raw.fileno()) if local else f"{raw.stat.size}-{raw.stat.validator}"
        with _reading(url):
            spill = _spill((unpacker or _as_is)(stream, url), url)
    return Archive(url, spill.path, stamp_of(spill.file.fileno()), version), spill


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """A context that turns the exceptions of unpacking into our errors."""
    try:
        yield
    except StorageError:
        raise
    except ShardError as error:
        raise type(error)(error.what, url=url, fix=REPAIR) from error
    except EOFError as error:
        raise TruncatedError("the packed archive ends too early", url=url, fix=REPAIR) from error
    except (OSError, lzma.LZMAError, zlib.error) as error:
        raise CorruptError(f"the packed archive is damaged ({error})", url=url, fix=REPAIR) from error


def _spill(reader: Readable, url: str) -> _Spill:
    """Return a temporary file with all bytes of a reader."""
    spill = _temporary_file(url)
    buffer = memoryview(bytearray(_PIECE))
    try:
        while size := reader.readinto(buffer):
            check_stop()
            with _writing(url):
                _write(spill.file, buffer[:size])
    except BaseException:
        spill.file.close()
        raise
    return spill


def _temporary_file(url: str) -> _Spill:
    with _writing(url):
        nameless = tempfile.TemporaryFile(prefix="shardtools-", buffering=0)  # noqa: SIM115 - closed by its source
        path = f"/proc/{os.getpid()}/fd/{nameless.fileno()}"
        if os.path.exists(path):
            return _Spill(nameless, path)
        nameless.close()
        named = tempfile.NamedTemporaryFile(prefix="shardtools-", buffering=0)  # noqa: SIM115
        return _Spill(named, named.name)


def _write(file: Any, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


@contextmanager
def _writing(url: str) -> Iterator[None]:
    """A context for writing the temporary file; its errors say that it is one."""
    try:
        yield
    except OSError as error:
        failure = storage_error(error, url)
        if isinstance(failure, FullError):
            raise FullError(
                "there is no room to unpack the archive in the folder for temporary files",
                url=url,
                fix="set TMPDIR to a folder with more room",
            ) from error
        raise type(failure)(
            f"the archive cannot be unpacked into a temporary file: {failure.what}",
            url=url,
            fix="set TMPDIR to a folder",
        ) from error
