"""Our storage for webdataset: its readers open a URL of any scheme by a function that is registered for it."""

from __future__ import annotations

import io
from typing import IO, Any

from shardtools.storage import get_storage


def wds_opener(url: str, mode: str = "rb", bufsize: int = 1 << 20, **_: Any) -> IO[bytes]:
    """Return the object at ``url`` as a file, read with our retries, resuming, credentials and cache.

    Register it for each scheme that webdataset shall leave to us::

        from webdataset.gopen import gopen_schemes

        gopen_schemes.update(dict.fromkeys(("http", "https", "s3", "gs"), shardtools.torch.wds_opener))

    Raises:
        ValueError: ``mode`` is not "rb".
        StorageError: it cannot be read.
    """
    if mode != "rb":
        raise ValueError(f"shards are opened for reading, not as {mode!r}")
    return io.BufferedReader(get_storage(url).open(url), buffer_size=max(bufsize, 1 << 16))
