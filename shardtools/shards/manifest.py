"""The manifest of a dataset: ``train-@1000.tgz.json`` lists its shards, so that one GET gives its length and fields.

It is a superset of the shard index that wids reads (version 1): every shard's ``url`` (relative to the manifest where
they share a folder), ``nsamples``, ``filesize`` and ``checksum``; and for the whole dataset ``nsamples``, ``filesize``,
``fields`` (how many samples have each), and the ``job`` that wrote it. It is written last, after every shard.

    write: shards, job, facts -> build_manifest -> write_manifest
    read:  URL -> read_manifest -> Manifest; sources -> find_manifests -> common_facts -> the next manifest

Every other entry is a fact about the samples, such as ``classes`` (the names of the numbers in the field ``cls``), a
``description`` or a ``license``. Facts are copied to the manifests of datasets that are made from this one.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from shardtools.errors import (
    AccessError,
    CorruptError,
    JobError,
    LimitError,
    NotFoundError,
    RefusedError,
    SpecError,
    redact,
)
from shardtools.json_text import parse_json
from shardtools.spec import Destination
from shardtools.storage import get_storage
from shardtools.storage.expansion import NamedShards, Sources
from shardtools.storage.index_place import homes_of
from shardtools.storage.limited import read_limited
from shardtools.storage.together import each
from shardtools.urls import folder_of, name_of

logger = logging.getLogger(__name__)

CLASS_FIELD = "cls"
"""The field whose numbers ``classes`` names."""

_OWN = frozenset(("__kind__", "wids_version", "name", "nsamples", "filesize", "fields", "shardlist", "job"))
_OF_WIDS = frozenset(("datasets", "base", "source_url", "weight", "subset"))
"""Entries of an index for wids that describe its own shards only."""

_DEEPEST = 64
_SPECS = 64
"""The most specs whose manifests are looked up. More specs are single shards, which have none."""


@dataclass(frozen=True)
class ShardEntry:
    """The entry of one shard; ``filesize`` is in bytes, ``fields`` counts samples by field.

    ``validator`` is what storage said of the shard, for a manifest that does not lie beside it.
    """

    url: str
    nsamples: int
    filesize: int
    checksum: str
    fields: Mapping[str, int]
    validator: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The manifest at ``url``: the ``names`` of its shards (without folders), and the ``counts`` of their samples.

    ``sizes`` are the bytes of the shards as stored, ``checksums`` those of these bytes, and ``fields`` says how many
    samples have each field; each is None if the manifest does not say. ``facts`` are true of the samples in any
    dataset, ``job`` describes the job that wrote this one. ``validators`` are what storage said of the shards when they
    were looked at, None for unknown; of a manifest beside its shards, none is used.
    """

    url: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    sizes: tuple[int, ...] | None = None
    fields: Mapping[str, int] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)
    checksums: tuple[str, ...] | None = None
    validators: tuple[str | None, ...] | None = None

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes, by number; None if the manifest has none."""
        return self.facts.get("classes")


def build_manifest(
    destination: Destination,
    shards: Sequence[ShardEntry],
    job: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the manifest of a dataset as JSON data, with ``facts`` about the samples."""
    folder = folder_of(destination.manifest)
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": name_of(destination.spec),
        "nsamples": sum(shard.nsamples for shard in shards),
        "filesize": sum(shard.filesize for shard in shards),
        "fields": count_fields(shard.fields for shard in shards),
        **{name: value for name, value in (facts or {}).items() if name not in _OWN | _OF_WIDS},
        "shardlist": [
            {
                "url": name_of(shard.url) if folder_of(shard.url) == folder else redact(shard.url),
                "nsamples": shard.nsamples,
                "filesize": shard.filesize,
                "checksum": shard.checksum,
                **({"validator": shard.validator} if shard.validator is not None else {}),
            }
            for shard in shards
        ],
        "job": dict(job),
    }


