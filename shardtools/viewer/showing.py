"""The server of this process, which shows what a notebook or program asks for until the process ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardtools.dataset.sharded import ShardedDataset
from shardtools.dataset.shown import Shown, remember_shown
from shardtools.forks import PerProcess
from shardtools.storage import StorageOptions
from shardtools.viewer.api import Api
from shardtools.viewer.places import ShownPlace, open_place
from shardtools.viewer.server import ViewServer
from shardtools.viewer.thumb_cache import ThumbCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardtools.arrays.hub import Hub


class _Showing:
    """What one process shows."""

    def __init__(self) -> None:
        self.cache = ThumbCache()
        self.server: ViewServer | None = None
        self.places: list[tuple[object, ShownPlace, int]] = []


_showing = PerProcess(_Showing)


def show_places(sources: Sequence[str | ShardedDataset | Hub], options: StorageOptions) -> Shown:
    """Show sources in the server of this process, which begins with the first; return where the first of them is.

    Raises:
        SpecError, StorageError: a source cannot be opened.
    """
    mine = _showing.get()
    names, numbers = [], []
    for source in sources:
        there = next((number for one, _, number in mine.places if one is source), None)
        if there is None:
            place = open_place(source, options, mine.cache)
            if mine.server is None:
                mine.server = ViewServer(Api([]))
            there = mine.server.api.add(place)
            mine.places.append((source, place, there))
        names.append(mine.places[there][1].name)
        numbers.append(there)
    assert mine.server is not None
    for source, name, number in zip(sources, names, numbers, strict=True):
        if isinstance(source, ShardedDataset):
            remember_shown(source, Shown(name, f"{mine.server.url}#of={number}"))
    return Shown(", ".join(names), f"{mine.server.url}#of={numbers[0]}")
