"""The headers of ``SHARDTOOLS_HTTP_HEADERS``, and with which requests they are sent.

Each line is ``Name: value``. With a URL before it, the header is sent only to URLs below that one:

    https://host/data/ Authorization: Bearer …

Without a URL it is sent to the servers that the user has named in a spec or an option, never to a server that only an
index or a redirect names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from shardtools.errors import RefusedError
from shardtools.urls import server_of, split_path

HEADERS_VARIABLE = "SHARDTOOLS_HTTP_HEADERS"

_PLACED = re.compile(r"(https?://\S*)(.*)", re.IGNORECASE)
_FIX = 'write one "Name: value" or "https://host/ Name: value" a line'


@dataclass(frozen=True)
class _Line:
    """A header, and the server and the folder that it is for; None for the servers that the user has named."""

    name: str
    value: str
    server: str | None
    folder: str


class PlacedHeaders:
    """Headers and the places that they belong to."""

    def __init__(self, lines: tuple[_Line, ...], named: frozenset[str]):
        self._lines = lines
        self._named = named

    def of(self, url: str) -> dict[str, str]:
        """Return the headers that belong to the object at ``url``, which is as it is sent; later lines win."""
        if not self._lines:
            return {}
        server, path = server_of(url), split_path(url)[1]
        return {
            line.name: line.value
            for line in self._lines
            if (server in self._named if line.server is None else server == line.server and _lies_in(path, line.folder))
        }


def _lies_in(path: str, folder: str) -> bool:
    """Return whether a path lies in a folder, or is it.

    >>> _lies_in("/data/x.tar", "/data"), _lies_in("/database/x.tar", "/data"), _lies_in("/data/%2e%2e/x", "/data/")
    (True, False, False)
    """
    inside = path == folder or path.startswith(folder if folder.endswith("/") else f"{folder}/")
    return inside and ".." not in unquote(path).replace("\\", "/").split("/")


def parse_headers(text: str, named: frozenset[str]) -> PlacedHeaders:
    """Return the headers in ``text``; ``named`` are the servers that the user has named.

    Raises:
        RefusedError: a line is no header.
    """
    return PlacedHeaders(tuple(_parse_line(line.strip()) for line in text.splitlines() if line.strip()), named)


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_PLACE_WITHOUT_SCHEME = re.compile(r"\d+(?:/\S*)?\s+[A-Za-z][A-Za-z0-9_-]*:")  # of host:port/path Name: value


def _parse_line(line: str) -> _Line:
    match = _PLACED.match(line)
    place, header = match.groups() if match else (None, line)
    name, colon, value = (part.strip() for part in header.partition(":"))
    if not colon or not _NAME.fullmatch(name) or _PLACE_WITHOUT_SCHEME.match(value):
        raise RefusedError(f"{HEADERS_VARIABLE} has a line that is not a header", fix=_FIX)
    if place is None:
        return _Line(name, value, None, "")
    return _Line(name, value, server_of(place), split_path(place)[1] or "/")
