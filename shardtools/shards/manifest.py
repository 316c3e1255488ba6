"""The manifest of a dataset: ``train-@1000.tgz.json`` lists its shards, so that one GET tells what is in it.

It is a superset of the shard index that wids reads (version 1): every shard's ``url`` (relative to the manifest where
they share a folder), ``nsamples``, ``filesize`` and ``checksum``; and for the whole dataset ``nsamples``, ``filesize``,
``fields`` (how many samples have each), and the ``job`` that wrote it. It is written last, after every shard.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardtools.errors import redact
from shardtools.spec import Destination, folder_of, name_of
from shardtools.storage import get_storage


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of one shard; ``filesize`` is in bytes, ``fields`` counts samples by field."""

    url: str
    nsamples: int
    filesize: int
    checksum: str
    fields: Mapping[str, int]


def build_manifest(destination: Destination, shards: Sequence[ShardEntry], job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of a dataset as JSON data."""
    folder = folder_of(destination.manifest)
    return {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": name_of(destination.spec),
        "nsamples": sum(shard.nsamples for shard in shards),
        "filesize": sum(shard.filesize for shard in shards),
        "fields": count_fields(shard.fields for shard in shards),
        "shardlist": [
            {
                "url": name_of(shard.url) if folder_of(shard.url) == folder else redact(shard.url),
                "nsamples": shard.nsamples,
                "filesize": shard.filesize,
                "checksum": shard.checksum,
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
