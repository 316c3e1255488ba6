"""The API of the page: a path and parameters become one call, and every error an answer.

datasets               what is shown
sql?q=                 a query over the tables of the datasets: samples or d0, d1, ...
D/about                what dataset D is
D/samples?at=&count=   a page of samples, also of those with where=, or from key= on
D/field?index=&field=  the bytes of a field, also from start= to stop=
D/thumb, D/array       a small picture of a field; shape and extremes of an array
D/tree, D/history, D/versions, D/slice     of a hub
D/elsewhere?path=&version=                 where other programs read an array of a hub

Other programs read arrays of hubs below an address with a secret of its own, see ``zarr_keys.py``.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shardtools.errors import AccessError, NotFoundError, ShardtoolsError, redact
from shardtools.storage import using
from shardtools.viewer.about import about_dataset
from shardtools.viewer.answers import AskedError, HttpAnswer, Parameters, answer_error, answer_json
from shardtools.viewer.asking import ask_sql
from shardtools.viewer.places import ShownPlace, renewed

logger = logging.getLogger(__name__)

Call = Callable[[Parameters], Any]


class Api:
    """Answers what the page asks about some places, by many threads."""

    def __init__(self, places: Sequence[ShownPlace]):
        self._places = list(places)
        self._abouts: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._renewing: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self.zarr_secret = secrets.token_urlsafe(16)
        """What is in the addresses of Zarr stores. Who knows it can read the arrays of hubs, and nothing else."""

    def add(self, place: ShownPlace) -> int:
        """Show one more place; return its number."""
        with self._lock:
            self._places.append(place)
            return len(self._places) - 1

    def answer(self, path: str, values: Mapping[str, str]) -> HttpAnswer:
        """Return the answer to a request."""
        return _answered(path, lambda: self._call(path)(Parameters(values)))

    def zarr(self, path: str, wanted: str = "", *, head: bool = False) -> HttpAnswer:
        """Return what there is at NUMBER/VERSION/KEY, or the range of it that is ``wanted``; with ``head``, no bytes.

        The status is 404 only if there is no such key: programs take 404, and some 403, for the fill value.
        """
        return _answered(path, lambda: self._zarr(path, wanted, head=head))

    def _zarr(self, path: str, wanted: str, *, head: bool) -> HttpAnswer:
        number, _, rest = path.partition("/")
        version, _, key = rest.partition("/")
        if (hub := self._place(number).hub) is None:
            raise AskedError("there are no arrays here", 404)
        try:
            return hub.zarr.answer(version, key, wanted, head=head)
        except (NotFoundError, AccessError) as error:
            raise AskedError(str(error), 502) from error

    def _call(self, path: str) -> Call:
        if path == "datasets":
            return self._datasets
        if path == "sql":
            return self._sql
        number, _, what = path.partition("/")
        place = self._place(number)
        calls = self._calls(int(number), place)
        if what not in calls:
            raise AskedError(f"there is no such request for {place.kind}", 404)
        return calls[what]

    def _place(self, number: str) -> ShownPlace:
        if not (number.isascii() and number.isdigit() and len(number) < 6 and int(number) < len(self._places)):
            raise AskedError("there is no such dataset", 404)
        return self._places[int(number)]

    def _calls(self, number: int, place: ShownPlace) -> dict[str, Call]:
        if (hub := place.hub) is not None:
            return {
                "tree": hub.tree,
                "history": hub.history,
                "versions": hub.versions,
                "slice": hub.slice,
                "elsewhere": lambda asked: hub.elsewhere(asked, f"/{self.zarr_secret}/{number}/"),
            }
        samples = place.samples
        assert samples is not None
        return {
            "about": lambda _: self._about(number),
            "samples": samples.page,
            "field": samples.field,
            "thumb": samples.thumb,
            "array": samples.array,
        }

    def _datasets(self, asked: Parameters) -> list[dict[str, Any]]:
        return [
            {"id": i, "name": place.name, "kind": place.kind}
            | ({"spec": redact(place.hub.hub.url)} if place.hub else {})
            for i, place in enumerate(self._places)
        ]

    def _about(self, number: int) -> dict[str, Any]:
        """Return what a dataset is, which is found out once, and again when it has been written again.

        A page asks this when it is loaded, so that a page shows the dataset as it was then, or later.
        """
        place = self._renew(number)
        assert place.samples is not None
        if (known := self._abouts.get(number)) is None:
            known = self._abouts.setdefault(number, about_dataset(place.samples.dataset, place.name))
        return known

    def _renew(self, number: int) -> ShownPlace:
        with self._renewing[number]:  # others do not wait for a slow server
            place = self._places[number]
            if (new := renewed(place)) is not place:
                self._places[number] = new
                self._abouts.pop(number, None)
            return new

    def _sql(self, asked: Parameters) -> dict[str, Any]:
        shown = {i: place.samples.dataset for i, place in enumerate(self._places) if place.samples is not None}
        if not shown:
            raise AskedError("there is no dataset to ask")
        query = asked.required("q")
        first = next(iter(shown.values()))
        names = {"samples": first} | {f"d{i}": dataset for i, dataset in shown.items() if f"d{i}" in query}
        with using(first.options):
            return ask_sql(query, names)

    def close(self) -> None:
        """Start nothing any more."""
        for place in self._places:
            if place.samples is not None:
                place.samples.close()


def _answered(path: str, call: Callable[[], Any]) -> HttpAnswer:
    """Return what a call returns or raises, as an answer."""
    try:
        found = call()
        return found if isinstance(found, HttpAnswer) else answer_json(found)
    except ShardtoolsError as error:
        return answer_error(error)
    except Exception:
        logger.exception("htview cannot answer %s", path)
        return answer_json({"error": "htview has a bug here; it has logged where"}, 500)
