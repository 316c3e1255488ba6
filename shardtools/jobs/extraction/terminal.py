"""Rows on a terminal: control characters from a shard are shown as escapes, and never executed.

A key may contain a sequence that renames the window, clears the screen, or types the next command. Files and pipes get
the bytes as they are.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from shardtools.errors import printable
from shardtools.storage import Buffer, Sink
from shardtools.storage.pipe import results


def for_terminal(sink: Sink, destination: str) -> Sink:
    """Return ``sink``, or a sink that escapes control characters if ``destination`` is a terminal."""
    stream = results() if destination == "-" else None
    return _Escaping(sink) if stream is not None and stream.isatty() else sink


class _Escaping:
    """A sink that escapes control characters, except tabs and newlines. A character may arrive in two parts."""

    def __init__(self, sink: Sink):
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def write(self, data: Buffer, /) -> int:
        text = printable(self._decoder.decode(bytes(data)), keep="\t\n")
        self._sink.write(text.encode("utf-8", "backslashreplace"))
        return len(data)

    def writelines(self, parts: Iterable[Buffer], /) -> None:
        for part in parts:
            self.write(part)
