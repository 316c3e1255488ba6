"""References to chunks where they lie, for other programs: no byte of a chunk is copied.

snapshot -> name, URL, offset and size of each chunk -> a JSON file of kerchunk's, which fsspec reads
                                                     -> virtual references of an Icechunk repository
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from shardtools.arrays.export import Advance, Exported, ExportResult, all_entries, check_absent
from shardtools.arrays.metadata import ArrayMetadata, parse_array, parse_node
from shardtools.arrays.names import DOCUMENT
from shardtools.errors import ExistsError, JobError, redact
from shardtools.log.segment import Entry
from shardtools.storage import get_storage, using
from shardtools.urls import is_local, path_of

_TOGETHER = 1 << 14
"""References that are written at a time."""


def export_kerchunk(source: Exported, destination: str, advance: Advance, *, overwrite: bool = False) -> ExportResult:
    """Write a JSON file of references, as kerchunk makes them (version 1).

    Raises:
        ExistsError: there is one, and it may not be overwritten.
    """
    place = source.snapshot.log.place
    root = f"file://{path_of(place.root)}" if is_local(place.root) else redact(place.root)
    documents = source.documents()
    nbytes = count = 0
    with using(place.options.naming(destination)):
        check_absent(destination, overwrite=overwrite)
        with get_storage(destination).create(destination) as sink:
            start = b'{"version": 1, "refs": {\n'
            for items in _together(_references(documents, all_entries(source), root)):
                text = start + ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in items).encode()
                sink.write(text)
                start, nbytes, count = b",\n", nbytes + len(text), count + len(items)
                advance(len(items), 0)
            sink.write(end := b"\n}}\n")
    return ExportResult(destination, count - len(documents), nbytes + len(end))


def _references(
    documents: dict[str, bytes], entries: Iterable[tuple[str, Entry]], root: str
) -> Iterator[tuple[str, Any]]:
    for name, document in documents.items():
        yield name, document.decode()
    for name, entry in entries:
        yield name, [root + entry.name, entry.offset, entry.size]


def _together(items: Iterator[Any]) -> Iterator[list[Any]]:
    from shardtools.arrays.chunk_order import batched

    return batched(items, _TOGETHER)


# --- Icechunk


def export_icechunk(source: Exported, destination: str, advance: Advance) -> ExportResult:
    """Make an Icechunk repository whose chunks are virtual: references to the shards of this place.

    It takes memory for the references, as Icechunk writes them all at once. Who opens the repository says that this
    place may be read: ``authorize_virtual_chunk_access=icechunk.containers_credentials({URL: credentials})``.

    Raises:
        JobError: Icechunk is not installed, or cannot write there, or read from here.
        ExistsError: there is a repository already.
    """
    icechunk = _icechunk()
    place = source.snapshot.log.place
    documents = source.documents()
    arrays = _arrays(documents, place.root)
    container = _container(icechunk, place.root)
    storage = _storage(icechunk, destination)
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(container.prefix, container.store))
    access = icechunk.containers_credentials({container.prefix: container.credentials})
    try:
        if icechunk.Repository.exists(storage):
            raise ExistsError("there is a repository already", url=destination, fix="name an empty or new folder")
        repository = icechunk.Repository.create(storage, config=config, authorize_virtual_chunk_access=access)
        session = repository.writable_session("main")
        _set_documents(session.store, documents)
        count = _set_references(icechunk, session.store, source, arrays, container.root, advance)
        _check_readable(session.store, source, destination)
        session.commit(f"references to {redact(place.root)} {_version(source)}")
    except icechunk.IcechunkError as error:
        what = f"Icechunk fails: {_describe(str(error))}"
        raise JobError(what, url=destination, fix="see what it can read and write, or write a .json file") from error
    return ExportResult(destination, count, 0)


@dataclass(frozen=True)
class _Container:
    """Where chunks lie, for Icechunk: the ``prefix`` that it looks for, and the ``root`` of URLs, percent-encoded."""

    prefix: str
    root: str
    store: Any
    credentials: Any


def _describe(text: str) -> str:
    """Return what an error of Icechunk's says, and its last cause, without the frame that it draws around them.

    >>> _describe("  x no chunk\\n  |\\n  |-> no chunk\\n  |-> no answer\\n  `-> 403 Forbidden\\n")
    'no chunk: 403 Forbidden'
    """
    lines = [line for part in text.splitlines() if (line := part.lstrip(" │|x×`├╰─▶->").strip())]
    return ": ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else "no reason given"


def _check_readable(store: Any, source: Exported, destination: str) -> None:
    """Read one chunk as readers will: what Icechunk cannot refer to is missing, without a word."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    if (first := next(all_entries(source), None)) is not None:
        found = sync(store.get(first[0], default_buffer_prototype()))
        if found is None or len(found) != first[1].size:
            raise JobError("Icechunk cannot refer to the chunks", url=destination, fix="write a .json file")


