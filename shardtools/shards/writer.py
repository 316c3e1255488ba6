"""From samples to a committed shard.

    samples -> headers, many at a time -> packer -> sink -> commit -> sidecar, the mark that the shard is complete

The same samples give the same bytes, always: members come as they are added, with mode 0644, owner 0 and time 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np

from shardtools.errors import DuplicateKeyError
from shardtools.shards import tar
from shardtools.shards.compression import crc32
from shardtools.shards.names import encode_name
from shardtools.shards.output import ShardOutput
from shardtools.shards.reader import SeenKeys
from shardtools.shards.samples import Layout, Members
from shardtools.shards.sidecar import Sidecar
from shardtools.storage import Sink

_BATCH_BYTES = 2 << 20
_BATCH_MEMBERS = 4096
_SMALL = 16 << 10
"""Parts of fewer bytes on average are joined: a copy costs less than calls that each let go of Python's lock."""
_PADDING = [bytes(-size % tar.BLOCK) for size in range(tar.BLOCK)]


class Batch:
    """Some samples to be written: their keys and layouts, and the data of all members with their CRC-32.

    ``size`` is the number of bytes of these data.
    """

    __slots__ = ("checksums", "keys", "layouts", "size", "values")

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.layouts: list[Layout] = []
        self.values: list[bytes] = []
        self.checksums: list[int] = []
        self.size = 0

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, key: str, members: Members) -> None:
        """Append a sample."""
        layout, values = members
        self.keys.append(key)
        self.layouts.append(layout)
        self.values += values
        self.checksums += map(crc32, values)
        self.size += sum(map(len, values))

    def extend(self, other: Batch) -> None:
        """Append the samples of another batch."""
        self.keys += other.keys
        self.layouts += other.layouts
        self.values += other.values
        self.checksums += other.checksums
        self.size += other.size

    def remove(self, rows: Sequence[int]) -> None:
        """Remove samples, by their rows in ascending order."""
        first = [0, *accumulate(len(layout.fields) for layout in self.layouts)]
        for row in reversed(rows):
            members = slice(first[row], first[row + 1])
            self.size -= sum(map(len, self.values[members]))
            del self.keys[row], self.layouts[row], self.values[members], self.checksums[members]


class ShardWriter:
    """Writes samples into the sink of a shard; `finish` returns the shard's sidecar, not yet written.

    ``count`` is the number of samples written so far.

    ``on_repeat`` is called with a key that an earlier sample of the shard has; if it returns, the later sample is left
    out.
    """

    def __init__(self, sink: Sink, url: str, on_repeat: Callable[[str], None] | None = None):
        self.url = url
        self._output = ShardOutput(sink, url, _SMALL)
        self._on_repeat = on_repeat or self._refuse_repeat
        self._seen = SeenKeys()
        self._batch = Batch()
        self.count = 0

    def add(self, key: str, members: Members) -> None:
        """Append a sample.

        Raises:
            DuplicateKeyError: the shard has a sample with this key already (raised by this or a later call).
        """
        batch = self._batch
        batch.add(key, members)
        if batch.size >= _BATCH_BYTES or len(batch.values) >= _BATCH_MEMBERS:
            self.flush()

    def add_batch(self, batch: Batch) -> None:
        """Append the samples of a batch; see `add`."""
        self._batch.extend(batch)
        if self._batch.size >= _BATCH_BYTES or len(self._batch.values) >= _BATCH_MEMBERS:
            self.flush()

    def finish(self, job: Mapping[str, Any]) -> Sidecar:
        """Write what is left and return the sidecar to be written once the shard is committed."""
        self.flush()
        return self._output.finish(job)

    def _refuse_repeat(self, key: str) -> None:
        raise DuplicateKeyError(
            "two samples of the shard have this key", url=self.url, member=key, fix="give each sample a key of its own"
        )

    def flush(self) -> None:
        """Write the samples that wait; afterwards `count` is right."""
        batch, self._batch = self._batch, Batch()
        if repeated := self._seen.add(batch.keys):
            for row in reversed(repeated):
                self._on_repeat(batch.keys[row])
            batch.remove(repeated)
        if batch:
            keys = list(map(encode_name, batch.keys))
            names = [
                key + suffix for key, layout in zip(keys, batch.layouts, strict=True) for suffix in layout.suffixes
            ]
            sizes = list(map(len, batch.values))
            headers = tar.build_headers(names, sizes)
            self._record(batch, keys, headers, sizes)
            self._write(batch, headers, sizes)
            self.count += len(keys)

    def _record(self, added: Batch, keys: Sequence[bytes], headers: Sequence[memoryview], sizes: Sequence[int]) -> None:
        """Append the batch to the columns of the sidecar."""
        codes = self._output.codes
        fields = chain.from_iterable([layout.fields for layout in added.layouts])
        columns = {
            "key_data": np.frombuffer(b"".join(keys), np.uint8),
            "key_length": np.array(list(map(len, keys))),
            "members": np.array([len(layout.fields) for layout in added.layouts]),
            "head": np.array(list(map(len, headers))),
            "size": np.array(sizes),
            "field": np.array([codes.setdefault(field, len(codes)) for field in fields]),
            "crc32": np.array(added.checksums, np.uint32),
        }
        self._output.describe(columns)

    def _write(self, batch: Batch, headers: Sequence[memoryview], sizes: Sequence[int]) -> None:
        parts: list[Any] = [None] * (3 * len(sizes))
        parts[0::3] = headers
        parts[1::3] = batch.values
        parts[2::3] = [_PADDING[size % tar.BLOCK] for size in sizes]
        if not self._output.by_sample:
            self._output.write(parts)
            return
        at = 0
        for layout in batch.layouts:
            after = at + 3 * len(layout.fields)
            self._output.write(parts[at:after])
            at = after
