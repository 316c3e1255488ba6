"""Is everything there that a version needs? Each live document and chunk is read, checked and decoded.

keys, some thousands at a time -> bytes, checked against their CRC-32C -> decoded -> what is wrong
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from shardtools.arrays.chunk_order import KEYS, batched, batches_by_size
from shardtools.arrays.chunk_reader import read_entries, run_each
from shardtools.arrays.metadata import ArrayMetadata, parse_array, parse_node
from shardtools.arrays.names import DOCUMENT, path_of_document
from shardtools.errors import CorruptError, ShardtoolsError, StorageError, UnavailableError
from shardtools.log.log import Snapshot
from shardtools.log.place import Place
from shardtools.log.segment import Entry
from shardtools.processors import processors

_BYTES = 1 << 24


@dataclass(frozen=True)
class Problem:
    """What is wrong with a key, in one line."""

    key: str
    reason: str


@dataclass(frozen=True)
class VerifyResult:
    """What was checked, and what is wrong with it."""

    documents: int
    chunks: int
    nbytes: int
    problems: tuple[Problem, ...]

    @property
    def is_whole(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.problems


def verify(snapshot: Snapshot, advance: Callable[[int, int], object] | None = None) -> VerifyResult:
    """Read all that is live in a snapshot, and return what is wrong; see `Hub.verify`.

    ``advance`` is called with the chunks and bytes that were checked since it was last called.
    """
    checker = _Checker(snapshot.log.place, advance or (lambda chunks, nbytes: None))
    try:
        root = iter(snapshot.find([DOCUMENT]).items())
        for batch in batched(chain(root, snapshot.scan(f"{DOCUMENT}/")), KEYS):
            checker.check_documents(dict(batch))
        for batch in batched(snapshot.scan(), KEYS):
            chunks = {key: entry for key, entry in batch if key != DOCUMENT and not key.startswith(f"{DOCUMENT}/")}
            checker.check_chunks(chunks)
    except CorruptError as error:  # of a segment: what comes after it cannot be found
        checker.problems.append(Problem("", str(error)))
    return VerifyResult(checker.documents, checker.chunks, checker.nbytes, tuple(checker.problems))


class _Checker:
    def __init__(self, place: Place, advance: Callable[[int, int], object]):
        self._place = place
        self._advance = advance
        self._arrays: dict[str, ArrayMetadata] = {}
        self.documents = self.chunks = self.nbytes = 0
        self.problems: list[Problem] = []

    def check_documents(self, entries: Mapping[str, Entry]) -> None:
        for key, data in self._read(entries):
            path = path_of_document(key)
            self.documents += 1
            try:
                if parse_node(data, self._place.root, path or None)["node_type"] == "array":
                    self._arrays[path] = parse_array(data, self._place.root, path or None)
            except ShardtoolsError as error:
                self._wrong(key, error)

    def check_chunks(self, entries: Mapping[str, Entry]) -> None:
        def reason(item: tuple[str, bytes]) -> str | None:
            return self._undecodable(*item)

        for some in batches_by_size(entries, entries, _BYTES):
            read = list(self._read(some))
            for (key, _), wrong in zip(read, run_each(reason, read, processors()), strict=True):
                if wrong is not None:
                    self.problems.append(Problem(key, wrong))
            self.chunks += len(some)
            self._advance(len(some), sum(entry.size for entry in some.values()))

    def _read(self, entries: Mapping[str, Entry]) -> Iterator[tuple[str, bytes]]:
        """Yield the bytes of keys; those that cannot be read are noted."""
        if not entries:
            return
        try:
            found = read_entries(self._place, entries)
        except UnavailableError:
            raise
        except (CorruptError, StorageError) as error:
            if len(entries) == 1:
                self._wrong(next(iter(entries)), error)
                return
            keys, middle = list(entries), len(entries) // 2
            for half in (keys[:middle], keys[middle:]):
                yield from self._read({key: entries[key] for key in half})
        else:
            self.nbytes += sum(map(len, found.values()))
            yield from found.items()

    def _undecodable(self, key: str, data: bytes) -> str | None:
        """Return why a chunk cannot be decoded; None if it can, or it is no chunk of an array."""
        array = self._array_of(key)
        if array is None:
            return None
        try:
            array.codec.decode(data)
        except ValueError as error:
            return f"the chunk cannot be decoded: {error}"
        return None

    def _array_of(self, key: str) -> ArrayMetadata | None:
        parts = key.split("/")
        for count in range(len(parts) - 1, 0, -1):
            path = "/".join(parts[:count])
            if (array := self._arrays.get(path)) is not None:
                return array if array.coordinates(key[len(path) + 1 :]) is not None else None
        return None

    def _wrong(self, key: str, error: ShardtoolsError) -> None:
        self.problems.append(Problem(key, str(error)))
