"""The parts of a URL, and when two URLs mean the same object. Pure text, no I/O.

A URL here names a shard or a file beside it: a local path, perhaps with ``file://`` before it, or an ``http://``,
``https://``, ``s3://`` or ``gs://`` URL. ``-`` is standard input or output.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from shardtools.errors import RefusedError, SpecError
from shardtools.schemes import SERVERS

_FILE = "file://"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_INCOMPLETE = re.compile(f"(?:{'|'.join((*SERVERS, 'file'))}):", re.IGNORECASE)
_PAGE_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}


def scheme_of(url: str) -> str:
    """Return the scheme in lower case, ``""`` for a path, ``"-"`` for standard input or output.

    Raises:
        SpecError: the slashes after the scheme are missing, so that it would be read as the name of a file.

    >>> scheme_of("HTTP://host/a"), scheme_of("a/b.tar"), scheme_of("-")
    ('http', '', '-')
    >>> scheme_of("gs:bucket/a.tar")
    Traceback (most recent call last):
    shardtools.errors.SpecError: gs:bucket/a.tar: // is missing after gs:; write gs://… , or ./gs:… for a path
    """
    if url == "-":
        return "-"
    if match := _SCHEME.match(url):
        return match[1].lower()
    if match := _INCOMPLETE.match(url):
        fix = f"write {match[0]}//… , or ./{match[0]}… for a path"
        raise SpecError(f"// is missing after {match[0]}", url=url, fix=fix)
    return ""


def is_local(url: str) -> bool:
    """Return whether ``url`` is a local path, perhaps as a file: URL.

    >>> is_local("a.tar"), is_local("file:///a.tar"), is_local("s3://b/a.tar")
    (True, True, False)
    """
    return scheme_of(url) in ("", "file")


def path_of(url: str) -> str:
    """Return the path of a local file: ``url`` itself, or what follows ``file://`` in it.

    Raises:
        RefusedError: no file can have such a name.

    >>> path_of("a.tar"), path_of("file:///a.tar")
    ('a.tar', '/a.tar')
    """
    path = url[len(_FILE) :] if url[: len(_FILE)].lower() == _FILE else url
    if not path or "\0" in path:
        raise RefusedError("this is not the name of a file", url=url, fix="check the path")
    return path


def split_path(url: str) -> tuple[str, str, str]:
    """Return the text before the path, the path, and the text after it (the query of an http URL).

    >>> split_path("http://me@host:80/d/a@3.tar?v=@9")
    ('http://me@host:80', '/d/a@3.tar', '?v=@9')
    >>> split_path("s3://bucket/a?b.tar")
    ('s3://bucket', '/a?b.tar', '')
    """
    scheme = _SCHEME.match(url)
    if not scheme:
        return "", url, ""
    slash = url.find("/", scheme.end())
    if slash < 0:
        slash = len(url)
    stop = len(url)
    if scheme[1].lower() in ("http", "https"):
        query = re.search(r"[?#]", url[slash:])
        if query:
            stop = slash + query.start()
    return url[:slash], url[slash:stop], url[stop:]


def beside(url: str, suffix: str) -> str:
    """Return the URL of a companion file: ``suffix`` added to the path, before any query.

    >>> beside("http://host/a.tgz?token=1", ".index.npz")
    'http://host/a.tgz.index.npz?token=1'
    """
    head, path, tail = split_path(url)
    return head + path + suffix + tail


def name_of(url: str) -> str:
    """Return the last component of the path.

    >>> name_of("http://host/d/a.tgz?token=1")
    'a.tgz'
    """
    return split_path(url)[1].rpartition("/")[2]


def media_type(url: str) -> str | None:
    """Return the media type that a browser needs to be told of an object of a page; None for all others.

    >>> media_type("s3://b/index.html"), media_type("http://host/main.js?v=1"), media_type("a.tar")
    ('text/html; charset=utf-8', 'text/javascript; charset=utf-8', None)
    """
    return _PAGE_TYPES.get(name_of(url).rpartition(".")[2].lower())


def folder_of(url: str) -> str:
    """Return the URL of the folder that holds the object, with its last slash, without a query.

    >>> folder_of("http://host/d/a.tgz?token=1"), folder_of("a.tgz")
    ('http://host/d/', './')
    """
    head, path, _ = split_path(url)
    folder = path.rpartition("/")[0]
    return f"{head}{folder}/" if head or "/" in path else "./"


def absolute(url: str) -> str:
    """Return ``url`` in a form that does not depend on the working folder: paths become absolute, ``file:`` URLs paths.

    >>> absolute("file:///data/../a.tar"), absolute("http://host/a.tar")
    ('/a.tar', 'http://host/a.tar')
    """
    scheme = scheme_of(url)
    if scheme == "file":
        url = split_path(url)[1]
    elif scheme:
        return url
    path = os.path.abspath(url)
    return path + "/" if url.endswith("/") and path != "/" else path


def identity(url: str) -> str:
    """Return a text that is equal for URLs of the same object: case of the host, default port and user do not matter.

    Raises:
        SpecError: the URL is not valid.

    >>> identity("HTTP://me:pw@Host:80/a.tar") == identity("http://host/a.tar")
    True
    """
    scheme = scheme_of(url)
    if scheme not in ("http", "https"):
        text = absolute(url)
        return scheme + text[len(scheme) :] if scheme_of(text) else text
    try:
        parts = urlsplit(url)
        port = parts.port if parts.port not in (None, {"http": 80, "https": 443}[scheme]) else ""
    except ValueError as error:
        raise SpecError("this is not a valid URL", url=url, fix="check the host and the port") from error
    return f"{scheme}://{parts.hostname}:{port}{parts.path}?{parts.query}"


_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def server_of(url: str) -> str:
    """Return scheme, host and port of a URL, without a user, in one form for each server.

    >>> server_of("HTTPS://me:pw@Host:443/a"), server_of("http://host:81/a")
    ('https://host', 'http://host:81')
    """
    scheme, _, place = split_path(url)[0].lower().partition("://")
    host = place.rpartition("@")[2].removesuffix(_DEFAULT_PORTS.get(scheme, "")).removesuffix(":")
    return f"{scheme}://{host}"


def at_home(text: str) -> str:
    """Return a path that a user has typed, with a leading ``~`` replaced by the home folder.

    A shell does that only for a bare argument: not in quotes, and not after ``=`` or ``::``. Do not use it for paths
    from files.

    >>> at_home("~/a.tar") == os.path.join(os.path.expanduser("~"), "a.tar"), at_home("./~/a.tar")
    (True, './~/a.tar')
    """
    return os.path.expanduser(text) if text.startswith("~") else text