def _icechunk() -> Any:
    try:
        import icechunk
    except ImportError as error:
        raise JobError("Icechunk is not installed", fix="pip install icechunk, or write a .json file") from error
    return icechunk


def _version(source: Exported) -> str:
    return f"{source.snapshot.branch.name}@{source.snapshot.number}"


def _arrays(documents: dict[str, bytes], url: str) -> dict[str, ArrayMetadata]:
    """Return the arrays by the beginning of the names of their chunks, which must be the usual ones."""
    arrays = {}
    for name, document in documents.items():
        prefix = name.removesuffix(DOCUMENT)
        if parse_node(document, url)["node_type"] == "array":
            arrays[prefix] = parse_array(document, url, name)
            if not arrays[prefix].prefix.startswith("c") or arrays[prefix].separator != "/":
                what = "Icechunk knows no other names of chunks than c/0/0"
                raise JobError(what, url=url, fix=f"write a .json file, or leave out {prefix}")
    return arrays


def _set_documents(store: Any, documents: dict[str, bytes]) -> None:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    make = default_buffer_prototype().buffer.from_bytes
    for name, document in documents.items():
        sync(store.set(name, make(document)))


def _set_references(
    icechunk: Any, store: Any, source: Exported, arrays: dict[str, ArrayMetadata], root: str, advance: Advance
) -> int:
    count = 0
    for some in _together(all_entries(source)):
        specs: defaultdict[str, list[Any]] = defaultdict(list)
        for name, entry in some:
            for prefix in _beginnings(name):
                coordinates = arrays[prefix].coordinates(name[len(prefix) :]) if prefix in arrays else None
                if coordinates is not None:
                    spec = icechunk.VirtualChunkSpec(list(coordinates), root + entry.name, entry.offset, entry.size)
                    specs[prefix].append(spec)
                    break
        for prefix, those in specs.items():
            # its own check compares the prefix with the URL as it is, percent-encoded or not
            store.set_virtual_refs(f"/{prefix.rstrip('/')}", those, validate_containers=False)
            count += len(those)
            advance(len(those), 0)
    return count


def _beginnings(name: str) -> Iterator[str]:
    """Yield what the array of a chunk may be: "a/", "a/b/", …; or "" when the array alone is exported."""
    yield ""
    for place, letter in enumerate(name, 1):
        if letter == "/":
            yield name[:place]


def _container(icechunk: Any, root: str) -> _Container:
    """Return how Icechunk reads what lies at a place.

    Raises:
        JobError: it cannot.
    """
    parts, shown, fix = urlsplit(root), redact(root), "write a .json file"
    if is_local(root):
        path = path_of(root)
        return _Container(f"file://{path}", f"file://{quote(path)}", icechunk.local_filesystem_store(path), None)
    if parts.scheme == "s3":
        options = _s3_options()
        store = icechunk.s3_store(**options, s3_compatible="endpoint_url" in options)
        return _Container(shown, shown, store, icechunk.s3_from_env_credentials())
    if parts.scheme in ("http", "https"):
        if parts.port is not None and int(icechunk.__version__.partition(".")[0]) < 2:
            raise JobError("Icechunk 1 reads from web servers on their usual port only", url=root, fix=fix)
        store = icechunk.http_store({"allow_http": "true"} if parts.scheme == "http" else {})
        return _Container(shown, shown, store, None)
    if parts.scheme == "gs":
        return _Container(shown, shown, icechunk.gcs_store({}), icechunk.gcs_from_env_credentials())
    raise JobError(f"Icechunk cannot read {parts.scheme} URLs", url=root, fix=fix)


def _storage(icechunk: Any, url: str) -> Any:
    """Return where Icechunk writes a repository.

    Raises:
        JobError: it does not write there.
    """
    if is_local(url):
        return icechunk.local_filesystem_storage(path_of(url))
    parts = urlsplit(url)
    bucket, prefix = parts.netloc, parts.path.strip("/") or None
    if parts.scheme == "s3":
        return icechunk.s3_storage(bucket=bucket, prefix=prefix, from_env=True, **_s3_options())
    if parts.scheme == "gs":
        return icechunk.gcs_storage(bucket=bucket, prefix=prefix, from_env=True)
    what = f"Icechunk cannot write to {parts.scheme} URLs"
    raise JobError(what, url=url, fix="write to a folder, s3:// or gs://, or write a .json file")


def _s3_options() -> dict[str, Any]:
    """Return what the environment says of the S3 service."""
    options: dict[str, Any] = {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if region:
        options["region"] = region
    if endpoint:
        options |= {"endpoint_url": endpoint, "allow_http": endpoint.startswith("http:"), "force_path_style": True}
    return options
