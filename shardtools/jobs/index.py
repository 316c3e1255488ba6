"""htindex as a function: make the sidecars and the manifest of shards, check them, or export them to other formats.

make, check: shards -> one IndexTask each -> engine -> Indexed, in order -> manifest
export:      shards -> one ExportTask each -> engine -> Indexed, in order -> index for wids
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from shardtools import engine
from shardtools.engine import check_cancelled
from shardtools.errors import (
    CorruptError,
    JobError,
    OutputExistsError,
    PlaceRefusedError,
    ShardtoolsError,
    StaleTableError,
    redact,
)
from shardtools.jobs.inputs import sidecars_there
from shardtools.jobs.options import OnError, RunOptions
from shardtools.jobs.ordered import run_in_order
from shardtools.shards.foreign import dali, wids
from shardtools.shards.indexing import index_shard
from shardtools.shards.manifest import Manifest, ShardEntry, build_manifest, find_manifest, write_manifest
from shardtools.shards.members import IndexedShard
from shardtools.shards.sidecar import VALIDATOR, Sidecar, find_sidecar, sidecar_url, write_sidecar
from shardtools.shards.table import ShardTable
from shardtools.spec import Destination
from shardtools.storage import Stat, get_storage, using
from shardtools.storage.expansion import Sources, SourceSpecs, look_up
from shardtools.storage.index_place import home_of, writing_index
from shardtools.storage.together import each
from shardtools.urls import absolute, folder_of, identity, name_of, split_path

Format = Literal["wids", "dali"]
"""Whose index to write: ``wids``, one file that lists all shards, or ``dali``, one beside each shard."""


@dataclass(frozen=True)
class IndexTask:
    """What one task does: make the sidecar of ``source`` if there is none; with ``check`` compare it with the shard.

    With ``overwrite`` it is made in any case.
    """

    source: str
    check: bool
    overwrite: bool
    on_error: OnError


@dataclass(frozen=True)
class Indexed:
    """The result of a task: the shard's ``entry`` in the manifest, ``made`` if its sidecar is new; or a ``failure``."""

    url: str
    entry: ShardEntry | None
    made: bool = False
    failure: str | None = None


def _skipped(url: str, reason: str) -> Indexed:
    return Indexed(url, None, failure=reason)


def index_source(task: IndexTask) -> Indexed:
    """Make, find or check the sidecar of one shard.

    Raises:
        ShardtoolsError: the shard cannot be read, its sidecar cannot be written, or the two do not agree.
    """
    try:
        return _index(task)
    except PlaceRefusedError:  # of all shards alike
        raise
    except ShardtoolsError as error:
        if task.on_error == "fail":
            raise
        return _skipped(task.source, str(error))


def _index(task: IndexTask) -> Indexed:
    url = task.source
    stat = get_storage(url).stat(url)
    there = None if task.overwrite else find_sidecar(url, stat)
    if there is None and task.check:
        raise StaleTableError("it has no matching sidecar", url=url, fix="make it with htindex")
    if there is not None and not task.check:
        return Indexed(url, _entry(url, there))
    found = index_shard(url, check_cancelled, entries=there is None)
    if there is not None:
        _compare(url, there, found)
        return Indexed(url, _entry(url, there))
    return Indexed(url, _entry(url, _write(url, found, stat)), made=True)


def _write(url: str, sidecar: Sidecar, stat: Stat) -> Sidecar:
    """Write a sidecar, which notes the validator of its shard if it does not lie beside it; return it.

    Raises:
        PlaceRefusedError: nothing may be written beside the shard.
        StorageError: it cannot be written.
    """
    home = home_of(url)
    if home != url and stat.validator is not None:
        sidecar = replace(sidecar, job={**sidecar.job, VALIDATOR: stat.validator})
    with writing_index():
        write_sidecar(home, sidecar)
    return sidecar


def _entry(url: str, sidecar: Sidecar) -> ShardEntry:
    fields, validator = sidecar.table.count_fields(), sidecar.job.get(VALIDATOR)
    return ShardEntry(url, len(sidecar), sidecar.filesize, sidecar.checksum, fields, validator)


def _compare(url: str, there: Sidecar, found: Sidecar) -> None:
    """Raise if a sidecar does not describe its shard.

    Raises:
        StaleTableError: it does not.
    """
    fix = "delete it, or make it again with htindex --overwrite"
    if (there.filesize, there.checksum) != (found.filesize, found.checksum):
        what = f"it describes a shard with checksum {there.checksum}, but the shard has {found.checksum}"
        raise StaleTableError(what, url=sidecar_url(url), fix=fix)
    if not _is_alike(there.table, found.table):
        raise StaleTableError("it does not describe what is in the shard", url=sidecar_url(url), fix=fix)


