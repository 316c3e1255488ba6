"""Objects in Google Cloud Storage.

    open, read          http_stream.py    GET, resumed by Range and ifGenerationMatch after a dropped connection
    read_ranges         http_ranges.py    a GET for each span, a few at a time
    create              gs_upload.py      a resumable upload while it is written; exclusive by ifGenerationMatch=0
    all of them         gs_client.py      credentials, endpoint, sessions, and the meaning of an answer

Names are what stands in the URL, as it stands there: nothing is escaped in ``gs://bucket/a b%20?x#y.tar``. The
validator of an object is its generation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self
from urllib.parse import quote

from shardtools.errors import NotFoundError
from shardtools.storage import ByteRange, Sink, Stat, Storage, StorageOptions
from shardtools.storage.buckets import split_url
from shardtools.storage.gs_client import GsClient, object_path, odd_answer, stat_of
from shardtools.storage.gs_upload import create_once, resumable_sink
from shardtools.storage.http_ranges import fill, read_ranges
from shardtools.storage.http_stream import ObjectStream
from shardtools.storage.listing import Pages
from shardtools.storage.retry import DEFAULT_POLICY, RetryPolicy

_STATS = "items(name,size,generation)"


class GsStorage(Storage):
    """Objects in Google Cloud Storage. Safe in threads and after a fork; a stream belongs to its process."""

    coalescing = GsClient.coalescing

    def __init__(self, policy: RetryPolicy = DEFAULT_POLICY, timeout: float = 60.0):
        self._client = GsClient(policy, timeout)

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
        with resumable_sink(self._client, url) as sink:
            yield sink

    def create_exclusive(self, url: str, data: bytes) -> None:
        create_once(self._client, url, data)

    def stat(self, url: str) -> Stat:
        return self._client.stat(url)

    def folders(self, folder: str) -> list[str]:
        return self._listed(folder, "prefixes", "/").urls()

    def _listed(self, prefix: str, fields: str, end: str = "", most: int | None = None) -> Pages:
        """Return what the service lists in ``fields`` of its answers."""
        bucket, start = split_url(prefix, prefix=True)
        pages = Pages(prefix, start, end, most)
        query = {"prefix": start, "delimiter": "/", "fields": f"{fields},nextPageToken"}
        while True:
            page = self._client.json("GET", prefix, f"/storage/v1/b/{quote(bucket, safe='')}/o", query)
            try:
                items = page.get("items", [])
                found = page.get("prefixes", []) if end else [entry["name"] for entry in items]
                stats = [stat_of(entry, prefix) for entry in items] if fields == _STATS else None
                token = pages.add(found, str(page["nextPageToken"]) if page.get("nextPageToken") else None, stats)
            except (TypeError, KeyError, AttributeError) as error:
                raise odd_answer(prefix) from error
            if token is None:
                return pages
            query["pageToken"] = token

    def list(self, prefix: str) -> list[str]:
        return self._listed(prefix, "items(name)").urls()

    def stats(self, prefix: str, most: int) -> Mapping[str, Stat]:
        return self._listed(prefix, _STATS, most=most).stats()

    def delete(self, url: str) -> None:
        try:
            self._client.json("DELETE", url, object_path(url))
        except NotFoundError:
            return
