"""What notebooks show of a hub and its arrays, and their pages in the browser."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from shardtools.arrays.chunk_reader import read_entries
from shardtools.arrays.metadata import parse_array
from shardtools.arrays.names import document_key, path_of_document
from shardtools.errors import ShardtoolsError, redact
from shardtools.units import format_size

if TYPE_CHECKING:
    from shardtools.arrays.array import HubArray
    from shardtools.arrays.hub import Hub
    from shardtools.arrays.settings import HubSettings
    from shardtools.dataset.shown import Shown
    from shardtools.log.log import Snapshot

ARRAYS = 30
"""Arrays that are listed at most."""


class HubShown:
    """A part of `Hub`."""

    _settings: HubSettings

    def show(self) -> Shown:
        """Show the arrays in the browser: return a link to a page that this process serves; see `shardtools.show`.

        Raises:
            StorageError: there is no hub, or it cannot be read.
        """
        import shardtools

        hub = cast("Hub", self)
        hub.snapshot()
        return shardtools.show(hub)

    def _repr_html_(self) -> str:
        from shardtools.arrays.hub import Hub
        from shardtools.dataset.notebook import SECONDS, facts_html

        settings = self._settings
        title = f"Hub {redact(cast('Hub', self).url)}"
        try:
            hub = Hub(replace(settings, retries=0, timeout=min(settings.timeout, SECONDS)))
            snapshot = hub.snapshot()
            rows = _rows(hub, snapshot)
        except ShardtoolsError as error:
            return facts_html(title, {}, note=str(error))
        if len(rows) > ARRAYS:
            rows[ARRAYS:] = [("and more", "", "", "")]
        facts = {"version": f"{snapshot.branch.name}@{snapshot.number}" if snapshot.commit else "none yet"}
        note = "hub.show() shows slices of them in the browser" if rows else "there is no array"
        return facts_html(title, facts, ("array", "shape", "type", "chunks"), rows, note)


def _rows(hub: Hub, snapshot: Snapshot) -> list[tuple[str, ...]]:
    """Return path, shape, type and chunks of the first arrays, one more than `ARRAYS` if there are more."""
    rows: list[tuple[str, ...]] = []
    nodes = snapshot.scan(f"{document_key('')}/")
    while len(rows) <= ARRAYS and (some := dict(islice(nodes, 2 * ARRAYS))):
        for key, document in read_entries(snapshot.log.place, some).items():
            path = path_of_document(key)
            if hub.is_array(document, path):
                found = parse_array(document, hub.url, path)
                rows.append((path, _sides(found.shape), str(found.dtype), _sides(found.chunks)))
    return sorted(rows)[: ARRAYS + 1]


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{side:,}" for side in shape) or "a number"


def array_html(array: HubArray) -> str:
    """Return an array as HTML: its version, shape, type, chunks, axes and attributes."""
    from shardtools.dataset.notebook import facts_html

    facts = {
        "shape": _sides(array.shape),
        "type": str(array.dtype),
        "chunks": _sides(array.chunks),
        "size": format_size(array.nbytes),
    }
    if any(array.dims):
        facts["axes"] = ", ".join(name or "?" for name in array.dims)
    if array.attrs:
        facts["attributes"] = json.dumps(dict(array.attrs), ensure_ascii=False)
    try:
        title = f"HubArray {array.path}:{array.version}"
    except ShardtoolsError as error:
        return facts_html(f"HubArray {array.path}", facts, note=str(error))
    return facts_html(title, facts, note="array.show() shows slices of it in the browser")


def show_array(array: HubArray) -> Shown:
    """Show the version of an array that is seen in the browser; see `HubShown.show`."""
    from shardtools.dataset.shown import Shown

    place = f"arrays/{quote(array.path, safe='')}&version={quote(array.version, safe='')}"
    return Shown(array.path, f"{array.hub.show().url}&{place}")
