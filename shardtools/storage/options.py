"""Options of the storage as users of the library give them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from shardtools.limits import DEFAULT_LIMITS, Limits
from shardtools.storage import StorageOptions
from shardtools.storage.index_place import index_place


def storage_options(
    cache: str | Sequence[str] | None,
    retries: int,
    timeout: float,
    limits: Limits = DEFAULT_LIMITS,
    index: str | None = None,
) -> StorageOptions:
    """Return storage options. Folders of caches become absolute, so that they stay the same in other processes."""
    caches = [] if cache is None else [cache] if isinstance(cache, str) else list(cache)
    fixed = tuple(map(_absolute_cache, caches))
    chosen = None if not fixed else fixed[0] if len(fixed) == 1 else fixed
    return StorageOptions(retries=retries, timeout=timeout, cache=chosen, limits=limits, index=index_place(index))


def _absolute_cache(cache: str) -> str:
    from shardtools.storage.cache import parse_cache

    folder, size = parse_cache(cache)
    return f"{os.path.abspath(folder)}:{size}"
