"""Where the index files of shards lie: sidecars, manifest, table and file of keys.

They lie beside the shards, or, of shards that one cannot write beside, in a place of their own: at the URL that the
options of the storage name as ``index``, else in a folder of this machine. A place has a folder for each folder of
shards, so that shards of the same name do not meet:

    http://host/data/train-0.tgz, in the place s3://mine/index -> s3://mine/index/http/host/data/train-0.tgz.index.npz

The *home* of a URL is where its index files are named after: the URL itself, or such a one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from shardtools.errors import AccessError, PlaceRefusedError, RefusedError
from shardtools.storage import current_options
from shardtools.urls import absolute, at_home, is_local, name_of, scheme_of, server_of, split_path

_KEPT = "!$&'()*+,;=:~"


def homes_of(url: str) -> tuple[str, ...]:
    """Return the homes in which to look for the index files of a shard or spec, the first one first.

    Where the options name a place, that is the first, and beside the shards the second. Otherwise it is the other way
    round, with the folder of this machine.
    """
    if url == "-":
        return (url,)
    place = current_options().index
    if place is not None:
        return home_in(place, url), url
    there = home_in(local_place(), url)
    return (url, there) if os.path.isdir(os.path.dirname(there)) else (url,)


def home_of(url: str) -> str:
    """Return the home in which the index files of a shard or spec are written."""
    return homes_of(url)[0]


@contextmanager
def writing_index(prefix: str = "") -> Iterator[None]:
    """A context that writes index files, whose names begin with ``prefix``.

    Raises:
        PlaceRefusedError: they may not be written beside their shards, and no other place is named.
    """
    try:
        yield
    except (AccessError, RefusedError) as error:
        if current_options().index is not None or not name_of(error.url or "").startswith(prefix):
            raise
        fix = "give the index files another place: --index URL"
        raise PlaceRefusedError(error.what, url=error.url, fix=fix) from error


def index_place(given: str | None) -> str | None:
    """Return the place of index files that a user has given, in a form that is the same in other working folders."""
    return None if given is None else absolute(at_home(given))


def local_place() -> str:
    """Return the folder of this machine for index files that cannot be written beside their shards."""
    return os.path.join(caches_folder(), "index")


def caches_folder() -> str:
    """Return the folder of this user for what can be made again."""
    caches = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(caches if os.path.isabs(caches) else os.path.expanduser("~/.cache"), "shardtools")


def home_in(place: str, url: str) -> str:
    """Return the home of ``url`` in a place. Users, passwords and queries of URLs are no part of it.

    >>> home_in("/index", "https://me:pw@Host:443/a/../b@2/train-@8.tgz?token=1")
    '/index/https/host/a/%2E%2E/b%402/train-@8.tgz'
    >>> home_in("http://host/index/?token=1", "s3://bucket/train-0.tgz")
    'http://host/index/s3/bucket/train-0.tgz?token=1'
    """
    scheme = scheme_of(url)
    if is_local(url):
        head, path = ["file"], absolute(url)
    else:
        where = server_of(url) if scheme in ("http", "https") else split_path(url)[0]
        head, path = [scheme, where.partition("://")[2]], split_path(url)[1]
    folders = path.rpartition("/")[0].split("/")[1:]
    is_quoted = scheme in ("http", "https")
    parts = [_component(part, is_quoted=is_quoted) for part in (*head, *folders)]
    name = name_of(url) if is_quoted or is_local(place) else quote(name_of(url), safe=_KEPT + "@{}[]?")
    before, root, after = split_path(place)
    return before + "/".join([root.rstrip("/"), *parts, name]) + after


def _component(text: str, *, is_quoted: bool) -> str:
    """Return the name of a folder that stands for ``text``, and leads nowhere else."""
    if text.strip(".") == "":
        return "%2E" * len(text) or "%"
    return text.replace("@", "%40") if is_quoted else quote(text, safe=_KEPT)