def _is_alike(there: ShardTable, found: ShardTable) -> bool:
    """Return whether two tables are equal, apart from checksums that the first may lack."""
    columns = ("start", "stop", "first", "offset", "size", *(() if there.crc32 is None else ("crc32",)))
    names = [[table.fields[code] for code in table.field.tolist()] for table in (there, found)]
    return (names[0], there.other, there.keys.tolist()) == (names[1], found.other, found.keys.tolist()) and all(
        np.array_equal(getattr(there, column), getattr(found, column)) for column in columns
    )


def index(
    sources: SourceSpecs,
    *,
    check: bool = False,
    options: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    on_shard: Callable[[Indexed], None] | None = None,
) -> list[Indexed]:
    """Make the sidecars that are missing, and the manifest if ``sources`` is one spec; with ``check`` compare them.

    Return the result for each shard. The manifest is written if all shards could be read, and if it is missing or not
    up to date.

    Raises:
        ShardtoolsError: the first error of a shard, unless the options say to skip shards with errors.
    """
    with using(options.storage):
        named = look_up(sources)
        there: dict[str, Indexed] = {}
        if options.on_this_machine and not check and not options.overwrite:
            there = _look_for_sidecars(named.urls, on_shard)
        urls = [url for url in named.urls if url not in there]
        tasks = [
            engine.Task(
                index_source, (IndexTask(url, check, options.overwrite, options.on_error),), url, options.storage
            )
            for url in urls
        ]
        made: list[Indexed] = []
        written = [] if check else [folder_of(home_of(absolute(url))) for url in urls]
        run_in_order(tasks, made.append, options, on_shard, written, label="htindex", skipped=_skipped)
        by_url = {**there, **dict(zip(urls, made, strict=True))}
        found = [by_url[url] for url in named.urls]
        if not check:
            _write_manifest(named, found)
    return found


def _look_for_sidecars(urls: Sequence[str], on_shard: Callable[[Indexed], None] | None) -> dict[str, Indexed]:
    """Return the results of the shards that have a sidecar: many at a time, which each wait for a server."""
    there: dict[str, Indexed] = {}
    for url, sidecar in zip(urls, sidecars_there(urls), strict=True):
        if sidecar is not None:
            there[url] = Indexed(url, _entry(url, sidecar))
            if on_shard is not None:
                on_shard(there[url])
    return there


def _write_manifest(sources: Sources, found: Sequence[Indexed]) -> None:
    specs = sources.specs
    entries = [shard.entry for shard in found if shard.entry is not None]
    if len(specs) != 1 or len(entries) < len(found) or "*" in specs[0] or "{" in specs[0] or "::" in specs[0]:
        return
    if (named := Destination.of(specs[0])) is None:
        return
    destination = Destination(home_of(named.spec))
    before = find_manifest(specs[0], [entry.url for entry in entries])
    if before is not None and _is_right(before, entries) and not any(shard.made for shard in found):
        return
    job = {"program": "htindex", "sources": [redact(specs[0])]}
    with writing_index():
        write_manifest(destination, build_manifest(destination, entries, job, before.facts if before else None))


def _is_right(manifest: Manifest, entries: Sequence[ShardEntry]) -> bool:
    """Return whether a manifest has what sidecars have; that of another program need not have sizes or checksums."""
    counts, sizes = tuple(one.nsamples for one in entries), tuple(one.filesize for one in entries)
    known = zip(manifest.checksums or (), entries, strict=False)
    is_same = all(checksum == one.checksum or not checksum.startswith("crc32:") for checksum, one in known)
    return is_same and manifest.counts == counts and manifest.sizes in (None, sizes)


@dataclass(frozen=True)
class ExportTask:
    """What one task does: look up what is in ``source``; write its index beside it if the format has one per shard."""

    source: str
    format: Format
    on_error: OnError


def export_source(task: ExportTask) -> Indexed:
    """Return the entry of a shard, from its sidecar or by reading it; write its index if the format has one per shard.

    Raises:
        ShardtoolsError: the shard cannot be read, its index cannot be written, or the format cannot describe it.
    """
    url = task.source
    try:
        stat = get_storage(url).stat(url)
        sidecar = find_sidecar(url, stat)
        if sidecar is None:
            sidecar = index_shard(url, check_cancelled, entries=False)
        if IndexedShard(url, sidecar).packing != "tar":
            what = "the shard is compressed, although its name ends with .tar"
            raise CorruptError(what, url=url, fix="rename it, and make a plain one with htshuffle or htmapper")
        if task.format == "wids":
            wids.check_readable(sidecar.table, url)
        else:
            index = dali.dump_index(sidecar.table, url)
            with get_storage(url).create(dali.index_url(url)) as sink:
                sink.write(index)
        return Indexed(url, _entry(url, sidecar))
    except ShardtoolsError as error:
        if task.on_error == "fail":
            raise
        return _skipped(url, str(error))


