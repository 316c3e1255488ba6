"""htcp as a function: copy a dataset, shards byte for byte, with all of its index files.

    shards of the source -> one CopyTask each -> engine -> ShardResults
    table, file of keys  -> one FileTask each -> engine    if they fit; with other names of shards, if these differ
    summary, page        -> one FileTask each -> engine    see copy_published.py
    manifest, with other names -> written last

It is the same dataset: as many shards, with the same samples, packed in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from shardtools import engine
from shardtools.errors import CorruptError, JobError, NotFoundError, OutputExistsError, redact
from shardtools.jobs.beside import find_beside
from shardtools.jobs.copy_file import CopyTask, FileTask, copy_file, copy_shard
from shardtools.jobs.copy_published import published_files
from shardtools.jobs.lock import locked
from shardtools.jobs.options import OnError, RunOptions
from shardtools.jobs.ordered import run_in_order
from shardtools.jobs.replaced import Replaced, look_at_outputs, remove
from shardtools.jobs.report import JobResult, report_failure, write_report
from shardtools.jobs.target import ShardResult, Target, targets
from shardtools.json_text import parse_json
from shardtools.query.index_files import states_in
from shardtools.query.key_file import KeyFile, digest_of, keys_url
from shardtools.query.published import INDEX, page_folder
from shardtools.query.renamed import UNCHANGED, Splice, rename_in_keys, rename_in_table, renamed
from shardtools.query.table_file import TableFacts, read_facts, table_url
from shardtools.shards.manifest import Manifest, read_manifest, write_manifest
from shardtools.shards.packers import packer_for
from shardtools.spec import Destination
from shardtools.storage import get_storage, using
from shardtools.storage.expansion import SourceSpecs, look_up
from shardtools.storage.index_place import homes_of
from shardtools.storage.limited import read_limited
from shardtools.urls import beside, folder_of, identity, name_of

_OTHER = "htshuffle --no-shuffle writes other shards of the same samples"


@dataclass(frozen=True)
class CopyPlan:
    """What a copy will do: ``shards`` and ``files`` to ``destination``, and the manifest as JSON, if there is one.

    ``notes`` say what is not copied. ``obsolete`` are index files of the dataset that is replaced. ``existing`` outputs
    are there; ``replaced`` is removed at the end.
    """

    destination: Destination
    shards: tuple[CopyTask, ...]
    files: tuple[FileTask, ...]
    manifest: dict[str, Any] | None
    size: int | None
    samples: int | None
    existing: tuple[str, ...]
    replaced: Replaced
    obsolete: tuple[str, ...]
    notes: tuple[str, ...]
    job: dict[str, Any]


def plan_copy(sources: SourceSpecs, destination: str, options: RunOptions) -> CopyPlan:
    """Return what a copy would do, after every check that can be made before any work.

    Raises:
        SpecError: a spec is wrong.
        JobError: the destination has another number of shards, or packs them in another way; or it is the source.
        OutputExistsError: an output exists, and the options allow neither to replace nor to resume.
        CorruptError: the manifest is damaged, or lists other shards.
    """
    with using(options.storage):
        named = look_up(sources)
        if len(named.parts) != 1 or "-" in (destination, named.parts[0].spec):
            raise JobError("htcp copies one dataset to one place", fix="call it for each dataset")
        spec, urls = named.parts[0].spec, named.urls
        target = Destination(destination).resolve(len(urls))
        _check_alike(urls, target)
        existing, replaced = look_at_outputs(target, urls, options)
        source = _dataset(spec)
        manifest = None if source is None else _manifest(source, urls)
        files, notes = ([], []) if source is None else _files(spec, source, target, urls, manifest)
        beside_it = find_beside(target)
        there = [*beside_it.index, *beside_it.published]
        if there and not (options.overwrite or options.resume):
            fix = "use --resume to continue the job, or --overwrite to replace"
            raise OutputExistsError("the output exists", url=there[0], fix=fix)
        outputs = targets(target, options, set(existing), replaced)
        return CopyPlan(
            target,
            _tasks(urls, outputs, manifest, options.on_error),
            tuple(files),
            None if manifest is None else _with_names(manifest.url, target),
            None if manifest is None or manifest.sizes is None else sum(manifest.sizes),
            None if manifest is None else sum(manifest.counts),
            existing,
            replaced,
            _obsolete(target, there, files),
            tuple(notes),
            {"program": "htcp", "sources": [redact(spec)]},
        )


def _tasks(
    urls: Sequence[str], outputs: Sequence[Target], manifest: Manifest | None, on_error: OnError
) -> tuple[CopyTask, ...]:
    counts: Sequence[int | None] = [None] * len(urls) if manifest is None else manifest.counts
    known = zip(urls, outputs, _checksums(manifest, len(urls)), counts, strict=True)
    return tuple(CopyTask(*one, on_error) for one in known)


def _obsolete(target: Destination, there: Sequence[str], files: Sequence[FileTask]) -> tuple[str, ...]:
    """Return the files beside the destination that a copy leaves without use; a page stays, if none is copied."""
    folder = page_folder(target.spec)
    copied = {unquote(identity(file.target)) for file in files}
    keeps_page = unquote(identity(folder + INDEX)) not in copied
    left = [url for url in there if unquote(identity(url)) not in copied]
    return tuple(url for url in left if not (keeps_page and url.startswith(folder)))


def _check_alike(urls: Sequence[str], target: Destination) -> None:
    """Raise if the shards of a destination are not as many as those of the source, or packed in another way.

    Raises:
        JobError: they are not.
    """
    if target.count != len(urls):
        what = f"{len(urls):,} shards cannot be copied to {target.count:,} shards"
        raise JobError(what, url=target.spec, fix=f"ask for {len(urls)}; {_OTHER}")
    for url, output in zip(urls, target.urls(), strict=True):
        if type(packer_for(url)) is not type(packer_for(output)):
            what = "a copy is packed like its source, and these names end differently"
            raise JobError(what, url=output, fix=f"let it end like {name_of(url)}; {_OTHER}")


def _dataset(spec: str) -> Destination | None:
    """Return where the index files of the source are named after."""
    if (named := Destination.of(spec)) is None:
        return None
    homes = list(map(Destination, homes_of(named.spec)))
    return next((home for home in homes[:-1] if get_storage(home.manifest).exists(home.manifest)), homes[-1])


def _manifest(source: Destination, urls: Sequence[str]) -> Manifest | None:
    try:
        manifest = read_manifest(source.manifest)
    except NotFoundError:
        return None
    if manifest.names != tuple(map(name_of, urls)):
        fix = "delete it, or make it again with htindex"
        raise CorruptError("the manifest lists other shards than those that are named", url=source.manifest, fix=fix)
    return manifest


def _checksums(manifest: Manifest | None, count: int) -> list[str | None]:
    """Return the checksums of shards, None for those that a manifest does not have in the form of sidecars."""
    known: Sequence[str] = () if manifest is None else manifest.checksums or ()
    return [text if text.startswith("crc32:") else None for text in known] or [None] * count


def _with_names(url: str, target: Destination) -> dict[str, Any]:
    """Return the manifest at ``url`` with the names of the shards of a destination, and else as it is."""
    data: dict[str, Any] = parse_json(read_limited(url, "manifest"), url)
    for entry, shard in zip(data["shardlist"], target.urls(), strict=True):
        entry["url"] = name_of(shard)
        entry.pop("validator", None)  # a copy has its own
    if "name" in data:
        data["name"] = name_of(target.spec)
    return data


def _files(
    spec: str, source: Destination, target: Destination, urls: Sequence[str], manifest: Manifest | None
) -> tuple[list[FileTask], list[str]]:
    """Return the copies of the files beside a dataset, except the manifest, and notes about those that do not fit."""
    index, notes = _index_files(source, target, urls, manifest)
    published, more = published_files(Destination(spec).spec, target, manifest)
    return [*index, *published], [*notes, *more]


def _index_files(
    source: Destination, target: Destination, urls: Sequence[str], manifest: Manifest | None
) -> tuple[list[FileTask], list[str]]:
    """Return the copies of the table and the file of keys, and notes about those that do not fit the shards."""
    try:
        facts = read_facts(table_url(source.spec))
    except NotFoundError:
        return [], []
    except CorruptError as error:
        return [], [f"not copied: {error}"]
    names, others = [name_of(url) for url in urls], [name_of(url) for url in target.urls()]
    if [shard.name for shard in facts.shards] != names or not _fits(facts, manifest):
        return [], [f"not copied: {redact(table_url(source.spec))}: the shards have changed; htindex --table makes it"]
    tables = [table_url(source.spec, number) for number in range(len(facts.files))]
    splices = [UNCHANGED] * len(tables)
    if names != others:
        splices[0] = rename_in_table(tables[0], get_storage(tables[0]).stat(tables[0]).size or 0, others)
    files = [
        FileTask(url, table_url(target.spec, number), splice)
        for number, (url, splice) in enumerate(zip(tables, splices, strict=True))
    ]
    keys, notes = _keys(source, facts, renamed(facts, others))
    return [*files, *(FileTask(keys_url(source.spec), keys_url(target.spec), splice) for splice in keys)], notes


def _fits(facts: TableFacts, manifest: Manifest | None) -> bool:
    states = states_in(manifest)
    return states is None or facts.shards == states


def _keys(source: Destination, facts: TableFacts, new: TableFacts) -> tuple[list[Splice], list[str]]:
    """Return how the file of keys is changed, if it is copied, and notes."""
    url = keys_url(source.spec)
    try:
        if KeyFile(url).digest != digest_of(facts.shards):
            return [], [f"not copied: {redact(url)}: the shards have changed; htindex --table makes it"]
    except NotFoundError:
        return [], []
    except CorruptError as error:
        return [], [f"not copied: {error}"]
    return [UNCHANGED if facts.shards == new.shards else rename_in_keys(url, new.shards)], []


# --- copying


def run_copy(plan: CopyPlan, options: RunOptions, on_shard: Callable[[ShardResult], None] | None = None) -> JobResult:
    """Carry out a plan; ``on_shard`` is called with the result of each shard as it comes.

    Raises:
        OutputBusyError: another job writes to the destination.
        ShardtoolsError: the first error, after the tasks that were running have ended. Complete shards stay, for
            ``resume``.
    """
    results: list[ShardResult] = []
    with using(options.storage):
        try:
            with locked(beside(plan.destination.spec, ".lock"), take_over=options.resume or options.overwrite) as lock:
                _run(plan, options, results, on_shard)
                if lock is not None:
                    lock.check()
                result = JobResult(plan.destination.spec, results, job=plan.job)
                if not result.failures:
                    _complete(plan)
        except BaseException as error:
            if options.report:
                partial = JobResult(plan.destination.spec, results, job=plan.job)
                report_failure(options.report, plan.job, partial, error)
            raise
        if options.report:
            write_report(options.report, plan.job, result, None)
    return result


def _run(
    plan: CopyPlan,
    options: RunOptions,
    results: list[ShardResult],
    on_shard: Callable[[ShardResult], None] | None,
) -> None:
    targets_of = {task.source: task.target.url for task in plan.shards}
    folder = [folder_of(plan.destination.spec)]

    def skipped(url: str, reason: str) -> ShardResult:
        return ShardResult(url, targets_of[url], failure=reason)

    tasks = [engine.Task(copy_shard, (task,), task.source, options.storage) for task in plan.shards]
    run_in_order(tasks, results.append, options, on_shard, folder, label="htcp", skipped=skipped)
    if not any(result.failure for result in results):
        files = [engine.Task(copy_file, (task,), task.source, options.storage) for task in plan.files]
        run_in_order(files, lambda size: None, options, written=folder, label="htcp-index")


def _complete(plan: CopyPlan) -> None:
    """Write the manifest, as the last file of the dataset, and remove what it replaces."""
    storage = get_storage(plan.destination.spec)
    for url in plan.obsolete:
        storage.delete(url)
    if plan.manifest is not None:
        write_manifest(plan.destination, plan.manifest)
    remove(plan.replaced)
