"""Many ranges of one object over HTTP, in as few requests as the server allows.

ranges -> spans -> groups -> GET with "Range: bytes=a-b,c-d,…" -> multipart/byteranges -> parts -> ranges
                          -> where the server does not answer that, one GET for each span, a few at a time
                          -> where it does not send parts at all, one GET of the object
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import requests

from shardtools.errors import ChangedError
from shardtools.storage import ByteRange, Stat
from shardtools.storage.http_client import Client, body_length, content_range, network_errors
from shardtools.storage.http_stream import ObjectStream, head
from shardtools.storage.ranges import coalesce, cut, group, merge, past_end
from shardtools.storage.retry import TransientError
from shardtools.urls import server_of

GROUP_COUNT = 100
"""Ranges in one request: some servers refuse more than 200, or headers of more than 8 KiB."""

IN_PLACE = 1 << 18
"""Bytes from which on a span is read into the caller's buffers, by a request of its own."""

_PART_HEAD = 4096
"""Bytes that the head of a part has at most, with what separates it from the part before."""

_BOUNDARY = re.compile(r'\s*multipart/byteranges\s*;.*boundary="?([^";]+)', re.IGNORECASE)
_PART_RANGE = re.compile(rb"content-range:\s*bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18})(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class _Fetched:
    """The bytes of some spans, and the size and validator of the object that they were read from."""

    stat: Stat
    spans: Sequence[ByteRange]
    bodies: Sequence[bytes]


def read_ranges(client: Client, url: str, ranges: Sequence[ByteRange]) -> list[bytes]:
    """Return the bytes of each of ``ranges``, as `Storage.read_ranges` promises."""
    if not ranges:
        return []
    spans = merge(ranges, client.coalescing.gap)
    fetched = _read_spans(client, url, spans) if spans else [_Fetched(head(client, url), [], [])]
    size = _size_of_all([part.stat for part in fetched], url)
    last = max(ranges, key=lambda part: part.stop)
    if size is not None and last.stop > size:  # only an empty range can still do that
        raise past_end(last, size, url)
    bodies = {span.start: body for part in fetched for span, body in zip(part.spans, part.bodies, strict=True)}
    return cut(ranges, spans, [bodies[span.start] for span in spans])


def fill(client: Client, url: str, starts: Sequence[int], buffers: Sequence[memoryview]) -> bool:
    """Fill large buffers with what an object has from their ``starts`` on, as the bytes arrive, without a copy.

    Return False, and the buffers are still to be filled, if they are small or overlap: then `read_ranges` does better.
    So it does where the server does not send parts.
    """
    start = np.array(starts, np.int64)
    stop = start + np.array([len(buffer) for buffer in buffers], np.int64)
    order = np.argsort(start, kind="stable")
    spans = coalesce(start, stop, client.coalescing.gap)
    if int((stop - start).sum()) < IN_PLACE * max(len(spans), 1) or (start[order[1:]] < stop[order[:-1]]).any():
        return False
    runs: list[list[tuple[int, memoryview]]] = [[] for _ in range(len(spans))]
    for number in order.tolist():
        if len(buffers[number]):
            runs[int(spans.span[number])].append((starts[number], buffers[number]))
    alone = len(runs) == 1
    found = [_fill_run(client, url, runs[0], alone)] if alone else client.map(partial(_fill_run, client, url), runs)
    stats = [stat for stat in found if stat is not None]
    if len(stats) < len(found):
        return False
    _size_of_all(stats, url)
    return True


def _fill_run(client: Client, url: str, run: Sequence[tuple[int, memoryview]], alone: bool = False) -> Stat | None:
    """Fill buffers, in order, by one request; None if the server sends the whole object, unless this is ``alone``."""
    start, stop = run[0][0], run[-1][0] + len(run[-1][1])
    with ObjectStream(client, url, ByteRange(start, stop)) as stream:
        if not stream.ranged and not alone:
            return None
        position = start
        for at, buffer in run:
            stream.skip(at - position)
            stream.readinto(buffer)
            position = at + len(buffer)
        return stream.stat


def _size_of_all(stats: Sequence[Stat], url: str) -> int | None:
    """Return the size of an object of which several answers tell, None if none does.

    Raises:
        ChangedError: they are about different versions.
    """
    sizes = {stat.size for stat in stats} - {None}
    if len(sizes) > 1 or len({stat.validator for stat in stats}) > 1:
        raise ChangedError("the object was replaced while it was read", url=url, fix="run again")
    return sizes.pop() if sizes else None


def _read_spans(client: Client, url: str, spans: Sequence[ByteRange]) -> list[_Fetched]:
    def read_group(some: Sequence[ByteRange]) -> _Fetched | None:
        return _read_span(client, url, some[0]) if len(some) == 1 else _read_many(client, url, some)

    if client.sends_parts:
        return client.map(lambda span: _read_span(client, url, span), spans)
    first, *others = group(spans, GROUP_COUNT, client.coalescing.largest)
    # The first goes ahead, so that a server is asked once whether it answers many ranges.
    results = [read_group(first), *(client.map(read_group, others) if others else ())]
    fetched = [result for result in results if result is not None]
    done = {span.start for part in fetched for span in part.spans}
    left = [span for span in spans if span.start not in done]
    return fetched + _read_singly(client, url, left) if left else fetched


def _read_many(client: Client, url: str, spans: Sequence[ByteRange]) -> _Fetched | None:
    """Return the bytes of ``spans``, None if the server does not answer many ranges in one response."""
    server = server_of(url)
    if client.multirange.get(server) is False:
        return None
    fetched = client.policy.run(url, lambda: _attempt_many(client, url, spans))
    client.multirange[server] = fetched is not None
    return fetched


def _attempt_many(client: Client, url: str, spans: Sequence[ByteRange]) -> _Fetched | None:
    wanted = ",".join(f"{span.start}-{span.stop - 1}" for span in spans)
    with closing(client.send("GET", url, {"Range": f"bytes={wanted}"})) as response:
        if response.status_code not in (200, 206, 416):
            raise client.answer_error(response, url)
        size = content_range(response)[2]
        if response.status_code == 416 or (size is not None and spans[-1].stop > size):
            raise past_end(spans[-1], size, url)
        boundary = _BOUNDARY.match(response.headers.get("Content-Type", ""))
        if response.status_code != 206 or boundary is None:
            return None
        with network_errors(url):
            _acknowledge_at_once(response)
            longest = _longest(spans)
            body = response.raw.read(longest, decode_content=False)
        if len(body) < min(longest, body_length(response) or 0):
            raise TransientError("the answer ended too early")
        parts, bodies, size = parse_multipart(body, boundary[1].encode("latin-1"))
        if size is not None and spans[-1].stop > size:
            raise past_end(spans[-1], size, url)
        try:
            return _Fetched(Stat(size, client.describe(response).validator), spans, cut(spans, parts, bodies))
        except LookupError:
            return None


def _longest(spans: Sequence[ByteRange]) -> int:
    """Return how many bytes the answer with so many parts has at most; what follows is none of it."""
    return sum(span.stop - span.start for span in spans) + _PART_HEAD * (len(spans) + 1)


def _acknowledge_at_once(response: requests.Response) -> None:
    """Let the system acknowledge what comes without its usual delay, where it can (Linux).

    A server that sends parts one by one, such as nginx with ``tcp_nopush on``, waits with the last one until those
    before are acknowledged; with the delay, a few small parts take 40 ms (RFC 1122, 4.2.3.2 and 4.2.3.4).
    """
    option = getattr(socket, "TCP_QUICKACK", None)
    connection = getattr(getattr(response.raw, "connection", None), "sock", None)
    if option is not None and connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, option, 1)


