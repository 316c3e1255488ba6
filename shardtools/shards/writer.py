"""From samples to a committed shard.

    samples -> headers, many at a time -> packer -> sink -> commit -> sidecar, the mark that the shard is complete

The same samples give the same bytes, always: members come as they are added, with mode 0644, owner 0 and time 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.errors import DuplicateKeyError
from shardtools.shards import tar
from shardtools.shards.compression import crc32, packer_for
from shardtools.shards.reader import SeenKeys
from shardtools.shards.samples import Members
from shardtools.shards.sidecar import Sidecar, narrow
from shardtools.shards.table import encode_name, join
from shardtools.storage import Sink

_BATCH_BYTES = 2 << 20
_BATCH_MEMBERS = 4096
_SMALL = 4096
_PADDING = [bytes(-size % tar.BLOCK) for size in range(tar.BLOCK)]


class ShardWriter:
    """Writes samples into the sink of a shard; `finish` returns the shard's sidecar, not yet written.

    ``count`` is the number of samples written so far.

    ``on_repeat`` is called with a key that an earlier sample of the shard has; if it returns, the later sample is left
    out.
    """

    def __init__(self, sink: Sink, url: str, on_repeat: Callable[[str], None] | None = None):
        self.url = url
        self._sink = sink
        self._packer = packer_for(url)
        self._on_repeat = on_repeat or self._refuse_repeat
        self._seen = SeenKeys()
        self._keys: list[str] = []
        self._samples: list[Members] = []
        self._bytes = 0
        self._members = 0
        self.count = 0
        self._columns: dict[str, list[npt.NDArray[Any]]] = {}
        self._codes: dict[str, int] = {}
        self._tar_size = 0
        self._filesize = 0
        self._checksum = 0

    def add(self, key: str, members: Members) -> None:
        """Append a sample.

        Raises:
            DuplicateKeyError: the shard has a sample with this key already (raised by this or a later call).
        """
        self._keys.append(key)
        self._samples.append(members)
        self._members += len(members)
        for _, _, data in members:
            self._bytes += len(data)
        if self._bytes >= _BATCH_BYTES or self._members >= _BATCH_MEMBERS:
            self.flush()

    def finish(self, job: Mapping[str, Any]) -> Sidecar:
        """Write what is left and return the sidecar to be written once the shard is committed."""
        self.flush()
        end = tar.END + bytes(-(self._tar_size + len(tar.END)) % tar.RECORD)
        self._emit(self._packer.finish(end))
        names = ("key_data", "key_length", "members", "lead", "head", "size", "field", "crc32")
        return Sidecar(
            filesize=self._filesize,
            checksum=f"crc32:{self._checksum:08x}",
            fields=tuple(self._codes),
            other=0,
            columns={name: _joined(self._columns.pop(name, [])) for name in names},
            entries=np.array(self._packer.entries, np.int64).reshape(-1, 2),
            job=job,
        )

    def _refuse_repeat(self, key: str) -> None:
        raise DuplicateKeyError(
            "two samples of the shard would have this key", url=self.url, member=key, fix="give each its own key"
        )

    def flush(self) -> None:
        """Write the samples that wait; afterwards `count` is right."""
        for i in reversed(self._seen.add(self._keys)):
            self._on_repeat(self._keys[i])
            del self._keys[i], self._samples[i]
        self.count += len(self._samples)
        members = [member for sample in self._samples for member in sample]
        if members:
            size = [len(data) for _, _, data in members]
            headers = tar.build_headers([name for _, name, _ in members], size)
            self._record(members, headers, size)
            self._write(members, headers, size)
        self._keys, self._samples, self._bytes, self._members = [], [], 0, 0

    def _record(self, members: Members, headers: Sequence[memoryview], size: list[int]) -> None:
        """Append the batch to the columns of the sidecar."""
        keys = [encode_name(key) for key in self._keys]
        codes = self._codes
        batch = {
            "key_data": np.frombuffer(b"".join(keys), np.uint8),
            "key_length": np.array([len(key) for key in keys]),
            "members": np.array([len(sample) for sample in self._samples]),
            "lead": np.zeros(len(keys), np.uint8),
            "head": np.array([len(header) for header in headers]),
            "size": np.array(size),
            "field": np.array([codes.setdefault(field, len(codes)) for field, _, _ in members]),
            "crc32": np.array([crc32(data) for _, _, data in members], np.uint32),
        }
        for name, column in batch.items():
            self._columns.setdefault(name, []).append(column if column.dtype.itemsize < 8 else narrow(column))

    def _write(self, members: Members, headers: Sequence[memoryview], size: list[int]) -> None:
        parts: list[Any] = []
        for header, (_, _, data), length in zip(headers, members, size, strict=True):
            parts += (header, data, _PADDING[length % tar.BLOCK])
        self._tar_size += sum(map(len, parts))
        if not self._packer.by_sample:
            self._emit(self._packer.pack(parts))
            return
        at = 0
        for sample in self._samples:
            self._emit(self._packer.pack(parts[at : at + 3 * len(sample)]))
            at += 3 * len(sample)

    def _emit(self, parts: list[Any]) -> None:
        if not parts:
            return
        size = sum(map(len, parts))
        if size < _SMALL * len(parts):
            parts = [b"".join(parts)]
        for part in parts:
            self._checksum = crc32(part, self._checksum)
        self._filesize += size
        self._sink.writelines(parts)


def _joined(columns: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the parts of a column as one, in the widest of their types."""
    widest = np.result_type(*columns) if columns else np.dtype(np.uint8)
    return join(columns, widest.type)
