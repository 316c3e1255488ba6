"""What a dataset is: its size, fields, classes, spread of values, origin and index files, in about a dozen requests.

    manifest -> samples, bytes, fields, origin                    2: its text and its time
    table    -> histograms, counts of classes                     some: its size, its end, and the columns of numbers
    file of keys -> is it for these shards?                       1: its head
    two shards   -> do sidecars fit? mean sizes, examples         2 for each, and a range for examples

Their number does not depend on that of the shards. Without a manifest the first `UNKNOWN_SHARDS` shards are looked at;
what is counted in them is a part of the whole, unless these are all: `Description.partial`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from shardtools.errors import ShardtoolsError, SpecError, redact
from shardtools.query.examples import first_table, read_examples, shortened
from shardtools.query.histograms import Classes, Histogram, count_classes, find_histograms, named_classes
from shardtools.query.index_files import (
    FoundManifest,
    FoundTable,
    IndexFile,
    find_key_file,
    find_manifest_file,
    find_table_file,
    no_index_files,
    states_in,
)
from shardtools.query.shard_list import ListedShard
from shardtools.shards.fields import kind_of
from shardtools.shards.manifest import CLASS_FIELD, Manifest
from shardtools.shards.members import IndexedShard
from shardtools.shards.table import ShardTable
from shardtools.shards.tables import Tables
from shardtools.spec import Destination
from shardtools.storage import current_options, get_storage
from shardtools.storage.expansion import expand_sources
from shardtools.storage.together import each
from shardtools.urls import name_of

UNKNOWN_SHARDS = 32
"""The most shards that are looked at without a manifest."""


@dataclass(frozen=True)
class FieldDescription:
    """A field: the ``kind`` of its values, how many samples have it, and the mean size of its data in bytes.

    ``count`` is None if unknown, and a part if `Description.partial`. ``mean_bytes`` is the mean over the shards that
    were looked at, None if unknown. ``example`` is a short text that is safe to print, None if there is none.
    """

    name: str
    kind: str
    count: int | None
    mean_bytes: float | None
    example: str | None


@dataclass(frozen=True)
class Origin:
    """What made a dataset: the ``program``, from which ``sources``, when, and all entries of its ``job``.

    ``written`` is the time of the manifest in UTC, as 2026-01-31T12:00:00+00:00; None if the storage does not say.
    """

    program: str | None
    sources: tuple[str, ...]
    written: str | None
    job: Mapping[str, Any]


@dataclass(frozen=True)
class Description:
    """What is known of a dataset. URLs are without secrets.

    ``samples`` and ``bytes`` (of the shards as stored) are None if unknown. If ``partial``, these and the counts of
    fields are those of the shards that were ``looked_at``, so the whole dataset has at least as many. ``facts`` are the
    other entries of the manifest, such as a license. ``problems`` are errors of single shards. ``shard_list`` has all
    shards, None if they were not asked for.
    """

    spec: str
    shards: int
    looked_at: int
    samples: int | None
    bytes: int | None
    partial: bool
    fields: tuple[FieldDescription, ...]
    classes: Classes | None
    histograms: tuple[Histogram, ...]
    origin: Origin | None
    files: tuple[IndexFile, ...]
    facts: Mapping[str, Any]
    problems: tuple[str, ...]
    shard_list: tuple[ListedShard, ...] | None = None


@dataclass(frozen=True)
class _Look:
    """A shard that was looked at: with its table; without one, the table of its ``first`` samples; or an error."""

    url: str
    shard: IndexedShard | None = None
    first: ShardTable | None = None
    error: ShardtoolsError | None = None


def describe(spec: str) -> Description:
    """Return what is known of the dataset that a single ``spec`` names.

    Raises:
        SpecError: it names nothing.
        StorageError, ShardError: none of the shards that were looked at can be read.
    """
    urls = expand_sources(spec)
    destination = Destination.of(spec)
    manifest, table, keys = _find_index(destination, urls)
    known = manifest.manifest
    looks = _look_at(urls, known)
    facts = dict(known.facts) if known else {}
    names = facts.pop("classes", None)
    samples, size, is_partial = _totals(known, looks, len(urls))
    return Description(
        spec=redact(spec if destination is None else destination.spec),
        shards=len(urls),
        looked_at=len(looks),
        samples=samples,
        bytes=size,
        partial=is_partial,
        fields=_fields(known, looks),
        classes=_classes(table, names),
        histograms=find_histograms(table.table) if table.table else (),
        origin=None if known is None else _origin(known),
        files=tuple(_redacted(file) for file in (manifest.file, _sidecars(looks, len(urls)), table.file, keys)),
        facts=facts,
        problems=tuple(str(look.error) for look in looks if look.error is not None),
    )


def _find_index(destination: Destination | None, urls: Sequence[str]) -> tuple[FoundManifest, FoundTable, IndexFile]:
    if destination is None:
        manifest_file, table_file, keys_file = no_index_files()
        return FoundManifest(manifest_file), FoundTable(table_file), keys_file
    names = tuple(map(name_of, urls))
    manifest = find_manifest_file(destination, names)
    states = states_in(manifest.manifest)
    return manifest, find_table_file(destination, names, states), find_key_file(destination, states)


def _redacted(file: IndexFile) -> IndexFile:
    return IndexFile(file.what, redact(file.url), file.exists, file.fits, file.note)


# --- shards


def _look_at(urls: Sequence[str], manifest: Manifest | None) -> list[_Look]:
    """Look at some shards: those with the first and the last sample, or without a manifest the first ones.

    Raises:
        ShardtoolsError: none of them can be read.
    """
    numbers = list(range(min(UNKNOWN_SHARDS, len(urls))))
    if manifest is not None:
        filled = [number for number, count in enumerate(manifest.counts) if count] or [0]
        numbers = sorted({filled[0], filled[-1]})
    tables = Tables(urls, current_options())

    def look(number: int) -> _Look:
        url = urls[number]
        try:
            shard = tables.stored(number)
            if shard is not None and manifest is not None:
                _compare(manifest, number, shard)
            return _Look(url, shard, first_table(url) if shard is None and number == numbers[0] else None)
        except ShardtoolsError as error:
            return _Look(url, error=error)

    looks = list(each(look, numbers, 16))
    if all(look.error is not None for look in looks) and looks[0].error is not None:
        raise looks[0].error
    return looks


def _compare(manifest: Manifest, number: int, shard: IndexedShard) -> None:
    """Raise if a shard is not as the manifest says.

    Raises:
        SpecError: it is not.
    """
    size, count = shard.sidecar.filesize, len(shard.table)
    was = None if manifest.sizes is None else manifest.sizes[number]
    if count != manifest.counts[number] or was not in (None, size):
        what = f"it has {count:,} samples and {size:,} bytes, and other numbers in the manifest"
        raise SpecError(what, url=shard.url, fix="delete the manifest, or make it again with htindex")


def _totals(manifest: Manifest | None, looks: Sequence[_Look], shards: int) -> tuple[int | None, int | None, bool]:
    """Return samples, bytes, and whether they are those of a part of the shards."""
    if manifest is not None:
        return sum(manifest.counts), None if manifest.sizes is None else sum(manifest.sizes), False
    found = [look.shard for look in looks if look.shard is not None]
    samples, size = sum(len(shard.table) for shard in found), sum(shard.sidecar.filesize for shard in found)
    first = sum(len(look.first) for look in looks if look.first is not None)
    return samples + first, size or None, len(found) < shards


def _fields(manifest: Manifest | None, looks: Sequence[_Look]) -> tuple[FieldDescription, ...]:
    tables = [table for look in looks for table in (look.shard.table if look.shard else look.first,) if table]
    counts, sizes = count_members(tables)
    known = dict(manifest.fields) if manifest is not None and manifest.fields else None
    examples = _examples(looks)
    return tuple(
        FieldDescription(
            shortened(name),
            kind_of(name),
            counts[name] if known is None and manifest is None else (known or {}).get(name),
            sizes[name] / counts[name] if counts.get(name) else None,
            examples.get(name),
        )
        for name in sorted({*counts, *(known or ())})
    )


def count_members(tables: Sequence[ShardTable]) -> tuple[dict[str, int], dict[str, float]]:
    """Return how many samples have each field, and the bytes of its data."""
    counts: dict[str, int] = {}
    sizes: dict[str, float] = {}
    for table in tables:
        numbers = np.bincount(table.field, minlength=len(table.fields)).tolist()
        totals = np.bincount(table.field, weights=table.size, minlength=len(table.fields)).tolist()
        for name, number, total in zip(table.fields, numbers, totals, strict=True):
            counts[name] = counts.get(name, 0) + number
            sizes[name] = sizes.get(name, 0.0) + total
    return counts, sizes


def _examples(looks: Sequence[_Look]) -> dict[str, str]:
    """Return an example of each field of the first shard that can be read and has samples."""
    for look in looks:
        table = look.shard.table if look.shard is not None else look.first
        if table is not None and len(table):
            return read_examples(look.url, look.shard)
    return {}


def _sidecars(looks: Sequence[_Look], shards: int) -> IndexFile:
    own = sum(look.shard is not None and not look.shard.foreign for look in looks)
    foreign = sum(look.shard is not None and look.shard.foreign for look in looks)
    of = f"of the {len(looks):,} shards that were looked at" if len(looks) < shards else f"of {len(looks):,} shards"
    note = f"{own:,} {of}" + (f", and {foreign:,} have an index of another program" if foreign else "")
    return IndexFile("sidecars", "", own > 0, own == len(looks), note)


# --- the manifest and the table


def _classes(table: FoundTable, names: Sequence[str] | None) -> Classes | None:
    shown = None if names is None else [shortened(name) for name in names]
    counted = None if table.table is None else count_classes(table.table, CLASS_FIELD, shown)
    return named_classes(CLASS_FIELD, shown) if counted is None and shown else counted


def _origin(manifest: Manifest) -> Origin:
    job = manifest.job
    program, sources = job.get("program"), job.get("sources")
    modified = get_storage(manifest.url).stat(manifest.url).modified
    return Origin(
        program if isinstance(program, str) else None,
        tuple(redact(str(source)) for source in sources) if isinstance(sources, list) else (),
        None if modified is None else datetime.fromtimestamp(modified, UTC).isoformat(timespec="seconds"),
        dict(job),
    )
