"""Copy one shard, or one index file, byte for byte; check what was read, and what has arrived.

    source -> CRC-32 of what is read == that of sidecar or manifest -> target committed
    target, read back -> the same CRC-32 (not in S3 and GCS, which have compared checksums already) -> sidecar

An index file has no checksum of its own: what was read is compared with what has arrived.
"""

from __future__ import annotations

from dataclasses import dataclass

from shardtools.engine import check_cancelled
from shardtools.errors import CorruptError, OutputExistsError, ShardError, StaleTableError, StorageError
from shardtools.jobs.options import OnError
from shardtools.jobs.target import Counts, ShardResult, Target, delete_descriptions
from shardtools.query.renamed import UNCHANGED, Splice
from shardtools.shards.compression import crc32
from shardtools.shards.sidecar import Sidecar, fetch_sidecar, parse, sidecar_url
from shardtools.shards.verify import CheckedStream
from shardtools.storage import Sink, count, current_options, get_storage
from shardtools.storage.limited import read_optional
from shardtools.urls import scheme_of

_PIECE = 4 << 20
_CHECKING = ("s3", "gs")
"""Schemes whose services compare a checksum of what they have stored with that of what was sent."""

_FIX = "make it again with htindex --overwrite"


@dataclass(frozen=True)
class CopyTask:
    """What one task does: copy the shard ``source``, with its sidecar, to ``target``.

    ``checksum`` and ``samples`` are those of the manifest, None if it does not say.
    """

    source: str
    target: Target
    checksum: str | None
    samples: int | None
    on_error: OnError


@dataclass(frozen=True)
class FileTask:
    """What one task does: copy the index file ``source`` to ``target``, changed by ``splice``."""

    source: str
    target: str
    splice: Splice = UNCHANGED


def copy_shard(task: CopyTask) -> ShardResult:
    """Copy one shard, and return what became of it.

    Raises:
        ShardtoolsError: it cannot be read or written, or is not what its sidecar or the manifest says.
        OutputExistsError: the job is resumed, but the target is another shard.
    """
    try:
        return _copy(task)
    except (ShardError, StorageError) as error:
        if task.on_error == "fail" or error.url not in (task.source, sidecar_url(task.source)):
            raise
        return ShardResult(task.source, task.target.url, failure=str(error))


def _copy(task: CopyTask) -> ShardResult:
    size = get_storage(task.source).stat(task.source).size
    data = fetch_sidecar(task.source).data
    sidecar = None if data is None else parse(data, task.source)
    expected = _expected(task, sidecar, size)
    if sidecar is not None and data is not None and _is_there(task, data, size):
        return _result(task, sidecar, sidecar.filesize, sidecar.checksum, resumed=True)
    size, checksum = _copy_bytes(task.source, task.target, expected)
    if data is not None:
        target = sidecar_url(task.target.url)
        with get_storage(target).create(target) as sink:
            sink.write(data)
    return _result(task, sidecar, size, checksum)


def _expected(task: CopyTask, sidecar: Sidecar | None, size: int | None) -> str | None:
    """Return the checksum that a shard must have, None if nothing says it.

    Raises:
        StaleTableError: its sidecar describes another shard, or differs from the manifest.
    """
    if sidecar is None:
        if task.checksum is None and current_options().verify:
            fix = "make its sidecar with htindex, or leave out --verify"
            raise StaleTableError("nothing says its checksum, so it cannot be verified", url=task.source, fix=fix)
        return task.checksum
    if size not in (None, sidecar.filesize):
        what = f"the sidecar describes a shard of {sidecar.filesize:,} bytes, and the shard has {size:,}"
        raise StaleTableError(what, url=sidecar_url(task.source), fix=_FIX)
    if task.checksum not in (None, sidecar.checksum) or task.samples not in (None, len(sidecar)):
        raise StaleTableError("the sidecar differs from the manifest", url=sidecar_url(task.source), fix=_FIX)
    return sidecar.checksum


def _is_there(task: CopyTask, sidecar: bytes, size: int | None) -> bool:
    """Return whether an earlier run has completed the copy: its sidecar is written when the shard has been checked.

    Raises:
        OutputExistsError: the target is another shard, and may not be replaced.
    """
    target = task.target
    if not (target.resume and target.has_sidecar):
        return False
    there = read_optional(sidecar_url(target.url), "sidecar")
    if there == sidecar and get_storage(target.url).exists(target.url):
        return size in (None, get_storage(target.url).stat(target.url).size)
    if there is None or there == sidecar or target.overwrite:
        return False
    what, fix = "this is another shard than the source", "add --overwrite to replace it, or choose another destination"
    raise OutputExistsError(what, url=target.url, fix=fix)


def _result(task: CopyTask, sidecar: Sidecar | None, size: int, checksum: str, *, resumed: bool = False) -> ShardResult:
    samples = len(sidecar) if sidecar is not None else task.samples or 0
    fields = {} if sidecar is None else sidecar.table.count_fields()
    counts = Counts(read=samples, written=samples)
    return ShardResult(task.source, task.target.url, counts, size, size, checksum, fields, resumed=resumed)


def _copy_bytes(source: str, target: Target, expected: str | None) -> tuple[int, str]:
    """Copy the bytes of a shard; return their number and checksum.

    Raises:
        CorruptError: they are not those that were expected, or others have arrived.
    """
    with get_storage(source).open(source) as stream:
        checked = CheckedStream(stream, source, expected)
        with get_storage(target.url).create(target.url) as sink:
            buffer = memoryview(bytearray(_PIECE))
            while size := checked.readinto(buffer):
                check_cancelled()
                sink.write(buffer[:size])
                count("bytes_read", size)
            checked.check()
            delete_descriptions(target)
    _check_arrived(target.url, checked.size, checked.checksum)
    return checked.size, checked.checksum


def _check_arrived(url: str, size: int, checksum: str) -> None:
    """Raise if an object is not what was sent; it is deleted.

    Raises:
        CorruptError: it is not.
    """
    if scheme_of(url) in _CHECKING:
        return
    with get_storage(url).open(url) as stream:
        found = CheckedStream(stream, url, None)
        found.check()
    if (found.size, found.checksum) != (size, checksum):
        get_storage(url).delete(url)
        what = f"what has arrived is not what was sent: {found.size:,} bytes with {found.checksum}, not {size:,} with "
        raise CorruptError(f"{what}{checksum}", url=url, fix="copy it again; if that does not help, look at the disk")


def copy_file(task: FileTask) -> int:
    """Copy one index file, and return its size.

    Raises:
        StorageError: it cannot be read or written.
        CorruptError: something else has arrived.
    """
    splice = task.splice
    written = _Counted()
    with get_storage(task.source).open(task.source) as stream, get_storage(task.target).create(task.target) as sink:
        written.write(sink, splice.head)
        left = None if splice.stop is None else splice.stop - splice.start
        stream.read(splice.start)
        buffer = memoryview(bytearray(_PIECE))
        while size := stream.readinto(buffer[:left] if left is not None else buffer):
            check_cancelled()
            written.write(sink, buffer[:size])
            left = None if left is None else left - size
        if left:
            raise CorruptError("it has become shorter", url=task.source, fix="copy the dataset again")
        written.write(sink, splice.tail)
    _check_arrived(task.target, written.size, f"crc32:{written.crc:08x}")
    return written.size


class _Counted:
    """Counts what is written: its ``size`` and its ``crc``."""

    def __init__(self) -> None:
        self.size = self.crc = 0

    def write(self, sink: Sink, data: bytes | memoryview) -> None:
        sink.write(data)
        self.size += len(data)
        self.crc = crc32(data, self.crc)
