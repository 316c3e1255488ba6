"""Check the URLs in an index of shards: only those in the index's own place, unless the user trusts the index.

An index is a list of URLs from outside. A user who opens it has agreed to read from that place, but not from local
files, or from other servers with the user's credentials.
"""

from __future__ import annotations

import re

from shardtools.errors import SpecError, redact
from shardtools.urls import absolute, folder_of, is_local, scheme_of, split_path

_HTTP = ("http", "https")
_PORTS = {"http": "80", "https": "443"}
_AUTHORITY = re.compile(r"(?:[^\s\\/?#@\[\]]*@)?([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]*))?")
"""User (ignored), host and port. Programs disagree on how to read any other form."""


def check_place(place: str, index: str, opened: str, *, trusted: bool) -> None:
    """Raise if the index at the URL ``index`` may not name the URL ``place``.

    Allowed are places in or below the folder, on the server or in the bucket of the index that the user has ``opened``
    (this one, or one that refers to it). A ``trusted`` index may name other places as well, but an index on a server
    never names local files.

    Raises:
        SpecError: the place is not allowed.
    """
    if not is_local(index) and scheme_of(place) in ("", "file", "-"):
        what, fix = "the index names a file of this machine", "download the index, and open the copy if you trust it"
    elif trusted or _is_own(place, opened):
        return
    else:
        own = "server" if scheme_of(opened) in _HTTP else "folder" if is_local(opened) else "bucket"
        what = f"the index names a place outside of its {own}"
        fix = "if you trust the index, allow that with --trust-index, or trust_index=True in Python"
    raise SpecError(f"{what}: {redact(place)}", url=index, fix=fix)


def _is_own(place: str, index: str) -> bool:
    """Return whether a place is under the index's own place."""
    scheme = scheme_of(index)
    if scheme_of(place) == "-":
        return False
    if is_local(index):
        return is_local(place) and absolute(place).startswith(folder_of(absolute(index)))
    if scheme_of(place) != scheme:
        return False
    if scheme in _HTTP:
        return (server := _server(place, scheme)) is not None and server == _server(index, scheme)
    return split_path(place)[0].partition("://")[2] == split_path(index)[0].partition("://")[2]


def _server(url: str, scheme: str) -> tuple[str, str] | None:
    """Return host and port of an http URL; None if they are ambiguous."""
    found = _AUTHORITY.fullmatch(split_path(url)[0].partition("://")[2])
    return None if found is None else (found[1].lower(), found[2] or _PORTS[scheme])
