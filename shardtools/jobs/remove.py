"""htrm as a function: remove a dataset, with all files that lie beside its shards.

    spec -> what there is of it, by listings -> is any of it of another dataset? -> Removal
    lock -> manifest -> table, keys -> summary, page -> each sidecar, then its shard -> what jobs have left -> lock

The manifest goes first: from then on nobody takes what is left for a whole dataset. A removal that was stopped is
completed by the next one, since the spec alone says which files belong to the dataset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from shardtools.errors import (
    CorruptError,
    JobError,
    LimitError,
    NotFoundError,
    OutputBusyError,
    RefusedError,
    SpecError,
    redact,
)
from shardtools.jobs.beside import delete_all, delete_published, find_beside
from shardtools.jobs.exchange.spill import remove_spill, spill_of
from shardtools.jobs.lock import locked, read_holder
from shardtools.jobs.options import RunOptions
from shardtools.query.published import page_folder, page_names, summary_url
from shardtools.shards.manifest import read_manifest
from shardtools.shards.sidecar import sidecar_url
from shardtools.spec import Destination
from shardtools.storage import get_storage
from shardtools.storage.local import find_drafts
from shardtools.storage.stats import known_stats
from shardtools.storage.together import each
from shardtools.urls import beside, folder_of, is_local, name_of, path_of, split_path

_FIX = "give one spec, such as train-@1000.tgz"
_NUMBERED = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)


@dataclass(frozen=True)
class Removal:
    """The files of the dataset ``spec`` that there are; ``size`` is the bytes of its shards, None if unknown.

    ``index`` has manifest, table and file of keys, ``published`` the summary and the page. ``left`` is what jobs have
    left that did not end, and ``spill`` the folder with the data of such a shuffle or sort, None if there is none.
    ``kept`` are files in the folder of the page that htview has not written; they stay.
    """

    spec: str
    shards: tuple[str, ...]
    sidecars: tuple[str, ...]
    index: tuple[str, ...]
    published: tuple[str, ...]
    left: tuple[str, ...]
    kept: tuple[str, ...]
    spill: str | None
    size: int | None

    @property
    def files(self) -> tuple[str, ...]:
        """The URLs of all files that go."""
        return (*self.index, *self.published, *self.shards, *self.sidecars, *self.left)


def plan_removal(spec: str) -> Removal:
    """Return what there is of the dataset ``spec``.

    Raises:
        SpecError: it does not name one dataset.
        NotFoundError: there is nothing of it.
        JobError: some of its shards belong to another dataset, too.
        StorageError: the storage cannot be reached.
    """
    destination = _check_spec(spec)
    urls = destination.urls()
    beside_them = list(map(sidecar_url, urls))
    stats = known_stats([*urls, *beside_them])
    shards = [url for url, stat in zip(urls, stats, strict=False) if stat is not None]
    sidecars = [url for url, stat in zip(beside_them, stats[len(urls) :], strict=True) if stat is not None]
    files = find_beside(destination)
    index = [*([files.manifest] if files.manifest else []), *files.index]
    left = [*files.parts, *([files.lock] if files.lock else [])]
    left += _drafts([*urls, *beside_them, *files.index, destination.manifest, summary_url(destination.spec)])
    folder = page_folder(destination.spec)
    published = (*_drafts([folder + name for name in page_names()]), *files.published)
    spill = _spill(destination)
    if not (shards or sidecars or index or published or left or spill):
        raise NotFoundError("there is no such dataset", url=destination.spec, fix="check the name")
    _refuse_shared(destination, shards)
    sizes = [stat.size for stat in stats[: len(urls)] if stat is not None]
    known = [size for size in sizes if size is not None]
    size = sum(known) if len(known) == len(sizes) else None
    return Removal(
        destination.spec,
        tuple(shards),
        tuple(sidecars),
        tuple(index),
        published,
        tuple(left),
        files.others,
        spill,
        size,
    )


def _check_spec(spec: str) -> Destination:
    if "*" in spec or "{" in spec or "::" in spec or spec == "-":
        raise SpecError("this is not one dataset", url=spec, fix=_FIX)
    destination = Destination(spec)
    if destination.is_auto:
        raise SpecError("@auto is for outputs only", url=spec, fix="give the number of shards, as in @1000")
    return destination


def _drafts(urls: Sequence[str]) -> list[str]:
    """Return local files that were being written when a job was killed."""
    if not all(map(is_local, urls)):
        return []
    return find_drafts(folder_of(urls[0]), [name_of(url) for url in urls])


def _spill(destination: Destination) -> str | None:
    """Return the local folder in which a shuffle or sort to this destination has left its data, if there is one."""
    place = spill_of(destination.spec, None, RunOptions())
    return place if os.path.isdir(path_of(place)) else None


# --- other datasets


def _refuse_shared(destination: Destination, shards: Sequence[str]) -> None:
    """Raise if a shard is also one of another dataset, as the manifest of that says.

    Raises:
        JobError: one is.
    """
    names = {unquote(name_of(url)) for url in shards}
    for url in _other_manifests(destination):
        try:
            others = {unquote(name) for name in read_manifest(url).names}
        except (NotFoundError, CorruptError, LimitError):  # it is no manifest, or that of a dataset that was replaced
            continue
        if shared := sorted(names & others):
            more = f" (and {len(shared) - 1:,} more)" if len(shared) > 1 else ""
            raise JobError(
                f"{shared[0]}{more} also belongs to the dataset of this manifest",
                url=url,
                fix="remove that dataset, or delete its manifest if there is no such dataset any more",
            )


def _other_manifests(destination: Destination) -> Iterator[str]:
    """Yield the manifests of datasets whose shards may have the same names: another number of as many digits."""
    start, width, end = _pattern(destination)
    if not width:
        return
    head, path, tail = split_path(destination.spec)
    folder = f"{head}{path.rpartition('/')[0]}/"
    try:
        listed = get_storage(destination.spec).list(f"{folder}{start}@{tail}")
    except RefusedError:  # the server does not list
        return
    name = re.compile(rf"{re.escape(unquote(start))}@[0-9]{{{width}}}{re.escape(unquote(end))}\.json")
    own = unquote(name_of(destination.manifest))
    for url in listed:
        if name.fullmatch(unquote(name_of(url))) and unquote(name_of(url)) != own:
            yield url


def _pattern(destination: Destination) -> tuple[str, int, str]:
    """Return a shard's name before its number, the digits of that, and the name after it; 0 digits if it has none."""
    match = _NUMBERED.fullmatch(name_of(destination.url(0)))
    if pattern := destination.pattern():
        before, width, after = pattern
        return before.rpartition("/")[2], width, after.removesuffix(split_path(destination.spec)[2])
    return (match[1], len(match[2]), match[3]) if match else ("", 0, "")


