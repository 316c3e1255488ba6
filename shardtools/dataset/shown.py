"""Where a dataset is shown, for `ShardedDataset.show` and `shardtools.show`."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from weakref import WeakKeyDictionary

from shardtools.forks import PerProcess


@dataclass(frozen=True)
class Shown:
    """Where something is shown: its ``name`` and ``url``, which is secret. In a notebook it is a link."""

    name: str
    url: str

    def __str__(self) -> str:
        return self.url

    def _repr_html_(self) -> str:
        return f'<a href="{escape(self.url)}" target="_blank" rel="noopener noreferrer">{escape(self.name)}</a>'


_links: PerProcess[WeakKeyDictionary[object, Shown]] = PerProcess(WeakKeyDictionary)


def remember_shown(dataset: object, shown: Shown) -> None:
    """Note where this process shows a dataset until it ends."""
    _links.get()[dataset] = shown


def find_shown(dataset: object) -> Shown | None:
    """Return where this process shows a dataset, None if it does not."""
    return _links.get().get(dataset)
