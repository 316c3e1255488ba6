"""htindex as a function: sidecars and a manifest for shards that have none, or a look at whether they are right.

shards -> one IndexTask each -> engine -> Indexed, in order -> manifest
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shardtools import engine
from shardtools.engine import check_cancelled
from shardtools.errors import ShardtoolsError, SpecError, StaleTableError, redact
from shardtools.jobs.extraction.gathering import run_in_order
from shardtools.jobs.options import OnError, RunOptions, expand_sources
from shardtools.shards.indexing import index_shard
from shardtools.shards.manifest import ShardEntry, build_manifest, write_manifest
from shardtools.shards.sidecar import Sidecar, read_sidecar, sidecar_url, write_sidecar
from shardtools.spec import Destination
from shardtools.storage import get_storage, using


@dataclass(frozen=True)
class IndexTask:
    """What one task does: make the sidecar of ``source`` unless there is one; with ``check`` compare it with the shard.

    ``overwrite`` makes it in any case.
    """

    source: str
    check: bool
    overwrite: bool
    on_error: OnError


@dataclass(frozen=True)
class Indexed:
    """What a task has found: the shard as the manifest has it, ``made`` if its sidecar is new; or a ``failure``."""

    url: str
    entry: ShardEntry | None
    made: bool = False
    failure: str | None = None


def index_source(task: IndexTask) -> Indexed:
    """Make, find or check the sidecar of one shard.

    Raises:
        ShardtoolsError: the shard cannot be read, or its sidecar not be written, or they do not agree.
    """
    try:
        return _index(task)
    except ShardtoolsError as error:
        if task.on_error == "fail":
            raise
        return Indexed(task.source, None, failure=str(error))


def _index(task: IndexTask) -> Indexed:
    url = task.source
    stat = get_storage(url).stat(url)
    there = None if task.overwrite else read_sidecar(url, stat.size)
    if there is None and task.check:
        raise StaleTableError("it has no sidecar that is about it", url=url, fix="make it with htindex")
    if there is not None and not task.check:
        return Indexed(url, _entry(url, there))
    found = index_shard(url, check_cancelled)
    if there is not None:
        _compare(url, there, found)
        return Indexed(url, _entry(url, there))
    write_sidecar(url, found)
    return Indexed(url, _entry(url, found), made=True)


def _entry(url: str, sidecar: Sidecar) -> ShardEntry:
    return ShardEntry(url, len(sidecar), sidecar.filesize, sidecar.checksum, sidecar.count_fields())


def _compare(url: str, there: Sidecar, found: Sidecar) -> None:
    """Raise if a sidecar says something else than its shard.

    Raises:
        StaleTableError: it does.
    """
    fix = "delete it, or make it again with htindex --overwrite"
    if (there.filesize, there.checksum) != (found.filesize, found.checksum):
        what = f"it is about a shard with the checksum {there.checksum}, and this one has {found.checksum}"
        raise StaleTableError(what, url=sidecar_url(url), fix=fix)
    names = [[sidecar.fields[code] for code in sidecar.columns["field"]] for sidecar in (there, found)]
    alike = names[0] == names[1] and there.other == found.other
    for column in ("key_data", "key_length", "members", "lead", "head", "size", "crc32"):
        alike = alike and (column not in there.columns or np.array_equal(there.columns[column], found.columns[column]))
    if not alike:
        raise StaleTableError("it does not describe what is in the shard", url=sidecar_url(url), fix=fix)


def index(
    sources: str | Sequence[str],
    *,
    check: bool = False,
    options: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    on_shard: Callable[[Indexed], None] | None = None,
) -> list[Indexed]:
    """Make the sidecars that are missing, and the manifest if ``sources`` is one spec; or check those that are there.

    Return what was found of each shard. The manifest is written if all could be read, and there is none that says the
    same.

    Raises:
        ShardtoolsError: the first error of a shard, if the options do not say to leave such out.
    """
    found: list[Indexed] = []
    with using(options.storage):
        urls = expand_sources(sources)
        tasks = [
            engine.Task(
                index_source, (IndexTask(url, check, options.overwrite, options.on_error),), url, options.storage
            )
            for url in urls
        ]
        run_in_order(tasks, found.append, options, on_shard)
        if not check:
            _write_manifest(sources, found)
    return found


def _write_manifest(sources: str | Sequence[str], found: Sequence[Indexed]) -> None:
    specs = [sources] if isinstance(sources, str) else list(sources)
    entries = [shard.entry for shard in found if shard.entry is not None]
    if len(specs) != 1 or len(entries) < len(found) or "*" in specs[0] or "{" in specs[0] or "::" in specs[0]:
        return
    try:
        destination = Destination(specs[0])
    except SpecError:
        return
    if not any(shard.made for shard in found) and get_storage(destination.manifest).exists(destination.manifest):
        return
    write_manifest(
        destination, build_manifest(destination, entries, {"program": "htindex", "sources": [redact(specs[0])]})
    )
