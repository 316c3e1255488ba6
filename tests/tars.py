"""Making tar files, good and bad ones, and reading them with Python's tarfile for comparison."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from hypothesis import strategies as st

from shardtools.shards.reader import read_blocks
from shardtools.shards.samples import Composer, records
from shardtools.shards.sidecar import Sidecar, write_sidecar
from shardtools.shards.tar import BLOCK, END
from shardtools.shards.writer import ShardWriter
from shardtools.storage import get_storage

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


def write(path: Path | str, made: Iterable[Mapping[str, object]]) -> Sidecar:
    """Write records as a shard with its sidecar, as a job does; return the sidecar."""
    composer = Composer()
    with get_storage(str(path)).create(str(path)) as sink:
        writer = ShardWriter(sink, str(path))
        for record in made:
            writer.add(*composer.compose(record))
        sidecar = writer.finish({"name": "test"})
    write_sidecar(str(path), sidecar)
    return sidecar


BLOCK_SIZES: Sequence[int] = (512, 1024, 1536, 2560, 4096, 10240, 1 << 20)
"""Sizes of a reader's blocks, so that every header meets a boundary."""


# What hypothesis makes tar files from: see `shards`.

_WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/.\0"), min_size=1, max_size=6)
_BASES = _WORDS | st.sampled_from(["a", "ключ", "\udcff\udcfe", "__x", "n01440764_10026"])
_FOLDERS = st.sampled_from(["", "", "", "d/", "v1.0/a.b/", "./", "././d/", ".hidden/", "/abs/", "__d/"])
_FIELDS = st.sampled_from(["jpg", "cls", "seg.png", "JPG", "a..b", "x.", ".y", "é", "\udcfe", "Key", "f" * 40])
_LENGTHS = st.sampled_from([0, 0, 0, 99, 100, 101, 120, 155, 157, 200, 255, 256])
_SIZES = st.sampled_from([0, 1, 9, 511, 512, 513, 1023, 1024, 1025, 3000])
_DECOYS = (
    make_tar(files(in_txt=b"inner", in2_jpg=bytes(600))),
    make_tar(files(in_txt=b"inner"), tarfile.PAX_FORMAT, mtime=0.5),
    header(b"x.txt", 0) * 4,
    header(b"x.txt", 10**9) * 3,
    b"\0" * 300 + header(b"x.txt") * 2,
    END,
    END + header(b"x.txt") + b"rest",
)
_DATA = st.builds(lambda size, fill: bytes([fill]) * size, _SIZES, st.sampled_from(b"\0aU")) | st.sampled_from(_DECOYS)
_NOISE = st.sampled_from(
    [
        Member("v1.0/a.b/", kind=tarfile.DIRTYPE),
        Member("link.jpg", kind=tarfile.SYMTYPE, link="l" * 100),
        Member("long.jpg", kind=tarfile.SYMTYPE, link="l/" * 60),
        Member("hard.jpg", kind=tarfile.LNKTYPE, link="a.jpg"),
        Member("pipe.jpg", kind=tarfile.FIFOTYPE),
        Member("device.jpg", kind=tarfile.CHRTYPE),
        Member(".DS_Store", b"rubbish"),
        Member("d/.hidden.jpg", b"rubbish"),
        Member("README", b"hello" * 300),
        Member("LICENSE.", b"hello"),
        Member("n" * 90 + "/" + "n" * 50, b"no dot"),
        Member("__meta__", b"{}"),
        Member("__x.y__", b"{}"),
        Member("__meta__/x.json", b"{}"),
    ]
)


def _lengthened(name: str, length: int) -> str:
    """Return a name of ``length`` bytes, by adding folders in front of it."""
    missing = length - len(name.encode("utf-8", "surrogateescape"))
    folders = ("p" * 40 + "/") * 7
    return name if missing < 2 or name.startswith(("/", ".")) else "q" + folders[1 - missing :] + name


@st.composite
def members(draw: st.DrawFn) -> list[Member]:
    """Samples with names and data of all kinds, and other members before, between and inside them."""
    made: list[Member] = []
    for i in range(draw(st.integers(0, 5))):
        key = f"{draw(_FOLDERS)}{draw(_BASES)}_{i}"
        length = draw(_LENGTHS)
        fields = draw(st.lists(_FIELDS, min_size=1, max_size=3, unique=True))
        key = _lengthened(f"{key}.{max(fields, key=len)}", length).removesuffix("." + max(fields, key=len))
        for field in fields:
            made += draw(st.lists(_NOISE, max_size=2)) if draw(st.integers(0, 5)) == 0 else []
            made.append(Member(f"{key}.{field}", draw(_DATA)))
    return made


@dataclass(frozen=True)
class Shard:
    """A tar file to make, in a form that reads well where a test fails."""

    members: list[Member]
    format: int
    mtime: float
    pax_headers: dict[str, str] | None

    @cached_property
    def data(self) -> bytes:
        """The bytes of the tar file."""
        return make_tar(self.members, self.format, mtime=self.mtime, pax_headers=self.pax_headers)


@st.composite
def shards(draw: st.DrawFn) -> Shard:
    """Tar files in every format that Python's tarfile writes."""
    made = draw(members())
    shard = Shard(
        made,
        draw(st.sampled_from(sorted(FORMATS.values()))),
        draw(st.sampled_from([0, 1.5])),
        draw(st.sampled_from([None, {"comment": "a shard"}])) if made else None,  # tarfile cannot read that alone
    )
    try:
        shard.data  # noqa: B018 - made here, to see whether it can be
    except ValueError:  # a name that ustar cannot hold
        return replace(shard, format=tarfile.GNU_FORMAT)
    return shard
