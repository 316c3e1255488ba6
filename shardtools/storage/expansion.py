"""The shards that a source names, of which a ``*`` is looked up in its storage."""

from __future__ import annotations

from collections.abc import Sequence

from shardtools.spec import expand
from shardtools.storage import get_storage


def expand_sources(sources: str | Sequence[str]) -> list[str]:
    """Return the URLs of the source shards.

    Raises:
        SpecError: a spec is wrong, or names nothing.
        StorageError: the storage cannot be listed.
    """
    return expand(sources, lambda prefix: get_storage(prefix).list(prefix))
