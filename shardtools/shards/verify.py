"""Is a shard, as it arrives, the one that was written? Its sidecar knows the checksum.

    stream -> CheckedStream -> reader …, and in the end: the checksum of all bytes == that of the sidecar

Shards that have a sidecar are checked, local ones too: a disk may flip a bit, and what is made of that would get a
sidecar that is right. With ``StorageOptions.verify`` one that has none is an error. Ranges are compared with the
checksums of their members (``members.py``).
"""

from __future__ import annotations

from shardtools.errors import CorruptError, StaleTableError
from shardtools.shards.compression import crc32
from shardtools.shards.sidecar import read_sidecar
from shardtools.storage import Stat, Stream, current_options

_REST = 1 << 20


class CheckedStream:
    """The bytes of a shard, whose checksum is taken as they come through; ``checksum`` is what it must be, if anything.

    ``size`` is how many bytes have come so far.
    """

    def __init__(self, stream: Stream, url: str, checksum: str | None):
        self.size = 0
        self._stream = stream
        self._url = url
        self._expected = checksum
        self._crc = 0

    def readinto(self, buffer: memoryview, /) -> int:
        size = self._stream.readinto(buffer)
        self._crc = crc32(buffer[:size], self._crc)
        self.size += size
        return size

    @property
    def checksum(self) -> str:
        """The checksum of the bytes so far, as a sidecar has it."""
        return f"crc32:{self._crc:08x}"

    def check(self) -> None:
        """Read what nobody wanted of the end, and compare.

        Raises:
            CorruptError: these are not the bytes that the sidecar is about.
        """
        rest = memoryview(bytearray(_REST))
        while self.readinto(rest):
            pass
        if self._expected is not None and self.checksum != self._expected:
            raise CorruptError(
                f"its checksum is {self.checksum}, and {self._expected} in its sidecar",
                url=self._url,
                fix="fetch or make the shard again; if it was replaced on purpose, delete the sidecar",
            )


def expected_checksum(url: str, stat: Stat) -> str | None:
    """Return the checksum that a shard must have, None if it is not to be checked; ``stat`` is the shard's.

    Raises:
        StaleTableError: it is to be checked, and has no sidecar that is about it.
        StorageError: the sidecar cannot be read.
    """
    insist = current_options().verify
    sidecar = None if url == "-" else read_sidecar(url, stat.size)
    if sidecar is None and insist:
        raise StaleTableError(
            "it has no matching sidecar, so that it cannot be verified", url=url, fix="leave out --verify"
        )
    return None if sidecar is None else sidecar.checksum
