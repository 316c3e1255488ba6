"""The shards that a job reads, looked at before any of its tasks: how large they are, and what they have.

    Sources -> sizes and validators: one listing of each folder where it says them, else a request for each shard
            -> samples and fields: the manifest, if the sizes in it are these; else the sidecar of each shard
            -> Input

Requests for each shard go out many at a time: from this process, or on a cluster from tasks, if there are many.

A manifest is from outside, and may be of other shards than those that are there now. Its counts are used only if it
lists these very names, and each with the size that the storage itself says. No count decides what a task reads: it
reads its shards from start to end, and what was read is what the job counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from shardtools import engine
from shardtools.engine.ordered import run_each
from shardtools.errors import ShardtoolsError, redact
from shardtools.jobs.options import RunOptions
from shardtools.jobs.shared import shared
from shardtools.shards.manifest import Manifest
from shardtools.shards.sidecar import FoundSidecar, Sidecar, fetch_sidecar
from shardtools.storage import Stat, get_storage
from shardtools.storage.expansion import Sources
from shardtools.storage.stats import listed_stats, stat_each, threads_for
from shardtools.storage.together import each
from shardtools.urls import name_of

logger = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")

_SIDECARS = 64
"""Sidecars that are fetched at a time. Each may have some megabytes."""

BATCH = 512
"""Shards that one task of a cluster looks at."""

_PACKED = 4
"""A packed shard without a sidecar is assumed to unpack to this many times its size."""

_PROBES = 16
"""Shards whose sidecars say how much the packed shards of a manifest unpack to."""


_Seen = tuple["Input", Stat]
"""A shard, and what the storage says of it."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input shard: its URL, the index of its source, its size as stored, and as a tar file (about).

    ``samples`` and ``fields`` come from its sidecar, or ``fields`` of all shards from the manifest; None if it has
    neither.
    """

    url: str
    source: int
    size: int
    tar_size: int
    validator: str | None
    samples: int | None
    fields: tuple[str, ...] | None


def look_at(
    sources: Sources, manifests: Mapping[str, Manifest | None], options: RunOptions, *, exact: bool = False
) -> tuple[Input, ...]:
    """Return what is known of each shard. With ``exact``, sidecars are read even where there is a manifest.

    Only they say how many bytes a shard unpacks to; without them that is an estimate. ``manifests`` is what
    `find_manifests` returns.

    Raises:
        NotFoundError: a shard is not there.
        StorageError: a shard, or a sidecar, cannot be looked at.
        LimitError: a sidecar is larger than it may be.
    """
    stats = iter(_stat_all(sources.urls, options))
    inputs: list[Input] = []
    for part in sources.parts:
        some = [(_plain(url, part.source, stat), stat) for url, stat in zip(part.urls, stats, strict=False)]
        manifest = manifests.get(part.spec)
        if exact or manifest is None or not _fits(manifest, some):
            inputs += _spread(_with_sidecars, some, part.urls, options)
        else:
            inputs += _with_manifest(some, manifest)
    return tuple(inputs)


def _stat_all(urls: Sequence[str], options: RunOptions) -> list[Stat]:
    listed = listed_stats(urls)
    missing = [url for url, stat in zip(urls, listed, strict=True) if stat is None]
    asked = iter(_spread(stat_each, missing, missing, options))
    return [next(asked) if stat is None else stat for stat in listed]


def _spread(
    call: Callable[[Sequence[A]], list[R]], items: Sequence[A], urls: Sequence[str], options: RunOptions
) -> list[R]:
    """Return ``call(items)``, which asks for something at each of ``urls``; on a cluster by tasks if they are many."""
    if options.on_this_machine or len(items) < 2 * BATCH:
        return call(items)
    starts = range(0, len(items), BATCH)
    tasks = [engine.Task(call, (items[at : at + BATCH],), urls[at], options.storage) for at in starts]
    results: dict[int, list[R]] = {}
    with shared(urls, [], options) as needs:
        run_each(tasks, results.__setitem__, cluster=options.cluster, jobs=options.jobs, needs=needs, label="look")
    return [result for index in range(len(tasks)) for result in results[index]]


def _plain(url: str, source: int, stat: Stat) -> Input:
    """Return what is known of a shard without sidecar or manifest."""
    size = stat.size or 0
    return Input(url, source, size, size if _is_tar(url) else _PACKED * size, stat.validator, None, None)


def _is_tar(url: str) -> bool:
    return name_of(url).endswith(".tar")


def _fits(manifest: Manifest, some: Sequence[_Seen]) -> bool:
    """Return whether a manifest has the sizes of these shards."""
    if manifest.sizes is None:
        return False
    for (entry, stat), size in zip(some, manifest.sizes, strict=True):
        if stat.size != size:
            logger.warning(
                "%s: the manifest has another size of %s than it has now (it is not used); make it again with htindex",
                redact(manifest.url), name_of(entry.url),
            )  # fmt: skip
            return False
    return True


def _with_sidecars(some: Sequence[_Seen]) -> list[Input]:
    """Return the same shards with what their sidecars say."""
    found = _together([entry.url for entry, _ in some], fetch_sidecar)
    return [_with_sidecar(entry, stat, sidecar) for (entry, stat), sidecar in zip(some, found, strict=True)]


def _together(urls: Sequence[str], fetch: Callable[[str], R]) -> Iterator[R]:
    """Yield what ``fetch`` returns of the sidecar of each shard.

    They are parsed in one thread, by whoever takes them: those that wait for a server would also wait for each other.
    """
    return each(fetch, urls, threads_for(urls, _SIDECARS), ahead=2)


def _with_sidecar(entry: Input, stat: Stat, found: FoundSidecar) -> Input:
    sidecar = found.parse(entry.url, stat)
    if sidecar is None:
        return entry
    table = sidecar.table
    tar_size = int(table.stop[-1]) if len(table) else 0
    return replace(entry, tar_size=tar_size, samples=len(table), fields=table.fields)


def _with_manifest(some: Sequence[_Seen], manifest: Manifest) -> list[Input]:
    """Return the same shards with what the manifest says, and how much they unpack to by the sidecars of a few."""
    fields = None if manifest.fields is None else tuple(manifest.fields)
    entries = [
        replace(entry, samples=count, fields=fields) for (entry, _), count in zip(some, manifest.counts, strict=True)
    ]
    if _is_tar(entries[0].url):
        return entries
    known = [entry for entry in _with_sidecars(some[:: -(-len(some) // _PROBES)]) if entry.samples is not None]
    size = sum(entry.size for entry in known)
    if not size:
        return entries
    ratio = sum(entry.tar_size for entry in known) / size
    return [replace(entry, tar_size=int(ratio * entry.size)) for entry in entries]


def sidecars_there(urls: Sequence[str]) -> Iterator[Sidecar | None]:
    """Yield the sidecar of each shard, None if it has none that matches, or if that cannot be found out.

    Why it cannot, whoever then reads the shard will find out.
    """
    listed = dict(zip(urls, listed_stats(urls), strict=True))

    def fetch(url: str) -> tuple[Stat, FoundSidecar] | None:
        try:
            return listed[url] or get_storage(url).stat(url), fetch_sidecar(url)
        except ShardtoolsError:
            return None

    for url, seen in zip(urls, _together(urls, fetch), strict=True):
        try:
            yield None if seen is None else seen[1].parse(url, seen[0])
        except ShardtoolsError:
            yield None