def count_fields(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of ``counts`` by field, sorted by name."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def write_manifest(destination: Destination, manifest: Mapping[str, Any]) -> None:
    """Write the manifest beside the shards, which makes the dataset complete."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    try:
        data = text.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8, which JSON holds only as escapes
        data = json.dumps(manifest, indent=1).encode()
    with get_storage(destination.manifest).create(destination.manifest) as sink:
        sink.write(data + b"\n")


# --- reading


def read_manifest(url: str) -> Manifest:
    """Return the manifest at ``url``. Its types, counts and names are checked.

    Raises:
        NotFoundError: there is no manifest.
        StorageError: it cannot be read.
        CorruptError: it is damaged, or not a manifest.
        LimitError: it is larger than `Limits.manifest`.
    """
    data = read_limited(url, "manifest")
    try:
        parsed = parse_json(data)
    except CorruptError as error:
        raise _damaged(url, error.what) from error
    return _parse(url, parsed)


def _parse(url: str, data: Any) -> Manifest:
    if not isinstance(data, dict) or not isinstance(data.get("shardlist"), list):
        raise _damaged(url, "it has no shardlist")
    names, counts = [], []
    sizes: list[Any] = []
    checksums: list[Any] = []
    validators: list[Any] = []
    for index, entry in enumerate(data["shardlist"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
            raise _damaged(url, f"shard {index} has no url")
        if not _is_count(entry.get("nsamples")):
            raise _damaged(url, f"the nsamples of {name_of(entry['url'])} is not a number of samples")
        names.append(name_of(entry["url"]))
        counts.append(entry["nsamples"])
        sizes.append(entry.get("filesize"))
        checksums.append(entry.get("checksum"))
        validators.append(entry.get("validator"))
    if not _is_count(sum(counts)):
        raise _damaged(url, "it has more samples than can be counted")
    fields, job = data.get("fields"), data.get("job", {})
    if fields is not None and not (isinstance(fields, dict) and all(map(_is_count, fields.values()))):
        raise _damaged(url, "its fields are not numbers of samples")
    if not isinstance(job, dict):
        raise _damaged(url, "its job is not an object")
    facts = {name: value for name, value in data.items() if name not in _OWN | _OF_WIDS}
    classes = facts.get("classes")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise _damaged(url, "its classes are not a list of names")
    if _is_deep(facts):
        raise _damaged(url, f"it is nested more than {_DEEPEST} levels deep")
    known = tuple(sizes) if all(map(_is_count, sizes)) else None
    summed = tuple(checksums) if all(isinstance(checksum, str) for checksum in checksums) else None
    seen = tuple(validator if isinstance(validator, str) else None for validator in validators)
    return Manifest(url, tuple(names), tuple(counts), known, fields or None, facts, job, summed, seen)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_deep(value: object) -> bool:
    """Return whether JSON data is nested deeper than it can be written again."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [
            part
            for outer in level
            if isinstance(outer, dict | list)
            for part in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _damaged(url: str, what: str) -> CorruptError:
    return CorruptError(f"the manifest is damaged: {what}", url=url, fix="delete it, or make it again with htindex")


def find_manifest(spec: str, urls: Sequence[str]) -> Manifest | None:
    """Return the manifest of the shards ``urls`` that ``spec`` names, from the first place that has one.

    None if there is none, or if it lists other shards; also if it is damaged, which is logged.

    Raises:
        StorageError: the storage cannot be reached.
    """
    if (named := Destination.of(spec)) is None:
        return None
    spec = named.spec
    for home in homes_of(spec):
        if (manifest := _manifest_at(home, urls)) is not None:
            return manifest if home != spec else replace(manifest, validators=None)
    return None


def _manifest_at(home: str, urls: Sequence[str]) -> Manifest | None:
    try:
        manifest = read_manifest(Destination(home).manifest)
    except (SpecError, NotFoundError, RefusedError, AccessError):  # some servers forbid what is not there
        return None
    except (CorruptError, LimitError) as error:
        logger.warning("%s (it is not used)", error)
        return None
    if manifest.names != tuple(map(name_of, urls)):
        logger.warning("%s: the manifest lists other shards than those that are named (it is not used)", manifest.url)
        return None
    return manifest


# --- facts


def find_manifests(sources: Sources) -> dict[str, Manifest | None]:
    """Return the manifest of each single spec in some sources, None for a spec without a manifest.

    Raises:
        StorageError: the storage cannot be reached.
    """
    if len(sources.parts) > _SPECS:
        return dict.fromkeys(part.spec for part in sources.parts)

    def find(part: NamedShards) -> Manifest | None:
        is_dataset = part.spec != "-" and "*" not in part.spec and "{" not in part.spec
        return find_manifest(part.spec, part.urls) if is_dataset else None

    return dict(zip((part.spec for part in sources.parts), each(find, sources.parts, 16), strict=True))


def common_facts(found: Mapping[str, Manifest | None]) -> dict[str, Any]:
    """Return the facts on which the manifests of all sources agree, for a dataset that is made from all of them.

    ``found`` is what `find_manifests` returns.

    One list of ``classes`` may be longer than another. If a source has the field ``cls`` but no names of classes, there
    are no ``classes``, and this is logged.

    Raises:
        JobError: a number stands for different classes in different sources.
    """
    manifests = list(found.values())
    first = manifests[0].facts if manifests[0] is not None else {}
    facts = {
        name: value
        for name, value in first.items()
        if name != "classes" and all(other is not None and other.facts.get(name) == value for other in manifests)
    }
    if (classes := _common_classes(found)) is not None:
        facts["classes"] = classes
    return facts


def class_names(sources: Sources) -> list[str] | None:
    """Return the names of the classes of some sources, None if they differ.

    Raises:
        StorageError: the storage cannot be reached.
    """
    try:
        return _common_classes(find_manifests(sources))
    except JobError:
        return None


def _common_classes(found: Mapping[str, Manifest | None]) -> list[str] | None:
    named, unnamed = [], []
    for spec, manifest in found.items():
        if manifest is not None and manifest.classes is not None:
            named.append((manifest.classes, spec))
        elif manifest is None or manifest.fields is None or CLASS_FIELD in manifest.fields:
            unnamed.append(spec)
    for (one, spec), (other, second) in pairwise(sorted(named)):
        for number, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                raise JobError(
                    f"class {number} is {a!r}, and {b!r} in {redact(second)}",
                    url=spec,
                    fix="give the classes the same numbers first, with htmapper, or remove classes from a manifest",
                )
    if named and unnamed:
        logger.warning("%s: its classes have no names, so the result gets none (see its manifest)", redact(unnamed[0]))
        return None
    return max((classes for classes, _ in named), key=len, default=None)
