"""What the server shows: datasets and hubs, each opened when it is needed first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from shardtools.dataset.joined import JoinedSamples
from shardtools.dataset.sharded import ShardedDataset
from shardtools.errors import AccessError, JobError, NotFoundError, RefusedError, ShardtoolsError, SpecError, redact
from shardtools.spec import Destination
from shardtools.storage import Stat, StorageOptions, get_storage, using
from shardtools.storage.stats import known_stats, stat_all
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
class Opening:
    """How shards were opened, and their ``state`` then: what storage said of the manifest, the first and last shard."""

    spec: str
    options: StorageOptions
    cache: ThumbCache
    state: tuple[Stat | None, ...]


@dataclass(frozen=True)
class ShownPlace:
    """A dataset or hub that is shown under a name; the other one is None.

    ``opening`` is None for what was open already, and for hubs, which show each version as it is.
    """

    name: str
    samples: ShownSamples | None = None
    hub: ShownHub | None = None
    opening: Opening | None = None

    @property
    def kind(self) -> Literal["shards", "hub"]:
        """What it is."""
        return "shards" if self.samples is not None else "hub"


def open_place(source: str | ShardedDataset | Hub, options: StorageOptions, cache: ThumbCache) -> ShownPlace:
    """Return what there is at a source: shards if its name is that of shards, else a hub.

    Raises:
        JobError: it is of another type, or a join.
        SpecError, StorageError: there is nothing of the kind.
    """
    from shardtools.arrays.hub import Hub, open_hub

    if isinstance(source, Hub):
        return ShownPlace(redact(source.url), hub=ShownHub(source))
    if isinstance(source, ShardedDataset):
        place = _shown(source, cache)
        with using(source.options):
            stat_all([source.urls[0], source.urls[-1]])
        return place
    if not isinstance(source, str):
        what = f"{type(source).__name__} objects cannot be shown"
        raise JobError(what, fix="give a spec, the place of a hub, or what shardtools.open or hub returns")
    if names_shards(source):
        with using(options):
            manifest = _manifest_stat(source)
            dataset = ShardedDataset(source, options)
            state = (manifest, *stat_all([dataset.urls[0], dataset.urls[-1]]))
        return replace(_shown(dataset, cache), opening=Opening(source, options, cache, state))
    hub = open_hub(
        source, cache=options.caches or None, retries=options.retries, timeout=options.timeout, limits=options.limits
    )
    try:
        hub.snapshot()
    except ShardtoolsError as error:
        fix = "name shards, such as train-@10.tgz, or the place of a hub"
        raise type(error)(error.what, url=error.url, member=error.member, fix=fix) from error
    return ShownPlace(name_of(hub.url.rstrip("/")), hub=ShownHub(hub))


def renewed(place: ShownPlace) -> ShownPlace:
    """Return a place, opened anew if its shards have been written again since it was opened.

    Raises:
        StorageError: it is not there any more.
    """
    if (opening := place.opening) is None or place.samples is None:
        return place
    urls = place.samples.dataset.urls
    with using(opening.options):
        state = (_manifest_stat(opening.spec), *known_stats([urls[0], urls[-1]]))
    return place if state == opening.state else open_place(opening.spec, opening.options, opening.cache)


def _manifest_stat(spec: str) -> Stat | None:
    try:
        url = Destination(spec).manifest
        return get_storage(url).stat(url)
    except (SpecError, NotFoundError, AccessError, RefusedError):  # some servers forbid what is not there
        return None


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
