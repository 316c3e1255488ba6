"""Objects in S3, and in what speaks its protocol: MinIO, Ceph and others, by ``AWS_ENDPOINT_URL``.

    open, read, stat    http_stream.py      GET, resumed by Range and If-Match after a dropped connection
    read_ranges         http_ranges.py      a GET for each span, a few at a time
    create              s3_upload.py        parts while it is written; exclusive by If-None-Match
    all of them         s3_client.py, s3_errors.py    botocore, signatures, connections, and the meaning of an answer

Keys are what stands in the URL, as it stands there: nothing is escaped in ``s3://bucket/a b%20?x#y.tar``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, cast

from shardtools.errors import NotFoundError
from shardtools.storage import ByteRange, Sink, Stat, Storage, StorageOptions
from shardtools.storage.buckets import split_url
from shardtools.storage.http_ranges import fill, read_ranges
from shardtools.storage.http_stream import ObjectStream, head
from shardtools.storage.listing import Pages
from shardtools.storage.retry import DEFAULT_POLICY, RetryPolicy
from shardtools.storage.s3_client import S3Client
from shardtools.storage.s3_upload import create_once, part_sink

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client as Api


class S3Storage(Storage):
    """Objects in S3. Safe in threads and after a fork; a stream belongs to the process that opened it."""

    coalescing = S3Client.coalescing

    def __init__(self, policy: RetryPolicy = DEFAULT_POLICY, timeout: float = 60.0):
        self._client = S3Client(policy, timeout)

    @classmethod
    def with_options(cls, options: StorageOptions) -> Self:
        return cls(RetryPolicy.of(options), options.timeout)

    def open(self, url: str) -> ObjectStream:
        split_url(url)
        return ObjectStream(self._client, url)

    def read_ranges(self, url: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        split_url(url)
        return read_ranges(self._client, url, ranges)

    def read_into(self, url: str, starts: Sequence[int], buffers: Sequence[memoryview]) -> None:
        split_url(url)
        if not fill(self._client, url, starts, buffers):
            super().read_into(url, starts, buffers)

    @contextmanager
    def create(self, url: str) -> Iterator[Sink]:
        with part_sink(self._client, url) as sink:
            yield sink

    def create_exclusive(self, url: str, data: bytes) -> None:
        create_once(self._client, url, data)

    def stat(self, url: str) -> Stat:
        split_url(url)
        return head(self._client, url)

    def folders(self, folder: str) -> list[str]:
        return self._listed(folder, "CommonPrefixes", "Prefix", "/").urls()

    def _listed(
        self, prefix: str, part: str, name: str, end: str = "", *, has_stats: bool = False, most: int | None = None
    ) -> Pages:
        """Return what has its ``name`` in a ``part`` of the answers of the service."""
        bucket, start = split_url(prefix, prefix=True)
        pages = Pages(prefix, start, end, most)

        def page(api: Api, token: str | None) -> tuple[list[str], str | None, list[Stat] | None]:
            more = {"ContinuationToken": token} if token else {}
            answer = api.list_objects_v2(Bucket=bucket, Prefix=start, Delimiter="/", **more)  # type: ignore[arg-type]
            entries = cast(Iterable[dict[str, Any]], answer.get(part, ()))
            stats = list(map(_listed_stat, entries)) if has_stats else None
            return [entry[name] for entry in entries], answer.get("NextContinuationToken"), stats

        token: str | None = None
        while True:
            token = pages.add(*self._client.run(prefix, lambda api: page(api, token)))  # noqa: B023 - called at once
            if token is None:
                return pages

    def list(self, prefix: str) -> list[str]:
        return self._listed(prefix, "Contents", "Key").urls()

    def stats(self, prefix: str, most: int) -> Mapping[str, Stat]:
        return self._listed(prefix, "Contents", "Key", has_stats=True, most=most).stats()

    def delete(self, url: str) -> None:
        bucket, key = split_url(url)

        def call(api: Api) -> None:
            api.delete_object(Bucket=bucket, Key=key)

        try:
            self._client.run(url, call)
        except NotFoundError:
            return


def _listed_stat(entry: Mapping[str, Any]) -> Stat:
    modified = entry.get("LastModified")
    return Stat(max(int(entry["Size"]), 0), entry.get("ETag"), modified=modified.timestamp() if modified else None)
