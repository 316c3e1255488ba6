"""What htupload turns into shards: folders, manifests, arrays, archives, lists of paths.

    SRC -> open_sources -> Source: how many samples, their keys and sizes -> part(rows) -> records, where a task runs

A source is listed once, where the command runs. A task gets a `Part`: the samples of one output shard, some hundreds or
thousands, as names and places, without their bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from shardtools.types import Ints

CLASS_TEXT = "class-from.txt"
"""The field that holds the text of a class, in samples of a table, until they get its number."""


class Part(Protocol):
    """Some samples of a source, in the order of their shard. It can be pickled, and is read by one thread at a time."""

    def __len__(self) -> int: ...

    def key(self, row: int) -> str:
        """Return the key of the sample at ``row`` of this part."""

    def record(self, row: int) -> dict[str, Any]:
        """Return the sample at ``row``: its ``"key"``, and a value for each field.

        Raises:
            ShardtoolsError: it cannot be read; the error names the file.
        """

    def value(self, row: int, field: str) -> bytes | None:
        """Return the data of one field of the sample at ``row``, None if it has none; other files are not read.

        Raises:
            ShardtoolsError: it cannot be read.
        """

    def facts(self) -> Sequence[Any]:
        """Return what the samples depend on, for a fingerprint, as JSON data: names, sizes and times of files."""

    def close(self) -> None:
        """Close what `record` has opened."""


class Source(ABC):
    """Samples that are listed before any is read, and known by their rows."""

    name: str
    """What the user called it."""

    random_access: bool = True
    """Whether samples can be read in any order without reading others."""

    portable: bool = True
    """Whether its parts can be read on other machines that see the same files."""

    reads_at_once: bool = True
    """Whether reading all samples in their order is the reading of one file, or a few."""

    chosen: Mapping[str, Any] | None = None
    """What was chosen of it, for the manifest."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def key(self, row: int) -> str:
        """Return the key of the sample at ``row``."""

    @abstractmethod
    def sizes(self) -> Ints:
        """Return about how many bytes each sample takes in a tar file."""

    @abstractmethod
    def part(self, rows: Ints) -> Part:
        """Return the samples at ``rows``, in that order."""

    def names(self) -> Sequence[str]:
        """Return the URLs that it was made from."""
        return [self.name]

    def read_by_tasks(self) -> Sequence[str]:
        """Return URLs that its parts read; some of them if they are many."""
        return self.names()

    def place(self, row: int) -> str:
        """Return where the sample at ``row`` is, for messages."""
        return self.name

    def notes(self) -> dict[str, Any]:
        """Return facts about the samples for the manifest of the dataset, such as the names of their classes."""
        return {}

    def left_out(self) -> Sequence[tuple[str, str]]:
        """Return what was left out because it belongs to no sample, each with the reason."""
        return ()

    def close(self) -> None:  # noqa: B027 - most sources have nothing to do
        """Close what was opened to read the source. Its parts cannot be read any more."""
