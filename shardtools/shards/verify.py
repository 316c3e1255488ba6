"""Compare a shard, while it is read, with the checksum in its sidecar.

    stream -> CheckedStream -> reader …; at the end: the checksum of all bytes == that of the sidecar

Shards that have a sidecar are checked, local ones too: a disk may flip a bit, and an output made from damaged data
would get a valid sidecar. With ``StorageOptions.verify`` a shard without a sidecar is an error. Ranges are compared
with the checksums of their members (``members.py``).
"""

from __future__ import annotations

from collections.abc import Callable

from shardtools.errors import CorruptError, StaleTableError
from shardtools.shards.compression import crc32
from shardtools.shards.sidecar import find_sidecar
from shardtools.storage import Stat, Stream, current_options

_REST = 1 << 20


class CheckedStream:
    """The bytes of a shard, whose checksum is computed while they are read.

    ``size`` is the number of bytes so far. ``checksum`` is the expected one; None checks nothing. ``watch`` is called
    with all bytes.
    """

    def __init__(
        self, stream: Stream, url: str, checksum: str | None, watch: Callable[[memoryview], object] | None = None
    ):
        self.size = 0
        self._stream = stream
        self._url = url
        self._expected = checksum
        self._crc = 0
        self._watch = watch

    def readinto(self, buffer: memoryview, /) -> int:
        size = self._stream.readinto(buffer)
        self._crc = crc32(buffer[:size], self._crc)
        self.size += size
        if self._watch is not None:
            self._watch(buffer[:size])
        return size

    @property
    def checksum(self) -> str:
        """The checksum of the bytes so far, in a sidecar's form."""
        return f"crc32:{self._crc:08x}"

    def check(self) -> None:
        """Read the rest of the stream, and compare the checksum.

        Raises:
            CorruptError: the checksum is another one.
        """
        rest = memoryview(bytearray(_REST))
        while self.readinto(rest):
            pass
        if self._expected is not None and self.checksum != self._expected:
            raise CorruptError(
                f"its checksum is {self.checksum}, but {self._expected} in its sidecar",
                url=self._url,
                fix="fetch or make the shard again; if it was replaced on purpose, delete the sidecar",
            )


def expected_checksum(url: str, stat: Stat) -> str | None:
    """Return the checksum that a shard must have, None if it is not checked; ``stat`` is the shard's.

    Raises:
        StaleTableError: it must be checked, and has no matching sidecar.
        StorageError: the sidecar cannot be read.
    """
    insist = current_options().verify
    sidecar = None if url == "-" else find_sidecar(url, stat)
    if sidecar is None and insist:
        raise StaleTableError("it has no matching sidecar, so it cannot be verified", url=url, fix="leave out --verify")
    return None if sidecar is None else sidecar.checksum
