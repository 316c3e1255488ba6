"""The shards of a dataset as a listing shows them: names, samples, bytes, and whether they have sidecars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from shardtools.errors import redact
from shardtools.shards.manifest import find_manifest
from shardtools.shards.sidecar import find_sidecar, sidecar_url
from shardtools.storage import Stat
from shardtools.storage.expansion import expand_sources
from shardtools.storage.index_place import homes_of
from shardtools.storage.stats import known_stats, threads_for
from shardtools.storage.together import each


@dataclass(frozen=True)
class ListedShard:
    """A shard: its ``url`` without secrets, its samples, its bytes as stored, and whether there is a sidecar.

    ``samples`` is None if unknown, ``bytes`` None if there is no such shard. ``changed`` says that the shard does not
    have the size that the manifest has.
    """

    url: str
    samples: int | None
    bytes: int | None
    sidecar: bool
    changed: bool = False


def list_shards(spec: str) -> tuple[ListedShard, ...]:
    """Return the shards that a single ``spec`` names.

    Sizes are those of a listing of the folder, where that tells them, else each is asked for. Without a manifest the
    sidecars are read for the numbers of samples.

    Raises:
        SpecError: it names nothing.
        StorageError: the storage cannot be reached.
    """
    urls = expand_sources(spec)
    homes = [homes_of(url) for url in urls]
    stats = iter(known_stats([*urls, *(sidecar_url(home) for some in homes for home in some)]))
    sizes_known = [None if stat is None else stat.size for stat in islice(stats, len(urls))]
    there = [sum(next(stats) is not None for _ in some) > 0 for some in homes]
    shards = [
        ListedShard(redact(url), None, size, has_sidecar)
        for url, size, has_sidecar in zip(urls, sizes_known, there, strict=True)
    ]
    manifest = find_manifest(spec, urls)
    if manifest is None:
        return tuple(_counted(urls, shards))
    sizes = manifest.sizes or [shard.bytes for shard in shards]
    return tuple(
        replace(shard, samples=count, changed=shard.bytes not in (None, size))
        for shard, count, size in zip(shards, manifest.counts, sizes, strict=True)
    )


def _counted(urls: Sequence[str], shards: Sequence[ListedShard]) -> Iterator[ListedShard]:
    def count(number: int) -> int | None:
        shard = shards[number]
        if not shard.sidecar or shard.bytes is None:
            return None
        sidecar = find_sidecar(urls[number], Stat(shard.bytes, None))
        return None if sidecar is None else len(sidecar)

    for shard, samples in zip(shards, each(count, range(len(urls)), threads_for(urls)), strict=True):
        yield replace(shard, samples=samples)
