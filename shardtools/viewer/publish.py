"""Publish a dataset: its page and a summary beside it, on any storage, to be looked at without a server of ours.

dataset -> what it is, and some hundred thumbnails of a few shards -> NAME.view.json beside the shards
page/   -> NAME.view/index.html and what it loads, with the dataset's address, relative to the page
"""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from shardtools.dataset.sharded import ShardedDataset
from shardtools.errors import FieldError, JobError, OutputExistsError, ShardError, redact
from shardtools.query.published import (
    INDEX,
    find_page,
    page_bytes,
    page_folder,
    page_index,
    page_names,
    relative_source,
    summary_digest,
    summary_url,
)
from shardtools.shards.fields import kind_of
from shardtools.shards.manifest import read_manifest
from shardtools.shards.open_shard import OpenShard
from shardtools.shards.sidecar import sidecar_url
from shardtools.spec import Destination
from shardtools.storage import StorageOptions, get_storage, using
from shardtools.urls import is_local, name_of, scheme_of
from shardtools.viewer.about import about_dataset
from shardtools.viewer.answers import answer_json
from shardtools.viewer.thumbs import draw

PICTURES = 240
"""Thumbnails of a summary at most."""

SHARDS = 16
"""Shards that thumbnails are of at most."""

SIDE = 96
"""The largest side of a thumbnail in pixels."""

BYTES = 1_500_000
"""Bytes of the thumbnails of a summary at most."""

LARGEST = 32 << 20
"""Bytes of a picture of which a thumbnail is made at most."""


@dataclass(frozen=True)
class Published:
    """What was written: the ``summary``, the ``page``, and a ``link`` to it for browsers, None if it is a file."""

    page: str
    summary: str
    link: str | None


def publish(spec: str, options: StorageOptions, to: str | None = None, *, overwrite: bool = False) -> Published:
    """Write the page of a dataset to the folder ``to``, by default one beside it, and the summary beside the dataset.

    Raises:
        JobError: the dataset is not one spec with a place of its own, or browsers cannot read it.
        OutputExistsError: there is something already, and it may not be replaced.
        StorageError, ShardError: the dataset cannot be read, or nothing can be written there.
    """
    place = Destination(spec)
    if place.spec == "-" or place.is_auto:
        raise JobError("this is no dataset that can be published", fix="name shards, such as train-@10.tgz")
    name = name_of(place.spec)
    folder = page_folder(place.spec) if to is None else to.rstrip("/") + "/"
    summary = summary_url(place.spec)
    with using(options):
        if not overwrite:
            _refuse(summary, folder + INDEX)
        dataset = ShardedDataset(place.spec, options)
        _check(dataset, place)
        digest = summary_digest(read_manifest(place.manifest))  # first: what changes later is noticed
        about = about_dataset(dataset, name)
        about |= {"spec": name, "digest": digest, "thumbnails": thumbnails(dataset)}
        _write(summary, answer_json(about).body)
        _write_page(folder, relative_source(place.spec) if to is None else _address(place.spec), place.spec)
    page = folder + INDEX
    return Published(redact(page), redact(summary), None if is_local(page) else _address(page))


def _check(dataset: ShardedDataset, place: Destination) -> None:
    """Refuse a dataset that browsers cannot read: looked at are its manifest, and the first shard that has samples."""
    _need(place.manifest, f"run htindex {place.spec}")
    number = next((number for number, count in enumerate(dataset.counts or []) if count), None)
    if number is None:
        return
    shard = dataset.indexed(number)
    _need(sidecar_url(shard.url), f"run htindex {place.spec}")
    if shard.packing == "zstd":
        what = "browsers cannot decompress zstd"
    elif not shard.can_enter:
        what = "its sidecar has no entry points, so browsers cannot decompress a part of it"
    else:
        return
    raise JobError(what, url=shard.url, fix="write .tgz with htsort, or use htview without --publish")


def _need(url: str, fix: str) -> None:
    if not get_storage(url).exists(url):
        raise JobError("it does not exist, and a page needs it", url=url, fix=fix)


def _write_page(folder: str, source: str, spec: str) -> None:
    """Write the page, and delete the files that only an earlier version of it had."""
    there = find_page(folder, spec).files
    names = page_names()
    for name in names:
        _write(folder + name, page_index(source) if name == INDEX else page_bytes(name))
    for url in there:
        if name_of(url) not in names:
            get_storage(url).delete(url)


def _refuse(*urls: str) -> None:
    for url in urls:
        if get_storage(url).exists(url):
            raise OutputExistsError("it exists already", url=url, fix="give --overwrite to replace it")


def _write(url: str, data: bytes) -> None:
    with get_storage(url).create(url) as sink:
        sink.write(data)


def _address(url: str) -> str:
    """Return the address at which a browser finds an object, if its bucket is public.

    >>> _address("s3://b/d/a@3.tar"), _address("gs://b/a.tar"), _address("http://me:pw@host/a.tar")
    ('https://b.s3.amazonaws.com/d/a@3.tar', 'https://storage.googleapis.com/b/a.tar', 'http://host/a.tar')
    """
    scheme = scheme_of(url)
    if scheme not in ("s3", "gs"):
        return redact(url)
    bucket, _, key = url.partition("://")[2].partition("/")
    path = quote(key, safe="/@")
    if scheme == "gs":
        return f"https://storage.googleapis.com/{bucket}/{path}"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return f"{endpoint.rstrip('/')}/{bucket}/{path}" if endpoint else f"https://{bucket}.s3.amazonaws.com/{path}"


# --- thumbnails


def thumbnails(dataset: ShardedDataset) -> list[dict[str, Any]]:
    """Return thumbnails of samples of some shards, spread over the dataset; of bad ones there is none.

    Raises:
        StorageError: a shard cannot be read.
    """
    counts = np.array(dataset.counts if dataset.counts is not None else [], np.int64)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return []
    numbers = np.unique(filled[np.linspace(0, len(filled) - 1, min(SHARDS, len(filled))).astype(int)])
    each, left = -(-PICTURES // len(numbers)), BYTES
    found: list[dict[str, Any]] = []
    starts = np.concatenate(([0], np.cumsum(counts)))
    for number in numbers.tolist():
        try:
            pictures = _of_shard(dataset.shard(number), each)
        except ShardError:  # the page shows what is wrong with it
            continue
        for row, name, data in pictures:
            left -= len(data)
            if left >= 0 and len(found) < PICTURES:
                index = int(starts[number]) + row
                found.append({"index": index, "field": name, "data": b64encode(data).decode()})
    return found


def _of_shard(shard: OpenShard, most: int) -> list[tuple[int, str, bytes]]:
    """Return rows, fields and thumbnails of some samples of a shard."""
    table = shard.table
    counts = np.bincount(table.field, minlength=len(table.fields))
    images = [(int(count), name) for name, count in zip(table.fields, counts, strict=True) if kind_of(name) == "image"]
    if not images:
        return []
    name = max(images)[1]
    members = table.members_of(name)
    rows = np.flatnonzero(members >= 0)
    rows = rows[table.size[members[rows]] <= LARGEST]
    rows = np.unique(rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]) if len(rows) else rows
    found = []
    for part in shard.pieces(rows, name):
        for row, data in zip(part.tolist(), shard.values(part, name), strict=True):
            try:
                found.append((row, name, draw(name, data or b"", SIDE)[1]))
            except FieldError:  # no picture, or too large a one
                continue
    return found
