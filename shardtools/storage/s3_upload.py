"""Writing an object to S3: in parts while it is written, visible when all of them are there.

    write -> a part is full -> sent by one of a few threads … -> all parts -> complete -> the object appears

What fits into one part is sent by one PUT instead. Each part carries its CRC-32, which S3 compares with what arrived;
where a server knows no such checksums, the MD5 that it answers as ETag is compared. An upload that ends by an
exception is aborted, so that no part is left to be paid for.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import md5
from re import fullmatch
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from zlib import crc32

from shardtools.errors import AccessError, ChangedError, ExistsError, NotFoundError, StorageError
from shardtools.storage import Buffer
from shardtools.storage.buckets import split_url
from shardtools.storage.exclusive import can_win_twice, ensure_exclusive
from shardtools.storage.retry import TransientError
from shardtools.storage.s3_client import S3Client
from shardtools.urls import media_type

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client as Api
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART = 8 << 20
"""Bytes of a part: of the first few; then twice as many, and for each further thousand parts again.

So 10,000 hold more than 5 TiB. Each part is paid for.
"""

FEW = 16
_GROWS = 1000
_AT_A_TIME = 4
_WRITE_ID = "shardtools-write"


def part_size(number: int) -> int:
    """Return how many bytes the part of this number has.

    >>> [part_size(number) >> 20 for number in (0, FEW - 1, FEW, 1000, 9999)], sum(map(part_size, range(10_000))) >> 40
    ([8, 8, 16, 32, 8192], 15)
    """
    return PART << (number // _GROWS + (number >= FEW))


class PartSink:
    """The sink of one object. `finish` makes it appear, `abort` leaves nothing."""

    def __init__(self, client: S3Client, url: str):
        self._client = client
        self._url = url
        self._bucket, self._key = split_url(url)
        self._buffer = bytearray()
        self._size = 0
        self._upload: str | None = None
        self._write_id = uuid4().hex
        self._pool: ThreadPoolExecutor | None = None
        self._parts: list[Future[CompletedPartTypeDef]] = []

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        written = 0
        while written < len(view):
            room = self._part_size() - len(self._buffer)
            self._buffer += view[written : written + room]
            written += min(room, len(view) - written)
            if len(self._buffer) >= self._part_size():
                self._send_part()
        self._size += written
        return written

    def writelines(self, parts: Iterable[Buffer], /) -> None:
        for part in parts:
            self.write(part)

    def finish(self) -> None:
        """Make the object appear, and see that it is what was written."""
        if self._upload is None:
            put_object(self._client, self._url, bytes(self._buffer), self._write_id)
            return
        if self._buffer:
            self._send_part()
        parts = [part.result() for part in self._parts]
        self._complete(parts)
        self._check()
        self._end_threads()

    def abort(self) -> None:
        """Forget what was sent. Parts on their way are awaited first, or they would stay behind."""
        for part in self._parts:
            part.cancel()
        self._end_threads()
        if self._upload is None:
            return
        upload = self._upload

        def call(api: Api) -> None:
            api.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=upload)

        with suppress(StorageError):  # what went wrong before is the better thing to report
            self._client.run(self._url, call)

    def _part_size(self) -> int:
        return part_size(len(self._parts))

    def _send_part(self) -> None:
        """Hand what is in the buffer to a thread; wait for the oldest if all are busy, and raise what went wrong."""
        if self._upload is None:
            self._upload = self._begin()
            self._pool = ThreadPoolExecutor(_AT_A_TIME, "shardtools-s3")
        at_a_time = _AT_A_TIME if len(self._parts) < FEW else _AT_A_TIME // 2  # larger ones, in the same memory
        if len(self._parts) >= at_a_time:
            self._parts[-at_a_time].result()
        assert self._pool is not None
        self._parts.append(self._pool.submit(self._put_part, len(self._parts) + 1, bytes(self._buffer)))
        self._buffer.clear()

    def _begin(self) -> str:
        def call(api: Api) -> str:
            answer = api.create_multipart_upload(
                Bucket=self._bucket, Key=self._key, ChecksumAlgorithm="CRC32", Metadata={_WRITE_ID: self._write_id}
            )
            return answer["UploadId"]

        return self._client.run(self._url, call)

    def _put_part(self, number: int, data: bytes) -> CompletedPartTypeDef:
        checksum = _checksum(data)
        assert self._upload is not None
        upload = self._upload

        def call(api: Api) -> CompletedPartTypeDef:
            answer = api.upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=upload,
                PartNumber=number,
                Body=data,
                ChecksumCRC32=checksum,
            )
            _compare(answer, data, checksum)
            part: CompletedPartTypeDef = {"PartNumber": number, "ETag": answer["ETag"]}
            if answer.get("ChecksumCRC32"):
                part["ChecksumCRC32"] = checksum
            return part

        return self._client.run(self._url, call)

    def _complete(self, parts: list[CompletedPartTypeDef]) -> None:
        assert self._upload is not None
        upload = self._upload

        def call(api: Api) -> None:
            api.complete_multipart_upload(
                Bucket=self._bucket, Key=self._key, UploadId=upload, MultipartUpload={"Parts": parts}
            )

        try:
            self._client.run(self._url, call)
        except NotFoundError:  # it is complete already, if only the answer of an earlier attempt was lost
            if read_write_id(self._client, self._url) != self._write_id:
                raise

    def _check(self) -> None:
        def call(api: Api) -> tuple[int, str]:
            answer = api.head_object(Bucket=self._bucket, Key=self._key)
            return answer["ContentLength"], answer.get("Metadata", {}).get(_WRITE_ID, "")

        try:
            size, write_id = self._client.run(self._url, call)
        except AccessError:  # who may write may not be allowed to read; each part was compared as it went
            return
        if write_id == self._write_id and size != self._size:
            what = f"S3 received {size} bytes of the {self._size} that were sent"
            raise StorageError(what, url=self._url, fix="run again; if it happens again, check the server")

    def _end_threads(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None


@contextmanager
def part_sink(client: S3Client, url: str) -> Iterator[PartSink]:
    """A context that gives out the sink of a new object, as `Storage.create` promises."""
    sink = PartSink(client, url)
    try:
        yield sink
        sink.finish()
    except BaseException:
        sink.abort()
        raise


def put_object(client: S3Client, url: str, data: bytes, write_id: str, *, exclusive: bool = False) -> None:
    """Store a small object by one request.

    Raises:
        ChangedError: ``exclusive``, and there is one already.
    """
    bucket, key = split_url(url)
    checksum = _checksum(data)
    options: dict[str, Any] = {"IfNoneMatch": "*"} if exclusive else {}
    if (kind := media_type(url)) is not None:
        options["ContentType"] = kind

    def call(api: Api) -> None:
        answer = api.put_object(
            Bucket=bucket, Key=key, Body=data, ChecksumCRC32=checksum, Metadata={_WRITE_ID: write_id}, **options
        )
        _compare(answer, data, checksum)

    client.run(url, call)


def create_once(client: S3Client, url: str, data: bytes) -> None:
    """Create the object only if there is none, as `Storage.create_exclusive` promises.

    By If-None-Match, which S3, MinIO and Ceph know; whether this service does is tried first. By the id of
    the write, a writer whose answer was lost knows whether it has won.
    """
    bucket = split_url(url)[0]
    endpoint = client.run(url, lambda api: api.meta.endpoint_url)
    ensure_exclusive(f"{endpoint}/{bucket}", url, lambda probe: _wins_twice(client, probe))
    write_id = uuid4().hex
    try:
        put_object(client, url, data, write_id, exclusive=True)
    except ChangedError as error:
        if read_write_id(client, url) != write_id:
            raise ExistsError("the object exists already", url=url, fix="choose another name") from error


def _wins_twice(client: S3Client, url: str) -> bool:
    """Return whether an object can be created twice, each time only if there is none; it is deleted again."""
    bucket, key = split_url(url)

    def delete(api: Api) -> None:
        api.delete_object(Bucket=bucket, Key=key)

    return can_win_twice(
        lambda data: put_object(client, url, data, uuid4().hex, exclusive=True),
        lambda: client.run(url, delete),
    )


def read_write_id(client: S3Client, url: str) -> str | None:
    """Return the id that the write of an object has left in its metadata, None if there is none."""
    bucket, key = split_url(url)

    def call(api: Api) -> str | None:
        return api.head_object(Bucket=bucket, Key=key).get("Metadata", {}).get(_WRITE_ID)

    try:
        return client.run(url, call)
    except NotFoundError:
        return None


def _checksum(data: bytes) -> str:
    return b64encode(crc32(data).to_bytes(4, "big")).decode()


def _compare(answer: Any, data: bytes, checksum: str) -> None:
    """Compare what the server says that it has got with what was sent.

    Raises:
        TransientError: it is something else.
    """
    echoed = answer.get("ChecksumCRC32")
    tag = answer.get("ETag", "").strip('"')
    if echoed:
        same = echoed == checksum
    elif fullmatch("[0-9a-f]{32}", tag) and not answer.get("ServerSideEncryption", "").startswith("aws:kms"):
        same = tag == md5(data, usedforsecurity=False).hexdigest()
    else:
        same = True  # nothing to compare with; the size is looked at in the end
    if not same:
        raise TransientError("S3 received other bytes than were sent")
