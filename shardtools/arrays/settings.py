"""What a hub was opened with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardtools.limits import Limits
from shardtools.storage import StorageOptions
from shardtools.storage.options import storage_options


@dataclass(frozen=True)
class HubSettings:
    """What a hub was opened with: enough to open it in another process."""

    url: str
    cache: str | Sequence[str] | None
    retries: int
    timeout: float
    memory: int
    single_writer: bool
    limits: Limits

    def options(self) -> StorageOptions:
        """Return how storage is used.

        Raises:
            SpecError: ``cache`` is not valid.
        """
        cache = self.cache if self.cache is None or isinstance(self.cache, str) else tuple(self.cache)
        return storage_options(cache, self.retries, self.timeout, self.limits).naming(self.url)
