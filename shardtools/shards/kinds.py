"""Detect, by its first bytes, what a file is that should be a shard but is not: an error page, a zip file, an image.

the first block of a file -> a tar header? -> fine; else an error that says what it is, and what to do
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from shardtools.errors import CorruptError, TruncatedError
from shardtools.shards.tar import BLOCK, MAGIC, REPAIR, checksum_holds
from shardtools.urls import is_local

_REPACK = "unpack it, and pack it with gzip or zstd"
_UPLOAD = "make shards of it with htupload"
_UNPACK = "unpack it, and make shards of the folder with htupload"
_NAME_SHARDS = "name the shards themselves"
_CHECK = "check the name"
_PAGE = "check the URL: servers send such pages instead of an object that they do not have"
_PAGE_ON_DISK = "download the shard again: the server sent this page instead"


@dataclass(frozen=True)
class _FileKind:
    """What a file is: ``what`` completes "this is ...", ``fix`` says what to do."""

    what: str
    fix: str


_BY_START: dict[bytes, _FileKind] = {
    b"PK\x03\x04": _FileKind("a zip file", _UPLOAD),
    b"PK\x05\x06": _FileKind("an empty zip file", _CHECK),
    b"7z\xbc\xaf\x27\x1c": _FileKind("a 7z archive", _UNPACK),
    b"Rar!\x1a\x07": _FileKind("a rar archive", _UNPACK),
    b"BZh": _FileKind("a file packed with bzip2", _REPACK),
    b"\xfd7zXZ\0": _FileKind("a file packed with xz", _REPACK),
    b"\x5d\0\0": _FileKind("a file packed with lzma", _REPACK),
    b"LZIP": _FileKind("a file packed with lzip", _REPACK),
    b"\x04\x22\x4d\x18": _FileKind("a file packed with lz4", _REPACK),
    b"\x02\x21\x4c\x18": _FileKind("a file packed with lz4", _REPACK),
    b"\xff\x06\0\0sNaPpY": _FileKind("a file packed with snappy", _REPACK),
    b"\x89LZO\0": _FileKind("a file packed with lzop", _REPACK),
    b"\x1f\x9d": _FileKind("a file packed with compress", _REPACK),
    b"\x1f\x8b": _FileKind("a file packed with gzip", "unpack it once"),
    b"\x28\xb5\x2f\xfd": _FileKind("a file packed with zstd", "unpack it once"),
    b"\x37\xa4\x30\xec": _FileKind("a zstd dictionary", _CHECK),
    b"\x89PNG\r\n\x1a\n": _FileKind("a PNG image", _UPLOAD),
    b"\xff\xd8\xff": _FileKind("a JPEG image", _UPLOAD),
    b"GIF8": _FileKind("a GIF image", _UPLOAD),
    b"RIFF": _FileKind("a RIFF file (WebP, WAV or AVI)", _UPLOAD),
    b"II*\0": _FileKind("a TIFF image", _UPLOAD),
    b"MM\0*": _FileKind("a TIFF image", _UPLOAD),
    b"%PDF-": _FileKind("a PDF file", _UPLOAD),
    b"PAR1": _FileKind("a Parquet file", _UPLOAD),
    b"\x93NUMPY": _FileKind("a .npy file", _UPLOAD),
    b"\x89HDF\r\n\x1a\n": _FileKind("an HDF5 file", _CHECK),
    b"ARROW1\0\0": _FileKind("an Arrow file", _CHECK),
    b"SQLite format 3\0": _FileKind("an SQLite database", _CHECK),
    b"\x7fELF": _FileKind("a program", _CHECK),
    b"!<arch>\n": _FileKind("an ar archive", _UNPACK),
    b"07070": _FileKind("a cpio archive", _UNPACK),
    b"version https://git-lfs.github.com/": _FileKind(
        "a pointer of Git LFS", "fetch the file itself with git lfs pull"
    ),
}

_HTML = re.compile(
    rb"\s*(<!--.*?(-->|\Z)\s*)*<(!doctype html|html|head|body|title|script)\b", re.IGNORECASE | re.DOTALL
)
_XML, _JSON = re.compile(rb"(\xef\xbb\xbf)?\s*<"), re.compile(rb"(\xef\xbb\xbf)?\s*[\[{]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_SHOWN = 40


def check_tar(head: bytes, url: str | None, *, packing: str | None = None) -> None:
    """Raise if a file that begins with ``head``, its first tar block or all of it, is certainly not a tar file.

    Damaged tar files are not detected here. ``packing`` is how the tar file is compressed; ``head`` is decompressed.

    Raises:
        TruncatedError: there is not a single byte.
        CorruptError: it is something else.
    """
    if not head:
        what = "the file is empty" if packing is None else f"the {packing} data decompress to nothing"
        raise TruncatedError(what, url=url, fix=REPAIR)
    if not head.strip(b"\0") or (len(head) >= BLOCK and _is_header(head[:BLOCK])):
        return
    subject = "this is" if packing is None else f"the {packing} data are"
    if (kind := _kind_of(head, _PAGE_ON_DISK if url is None or is_local(url) else _PAGE)) is not None:
        raise CorruptError(f"{subject} {kind.what}, not a tar file", url=url, fix=kind.fix)
    if len(head) >= BLOCK:
        raise CorruptError(f"{subject} not a tar file: the first bytes are {head[:12]!r}", url=url, fix=_CHECK)


def _is_header(block: bytes) -> bool:
    return block[MAGIC].startswith(b"ustar") or checksum_holds(block)


def _kind_of(head: bytes, page: str) -> _FileKind | None:
    """Return the kind of a file that is not a tar file, None if unknown; ``page`` is what to do about a web page."""
    for start, kind in _BY_START.items():
        if head.startswith(start):
            return kind
    text = _text(head)
    if text is None:
        return _FileKind("an MP4 or HEIF file", _UPLOAD) if head[4:8] == b"ftyp" else None
    if _HTML.match(head):
        return _FileKind("an HTML page", page)
    if _XML.match(head):
        return _FileKind("an XML document", page)
    if _JSON.match(head):
        return _FileKind("a JSON text", _NAME_SHARDS)
    if len(head) <= 100 and not re.search(r"\s", text):  # it may be the name in a tar header that was cut off
        return None
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return _FileKind(f"a text file that begins with {shown!r}", _CHECK)


def _text(head: bytes) -> str | None:
    """Return ``head`` as text, None if it is not text."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text
