"""What a conflict is about, in the words of a user: keys of the log -> "changed x[0:10, 0:28]", "removed y"."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shardtools.arrays.metadata import ArrayMetadata
from shardtools.arrays.names import DOCUMENT, document_key, parents_of, path_of_document
from shardtools.log.commit import Write
from shardtools.log.committing import list_some


@dataclass(frozen=True)
class Known:
    """What a transaction knows: ``arrays`` it has used, paths it has ``created``, ``paths`` of all its documents."""

    arrays: Mapping[str, ArrayMetadata]
    created: Collection[str]
    paths: Collection[str]

    def node_of(self, key: str) -> str | None:
        """Return the path of the array, or else of the node, that a key is in."""
        parents = parents_of(key)[::-1]
        found = (path for paths in (self.arrays, self.paths) for path in parents if path in paths)
        return next(found, None)


def describe_conflict(write: Write, keys: Sequence[str], known: Known) -> str:
    """Return what ``write`` has done to ``keys``, which a transaction depends on."""
    verbs: dict[str, dict[str, None]] = {"created": {}, "removed": {}, "changed": {}}
    for verb, what in _phrases(write, keys, known):
        verbs[verb][what] = None
    return " and ".join(f"{verb} {list_some(list(what))}" for verb, what in verbs.items() if what)


def _phrases(write: Write, keys: Sequence[str], known: Known) -> Iterator[tuple[str, str]]:
    for key in keys:
        is_document = key == DOCUMENT or key.startswith(f"{DOCUMENT}/")
        path = path_of_document(key).rstrip("/") if is_document else known.node_of(key)
        if path is None:
            yield "changed", key
        elif f"{document_key(path)}/".startswith(write.removed):
            yield "removed", path
        elif path in known.created and is_document:
            yield "created", path
        elif path not in known.arrays:
            yield "changed", path or "the root group"
        elif is_document or f"{path}/" in write.removed:
            yield "changed", f"the shape or attributes of {path}"
        else:
            yield "changed", _elements(path, key, known.arrays[path])


def _elements(path: str, key: str, metadata: ArrayMetadata) -> str:
    """Return the elements of a chunk as an index that selects them."""
    coordinates = metadata.coordinates(key[len(path) + 1 :])
    if coordinates is None:
        return path if key == f"{path}/" else key
    axes = zip(coordinates, metadata.chunks, metadata.shape, strict=True)
    spans = [f"{number * chunk}:{min((number + 1) * chunk, size)}" for number, chunk, size in axes]
    return f"{path}[{', '.join(spans) or '()'}]"
