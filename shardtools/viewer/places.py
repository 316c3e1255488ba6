"""What the server shows: datasets and hubs, each opened when it is needed first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shardtools.dataset.joined import JoinedSamples
from shardtools.dataset.sharded import ShardedDataset
from shardtools.errors import JobError, ShardtoolsError, redact
from shardtools.storage import StorageOptions, using
from shardtools.storage.stats import stat_all
from shardtools.urls import name_of
from shardtools.viewer.asking import Asking
from shardtools.viewer.hubs import ShownHub
from shardtools.viewer.samples import ShownSamples
from shardtools.viewer.thumb_cache import ThumbCache
from shardtools.viewer.thumbs import Thumbs

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

_SHARDS = re.compile(r"[@*{]|::|\.(tar|tgz|tar\.\w+|json)(\?.*)?$", re.IGNORECASE)


@dataclass(frozen=True)
class ShownPlace:
    """A dataset or hub that is shown under a name; the other one is None."""

    name: str
    samples: ShownSamples | None = None
    hub: ShownHub | None = None

    @property
    def kind(self) -> Literal["shards", "hub"]:
        """What it is."""
        return "shards" if self.samples is not None else "hub"


def open_place(source: str | ShardedDataset | Hub, options: StorageOptions, cache: ThumbCache) -> ShownPlace:
    """Return what there is at a source: shards if its name is that of shards, else a hub.

    Raises:
        SpecError, StorageError: there is nothing of the kind.
    """
    from shardtools.arrays.hub import Hub, open_hub

    if isinstance(source, Hub):
        return ShownPlace(redact(source.url), hub=ShownHub(source))
    if isinstance(source, ShardedDataset):
        return _shown(source, cache)
    if names_shards(source):
        dataset = ShardedDataset(source, options)
        with using(options):
            stat_all([dataset.urls[0], dataset.urls[-1]])
        return _shown(dataset, cache)
    hub = open_hub(
        source, cache=options.caches or None, retries=options.retries, timeout=options.timeout, limits=options.limits
    )
    try:
        hub.snapshot()
    except ShardtoolsError as error:
        fix = "name shards, such as train-@10.tgz, or the place of a hub"
        raise type(error)(error.what, url=error.url, member=error.member, fix=fix) from error
    return ShownPlace(name_of(hub.url.rstrip("/")), hub=ShownHub(hub))


def names_shards(source: str) -> bool:
    """Return whether a source is the name of shards, rather than the place of a hub.

    >>> names_shards("s3://b/train-@10.tgz"), names_shards("a.tar"), names_shards("s3://b/arrays")
    (True, True, False)
    """
    return _SHARDS.search(source) is not None


def _shown(dataset: ShardedDataset, cache: ThumbCache) -> ShownPlace:
    if isinstance(dataset, JoinedSamples):
        raise JobError("a join is not shown yet", fix="show the datasets that it is made of, side by side")
    specs: Sequence[str] = [dataset.spec] if isinstance(dataset.spec, str) else dataset.spec
    where = f" where {' and '.join(dataset.conditions)}" if dataset.conditions else ""
    name = ", ".join(name_of(redact(spec)) for spec in specs[:3]) + where
    return ShownPlace(name, ShownSamples(dataset, Asking(dataset), Thumbs(dataset.options, cache)))
