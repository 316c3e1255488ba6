"""From samples to a committed shard.

    samples -> headers, many at a time -> packer -> sink -> commit -> sidecar, which says that the shard is complete

The same samples give the same bytes, always: members come as they are added, with mode 0644, owner 0 and time 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np

from shardtools.errors import DuplicateKeyError
from shardtools.shards import tar
from shardtools.shards.columns import Texts
from shardtools.shards.compression import crc32
from shardtools.shards.names import encode_name
from shardtools.shards.output import ShardOutput
from shardtools.shards.reader import SeenKeys
from shardtools.shards.samples import Members, RecordLayout
from shardtools.shards.sidecar import Sidecar
from shardtools.shards.table import ShardTable, lay_out
from shardtools.storage import Sink

_BATCH_BYTES = 2 << 20
_BATCH_MEMBERS = 4096
_SMALL = 16 << 10
"""Parts of fewer bytes on average are joined: a copy costs less than calls that each let go of Python's lock."""
_PARTS = 3
"""Parts of the tar file that a member is: header, data, padding."""
_PADDING = [bytes(-size % tar.BLOCK) for size in range(tar.BLOCK)]


class NewSamples:
    """Some samples composed of records: their keys and layouts, and the data of all members with their CRC-32.

    ``size`` is the number of bytes of these data.
    """

    __slots__ = ("checksums", "keys", "layouts", "size", "values")

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.layouts: list[RecordLayout] = []
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

    def extend(self, other: NewSamples) -> None:
        """Append the samples of another one."""
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

    def build(self) -> tuple[ShardTable, list[Any]]:
        """Return their table, end to end, and what they are in a tar file: header, data, padding of each member."""
        codes: dict[str, int] = {}
        fields = chain.from_iterable([layout.fields for layout in self.layouts])
        field = np.array([codes.setdefault(name, len(codes)) for name in fields], np.int64)
        keys, sizes = list(map(encode_name, self.keys)), list(map(len, self.values))
        names = [key + suffix for key, layout in zip(keys, self.layouts, strict=True) for suffix in layout.suffixes]
        headers = tar.build_headers(names, sizes)
        parts: list[Any] = [None] * (_PARTS * len(sizes))
        parts[0::_PARTS] = headers
        parts[1::_PARTS] = self.values
        parts[2::_PARTS] = [_PADDING[size % tar.BLOCK] for size in sizes]
        table = lay_out(
            Texts.of(keys),
            np.array([len(layout.fields) for layout in self.layouts], np.int64),
            tuple(codes),
            field,
            np.array(list(map(len, headers)), np.int64),
            np.array(sizes, np.int64),
            crc32=np.array(self.checksums, np.uint32),
        )
        return table, parts


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
        self._waiting = NewSamples()
        self.count = 0

    def add(self, key: str, members: Members) -> None:
        """Append a sample.

        Raises:
            DuplicateKeyError: the shard has a sample with this key already (raised by this or a later call).
        """
        self._waiting.add(key, members)
        self._flush_if_large()

    def add_all(self, samples: NewSamples) -> None:
        """Append several samples; see `add`."""
        self._waiting.extend(samples)
        self._flush_if_large()

    def finish(self, job: Mapping[str, Any]) -> Sidecar:
        """Write what is left and return the sidecar to be written once the shard is committed."""
        self.flush()
        return self._output.finish(job)

    def _refuse_repeat(self, key: str) -> None:
        raise DuplicateKeyError(
            "two samples of the shard have this key", url=self.url, member=key, fix="give each sample a key of its own"
        )

    def _flush_if_large(self) -> None:
        if self._waiting.size >= _BATCH_BYTES or len(self._waiting.values) >= _BATCH_MEMBERS:
            self.flush()

    def flush(self) -> None:
        """Write the samples that wait; afterwards `count` is right."""
        samples, self._waiting = self._waiting, NewSamples()
        if repeated := self._seen.add(samples.keys):
            for row in reversed(repeated):
                self._on_repeat(samples.keys[row])
            samples.remove(repeated)
        if samples:
            table, parts = samples.build()
            self._output.describe(table)
            for some in parts_of_samples(table, parts) if self._output.by_sample else [parts]:
                self._output.write(some)
            self.count += len(samples)


def parts_of_samples(table: ShardTable, parts: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield for each sample its parts of the tar file, as `NewSamples.build` returns them for all."""
    return (parts[_PARTS * low : _PARTS * high] for low, high in pairwise(table.first.tolist()))
