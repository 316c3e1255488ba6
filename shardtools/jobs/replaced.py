"""The shards that remain when a dataset replaces one that had more shards, and how they are removed.

    out-000000.tar … out-000019.tar, out-@000020.tar.json     the old dataset
    out-000000.tar … out-000011.tar, out-@000012.tar.json     the new dataset, written with --overwrite

Shards 12 to 19 belong to the old dataset, as its manifest says. They are removed when the new dataset is complete:

    first shard replaced -> old manifest retired: now only a list of names, which describes no dataset
    new manifest written -> old shards removed, with table, keys, summary and page -> retired manifest removed

The job may be killed at any moment: the retired manifest says what the next job has to remove. Specs with another
number of digits have no file in common, and do not affect each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from shardtools.errors import JobError, LimitError, NotFoundError, OutputExistsError
from shardtools.jobs.beside import delete_all, delete_published, find_beside
from shardtools.jobs.options import RunOptions, check_outputs, list_outputs, refuse_existing
from shardtools.json_text import parse_json
from shardtools.shards.sidecar import sidecar_url
from shardtools.spec import Destination
from shardtools.storage import get_storage
from shardtools.storage.limited import read_limited
from shardtools.storage.together import each
from shardtools.urls import identity, name_of, split_path

_RETIRED = "shardtools-replaced"


@dataclass(frozen=True)
class Replaced:
    """What a job has to remove: ``shards`` of other datasets that it replaces, and what lies beside the ``specs``."""

    shards: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()

    @property
    def manifests(self) -> tuple[str, ...]:
        """The manifests of the datasets."""
        return tuple(Destination(spec).manifest for spec in self.specs)


NOTHING_REPLACED = Replaced()


@dataclass(frozen=True)
class _ShardNames:
    """A manifest of the same pattern: the ``names`` of its shards, and whether it is ``retired``."""

    names: frozenset[str]
    retired: bool


def look_at_outputs(
    destination: Destination, sources: Sequence[str], options: RunOptions
) -> tuple[tuple[str, ...], Replaced]:
    """Return which outputs exist, and what is removed at the end; the folder of the outputs is listed once.

    Raises:
        SpecError: the destination's name is not that of a shard.
        JobError: an output is an input, or the report is one of them, or a source would be removed.
        OutputExistsError: an output exists, and the options allow neither to replace nor to resume; or there is a shard
            after the last output that no manifest names.
    """
    check_outputs(sources, destination, options.report)
    listed = list_outputs(destination)
    existing = tuple(refuse_existing(destination, listed, options))
    return existing, find_replaced(destination, listed, sources, options)


def find_replaced(
    destination: Destination, listed: Sequence[str] | None, sources: Iterable[str], options: RunOptions
) -> Replaced:
    """Return what a job to ``destination`` has to remove at its end, given `list_outputs` of it.

    Without ``overwrite`` that is what an earlier job should have removed.

    Raises:
        OutputExistsError: with ``overwrite``, there is a shard after the last output that no manifest names.
        JobError: a source would be removed.
    """
    pattern = destination.pattern()
    if pattern is None or not (options.overwrite or options.resume):
        return NOTHING_REPLACED
    before, _, after = pattern
    if listed is None or not _is_listed(destination, before, after):
        following = destination.url(destination.count or 0)
        if options.overwrite and get_storage(following).exists(following):
            raise _unknown([following])
        return NOTHING_REPLACED
    numbers, others = _look(destination, pattern, listed)
    specs = [f"{before}@{digits}{after}" for digits in others]
    found = {spec: manifest for spec in specs if (manifest := _read(Destination(spec).manifest))}
    old = {spec: manifest for spec, manifest in found.items() if options.overwrite or manifest.retired}
    shards = [destination.url(number) for number in sorted(numbers)]
    named = {url for url in shards if any(_name(url) in manifest.names for manifest in found.values())}
    if options.overwrite and (unknown := [url for url in shards if url not in named]):
        raise _unknown(unknown)
    ours = tuple(url for url in shards if any(_name(url) in manifest.names for manifest in old.values()))
    _refuse_sources(sources, ours)
    return Replaced(ours, tuple(old))


def _is_listed(destination: Destination, before: str, after: str) -> bool:
    """Return whether all shards of a pattern are in one listing: in one folder, and not hidden."""
    return "/" not in _end(destination, after) and not before.rpartition("/")[2].startswith(".")


def _end(destination: Destination, after: str) -> str:
    return after.removesuffix(split_path(destination.spec)[2])


def _look(
    destination: Destination, pattern: tuple[str, int, str], listed: Iterable[str]
) -> tuple[list[int], list[str]]:
    """Return the numbers of shards beyond those of a destination, and the digits in the names of other manifests."""
    before, width, after = pattern
    start, end = before.rpartition("/")[2], _end(destination, after)
    count = destination.count or 0
    name = re.compile(rf"{re.escape(unquote(start))}(@?)([0-9]{{{width}}}){re.escape(unquote(end))}(\.json)?")
    numbers, others = [], []
    for url in listed:
        match = name.fullmatch(_name(url))
        if match is None or bool(match[1]) != bool(match[3]):
            continue
        number = int(match[2])
        if not match[1] and number >= count:
            numbers.append(number)
        elif match[1] and number not in (0, count):
            others.append(match[2])
    return numbers, others


def _name(url: str) -> str:
    return unquote(name_of(url))


def _read(url: str) -> _ShardNames | None:
    """Return the names in a manifest; None if it is not a manifest, so that nothing is removed."""
    try:
        data = parse_json(read_limited(url, "manifest"), url)
        retired = data.get("__kind__") == _RETIRED
        names = data["shards"] if retired else [entry["url"] for entry in data["shardlist"]]
        own = frozenset(unquote(name) for name in names if "/" not in name)
    except (NotFoundError, LimitError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return _ShardNames(own, retired)


def _unknown(urls: Sequence[str]) -> OutputExistsError:
    more = f" (and {len(urls) - 1} more)" if len(urls) > 1 else ""
    return OutputExistsError(
        f"this shard{more} comes after the last one that is written, and no manifest says which dataset it belongs to",
        url=urls[0],
        fix="delete it, or choose another destination",
    )


def _refuse_sources(sources: Iterable[str], shards: Iterable[str]) -> None:
    inputs = set(map(identity, sources))
    for url in shards:
        if identity(url) in inputs:
            what = "this source belongs to the dataset that would be replaced, and removed"
            raise JobError(what, url=url, fix="write to another destination")


def retire(url: str) -> None:
    """Reduce a manifest to the names of its shards, which are to be removed; a file that is no manifest is kept."""
    found = _read(url)
    if found is not None and not found.retired:
        data = json.dumps({"__kind__": _RETIRED, "shards": sorted(found.names)}, indent=1)
        with get_storage(url).create(url) as sink:
            sink.write(data.encode("utf-8", "surrogateescape") + b"\n")


def remove(replaced: Replaced) -> None:
    """Remove the shards with their sidecars, what lies beside them, and then the manifests that say that this goes."""

    def delete(url: str) -> None:
        storage = get_storage(url)
        storage.delete(sidecar_url(url))
        storage.delete(url)

    for _ in each(delete, replaced.shards):
        pass
    for spec in replaced.specs:
        files = find_beside(Destination(spec))
        delete_all([*files.index, *files.parts])
        delete_published(spec, files.published)
    delete_all(replaced.manifests)
