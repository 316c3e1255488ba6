"""What a copy takes of what is published beside a dataset: the summary and the page, with the names of the copy.

summary: fits the manifest? -> name, spec and digest of the copy
page:    as it is; index.html leads to the copy beside it, also if it was published elsewhere before
"""

from __future__ import annotations

from collections.abc import Sequence

from shardtools.errors import CorruptError, redact
from shardtools.jobs.copy_file import FileTask
from shardtools.query.published import (
    INDEX,
    find_page,
    page_folder,
    relative_source,
    rename_page,
    rename_summary,
    summary_url,
)
from shardtools.query.renamed import UNCHANGED, Splice
from shardtools.shards.manifest import Manifest
from shardtools.spec import Destination
from shardtools.storage.limited import read_limited, read_optional
from shardtools.urls import name_of


def published_files(spec: str, target: Destination, manifest: Manifest | None) -> tuple[list[FileTask], list[str]]:
    """Return the copies of the summary and the page of the dataset ``spec``, and notes about what does not fit.

    Raises:
        StorageError: they cannot be read.
    """
    summary, notes = _summary(spec, target, manifest)
    return [*summary, *_page(spec, target)], notes


def _summary(spec: str, target: Destination, manifest: Manifest | None) -> tuple[list[FileTask], list[str]]:
    url = summary_url(spec)
    data = read_optional(url, "manifest")
    if data is None:
        return [], []
    names = tuple(map(name_of, target.urls()))
    try:
        new = None if manifest is None else rename_summary(data, url, manifest, names, name_of(target.spec))
    except CorruptError as error:
        return [], [f"not copied: {error}"]
    if manifest is None or new is None:
        return [], [f"not copied: {redact(url)}: the shards have changed; htview --publish makes it"]
    is_same = (manifest.names, name_of(spec)) == (names, name_of(target.spec))
    return [FileTask(url, summary_url(target.spec), UNCHANGED if is_same else Splice(new, stop=0))], []


def _page(spec: str, target: Destination) -> Sequence[FileTask]:
    page = find_page(page_folder(spec), spec)
    if not page.files or name_of(page.files[-1]) != INDEX:  # there is none, or it was not wholly written
        return []
    folder = page_folder(target.spec)
    data = read_limited(page.files[-1], "manifest")
    index = FileTask(page.files[-1], folder + INDEX, Splice(rename_page(data, relative_source(target.spec)), stop=0))
    return [*(FileTask(url, folder + name_of(url)) for url in page.files[:-1]), index]
