"""Objects on a web server: GET from any, PUT, DELETE, MOVE and a JSON listing from one such as ours in ``nginx/``.

    open, read     http_stream.py    GET, resumed by Range and If-Range after a dropped connection
    read_ranges    http_ranges.py    many ranges in one GET where the server answers that
    create, …      http_upload.py    one PUT, then a look at what was stored; exclusive by MOVE of a collection
    all of them    http_session.py, http_client.py    sessions, attempts, and the meaning of an answer

What a server writes is whole or not there at all as long as it renames a finished upload, as nginx does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import quote, unquote

from shardtools.errors import NotFoundError, RefusedError
from shardtools.json_text import parse_json
from shardtools.storage import ByteRange, Sink, Stat, Storage, StorageOptions
from shardtools.storage.http_client import Meaning, is_part, read_whole, timeouts
from shardtools.storage.http_ranges import fill, read_ranges
from shardtools.storage.http_session import HttpClient
from shardtools.storage.http_stream import ObjectStream, head
from shardtools.storage.http_upload import Spool, create_once, remove, store
from shardtools.storage.listing import check_name
from shardtools.storage.retry import DEFAULT_POLICY, RetryPolicy
from shardtools.urls import split_path

_LIST_FIX = "turn its JSON listing on (nginx: autoindex_format json), or give the number of shards, as in @1000"
_NO_LISTING: Meaning = (RefusedError, "the server does not list this folder", _LIST_FIX)
_LIST_MEANINGS = {403: _NO_LISTING, 405: _NO_LISTING, 501: _NO_LISTING}
# What stands in a listed URL as it is: all that has no meaning of its own in the path of a URL.
_PLAIN = "!$&'()*+,:;=@~"


class HttpStorage(Storage):
    """Objects on web servers. Safe in threads and after a fork; a stream belongs to the process that opened it."""

    coalescing = HttpClient.coalescing

    def __init__(
        self, policy: RetryPolicy = DEFAULT_POLICY, timeout: float = 60.0, named: frozenset[str] = frozenset()
    ):
        self._client = HttpClient(policy, timeouts(timeout), named)

    @classmethod
    def with_options(cls, options: StorageOptions) -> Self:
        return cls(RetryPolicy.of(options), options.timeout, options.named)

    def open(self, url: str) -> ObjectStream:
        return ObjectStream(self._client, url)

    def read_ranges(self, url: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        return read_ranges(self._client, url, ranges)

    def read_into(self, url: str, starts: Sequence[int], buffers: Sequence[memoryview]) -> None:
        if not fill(self._client, url, starts, buffers):
            super().read_into(url, starts, buffers)

    @contextmanager
    def create(self, url: str) -> Iterator[Sink]:
        with closing(Spool(url)) as spool:
            yield spool
            store(self._client, url, spool)

    def create_exclusive(self, url: str, data: bytes) -> None:
        create_once(self._client, url, data)

    def stat(self, url: str) -> Stat:
        return head(self._client, url)

    def folders(self, folder: str) -> list[str]:
        return list(self._listed(folder, "directory", "/"))

    def _listed(self, prefix: str, kind: str, end: str) -> dict[str, Mapping[str, Any]]:
        """Return the entries of this ``kind`` that start with ``prefix``, by their sorted URLs, with this ``end``."""
        before, path, query = split_path(prefix)
        folder, _, start = path.rpartition("/")
        try:
            entries = self._entries(f"{before}{folder}/{query}", kind)
        except NotFoundError:
            return {}
        known = unquote(start, errors="surrogateescape")
        head = f"{before}{folder}/{start}"
        found = {
            f"{head}{quote(name[len(known) :], safe=_PLAIN, errors='surrogateescape')}{end}{query}": entry
            for name, entry in entries
            if name.startswith(known) and not name.startswith(".")
        }
        return dict(sorted(found.items()))

    def list(self, prefix: str) -> list[str]:
        return list(self._listed(prefix, "file", ""))

    def stats(self, prefix: str, most: int) -> Mapping[str, Stat]:
        listed = self._listed(prefix, "file", "")
        if len(listed) > most:
            raise RefusedError("the folder has too many others to be listed for these", url=prefix)
        stats = {url: _listed_stat(entry, url) for url, entry in listed.items()}
        first = next(iter(stats), None)
        if first is not None and self.stat(first) != stats[first]:
            raise RefusedError("the server makes its ETags in another way than nginx", url=prefix)
        return stats

    def delete(self, url: str) -> None:
        remove(self._client, url)

    def _entries(self, folder: str, kind: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return name and entry of what is of a ``kind`` in ``folder``, whose listing can be read in one go."""
        text = self._client.policy.run(folder, lambda: self._get(folder))
        try:
            entries = parse_json(text.decode(errors="surrogateescape"))
            if not isinstance(entries, list):
                raise TypeError("a listing is an array")
            return [(check_name(entry["name"], folder), entry) for entry in entries if entry["type"] == kind]
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError("the server does not list this folder as JSON", url=folder, fix=_LIST_FIX) from error

    def _get(self, url: str) -> bytes:
        """Return the whole answer of one attempt: a listing is made anew each time and cannot be resumed."""
        with closing(self._client.send("GET", url)) as response:
            if response.status_code != 200 or is_part(response):
                raise self._client.answer_error(response, url, _LIST_MEANINGS)
            return read_whole(response, url)


def _listed_stat(entry: Mapping[str, Any], url: str) -> Stat:
    """Return what nginx would answer to HEAD: it makes the ETag from the time in seconds and the size.

    Raises:
        RefusedError: the listing does not say these.
    """
    try:
        size, time = entry["size"], int(parsedate_to_datetime(entry["mtime"]).timestamp())
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        size, time = None, 0
    if type(size) is not int or size < 0:
        raise RefusedError("the listing does not say sizes and times", url=url)
    return Stat(size, f'"{time:x}-{size:x}"', settled=False, modified=time)
