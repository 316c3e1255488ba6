"""The file of a shard and the columns of its sidecar, as they grow; shared by all that writes shards.

parts of the tar file -> packer -> sink, checksum          columns of the samples -> Sidecar
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.shards import tar
from shardtools.shards.columns import join
from shardtools.shards.compression import crc32
from shardtools.shards.packers import packer_for
from shardtools.shards.sidecar import Sidecar, narrow
from shardtools.storage import Sink

_COLUMNS = ("key_data", "key_length", "members", "lead", "head", "size", "field", "crc32")


class ShardOutput:
    """Takes the samples of a shard in order: what is known of them, and the parts of the tar file that they are.

    ``codes`` numbers the names of the fields in the order in which the shard has them first. Parts that have fewer than
    ``small`` bytes on average are joined before they are written.
    """

    def __init__(self, sink: Sink, url: str, small: int):
        self._small = small
        self.codes: dict[str, int] = {}
        self._sink = sink
        self._packer = packer_for(url)
        self._columns: dict[str, list[npt.NDArray[Any]]] = {}
        self._tar_size = self._filesize = self._checksum = 0

    @property
    def by_sample(self) -> bool:
        """Whether the parts of each sample must be written by themselves, because the shard is packed."""
        return self._packer.by_sample

    def describe(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Append samples to the columns of the sidecar, all but ``lead``: nothing stands between our samples."""
        lead = np.zeros(len(columns["members"]), np.uint8)
        for name, column in {**columns, "lead": lead}.items():
            self._columns.setdefault(name, []).append(column if column.dtype.itemsize < 8 else narrow(column))

    def write(self, parts: Sequence[Any]) -> None:
        """Append parts of the tar file, the last of which ends with a sample."""
        self._tar_size += sum(map(len, parts))
        self._emit(self._packer.pack(parts))

    def finish(self, job: Mapping[str, Any]) -> Sidecar:
        """Write the end and return the sidecar to be written once the shard is committed."""
        self._emit(self._packer.finish(tar.END + bytes(-(self._tar_size + len(tar.END)) % tar.RECORD)))
        return Sidecar(
            filesize=self._filesize,
            checksum=f"crc32:{self._checksum:08x}",
            fields=tuple(self.codes),
            other=0,
            columns={name: _joined(self._columns.pop(name, [])) for name in _COLUMNS},
            entries=np.array(self._packer.entries, np.int64).reshape(-1, 2),
            job=job,
            packing=self._packer.packing,
        )

    def _emit(self, parts: Sequence[Any]) -> None:
        if not parts:
            return
        size = sum(map(len, parts))
        if size < self._small * len(parts):
            parts = [b"".join(parts)]
        for part in parts:
            self._checksum = crc32(part, self._checksum)
        self._filesize += size
        self._sink.writelines(parts)


def _joined(columns: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the parts of a column as one, in the widest of their types."""
    widest = np.result_type(*columns) if columns else np.dtype(np.uint8)
    return join(columns, widest.type)
