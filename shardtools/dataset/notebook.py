"""What a notebook shows of a dataset: its facts, its fields, a few pictures, and keys to complete.

    the first shard's table, if it is stored -> fields; its first samples -> thumbnails -> HTML

This must be quick: no shard is read whole, no request is retried, and an error becomes a line of the HTML. All texts
are escaped, since keys and names come from outside.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from shardtools.dataset.shown import find_shown
from shardtools.errors import LimitError, ShardtoolsError, printable
from shardtools.shards.fields import decode_by, extension, kind_of
from shardtools.shards.open_shard import OpenShard
from shardtools.shards.thumbnails import EXACT, SIDE, thumbnail
from shardtools.storage import StorageOptions, using
from shardtools.types import Ints

if TYPE_CHECKING:
    from shardtools.dataset.sharded import ShardedDataset

PICTURES = 8
"""Pictures that are shown at most."""

KEYS = 1000
"""Keys that are offered for completion at most."""

SECONDS = 5.0
"""How long to wait for a server."""

BYTES = 64 << 20
"""The largest part of a shard that is read, and the largest decoded image."""

_WHOLE = 4 << 20  # bytes of samples up to which all of their fields are read
_FIELDS = 30
_TEXT = 120
_CAPTION = 32
_NO_INDEX = "no preview: the shard has no index; htindex makes one"
_LEFT = "text-align: left; padding: 0.1em 1.5em 0.1em 0; border: none"


@dataclass(frozen=True)
class Preview:
    """What is shown of samples: a row of texts for each field, and pictures or errors as HTML."""

    fields: Sequence[Sequence[str]] = ()
    pictures: Sequence[str] = ()


def dataset_html(dataset: ShardedDataset, *, has_preview: bool = True) -> str:
    """Return a dataset as HTML: what is known of it, and the fields and the first pictures of its first shard."""
    counts, classes = dataset.counts, dataset.classes
    facts = {
        "shards": f"{len(dataset.urls):,}",
        "samples": "not counted yet; len(ds) counts them" if counts is None else f"{sum(counts):,}",
    }
    if dataset.conditions:
        facts["where"] = " and ".join(dataset.conditions)
    if classes:
        facts["classes"] = f"{len(classes):,}: {', '.join(classes[:_FIELDS])}"
    is_plain = has_preview and not dataset.conditions
    preview = _preview(dataset, lambda: _of_first_shard(dataset)) if is_plain else Preview()
    if not preview.fields and dataset.known_fields:
        facts["fields"] = ", ".join(dataset.known_fields[:_FIELDS])
    page = _page(f"{type(dataset).__name__} {dataset.shown_spec}", facts, preview)
    if (shown := find_shown(dataset)) is not None:
        return f"{page}<div>all of it in the browser: {shown._repr_html_()}</div>"
    return page if not isinstance(dataset.spec, str) else f"{page}{_note('ds.show() shows all of it in the browser')}"


def view_html(dataset: ShardedDataset, title: str, facts: dict[str, str], name: str | None, indexes: Ints) -> str:
    """Return a view as HTML: its facts, and the pictures that the first of ``indexes`` have in the field ``name``.

    None are shown if ``name`` is None, or not a field of images.
    """
    if name is None or kind_of(extension(name)) != "image":
        return _page(title, facts, Preview())
    return _page(title, facts, _preview(dataset, lambda: _of_samples(*dataset.source_of(name, indexes[:PICTURES]))))


def first_keys(dataset: ShardedDataset) -> list[str]:
    """Return the first keys of the dataset, at most `KEYS`; none if the table of its first shard is not stored."""
    with using(quick(dataset.options)):
        try:
            shard = _first_shard(dataset)
        except ShardtoolsError:  # a completion has nowhere to show it
            return []
    return [] if shard is None else shard.table.keys.slice(0, min(KEYS, len(shard.table))).decode()


def quick(options: StorageOptions) -> StorageOptions:
    """Return options with which storage gives up soon, and reads nothing large."""
    limits = options.limits
    small = replace(
        limits,
        sample=min(limits.sample, BYTES),
        value=min(limits.value, BYTES),
        sidecar=min(limits.sidecar, BYTES),
        index=min(limits.index, BYTES),
    )
    return replace(options, retries=0, timeout=min(options.timeout, SECONDS), limits=small)


# --- samples


def _preview(dataset: ShardedDataset, look: Callable[[], Preview]) -> Preview:
    """Return the result of ``look``, or the error that it raises."""
    try:
        with using(quick(dataset.options)):
            return look()
    except ShardtoolsError as error:
        return Preview(pictures=[_error(error)])


def _first_shard(dataset: ShardedDataset) -> OpenShard | None:
    """Return the first shard that is not known to be empty, if there is one and its table is stored."""
    counts = dataset.counts or [1] * len(dataset.urls)
    number = next((number for number, count in enumerate(counts) if count), None)
    return None if number is None else dataset.peek(number)


def _of_first_shard(dataset: ShardedDataset) -> Preview:
    shard = _first_shard(dataset)
    if shard is None:
        is_empty = dataset.counts is not None and not any(dataset.counts)
        return Preview(pictures=[] if is_empty else [_note(_NO_INDEX)])
    table = shard.table
    counts = np.bincount(table.field, minlength=len(table.fields))
    sizes = np.bincount(table.field, weights=table.size, minlength=len(table.fields))
    fields = sorted(zip(table.fields, counts.tolist(), sizes.tolist(), strict=True))
    rows: list[tuple[str, str, str, str]] = [
        (name, kind_of(name), f"{count:,}", f"{size / max(count, 1):,.0f}") for name, count, size in fields
    ]
    if len(rows) > _FIELDS:
        rows[_FIELDS:] = [(f"and {len(rows) - _FIELDS:,} more", "", "", "")]
    images = [(count, size, name) for name, count, size in fields if kind_of(extension(name)) == "image"]
    if not images:
        return Preview(rows)
    name = max(images)[2]
    having = np.flatnonzero(table.members_of(name) >= 0)[:PICTURES]
    return Preview(rows, _pictures(shard, name, having, dataset.classes))


def _of_samples(dataset: ShardedDataset, name: str, indexes: Ints) -> Preview:
    pictures: list[str] = []
    places = zip(*(column.tolist() for column in dataset.places(indexes)), strict=True)
    for number, some in groupby(places, key=lambda place: place[0]):
        shard = dataset.peek(number)
        if shard is None:
            return Preview(pictures=[*pictures, _note(_NO_INDEX)])
        rows = np.array([row for _, row in some])
        pictures += _pictures(shard, name, rows[shard.table.members_of(name)[rows] >= 0], dataset.classes)
    return Preview(pictures=pictures)


def _pictures(shard: OpenShard, name: str, rows: Ints, classes: Sequence[str] | None) -> list[str]:
    """Return pictures of samples of a shard, all of which have the field, or why there are none."""
    if not len(rows):
        return []
    rows = rows[np.cumsum(shard.table.size[shard.table.members_of(name)[rows]]) <= BYTES]
    if not len(rows):
        return [_note("no preview: the pictures are too large")]
    try:
        if not shard.indexed.can_enter:
            return [_note("no preview: samples of this compressed shard cannot be read one by one")]
        values = _values(shard, name, rows)
    except ShardtoolsError as error:
        return [_error(error)]
    keys = shard.table.keys.take(rows).decode()
    return [
        _picture(name, key, _label(label, classes), data or b"")
        for key, (label, data) in zip(keys, values, strict=True)
    ]


def _values(shard: OpenShard, name: str, rows: Ints) -> list[tuple[bytes | None, bytes | None]]:
    """Return the class and the image of samples: small samples are read whole, neighbours by one request."""
    unique, places = np.unique(rows, return_inverse=True)
    if int(shard.table.spans[unique].sum()) <= _WHOLE:
        records = shard.records(unique)
        return [(records[place].get("cls"), records[place][name]) for place in places.tolist()]
    labels = shard.values(rows, "cls") if "cls" in shard.fields else [None] * len(rows)
    return list(zip(labels, shard.values(rows, name), strict=True))


def _label(data: bytes | None, classes: Sequence[str] | None) -> str:
    """Return a class as it is shown: its number, and its name if it has one."""
    if data is None:
        return ""
    text = data[:_CAPTION].decode(errors="replace").strip()
    if not (classes and text.isascii() and text.isdigit() and int(text) < len(classes)):
        return f"cls {text}"
    return f"cls {text}: {classes[int(text)]}"


# --- pictures


def _picture(name: str, key: str, label: str, data: bytes) -> str:
    """Return an image, its key, class and size; one that cannot be decoded says why."""
    lines = [key, label]
    try:
        kind, small, (width, height) = decode_by(thumbnail, name, data)
    except ShardtoolsError as error:
        shown = f'<div style="width: {SIDE}px; height: {SIDE}px; overflow: hidden">{_text(error.what)}</div>'
    else:
        lines.append(f"{width:,} × {height:,}")
        style = f"width: {SIDE}px; height: {SIDE}px; object-fit: contain; image-rendering: pixelated; margin: 0"
        if width * height > EXACT:
            style = style.replace(" image-rendering: pixelated;", "")
        shown = f'<img alt="" style="{style}" src="data:image/{kind};base64,{b64encode(small).decode()}">'
    caption = "<br>".join(_text(line, _CAPTION) for line in lines if line)
    style = f"display: inline-block; vertical-align: top; margin: 0 0.7em 0.7em 0; width: {SIDE}px; font-size: smaller"
    return f'<div style="{style}; overflow-wrap: anywhere">{shown}<br>{caption}</div>'


# --- HTML


def facts_html(
    title: str,
    facts: Mapping[str, str],
    head: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
    note: str = "",
) -> str:
    """Return HTML of a title, a line for each fact, a table, and a note. All texts are escaped, and cut."""
    parts = [f"<div><b>{_text(title)}</b>", _table(facts.items())]
    if rows:
        parts.append(_table(rows, _row("th", head)))
    return "".join([*parts, _note(note) if note else "", "</div>"])


def _page(title: str, facts: dict[str, str], preview: Preview) -> str:
    """Return HTML of a title, a line for each fact, and what a preview has."""
    parts = [f"<div><b>{_text(title)}</b>", _table(facts.items())]
    if preview.fields:
        head = _row("th", ("field", "values", "in the first shard", "mean bytes"))
        parts.append(_table(preview.fields, head))
    return "".join([*parts, *preview.pictures, "</div>"])


def _table(rows: Iterable[Sequence[str]], head: str = "") -> str:
    lines = "".join(_row("td", row) for row in rows)
    return f'<table style="margin: 0.5em 0; border: none">{head}{lines}</table>'


def _row(cell: str, texts: Sequence[str]) -> str:
    cells = "".join(f'<{cell} style="{_LEFT}">{_text(text)}</{cell}>' for text in texts)
    return f"<tr>{cells}</tr>"


def _note(text: object) -> str:
    return f"<div>{_text(str(text), 3 * _TEXT)}</div>"


def _error(error: ShardtoolsError) -> str:
    """Return an error as HTML; a limit is that of `quick`, which users cannot raise."""
    return _note(f"no preview: {error.what}" if isinstance(error, LimitError) else error)


def _text(text: str, most: int = _TEXT) -> str:
    """Return a text, of a bounded length, as HTML."""
    text = printable(text[: most + 1])
    return escape(text if len(text) <= most else f"{text[: most - 1]}…")