def export(
    sources: SourceSpecs,
    format: Format,
    *,
    output: str | None = None,
    options: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    on_shard: Callable[[Indexed], None] | None = None,
) -> tuple[list[Indexed], list[str]]:
    """Write what the sidecars say in the format of another program; a shard without a sidecar is read.

    Return the result for each shard, and the URLs of the files that were written. ``output`` is the URL of the file for
    wids; by default its name is like that of the shards. It is not written if a shard could not be read.

    Raises:
        JobError: the format is not for such shards, or there is no name for its file.
        OutputExistsError: a file exists, and may not be replaced.
        ShardtoolsError: the first error of a shard, unless the options say to skip shards with errors.
    """
    found: list[Indexed] = []
    with using(options.storage):
        named = look_up(sources)
        urls = named.urls
        if output is not None and identity(output) in set(map(identity, urls)):
            raise JobError("the index would replace a shard", url=output, fix="give it a name of its own")
        _refuse_names(urls, format)
        outputs = [output or _wids_url(named.specs, urls)] if format == "wids" else _dali_urls(urls)
        if not options.overwrite:
            _refuse_existing(outputs)
        tasks = [
            engine.Task(export_source, (ExportTask(url, format, options.on_error),), url, options.storage)
            for url in urls
        ]
        written = map(folder_of, urls) if format == "dali" else []
        run_in_order(tasks, found.append, options, on_shard, written, label="htindex-export", skipped=_skipped)
        entries = [shard.entry for shard in found if shard.entry is not None]
        if format == "dali":
            return found, [dali.index_url(entry.url) for entry in entries]
        if len(entries) < len(found):
            return found, []
        with get_storage(outputs[0]).create(outputs[0]) as sink:
            sink.write(wids.build_index(outputs[0], _stem(name_of(outputs[0])), entries))
    return found, outputs


def _refuse_names(urls: Sequence[str], format: Format) -> None:
    """Raise if the name of a shard does not end with .tar: other programs read plain tar files only.

    Raises:
        JobError: it does not.
    """
    for url in urls:
        if not name_of(url).endswith(".tar"):
            name = {"wids": "wids", "dali": "DALI"}[format]
            fix = "make such shards with htshuffle or htmapper"
            raise JobError(f"{name} reads plain .tar files only", url=url, fix=fix)


def _dali_urls(urls: Sequence[str]) -> list[str]:
    found: dict[str, str] = {}
    for url in urls:
        if (other := found.setdefault(dali.index_url(url), url)) != url:
            what = f"its index would have the same name as that of {name_of(other)}"
            raise JobError(what, url=url, fix="let the names of shards differ before their first dot")
    return list(found)


def _wids_url(specs: Sequence[str], urls: Sequence[str]) -> str:
    """Return the default place of the index for wids: beside the shards.

    >>> _wids_url(["/d/train-@2.tgz"], ["/d/train-0.tgz", "/d/train-1.tgz"])
    '/d/train-wids.json'
    """
    named = Destination.of(specs[0]) if len(specs) == 1 else None
    if named is None or "-" in urls or {*map(folder_of, urls)} != {folder_of(named.spec)}:
        raise JobError("the index of such sources has no name of its own", fix="give it one with -o FILE")
    head, path, tail = split_path(absolute(named.spec))
    name = "-".join(filter(None, (_stem(name_of(named.spec)), "wids.json")))
    return f"{head}{path.rpartition('/')[0]}/{name}{tail}"


def _stem(name: str) -> str:
    """Return the name of a dataset, given the name of a spec or file.

    >>> _stem("v1.0-@1000.tar"), _stem("train.tar.gz"), _stem("@3.tar")
    ('v1.0', 'train', '')
    """
    counts = list(re.finditer(r"@[0-9]+", name))
    return (name[: counts[-1].start()] if counts else name.partition(".")[0]).rstrip("-_.")


def _refuse_existing(urls: Sequence[str]) -> None:
    there = each(lambda url: get_storage(url).exists(url), urls)
    found = [url for url, exists in zip(urls, there, strict=True) if exists]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise OutputExistsError(f"the output exists{more}", url=found[0], fix="use --overwrite to replace it")
