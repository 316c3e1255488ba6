"""What lies beside the shards of a dataset and is not a sidecar: found by its spec alone.

train-@1000.tgz.json                                     manifest
train-@1000.tgz.parquet, train-@1000.tgz.1.parquet, ...  table
train-@1000.tgz.keys                                     file of keys
train-@1000.tgz.view.json, train-@1000.tgz.view/         summary and page
train-@1000.tgz.part-000123.arrow, train-@1000.tgz.lock  what jobs leave that do not end
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

from shardtools.errors import RefusedError
from shardtools.query.key_file import keys_url
from shardtools.query.published import find_page, page_folder, summary_url
from shardtools.query.table_file import table_url
from shardtools.spec import Destination
from shardtools.storage import get_storage
from shardtools.storage.stats import known_stats
from shardtools.storage.together import each
from shardtools.urls import beside, is_local, name_of, path_of

_EXTRA = re.compile(r"\.(?:[0-9]+\.parquet|part-[0-9]{6,}\.(?:arrow|parquet))")

_TABLES = 20
"""So many files of a table are looked for where the server does not list."""


@dataclass(frozen=True)
class FilesBeside:
    """The files beside a dataset that there are.

    ``index`` has table and file of keys, ``published`` the summary and the files of the page, ``index.html`` last, and
    ``others`` what else is in the folder of the page. ``parts`` are those of a table, ``lock`` the lock of a job.
    """

    manifest: str | None
    index: tuple[str, ...]
    published: tuple[str, ...]
    others: tuple[str, ...]
    parts: tuple[str, ...]
    lock: str | None


def find_beside(destination: Destination) -> FilesBeside:
    """Return what lies beside the shards of a dataset.

    Raises:
        StorageError: the storage cannot be reached.
    """
    spec = destination.spec
    manifest, summary, lock = destination.manifest, summary_url(spec), beside(spec, ".lock")
    asked = [manifest, summary, lock, table_url(spec), keys_url(spec)]
    there = [url for url, stat in zip(asked, known_stats(asked), strict=True) if stat is not None]
    start = unquote(name_of(spec))
    extra = [url for url in _list(destination) if _EXTRA.fullmatch(unquote(name_of(url)).removeprefix(start))]
    parts = tuple(url for url in extra if ".part-" in unquote(name_of(url)).removeprefix(start))
    page = find_page(page_folder(spec), spec)
    return FilesBeside(
        manifest if manifest in there else None,
        (*(url for url in there if url in asked[3:]), *(url for url in extra if url not in parts)),
        (*(url for url in there if url == summary), *page.files),
        page.others,
        parts,
        lock if lock in there else None,
    )


def _list(destination: Destination) -> list[str]:
    """Return the URLs that begin like the spec; where the server does not list, those that may be files of a table."""
    spec = destination.spec
    try:
        return get_storage(spec).list(beside(spec, "."))
    except RefusedError:
        numbers = [table_url(spec, number) for number in range(1, _TABLES)]
        numbers += [beside(spec, f".part-{number:06d}.arrow") for number in range(destination.count or 0)]
        return [url for url, stat in zip(numbers, known_stats(numbers), strict=True) if stat is not None]


def delete_published(spec: str, published: Sequence[str]) -> None:
    """Delete the summary and the page of a dataset, ``index.html`` last, and the local folder if it is empty then.

    Raises:
        StorageError: a file cannot be deleted.
    """
    delete_all(published[:-1])
    delete_all(published[-1:])
    folder = page_folder(spec)
    if is_local(folder):
        with suppress(OSError):  # there is no such folder, or something else in it
            os.rmdir(path_of(folder))


def delete_all(urls: Iterable[str]) -> None:
    """Delete files, many at a time.

    Raises:
        StorageError: one cannot be deleted.
    """
    for _ in each(lambda url: get_storage(url).delete(url), urls):
        pass
