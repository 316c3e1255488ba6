"""An array of a transaction in another process: what is written becomes parts of the transaction."""

from __future__ import annotations

from typing import Any

from shardtools.arrays.chunks import as_block
from shardtools.arrays.grid import pieces, select
from shardtools.arrays.metadata import parse_array
from shardtools.arrays.parts import PartOf, write_part


class WorkerArray:
    """An array that writes for a transaction in another process. It cannot be read."""

    def __init__(self, target: PartOf, path: str, document: bytes):
        self._target, self.path = target, path
        self._metadata = parse_array(document, target.hub.url, path)
        self.shape, self.dtype, self.chunks = self._metadata.shape, self._metadata.dtype, self._metadata.chunks
        self.ndim = len(self.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerArray, (self._target, self.path, self._metadata.document)

    def __setitem__(self, index: Any, values: Any) -> None:
        """Write what numpy would. It is seen when the transaction is committed.

        Raises:
            IndexError, ValueError: numpy's.
            ConflictError: the transaction has been committed meanwhile.
        """
        metadata = self._metadata
        selection = select(index, metadata.shape)
        block = as_block(selection, values, metadata.dtype)
        write_part(self._target, self.path, metadata, block, list(pieces(selection, metadata.shape, metadata.chunks)))
