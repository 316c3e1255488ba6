"""Which index files a dataset has, and whether they fit its shards, as far as its manifest describes these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from shardtools.errors import AccessError, CorruptError, LimitError, NotFoundError, RefusedError
from shardtools.query.key_file import KeyFile, digest_of, keys_url
from shardtools.query.table import DatasetTable
from shardtools.query.table_file import ShardState, TableFacts, read_facts, table_url
from shardtools.shards.manifest import Manifest, read_manifest
from shardtools.spec import Destination
from shardtools.storage import get_storage
from shardtools.storage.index_place import homes_of
from shardtools.urls import is_local

TABLE_BYTES = 256 << 20
"""The largest table on a server of which more than the end is read."""

T = TypeVar("T")


@dataclass(frozen=True)
class IndexFile:
    """One kind of index file: its ``url`` ("" for sidecars), whether it ``exists``, and whether it ``fits`` the shards.

    Both are None if unknown. ``note`` says more, for people.
    """

    what: Literal["manifest", "sidecars", "table", "keys"]
    url: str
    exists: bool | None
    fits: bool | None
    note: str = ""


@dataclass(frozen=True)
class FoundManifest:
    """The manifest of a dataset, None if there is none that can be used."""

    file: IndexFile
    manifest: Manifest | None = None


@dataclass(frozen=True)
class FoundTable:
    """The table of a dataset: its facts, and if it is local or not large, the ``table`` itself."""

    file: IndexFile
    facts: TableFacts | None = None
    table: DatasetTable | None = None


def find_manifest_file(destination: Destination, names: tuple[str, ...]) -> FoundManifest:
    """Return the manifest of the shards with these names.

    Raises:
        StorageError: the storage cannot be reached.
    """
    file, manifest = _read(
        "manifest", destination, lambda home: home.manifest, lambda home: read_manifest(home.manifest)
    )
    if manifest is not None and manifest.names != names:
        return FoundManifest(replace(file, fits=False, note="it lists other shards than those that are named"))
    return FoundManifest(file, manifest)


def states_in(manifest: Manifest | None) -> tuple[ShardState, ...] | None:
    """Return the states of the shards that a manifest lists; None if it does not have all of them."""
    if manifest is None or manifest.sizes is None or manifest.checksums is None:
        return None
    known = zip(manifest.names, manifest.sizes, manifest.checksums, manifest.counts, strict=True)
    return tuple(ShardState(*state) for state in known)


def find_table_file(
    destination: Destination, names: tuple[str, ...], states: tuple[ShardState, ...] | None
) -> FoundTable:
    """Return the table of the shards with these names, in these states, None for unknown.

    Raises:
        StorageError: the storage cannot be reached.
    """
    file, found = _read("table", destination, lambda home: table_url(home.spec), lambda home: _open_table(home.spec))
    if found is None:
        return FoundTable(file)
    table = found if isinstance(found, DatasetTable) else None
    facts = found.facts if isinstance(found, DatasetTable) else found
    if tuple(shard.name for shard in facts.shards) != names:
        return FoundTable(replace(file, fits=False, note="it is of other shards"))
    if states is None:
        return FoundTable(replace(file, fits=None), facts, table)
    stale = sum(was != now for was, now in zip(facts.shards, states, strict=True))
    if stale:
        note = f"{stale:,} of {len(states):,} shards have changed since it was made"
        return FoundTable(replace(file, fits=False, note=note), facts)
    return FoundTable(file, facts, table)


def _open_table(spec: str) -> DatasetTable | TableFacts:
    url = table_url(spec)
    size = get_storage(url).stat(url).size
    if is_local(url) or (size is not None and size <= TABLE_BYTES):
        return DatasetTable(spec)
    return read_facts(url)


def find_key_file(destination: Destination, states: tuple[ShardState, ...] | None) -> IndexFile:
    """Return the file of keys of shards in these states, None for unknown.

    Raises:
        StorageError: the storage cannot be reached.
    """
    file, keys = _read("keys", destination, lambda home: keys_url(home.spec), lambda home: KeyFile(keys_url(home.spec)))
    if keys is None:
        return file
    if states is None:
        return replace(file, fits=None)
    fits = keys.digest == digest_of(states)
    return file if fits else replace(file, fits=False, note="the shards have changed since it was made")


def _read(
    what: Literal["manifest", "table", "keys"],
    destination: Destination,
    place: Callable[[Destination], str],
    read: Callable[[Destination], T],
) -> tuple[IndexFile, T | None]:
    """Return an index file, from the first place that has one, and what ``read`` returns of it."""
    homes = [Destination(home) for home in homes_of(destination.spec)]
    looks = (_read_at(what, place(home), lambda home=home: read(home)) for home in homes)  # type: ignore[misc]
    found = []
    for look in looks:
        if look[0].exists:
            return look
        found.append(look)
    return found[0]


def _read_at(what: Literal["manifest", "table", "keys"], url: str, read: Callable[[], T]) -> tuple[IndexFile, T | None]:
    """Return an index file, and what ``read`` returns of it; None if there is none, or it is damaged."""
    try:
        return IndexFile(what, url, True, True), read()
    except NotFoundError:
        return IndexFile(what, url, False, None), None
    except (AccessError, RefusedError) as error:  # some servers forbid what is not there
        return IndexFile(what, url, None, None, error.what), None
    except (CorruptError, LimitError) as error:
        return IndexFile(what, url, True, False, error.what), None


def no_index_files() -> tuple[IndexFile, IndexFile, IndexFile]:
    """Return the index files of shards that are not one dataset: none."""
    kinds: tuple[Any, ...] = ("manifest", "table", "keys")
    manifest, table, keys = (
        IndexFile(what, "", False, None, "only one spec, as train-@8.tgz, has one") for what in kinds
    )
    return manifest, table, keys
