"""A sink as a file, for libraries that write to a file from its beginning to its end, such as pyarrow."""

from __future__ import annotations

import io
from typing import Any

from shardtools.storage import Sink


class ForwardFile(io.RawIOBase):
    """A sink as a file that is written forward."""

    def __init__(self, sink: Sink):
        super().__init__()
        self._sink: Sink | None = sink
        self._size = 0

    def give_up(self) -> None:
        """Write nothing more: pyarrow writes the end of a file when it is closed, whatever happened."""
        self._sink = None

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any, /) -> int:
        if self._sink is not None:
            self._sink.write(data)
        self._size += len(data)
        return len(data)
