"""What a conflict is about, in the words of a user: keys of the log -> "changed x[0:10, 0:28]", "removed y"."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from shardtools.arrays.metadata import ArrayMetadata
from shardtools.arrays.names import DOCUMENT, document_key, parents_of, path_of_document
from shardtools.log.commit import Write
from shardtools.log.committing import list_some


def describe_conflict(
    write: Write, keys: Sequence[str], arrays: Mapping[str, ArrayMetadata], created: Collection[str]
) -> str:
    """Return what ``write`` has done to ``keys``, which a transaction depends on.

    ``arrays`` are those that the transaction knows, ``created`` the paths of what it creates itself.
    """
    verbs: dict[str, dict[str, None]] = {"created": {}, "removed": {}, "changed": {}}
    for verb, what in _phrases(write, keys, arrays, created):
        verbs[verb][what] = None
    return " and ".join(f"{verb} {list_some(list(what))}" for verb, what in verbs.items() if what)


def _phrases(
    write: Write, keys: Sequence[str], arrays: Mapping[str, ArrayMetadata], created: Collection[str]
) -> Iterator[tuple[str, str]]:
    for key in keys:
        is_document = key == DOCUMENT or key.startswith(f"{DOCUMENT}/")
        path = path_of_document(key).rstrip("/") if is_document else _array_of(key, arrays)
        if path is None:
            yield "changed", key
        elif f"{document_key(path)}/".startswith(write.removed):
            yield "removed", path
        elif not is_document:
            yield "changed", _elements(path, key, arrays[path])
        elif path in created:
            yield "created", path
        else:
            yield "changed", f"the shape or attributes of {path}" if path in arrays else path or "the root group"


def _array_of(key: str, arrays: Mapping[str, ArrayMetadata]) -> str | None:
    return next((path for path in reversed(parents_of(key)) if path in arrays), None)


def _elements(path: str, key: str, metadata: ArrayMetadata) -> str:
    """Return the elements of a chunk as an index that selects them."""
    coordinates = metadata.coordinates(key[len(path) + 1 :])
    if coordinates is None:
        return path if key == f"{path}/" else key
    axes = zip(coordinates, metadata.chunks, metadata.shape, strict=True)
    spans = [f"{number * chunk}:{min((number + 1) * chunk, size)}" for number, chunk, size in axes]
    return f"{path}[{', '.join(spans) or '()'}]"
