"""What storage knows about many objects at once: by a listing of their folder where it tells, else one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from os.path import commonprefix
from urllib.parse import unquote

from shardtools.errors import LimitError, NotFoundError, StorageError
from shardtools.processors import processors
from shardtools.storage import Stat, get_storage
from shardtools.storage.together import REQUESTS, each
from shardtools.urls import folder_of, identity, is_local

LISTED = 64
"""The fewest objects of a folder for which it is listed."""

_TIMES, _OTHERS = 4, 1000
"""A listing ends after so many times as much as was asked for, and so many more; each shard has a sidecar there."""


def stat_all(urls: Sequence[str]) -> list[Stat]:
    """Return what `Storage.stat` says of each object, as far as possible by listings.

    Raises:
        NotFoundError: one is not there.
        RefusedError: a URL names a folder.
    """
    listed = listed_stats(urls)
    asked = iter(stat_each([url for url, stat in zip(urls, listed, strict=True) if stat is None]))
    return [next(asked) if stat is None else stat for stat in listed]


def known_stats(urls: Sequence[str]) -> list[Stat | None]:
    """Return what `Storage.stat` says of each object, as far as possible by listings; None for one that is not there.

    Raises:
        StorageError: the storage cannot be reached.
    """

    def ask(url: str) -> Stat | None:
        try:
            return get_storage(url).stat(url)
        except NotFoundError:
            return None

    listed = listed_stats(urls)
    unknown = [url for url, stat in zip(urls, listed, strict=True) if stat is None]
    asked = iter(list(each(ask, unknown, threads_for(unknown))))
    return [next(asked) if stat is None else stat for stat in listed]


def stat_each(urls: Sequence[str]) -> list[Stat]:
    """Return what `Storage.stat` says of each object, by a request for each.

    Raises:
        NotFoundError: one is not there.
        RefusedError: a URL names a folder.
    """
    return list(each(lambda url: get_storage(url).stat(url), urls, threads_for(urls)))


def listed_stats(urls: Sequence[str]) -> list[Stat | None]:
    """Return what listings say of each object, None where they do not: of folders with a few, none are made."""
    known = _listed(urls)
    return [known.get(_key(url)) for url in urls] if known else [None] * len(urls)


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
        except (StorageError, LimitError):  # each will be asked, and says what is wrong
            continue
        found.update((_key(url), stat) for url, stat in stats.items())
    return found


def _key(url: str) -> str:
    """Return a text that is equal for URLs of the same object, however its name is escaped."""
    return unquote(identity(url))