# --- removing


def remove_dataset(removal: Removal) -> None:
    """Remove the files of a dataset.

    Raises:
        OutputBusyError: a job is writing the dataset.
        StorageError: a file cannot be removed.
    """
    lock = beside(removal.spec, ".lock")
    with locked(lock, take_over=True):
        delete_all(removal.index[:1])  # the manifest, if there is one
        delete_all(removal.index[1:])
        delete_published(removal.spec, removal.published)
        described = {sidecar_url(url) for url in removal.shards}.intersection(removal.sidecars)
        _delete_shards(removal.shards, described)
        delete_all(url for url in removal.sidecars if url not in described)
        delete_all(url for url in removal.left if url != lock)
        if removal.spill is not None:
            remove_spill(removal.spill, ())


def _delete_shards(urls: Iterable[str], sidecars: Collection[str]) -> None:
    """Delete shards, many at a time, each after its sidecar, if that is one of ``sidecars``."""

    def delete(url: str) -> None:
        if (sidecar := sidecar_url(url)) in sidecars:
            get_storage(sidecar).delete(sidecar)
        get_storage(url).delete(url)

    for _ in each(delete, urls):
        pass


def check_unlocked(spec: str) -> None:
    """Raise if a job that is known to be alive, or not known to be dead, has the lock of a dataset.

    Raises:
        OutputBusyError: it has.
    """
    lock = beside(spec, ".lock")
    holder = read_holder(lock)
    if holder is not None and not holder.is_gone():
        what = f"process {holder.pid} on {holder.host} is writing this dataset, since {holder.since}"
        raise OutputBusyError(what, url=redact(lock), fix="wait for it, or end it first")
