"""What storage knows about many objects at once: by a listing of their folder where it tells, else one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from os.path import commonprefix
from urllib.parse import unquote

from shardtools.errors import AccessError, LimitError, RefusedError
from shardtools.processors import processors
from shardtools.storage import Stat, get_storage
from shardtools.storage.together import REQUESTS, each
from shardtools.urls import folder_of, identity, is_local

LISTED = 64
"""The fewest objects of a folder for which it is listed."""

_TIMES, _OTHERS = 4, 1000
"""A listing ends after so many times as much as was asked for, and so many more; each shard has a sidecar there."""


def stat_all(urls: Sequence[str]) -> list[Stat]:
    """Return what `Storage.stat` says of each object.

    Raises:
        NotFoundError: one is not there.
        RefusedError: a URL names a folder.
    """
    stat = stat_by_listing(urls)
    return list(each(stat, urls, threads_for(urls)))


def stat_by_listing(urls: Sequence[str]) -> Callable[[str], Stat]:
    """Return a function that does what `Storage.stat` does, for ``urls`` whose folders are listed if they have many."""
    known = _listed(urls)
    return lambda url: known.get(_key(url)) or get_storage(url).stat(url)


def threads_for(urls: Sequence[str], most: int = REQUESTS) -> int:
    """Return how many threads are to ask for objects: on a disk, more than processors would wait for each other."""
    return max(min(processors() if all(map(is_local, urls)) else most, len(urls)), 1)


def prefixes_of(urls: Sequence[str], fewest: int = 1) -> Iterator[str]:
    """Yield for each folder with ``fewest`` of the ``urls`` the text with which all of these begin."""
    for _, some in groupby(sorted(urls, key=folder_of), key=folder_of):
        if len(together := list(some)) >= fewest:
            yield commonprefix(together)  # noqa: RUF071 - of texts is what is meant


def _listed(urls: Sequence[str]) -> Mapping[str, Stat]:
    """Return what listings say of objects, by `_key`; the listing of a folder may leave some out."""
    found: dict[str, Stat] = {}
    for prefix in prefixes_of(urls, LISTED):
        try:
            stats = get_storage(prefix).stats(prefix, _TIMES * len(urls) + _OTHERS)
        except (RefusedError, AccessError, LimitError):
            continue
        found.update((_key(url), stat) for url, stat in stats.items())
    return found


def _key(url: str) -> str:
    """Return a text that is equal for URLs of the same object, however its name is escaped."""
    return unquote(identity(url))
