"""Where a hub has no arrays yet: a place that holds nothing else."""

from __future__ import annotations

from shardtools.errors import ExistsError, RefusedError
from shardtools.log.place import MARK, Place
from shardtools.storage import StorageOptions, get_storage
from shardtools.urls import is_local, name_of, scheme_of


def new_place(url: str, options: StorageOptions, *, single_writer: bool) -> Place:
    """Return the place at a URL that ends with a slash, where there is no log. Nothing is made.

    Raises:
        ExistsError: it holds something else, or is a file.
    """
    place = Place(url, options, single_writer)
    with place.using():
        try:
            there = [name_of(found) for found in get_storage(url).list(url)]
            is_file = not there and _is_file(url[:-1])
        except RefusedError:
            return place
    if is_file:
        raise ExistsError("this is a file, not a place for arrays", url=url[:-1], fix="name an empty or new folder")
    if others := [name for name in there if name != MARK]:
        what = f"this place holds other files, such as {others[0]}"
        raise ExistsError(what, url=url, fix="name an empty or new folder")
    return place


def _is_file(url: str) -> bool:
    """Return whether there is a file of the name of a folder. S3 and Google Cloud Storage may have both.

    Raises:
        RefusedError: it is a folder.
    """
    return (is_local(url) or scheme_of(url) in ("http", "https")) and get_storage(url).exists(url)