def parse_multipart(body: bytes, boundary: bytes) -> tuple[list[ByteRange], list[bytes], int | None]:
    """Return the sorted spans of a multipart/byteranges body, their bytes, and the size of the whole object.

    What follows a part that is damaged is left out.

    >>> head = b"\\r\\n--x\\r\\nContent-Range: bytes %d-%d/9\\r\\n\\r\\n"
    >>> parse_multipart(head % (4, 5) + b"ab" + head % (0, 0) + b"c" + b"\\r\\n--x--\\r\\n", b"x")
    ([ByteRange(start=0, stop=1), ByteRange(start=4, stop=6)], [b'c', b'ab'], 9)
    """
    delimiter = b"--" + boundary
    parts: list[tuple[int, int, bytes]] = []
    sizes: set[int] = set()
    position = body.find(delimiter)
    while position >= 0 and body.startswith(delimiter, position):
        stop = body.find(b"\r\n\r\n", position)
        match = _PART_RANGE.search(body, position, stop) if stop >= 0 else None
        if match is None:
            break
        first, last, size = map(int, match.groups())
        data = body[stop + 4 : stop + 5 + last - first]
        if last < first or len(data) != last - first + 1:
            break
        parts.append((first, last + 1, data))
        sizes.add(size)
        position = stop + 4 + len(data) + 2
    parts.sort(key=lambda part: part[:2])
    spans = [ByteRange(start, stop) for start, stop, _ in parts]
    return spans, [data for _, _, data in parts], sizes.pop() if len(sizes) == 1 else None


def _read_span(client: Client, url: str, span: ByteRange) -> _Fetched:
    with ObjectStream(client, url, span) as stream:
        body = stream.readall()
        return _Fetched(stream.stat, [span], [body])


def _read_singly(client: Client, url: str, spans: Sequence[ByteRange]) -> list[_Fetched]:
    """Read one span at a time, or all of them from one answer where the server sends whole objects only."""
    with ObjectStream(client, url, spans[0]) as stream:
        if stream.ranged:
            body = stream.readall()
            first = _Fetched(stream.stat, spans[:1], [body])
            return [first, *client.map(lambda span: _read_span(client, url, span), spans[1:])]
    with ObjectStream(client, url) as stream:
        bodies = []
        position = 0
        for span in spans:
            stream.skip(span.start - position)
            body = stream.read_up_to(span.stop - span.start)
            if len(body) < span.stop - span.start:
                raise past_end(span, stream.stat.size, url)
            bodies.append(body)
            position = span.stop
        return [_Fetched(stream.stat, spans, bodies)]
