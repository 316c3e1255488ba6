"""How a shard's tar file is packed: .tar, .tgz, .tar.zst, written so that they can be entered in the middle.

    name -> packer_for -> Packer -> packed bytes, and entry points
    stream, first bytes -> unpack -> bytes of the tar file

An **entry point** is a pair (offset in the tar file, offset in the packed file) at the beginning of a sample from where
the packed file can be read without what stands before it. A ``.tgz`` is one gzip member that starts afresh at each
entry point: every gzip reader takes it for an ordinary file, and ``zlib.decompressobj(-15)`` inflates from such a
point. (Several gzip members would do too, but Python's tarfile stops after the first one without saying so.) A
``.tar.zst`` is a row of independent frames.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, Protocol

from isal import igzip_lib, isal_zlib

from shardtools.errors import CorruptError, ShardError, SpecError, StorageError, TruncatedError
from shardtools.shards.tar import REPAIR
from shardtools.spec import name_of
from shardtools.storage import ByteRange, get_storage

Packing = Literal["tar", "gzip", "zstd"]
"""How the bytes of a shard are packed; ``"tar"``: not at all."""

ENTRY_EVERY = 256 << 10
"""Bytes of the tar file between entry points, at least."""

_PIECE = 4 << 20
"""Bytes that are packed together at most, so that one large sample does not need its size again in memory."""

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"

_LARGEST_WINDOW = 128 << 20
"""Bytes of memory that unpacking zstd data may take: what zstd itself allows without being asked."""

# Level 1 of isal compresses about as well as zlib's default at five to ten times its speed; level 3 of zstd is its own
# default.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 3

_WINDOW = 1 << 15
_LAST_BLOCK = b"\x03\x00"
"""An empty deflate block, marked as the last one."""

# Magic, deflate, no flags, no time, no extra flags, unknown system: the same bytes whoever writes them.
_GZIP_HEADER = GZIP_MAGIC + b"\x08\0\0\0\0\0\0\xff"


# The CRC-32 of zlib at memory speed: crc32(data, value=0), continuing from value.
crc32: Callable[..., int] = isal_zlib.crc32


class Packer:
    """Packs a tar file, sample by sample; this one leaves it as it is.

    ``entries`` are the entry points so far, and ``by_sample`` says whether there will be any: a plain tar file can be
    entered anywhere, and its samples may come many at a time.
    """

    packing: Packing = "tar"
    by_sample = False

    def __init__(self) -> None:
        self.entries: list[tuple[int, int]] = []

    def pack(self, parts: Sequence[Any]) -> list[Any]:
        """Return what to write now, after ``parts``, the next bytes of the tar file, which end with a sample."""
        return list(parts)

    def finish(self, end: bytes) -> list[Any]:
        """Return what to write last, ``end`` being the last bytes of the tar file, which belong to no sample."""
        return [end]


class _EntryPacker(Packer):
    """Packs samples together until there are enough of them for an entry point."""

    by_sample = True

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[Any] = []
        self._size = 0
        self._done = 0
        self._packed = 0

    def pack(self, parts: Sequence[Any]) -> list[Any]:
        self._waiting += parts
        self._size += sum(map(len, parts))
        return self._flush() if self._size >= ENTRY_EVERY else []

    def finish(self, end: bytes) -> list[Any]:
        parts = self._flush() if self._size else []
        entries = len(self.entries)
        self._waiting, self._size = [end], len(end)
        parts += self._flush()
        del self.entries[entries:]  # no sample is behind the last one
        return parts

    def _flush(self) -> list[Any]:
        data = memoryview(b"".join(self._waiting))
        self._waiting, self._size = [], 0
        header = b"" if self._done else self._header()
        self.entries.append((self._done, self._packed + len(header)))
        parts = [header, *(self._compress(data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)), self._cut()]
        self._done += len(data)
        self._packed += sum(map(len, parts))
        return parts

    def _header(self) -> bytes:
        """Return what the packed file begins with."""
        return b""

    def _compress(self, data: memoryview) -> bytes:
        raise NotImplementedError

    def _cut(self) -> bytes:
        """Return what makes the next piece independent of those before it."""
        return b""


class GzipPacker(_EntryPacker):
    """Writes one gzip member, whose deflate stream begins anew at each entry point."""

    packing = "gzip"

    def __init__(self) -> None:
        super().__init__()
        self._deflate: Any = None
        self._crc = 0

    def _header(self) -> bytes:
        return _GZIP_HEADER

    def _compress(self, data: memoryview) -> bytes:
        if self._deflate is None:
            self._deflate = _deflate_for(data)
        self._crc = crc32(data, self._crc)
        packed: bytes = self._deflate.compress(data)
        return packed

    def _cut(self) -> bytes:
        flushed: bytes = self._deflate.flush(zlib.Z_FULL_FLUSH)
        self._deflate = None
        return flushed

    def finish(self, end: bytes) -> list[Any]:
        parts = super().finish(end)
        tail = self._crc.to_bytes(4, "little") + (self._done & 0xFFFFFFFF).to_bytes(4, "little")
        return [*parts, _LAST_BLOCK, tail]


def _deflate_for(data: memoryview) -> Any:
    """Return what compresses a stretch that begins with ``data`` to the same bytes each time.

    Without a dictionary isal does not: its level 1 and 2 hash an address instead of the third position of the stretch
    (``.write_first_byte`` of igzip_icf_body_h1_gr_bt.asm uses a register that holds no data, in isa-l 2.32), and find
    another match, about once in a thousand megabytes. With a dictionary that code does not run. This one is a single
    byte, and such a byte that nothing in the stretch can match it: a match has four bytes or more, and what is more
    than a window behind the dictionary cannot reach it.
    """
    start = bytes(data[: _WINDOW + 4])
    for value in range(255, -1, -1):
        byte = bytes([value])
        if byte + start[:3] not in start:
            return isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, -15, zdict=byte)
    return zlib.compressobj(1, zlib.DEFLATED, -15)


class ZstdPacker(_EntryPacker):
    """Writes independent zstd frames with checksums."""

    packing = "zstd"

    def __init__(self) -> None:
        super().__init__()
        import zstandard

        self._zstd = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)

    def _compress(self, data: memoryview) -> bytes:
        return self._zstd.compress(data)


_PACKERS: dict[str, type[Packer]] = {
    ".tar": Packer,
    ".tgz": GzipPacker,
    ".tar.gz": GzipPacker,
    ".tar.zst": ZstdPacker,
}


ENDINGS = tuple(_PACKERS)
"""How the names of shards end."""


def packer_for(url: str) -> Packer:
    """Return a new packer for what the name of a shard ends with; standard output gets a plain tar file.

    Raises:
        SpecError: the name has none of the known endings.
    """
    if url == "-":
        return Packer()
    name = name_of(url)
    for ending, packer in _PACKERS.items():
        if name.endswith(ending):
            return packer()
    raise SpecError("this is not the name of a shard", url=url, fix=f"end it with one of {', '.join(ENDINGS)}")


def packing_of(head: bytes) -> Packing:
    """Return how a shard is packed whose first bytes are ``head``. Its name does not matter.

    >>> packing_of(GZIP_MAGIC), packing_of(ZSTD_MAGIC), packing_of(b"a.jpg"), packing_of(b"")
    ('gzip', 'zstd', 'tar', 'tar')
    """
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    return "zstd" if head.startswith(ZSTD_MAGIC) else "tar"


def find_packing(url: str, filesize: int) -> Packing:
    """Return how the shard at ``url``, which has ``filesize`` bytes, is packed; a few of its bytes are read.

    Raises:
        StorageError: it cannot be read.
    """
    [head] = get_storage(url).read_ranges(url, [ByteRange(0, min(filesize, len(ZSTD_MAGIC)))])
    return packing_of(head)


class Source(Protocol):
    """What bytes are read from."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class _Unpacked:
    """A packed stream as the bytes of its tar file; errors name the shard."""

    def __init__(self, file: Any, url: str, kind: str, damage: type[Exception]):
        self._file, self._url, self._kind, self._damage = file, url, kind, damage

    def readinto(self, buffer: memoryview, /) -> int:
        damage = ""
        try:
            data = self._file.read(len(buffer))
        except (StorageError, ShardError):
            raise
        except EOFError as error:
            raise TruncatedError(f"the {self._kind} data end too early", url=self._url, fix=REPAIR) from error
        except (OSError, self._damage) as error:
            damage = str(error) or type(error).__name__
        if damage:  # raised here, since isal's exceptions cannot be pickled, not even as a part of this one
            raise CorruptError(f"the {self._kind} data are damaged ({damage})", url=self._url, fix=REPAIR)
        buffer[: len(data)] = data
        return len(data)


