"""Listings of folders by servers: each name is checked, and their total size is limited."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from shardtools.errors import RefusedError
from shardtools.storage import Stat, current_options

_PAGE = 1 << 16  # bytes that a page is taken to have at least, so that even empty ones come to an end

_FIX = "see whether this is the right server"


def check_name(name: object, url: str) -> str:
    """Return a name in the listing of ``url``, after checking that it is one of an object in this folder.

    Raises:
        RefusedError: it is not.
    """
    if not isinstance(name, str) or not name or "/" in name or "\0" in name:
        raise RefusedError("the server lists something that is not a file name", url=url, fix=_FIX)
    return name


class Pages:
    """The objects of a bucket whose names begin with ``start`` and have no further slash, from the pages of a listing.

    ``url`` is what is listed. With "/" as ``end`` it is the folders instead, whose names end with a slash. ``most`` is
    how many names there may be.
    """

    def __init__(self, url: str, start: str, end: str = "", most: int | None = None):
        self._url = url
        self._most = most
        self._stats: dict[str, Stat] = {}
        self._end = end
        self._start = start
        self._skip = start.rfind("/") + 1
        self._names: list[str] = []
        self._size = 0
        self._tokens: set[str] = set()

    def add(self, names: Iterable[str], token: str | None, stats: Iterable[Stat] | None = None) -> str | None:
        """Take the names of a page, with what it says of each, and the token of the next one; return the token.

        Raises:
            RefusedError: a name does not begin with ``start``, a page comes twice, or there are more than ``most``.
            LimitError: there are too many.
        """
        size = 0
        for name, stat in zip(names, repeat(None) if stats is None else stats, strict=False):
            if not isinstance(name, str) or not name.startswith(self._start) or not name.endswith(self._end):
                raise RefusedError("the server lists names that were not asked for", url=self._url, fix=_FIX)
            size += len(name)
            rest = name[self._skip :]
            if rest and not check_name(rest.removesuffix(self._end), self._url).startswith("."):
                self._names.append(name)
                if stat is not None:
                    self._stats[name] = stat
        self._size += max(size, _PAGE)
        current_options().limits.check("listing", self._size, url=self._url)
        if self._most is not None and len(self._names) > self._most:
            raise RefusedError("the folder has too many others to be listed for these", url=self._url)
        if token is not None:
            if token in self._tokens:
                raise RefusedError("the server lists the same page again", url=self._url, fix=_FIX)
            self._tokens.add(token)
        return token

    def urls(self) -> list[str]:
        """Return the URLs of the objects, sorted; hidden ones are left out."""
        bucket = self._url[: len(self._url) - len(self._start)]
        return sorted(bucket + name for name in self._names)

    def stats(self) -> dict[str, Stat]:
        """Return what the pages say of the objects, by their URLs."""
        bucket = self._url[: len(self._url) - len(self._start)]
        return {bucket + name: stat for name, stat in self._stats.items()}
