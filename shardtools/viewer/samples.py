"""Pages of samples, bytes of fields and thumbnails of a dataset.

    at, count -> shards and rows -> the tables of these shards -> keys, places of fields
              -> small fields of text by joined ranges -> excerpts
    index, field -> a range of the shard -> bytes, or a thumbnail, which is kept

An error of one shard, or one field, is a part of the answer for its samples only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from shardtools.dataset.sharded import ShardedDataset
from shardtools.errors import LimitError, ShardtoolsError
from shardtools.shards.fields import extension, kind_of
from shardtools.shards.open_shard import OpenShard
from shardtools.types import Ints
from shardtools.urls import name_of
from shardtools.viewer.answers import BYTES, AskedError, HttpAnswer, Parameters
from shardtools.viewer.asking import Asking
from shardtools.viewer.thumbs import Thumbs, thumb_key

MOST = 500
"""Samples of a page at most."""

WIDEST = 1024
"""The largest side of a thumbnail, in pixels: what the page shows of pictures that no browser knows."""

LARGEST = 64 << 20
"""Bytes of a field in one answer at most."""

_EXCERPT = 400  # characters
_SMALL = 64 << 10  # the largest field whose excerpt is read
_TEXTS = 8 << 20  # bytes of the fields of a page whose excerpts are read
_SHOWN = frozenset({"text", "number", "JSON", "JSON lines"})
_FIELDS = 200
_MEDIA = {
    "jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif",
    "bmp": "image/bmp", "avif": "image/avif", "wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac",
    "ogg": "audio/ogg", "opus": "audio/ogg", "m4a": "audio/mp4", "mp4": "video/mp4", "webm": "video/webm",
}  # fmt: skip


class ShownSamples:
    """The samples of a dataset, for the page."""

    def __init__(self, dataset: ShardedDataset, asking: Asking, thumbs: Thumbs):
        self.dataset, self._asking, self._thumbs = dataset, asking, thumbs

    def page(self, asked: Parameters) -> dict[str, Any]:
        """Return ``count`` samples from the place ``at`` or a ``key`` on, of those for which ``where`` is true.

        Raises:
            AskedError, ShardtoolsError: the condition or key does not fit, or the shards cannot be listed.
        """
        count, where, key = asked.number("count", 48, 1, MOST), asked.text("where"), asked.text("key")
        chosen = self._asking.indexes(where) if where else None
        total = len(self.dataset) if chosen is None else len(chosen)
        at = asked.number("at", 0, last=max(total - 1, 0))
        if key:
            at = self._place_of(key, chosen)
        at = min(at, total)
        indexes = np.arange(at, min(at + count, total))
        if chosen is not None:
            indexes = chosen[indexes]
        samples = self._samples(indexes) if len(indexes) else []
        if name := asked.text("thumbs"):
            self._thumbs.begin(self._pictures(indexes, name), asked.number("size", 160, 16, WIDEST))
        return {"total": total, "at": at, "samples": samples}

    def _place_of(self, key: str, chosen: Ints | None) -> int:
        [index] = self.dataset.rows_of([key]).tolist()
        if index < 0:
            raise AskedError(f"no sample has the key {key[:200]!r}", 404)
        if chosen is None:
            return int(index)
        place = int(np.searchsorted(chosen, index))
        if place == len(chosen) or chosen[place] != index:
            raise AskedError(f"the sample {key[:200]!r} is not among those of the condition", 404)
        return place

    def _samples(self, indexes: Ints) -> list[dict[str, Any]]:
        shards, rows = self.dataset.places(indexes)
        found: list[dict[str, Any]] = []
        places = zip(indexes.tolist(), shards.tolist(), rows.tolist(), strict=True)
        left = _TEXTS
        for number, group in groupby(places, key=lambda place: place[1]):
            some = list(group)
            try:
                shard = self.dataset.shard(number)
                samples = [_sample(shard, index, number, row) for index, _, row in some]
                left -= _add_texts(shard, samples, left)
                found += samples
            except ShardtoolsError as error:
                name = name_of(self.dataset.urls[number])
                bad: dict[str, Any] = {"key": "", "shard": name, "number": number, "fields": [], "error": str(error)}
                found += [{**bad, "index": index, "row": row} for index, _, row in some]
        return found

    def _pictures(self, indexes: Ints, name: str) -> list[tuple[OpenShard, int]]:
        """Return the members with the field ``name`` of some samples; those of bad shards are left out."""
        shards, rows = self.dataset.places(indexes)
        found = []
        for number, row in zip(shards.tolist(), rows.tolist(), strict=True):
            try:
                shard = self.dataset.shard(number)
            except ShardtoolsError:  # the page of samples says why
                continue
            if (member := _member_of(shard, row, name)) is not None:
                found.append((shard, member))
        return found

    def locate(self, asked: Parameters) -> tuple[OpenShard, int, str]:
        """Return the shard, the member in its table and the name of the field that is asked for.

        Raises:
            AskedError: there is no such sample, or it has no such field.
            StorageError, ShardError: the shard cannot be read.
        """
        name, total = asked.required("field"), len(self.dataset)
        index = asked.number("index", last=max(total - 1, 0))
        if index >= total:
            raise AskedError(f"index {index:,} is out of range: the dataset has {total:,} samples", 404)
        [number], [row] = (part.tolist() for part in self.dataset.places(np.array([index])))
        shard = self.dataset.shard(number)
        if (member := _member_of(shard, row, name)) is None:
            raise AskedError(f"sample {index:,} has no field {name[:200]!r}", 404)
        return shard, member, name

    def field(self, asked: Parameters) -> HttpAnswer:
        """Return the bytes of a field, or those from ``start`` to ``stop``.

        Raises:
            AskedError: there is no such field, or there are more bytes than one answer may have.
            StorageError, ShardError: they cannot be read.
        """
        shard, member, name = self.locate(asked)
        size = int(shard.table.size[member])
        start = min(asked.number("start", 0), size)
        stop = max(min(asked.number("stop", size), size), start)
        if stop - start > LARGEST:
            what = f"the field has {size:,} bytes"
            raise AskedError(what, 413, fix=f"ask for at most {LARGEST:,} of them, by start and stop")
        data = shard.read_part(member, start, stop)
        return HttpAnswer(data, _MEDIA.get(extension(name), BYTES), headers={"X-Field-Size": str(size)})

    def thumb(self, asked: Parameters) -> HttpAnswer:
        """Return a small picture of a field.

        Raises:
            FieldError: it is no picture.
            AskedError, StorageError, ShardError: there is no such field, or it cannot be read.
        """
        shard, member, name = self.locate(asked)
        kind, data = self._thumbs.get(shard, member, name, asked.number("size", 160, 16, WIDEST))
        headers = {"Cache-Control": "private, max-age=3600", "ETag": f'"{thumb_key(shard, member, 0)}"'}
        return HttpAnswer(data, f"image/{kind}", headers=headers)

    def array(self, asked: Parameters) -> dict[str, Any]:
        """Return shape, type and extremes of a field that is an array.

        Raises:
            FieldError: it is none.
            AskedError, StorageError, ShardError: there is no such field, or it cannot be read.
        """
        from shardtools.viewer.drawing import describe_array

        shard, member, name = self.locate(asked)
        if (size := int(shard.table.size[member])) > LARGEST:
            raise LimitError(f"the array has {size:,} bytes, and {LARGEST:,} are shown at most")
        [data] = shard.read_members(np.array([member]))
        return describe_array(name, data)

    def close(self) -> None:
        """Start nothing any more."""
        self._asking.close()
        self._thumbs.close()


def _member_of(shard: OpenShard, row: int, name: str) -> int | None:
    table = shard.table
    for member in range(int(table.first[row]), int(table.first[row + 1])):
        if table.fields[int(table.field[member])] == name:
            return member
    return None


def _sample(shard: OpenShard, index: int, number: int, row: int) -> dict[str, Any]:
    table, checksums = shard.table, shard.indexed.checksums
    first, last = int(table.first[row]), int(table.first[row + 1])
    fields = [
        {
            "name": (name := table.fields[int(table.field[member])]),
            "kind": kind_of(name),
            "offset": int(table.offset[member]),
            "size": int(table.size[member]),
            "crc32": None if checksums is None else int(checksums[member]),
            "member": member,
        }
        for member in range(first, min(last, first + _FIELDS))
    ]
    place = {"shard": name_of(shard.indexed.url), "number": number, "row": row}
    found = {"index": index, "key": shard.table.keys[row], **place, "fields": fields}
    return found | ({"more_fields": last - first - _FIELDS} if last - first > _FIELDS else {})


def _add_texts(shard: OpenShard, samples: Sequence[dict[str, Any]], most: int) -> int:
    """Add excerpts to the fields of samples, of up to ``most`` bytes; return how many bytes they have."""
    fields = [field for sample in samples for field in sample["fields"]]
    wanted, size = [], 0
    for field in fields:
        if field["kind"] in _SHOWN and field["size"] <= _SMALL and size + field["size"] <= most:
            wanted.append(field)
            size += field["size"]
    members = np.array([field["member"] for field in wanted], np.int64)
    try:
        _put_texts(wanted, shard.read_members(members))
    except ShardtoolsError:
        for field, member in zip(wanted, members, strict=True):
            try:
                _put_texts([field], shard.read_members(member[None]))
            except ShardtoolsError as error:
                field["error"] = str(error)
    for field in fields:
        del field["member"]
    return size


def _put_texts(fields: Sequence[dict[str, Any]], values: Sequence[bytes]) -> None:
    for field, data in zip(fields, values, strict=True):
        text = data[: 4 * _EXCERPT].decode("utf-8", "replace")
        if not field["name"].endswith(".gz"):
            field["text"] = text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"