_READ = 1 << 18
"""Bytes to read or to unpack at a time: few enough to stay in the processor's cache."""


class _GzipMembers:
    """What gzip members hold, one after another.

    As gzip programs do, it takes zeros after a member for padding, and a newline after the last one for a slip.
    """

    def __init__(self, source: Source, url: str):
        self._source, self._url = source, url
        self._piece = memoryview(bytearray(_READ))
        self._member: Any = _gzip_member()
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most ``size``; b"" at the end.

        Raises:
            EOFError: the last member is not complete.
            CorruptError: what follows a member is no gzip member.
        """
        while True:
            if self._member.eof and not self._next_member():
                return b""
            if not self._rest and self._member.needs_input:
                self._rest = self._more()
                if not self._rest:
                    raise EOFError
            packed, self._rest = self._rest, b""
            data: bytes = self._member.decompress(packed, min(size, _READ))
            if self._member.eof:
                self._rest = self._member.unused_data
            if data:
                return data

    def _more(self) -> bytes:
        return self._piece[: self._source.readinto(self._piece) or 0].tobytes()

    def _next_member(self) -> bool:
        """Begin with the member that follows the one that has ended; return whether there is one."""
        rest = self._rest.lstrip(b"\0")
        while len(rest) < len(GZIP_MAGIC) and (more := self._more()):
            rest = (rest + more).lstrip(b"\0")
        if rest in (b"", b"\n"):
            return False
        if not (rest.startswith(GZIP_MAGIC) or GZIP_MAGIC.startswith(rest)):
            raise _garbage("gzip", rest, self._url)
        self._member, self._rest = _gzip_member(), rest
        return True


def _gzip_member() -> Any:
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


def _garbage(kind: str, rest: bytes, url: str) -> CorruptError:
    what = f"the {kind} data are complete, and followed by bytes that are not {kind}: {rest[:12]!r}"
    return CorruptError(what, url=url, fix="cut these off, or fetch or make the shard again")


class _Rejoined(io.RawIOBase):
    """Bytes that were read already, and the rest of their stream."""

    def __init__(self, head: bytes, rest: Source):
        self._head, self._rest = memoryview(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if not self._head:
            return self._rest.readinto(buffer)
        view = memoryview(buffer).cast("B")
        size = min(len(view), len(self._head))
        view[:size] = self._head[:size]
        self._head = self._head[size:]
        return size


class _WholeFrames(io.RawIOBase):
    """Passes zstd data on, and raises EOFError where they end inside a frame, which zstandard does not tell.

    Raises, while it is read:
        CorruptError: a frame cannot be unpacked here, or something else follows one.
    """

    def __init__(self, source: Source, url: str):
        self._source, self._url = source, url
        self._parser = _zstd_parts(url)
        self._skip, self._need, self._is_whole = next(self._parser)
        self._held = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        size = self._source.readinto(view) or 0
        if not size and (self._skip or self._held or not self._is_whole):
            raise EOFError
        self._follow(view[:size])
        return size

    def _follow(self, data: memoryview) -> None:
        while True:
            step = min(self._skip, len(data))
            self._skip -= step
            data = data[step:]
            taken = data[: self._need - len(self._held)]
            self._held += taken.tobytes()
            data = data[len(taken) :]
            if self._held and self._is_whole and not _begins_frame(self._held):
                raise _garbage("zstd", self._held, self._url)
            if self._skip or len(self._held) < self._need:
                return
            self._skip, self._need, self._is_whole = self._parser.send(self._held)
            self._held = b""


def _zstd_parts(url: str) -> Generator[tuple[int, int, bool], bytes, None]:
    """Follow the headers of zstd frames and of the blocks in them (RFC 8878).

    Yields how many bytes to skip, how many to send then, and whether the data may end in between.

    Raises:
        CorruptError: a frame cannot be unpacked here.
    """
    skip = 0
    while True:
        head = yield skip, 8, True
        if head[1:4] == _SKIPPABLE and head[0] & 0xF0 == 0x50:
            skip = int.from_bytes(head[4:], "little")
            continue
        flags = head[4]
        one_segment = flags >> 5 & 1
        _check_frame(flags, 0 if one_segment else head[5], url)
        length = 6 - one_segment + (0, 1, 2, 4)[flags & 3] + (one_segment, 2, 4, 8)[flags >> 6]
        more = yield 0, length + 3 - len(head), False
        block = int.from_bytes((head + more)[-3:], "little")
        while not block & 1:
            block = int.from_bytes((yield _block_size(block), 3, False), "little")
        skip = _block_size(block) + (flags >> 2 & 1) * 4


def _begins_frame(head: bytes) -> bool:
    """Return whether ``head``, which may be cut off, begins a frame of zstd."""
    is_skippable = head[0] & 0xF0 == 0x50 and _SKIPPABLE.startswith(head[1:4])
    return is_skippable or ZSTD_MAGIC.startswith(head[:4])


def _check_frame(flags: int, window: int, url: str) -> None:
    """Raise if a frame's descriptors say that it cannot be unpacked here."""
    if flags & 3:
        fix = "pack it again without -D"
        raise CorruptError("the shard is packed by zstd with a dictionary, which is not in it", url=url, fix=fix)
    if (8 + (window & 7)) << (window >> 3) + 7 > _LARGEST_WINDOW:
        what = f"unpacking the shard's zstd data needs more than {_LARGEST_WINDOW >> 20} MB of memory"
        raise CorruptError(what, url=url, fix="pack it again without --long and --ultra")


