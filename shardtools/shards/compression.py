"""Detect how a shard is compressed, by its first bytes, and decompress it from its start or from an entry point.

    first bytes -> packing_of -> "tar", "gzip" or "zstd"
    stream, first bytes -> unpack -> bytes of the tar file
    bytes from an entry point on -> inflate -> bytes of the tar file

``packers.py`` compresses shards, and says what entry points are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from typing import Any, Literal, Protocol

from isal import igzip_lib, isal_zlib

from shardtools.errors import CorruptError, ShardError, StorageError, TruncatedError
from shardtools.shards.tar import REPAIR
from shardtools.storage import ByteRange, get_storage

Packing = Literal["tar", "gzip", "zstd"]
"""How a shard is compressed; ``"tar"``: not at all."""

GZIP_MAGIC = b"\x1f\x8b"
GZIP_HEADER = GZIP_MAGIC + b"\x08\0\0\0\0\0\0\xff"
"""How a ``.tgz`` of ours begins: deflate, no flags, no time, no extra flags, unknown system, whoever writes it."""

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"

_LARGEST_WINDOW = 128 << 20
"""Bytes of memory for decompressing zstd data: zstd's own default limit."""

# The CRC-32 of zlib at memory speed: crc32(data, value=0), continuing from value.
crc32: Callable[..., int] = isal_zlib.crc32


def packing_of(head: bytes) -> Packing:
    """Return the compression of a shard whose first bytes are ``head``. Its name does not matter.

    >>> packing_of(GZIP_MAGIC), packing_of(ZSTD_MAGIC), packing_of(b"a.jpg"), packing_of(b"")
    ('gzip', 'zstd', 'tar', 'tar')
    """
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    return "zstd" if head.startswith(ZSTD_MAGIC) else "tar"


def find_packing(url: str, filesize: int) -> Packing:
    """Return the compression of the shard at ``url``, which has ``filesize`` bytes; reads a few of its bytes.

    Raises:
        StorageError: it cannot be read.
    """
    [head] = get_storage(url).read_ranges(url, [ByteRange(0, min(filesize, len(ZSTD_MAGIC)))])
    return packing_of(head)


class Readable(Protocol):
    """What bytes are read from."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class _Unpacked:
    """A compressed stream as the bytes of its tar file; errors name the shard."""

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
    """The contents of gzip members, one after another.

    Like gzip programs, it ignores zeros after a member and a newline after the last one.
    """

    def __init__(self, source: Readable, url: str):
        self._source, self._url = source, url
        self._piece = memoryview(bytearray(_READ))
        self._member: Any = _gzip_member()
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most ``size``; b"" at the end.

        Raises:
            EOFError: the last member is not complete.
            CorruptError: other data follows a member.
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

    def __init__(self, head: bytes, rest: Readable):
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
    """Passes zstd data on, and raises EOFError if it ends inside a frame, which zstandard does not notice.

    Raises, while it is read:
        CorruptError: a frame cannot be decompressed here, or other data follows a frame.
    """

    def __init__(self, source: Readable, url: str):
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

    Yields how many bytes to skip, how many bytes to send next, and whether the data may end there.

    Raises:
        CorruptError: a frame cannot be decompressed here.
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
    """Return whether ``head``, which may be incomplete, is the start of a zstd frame."""
    is_skippable = head[0] & 0xF0 == 0x50 and _SKIPPABLE.startswith(head[1:4])
    return is_skippable or ZSTD_MAGIC.startswith(head[:4])


def _check_frame(flags: int, window: int, url: str) -> None:
    """Raise if a frame's header says that it cannot be decompressed here."""
    if flags & 3:
        fix = "compress it again without -D"
        raise CorruptError(
            "the shard is compressed with a zstd dictionary, which it does not contain", url=url, fix=fix
        )
    if (8 + (window & 7)) << (window >> 3) + 7 > _LARGEST_WINDOW:
        what = f"decompressing the shard's zstd data needs more than {_LARGEST_WINDOW >> 20} MB of memory"
        raise CorruptError(what, url=url, fix="compress it again without --long and --ultra")


def _block_size(header: int) -> int:
    return 1 if header >> 1 & 3 == 1 else header >> 3  # 1 is a byte to be repeated


def is_packed(head: bytes) -> bool:
    """Return whether the first bytes of a shard are those of a compressed one."""
    return packing_of(head) != "tar"


def unpack(head: bytes, rest: Readable, url: str) -> Readable:
    """Return a stream of the tar file in a compressed shard, whose first bytes, ``head``, have been read already.

    The compression is detected by the first bytes, not by the name. All gzip members, or zstd frames, are read.
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
        CorruptError: the data does not decompress to so many bytes.
    """
    try:
        if packing == "zstd":
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as stream:
                data = stream.read(size)
        else:
            data = isal_zlib.decompressobj(-15).decompress(packed, size)
    except Exception as error:  # each library has its own kinds for damaged bytes
        raise CorruptError("a part of the shard cannot be decompressed", url=url, fix=REPAIR) from error
    if len(data) != size:
        raise CorruptError(f"a part of the shard decompresses to {len(data)} bytes, not {size}", url=url, fix=REPAIR)
    return data
