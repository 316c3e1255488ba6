"""Making tar files, good and bad ones, and reading them with Python's tarfile for comparison."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardtools.shards.reader import read_blocks
from shardtools.shards.samples import records
from shardtools.shards.tar import BLOCK, END

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

Samples = list[tuple[str, dict[str, bytes]]]
"""Keys and fields, in the order of the shard."""

_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__(/|\Z)")


@dataclass(frozen=True)
class Member:
    """A member to write; ``kind`` is its type flag."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    link: str = ""


def make_tar(
    members: Iterable[Member],
    format: int = tarfile.USTAR_FORMAT,
    *,
    mtime: float = 0,
    pax_headers: dict[str, str] | None = None,
) -> bytes:
    """Return a tar file as Python's tarfile writes it; ``pax_headers`` go into a global header."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format, pax_headers=pax_headers) as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size, info.type, info.linkname, info.mtime = len(member.data), member.kind, member.link, mtime
            archive.addfile(info, io.BytesIO(member.data))
    return file.getvalue()


def files(**data: bytes) -> list[Member]:
    """Return members: ``files(a_txt=b"x")`` is ``a.txt``."""
    return [Member(name.replace("_", ".", 1), value) for name, value in data.items()]


def header(name: bytes, size: int = 0, *, kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """Return a header block made by hand, with the right checksum."""
    block = bytearray(BLOCK)
    block[: len(name)] = name
    block[100:136] = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = magic.ljust(8, b"\0")
    return seal(block)


def seal(block: bytes | bytearray) -> bytes:
    """Return a header block with its checksum made right."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def patch(block: bytes, at: int, data: bytes) -> bytes:
    """Return a header block with some bytes replaced, and the right checksum."""
    return seal(block[:at] + data + block[at + len(data) :])


def padded(data: bytes) -> bytes:
    """Return data with zeros up to a whole tar block."""
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes, data: bytes, **options: bytes) -> bytes:
    """Return a member made by hand: header and data."""
    return header(name, len(data), **options) + padded(data)


def pax(records: dict[str, bytes], kind: bytes = b"x") -> bytes:
    """Return a pax extension header with these records."""
    payload = b"".join(_pax_record(name.encode(), value) for name, value in records.items())
    return member(b"PaxHeader", payload, kind=kind)


def _pax_record(name: bytes, value: bytes) -> bytes:
    rest = b" " + name + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return b"%d" % length + rest


def archive(*parts: bytes) -> bytes:
    """Return parts as one archive, with its end mark."""
    return b"".join(parts) + END


def expected(data: bytes, *, ignore_zeros: bool = False) -> Samples:
    """Return the samples of a tar file by Python's tarfile and a regular expression."""
    samples: Samples = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", ignore_zeros=ignore_zeros) as file:
        for info in file:
            name = info.name
            while name.startswith("./"):
                name = name[2:]
            match = _MEMBER.fullmatch(name)
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) or not match or _META.match(name):
                continue
            key, field = match.groups()
            if not samples or samples[-1][0] != key:
                samples.append((key, {}))
            extracted = file.extractfile(info)
            assert extracted is not None
            samples[-1][1][field] = extracted.read()
    return samples


def read(path: Path | str, **options: int | bool) -> Samples:
    """Return the samples of a shard as shardtools reads them."""
    found: Samples = []
    for block in read_blocks(str(path), **options):  # type: ignore[arg-type]
        for record in records(block):
            found.append((record["key"], {name: value for name, value in record.items() if name != "key"}))
    return found


BLOCK_SIZES: Sequence[int] = (512, 1024, 1536, 2560, 4096, 10240, 1 << 20)
"""Sizes of a reader's blocks, so that every header meets a boundary."""