def _block_size(header: int) -> int:
    return 1 if header >> 1 & 3 == 1 else header >> 3  # 1 is a byte to be repeated


def is_packed(head: bytes) -> bool:
    """Return whether the first bytes of a shard are those of a packed one."""
    return packing_of(head) != "tar"


def unpack(head: bytes, rest: Source, url: str) -> Source:
    """Return a packed shard, of which ``head`` has been read, as a source of its tar file's bytes.

    What packs it is told by its first bytes, not by its name. Several gzip members, or zstd frames, are read to the
    last one.
    """
    stream: Any = _Rejoined(head, rest)
    if head.startswith(GZIP_MAGIC):
        damage: Any = isal_zlib.error
        return _Unpacked(_GzipMembers(stream, url), url, "gzip", damage)
    import zstandard

    frames: Any = _WholeFrames(stream, url)
    unpacker = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    reader = unpacker.stream_reader(frames, read_size=1 << 20, read_across_frames=True)
    return _Unpacked(reader, url, "zstd", zstandard.ZstdError)


def inflate(packed: bytes, size: int, packing: Packing, url: str) -> bytes:
    """Return ``size`` bytes of the tar file from an entry point on; ``packed`` begins there and holds enough.

    Raises:
        CorruptError: it does not unpack, or not to as many bytes.
    """
    try:
        if packing == "zstd":
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
                data = stream.read(size)
        else:
            data = isal_zlib.decompressobj(-15).decompress(packed, size)
    except Exception as error:  # each library has its own kinds for damaged bytes
        raise CorruptError("a part of the shard cannot be unpacked", url=url, fix=REPAIR) from error
    if len(data) != size:
        raise CorruptError(f"a part of the shard unpacks to {len(data)} bytes, not {size}", url=url, fix=REPAIR)
    return data
