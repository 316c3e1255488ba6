"""What the page says of a dataset: the same object that htview answers and that ``NAME.view.json`` holds.

Description (query/describe.py) -> the object, whose numbers and lists are of bounded size
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardtools.dataset.sharded import ShardedDataset
from shardtools.query.describe import Description, FieldDescription, Origin, count_members, describe
from shardtools.query.examples import shortened
from shardtools.query.published import SUMMARY_FORMAT
from shardtools.shards.fields import kind_of
from shardtools.storage import using

if TYPE_CHECKING:
    from shardtools.query.histograms import Classes, Histogram

VERSION = 1

COUNTED = 256
"""Shards without a manifest whose tables are counted at most: as many as a dataset keeps in memory."""

_FIELDS = 500
_PROBLEMS = 50
_TEXT = 2000
_SHOWN = ("license", "description", "homepage", "citation")


def about_dataset(dataset: ShardedDataset, name: str) -> dict[str, Any]:
    """Return what is known of a dataset; all shards are counted.

    Raises:
        StorageError, ShardError: it cannot be read.
    """
    if not isinstance(dataset.spec, str) or dataset.conditions or "::" in dataset.spec:
        return _short(dataset, name)
    with using(dataset.options):
        about = summarize(describe(dataset.spec), name)
    return _count_whole(about, dataset) if about["samples"] is None or about["partial"] else about


def _count_whole(about: dict[str, Any], dataset: ShardedDataset) -> dict[str, Any]:
    """Return what is known of a dataset, ``about``, where it was known of some shards only, with what all of them have.

    The samples of fields are unknown, None, if there are more than `COUNTED` shards.
    """
    samples, shards = len(dataset), len(dataset.urls)
    counts: dict[str, int] = {}
    sizes: dict[str, float] = {}
    size, known = None, {field["name"]: field for field in about["fields"]}
    if shards <= COUNTED:
        found = [dataset.indexed(number) for number in range(shards)]
        counts, sizes = count_members([shard.table for shard in found])
        size = sum(shard.sidecar.filesize for shard in found)
    fields = []
    for name in sorted(counts or known)[:_FIELDS]:
        short, count = shortened(name), counts.get(name)
        mean = sizes[name] / count if count else None
        example = known[short]["example"] if short in known else None
        fields.append(_field(FieldDescription(short, kind_of(name), count, mean, example)))
    return {**about, "samples": samples, "bytes": size, "fields": fields, "partial": False}


def _short(dataset: ShardedDataset, name: str) -> dict[str, Any]:
    """Return what the shards alone say, of a list of specs or chosen samples."""
    unknown = {"count": None, "bytes": None, "example": None}
    fields = [{"name": field, "kind": kind_of(field), **unknown} for field in dataset.fields[:_FIELDS]]
    return {
        **_head(name, dataset.shown_spec.strip("'")),
        "samples": len(dataset),
        "shards": len(dataset.urls),
        "fields": fields,
        "columns": sorted({"key", "row", "shard", *dataset.fields[:_FIELDS]}),
        "history": {"where": " and ".join(dataset.conditions)} if dataset.conditions else None,
    }


def _head(name: str, spec: str) -> dict[str, Any]:
    return {
        "format": SUMMARY_FORMAT, "version": VERSION, "name": name, "spec": spec, "samples": None, "shards": None,
        "bytes": None, "fields": [], "classes": None, "histograms": [], "history": None, "index": {}, "columns": [],
        "thumbnails": [],
    }  # fmt: skip


def summarize(found: Description, name: str) -> dict[str, Any]:
    """Return a description as the page reads it."""
    origin = found.origin
    histograms = [_histogram(one) for one in found.histograms if one.bins]
    columns = {"key", "row", "shard", *(field.name for field in found.fields), *(one["column"] for one in histograms)}
    return {
        **_head(name, found.spec),
        "samples": found.samples,
        "partial": found.partial,
        "shards": found.shards,
        "bytes": found.bytes,
        "fields": [_field(field) for field in found.fields[:_FIELDS]],
        "classes": None if found.classes is None else _classes(found.classes),
        "histograms": histograms,
        "history": None if origin is None else _history(origin),
        "index": {file.what: bool(file.exists and file.fits is not False) for file in found.files},
        "columns": sorted(columns),
        "problems": list(found.problems[:_PROBLEMS]),
        **{name: text[:_TEXT] for name in _SHOWN if isinstance(text := found.facts.get(name), str)},
    }


def _field(field: FieldDescription) -> dict[str, Any]:
    count, mean = field.count, field.mean_bytes
    size = None if count is None or mean is None else round(count * mean)
    return {"name": field.name, "kind": field.kind, "count": count, "bytes": size, "example": field.example}


def _history(origin: Origin) -> dict[str, Any]:
    return {**origin.job, "sources": list(origin.sources), "written": origin.written}


def _classes(classes: Classes) -> dict[str, Any]:
    values = [{"value": one.number, "name": one.name, "count": one.count} for one in classes.listed]
    return {"field": classes.field, "values": values, "rest": classes.more, "rest_samples": classes.more_samples}


def _histogram(one: Histogram) -> dict[str, Any]:
    low = one.low or 0.0
    edges = [*(low + one.step * i for i in range(len(one.bins))), one.high]
    return {"column": one.column, "edges": edges, "counts": list(one.bins), "nulls": one.other}
