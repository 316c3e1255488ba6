"""The shards that sources name, of which a ``*`` is looked up in its storage, once for all parts of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from shardtools.spec import check_specs, expand_each, parts_of
from shardtools.storage import get_storage


@dataclass(frozen=True)
class NamedShards:
    """The shards ``urls`` that a single ``spec`` names, which is a part of the source at index ``source``."""

    spec: str
    source: int
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """The ``specs`` that a user has written, and what each single spec in them names, in order."""

    specs: tuple[str, ...]
    parts: tuple[NamedShards, ...]

    @property
    def urls(self) -> list[str]:
        """The URLs of all shards."""
        return list(chain.from_iterable(part.urls for part in self.parts))


SourceSpecs = str | Sequence[str] | Sources
"""What names shards; of `Sources` nothing is looked up again."""


def look_up(sources: SourceSpecs) -> Sources:
    """Return the shards that specs name.

    Raises:
        SpecError: a spec is wrong, or names nothing.
        StorageError: the storage cannot be listed.
    """
    if isinstance(sources, Sources):
        return sources
    specs = (sources,) if isinstance(sources, str) else tuple(sources)
    check_specs(specs)
    parts = [(spec, source) for source, whole in enumerate(specs) for spec in parts_of(whole)]
    named = expand_each([spec for spec, _ in parts], lambda prefix: get_storage(prefix).list(prefix))
    return Sources(
        specs, tuple(NamedShards(spec, source, tuple(urls)) for (spec, source), urls in zip(parts, named, strict=True))
    )


def expand_sources(sources: SourceSpecs) -> list[str]:
    """Return the URLs of the source shards.

    Raises:
        SpecError: a spec is wrong, or names nothing.
        StorageError: the storage cannot be listed.
    """
    return look_up(sources).urls
