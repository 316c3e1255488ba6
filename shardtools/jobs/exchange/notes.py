"""What the two passes of an exchange write down for each other, and for resuming: the runs of a group, and the plan.

    collect -> Collected -> group-000000.json        the client -> GatherPlan -> plan.npz -> gather

These notes are in the spill, where others may be able to write. So they are checked when they are read, and may name
only objects in the spill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np

from shardtools.errors import CorruptError, NotFoundError
from shardtools.jobs.exchange.chain import AnyRun, Chain, runs_of
from shardtools.jobs.exchange.run import Run
from shardtools.json_text import parse_json
from shardtools.query.condition import Seen
from shardtools.shards.names import wrong_fields
from shardtools.shards.npy import load_npz
from shardtools.spec import MAX_SHARDS
from shardtools.storage import get_storage
from shardtools.types import Ints
from shardtools.urls import folder_of


@dataclass(frozen=True)
class Collected:
    """What a task has collected: its runs, their number of samples and bytes, and the hash of their content.

    ``others`` counts members that belong to no sample. ``skipped`` has the shard, the key (None for the whole shard)
    and the reason of everything that was skipped. ``seen`` says which fields and columns of a choice the samples had.
    """

    runs: tuple[Run, ...]
    samples: int = 0
    size: int = 0
    content: int = 0
    others: int = 0
    skipped: tuple[tuple[str, str | None, str], ...] = ()
    seen: Seen = Seen()  # noqa: RUF009 - it is frozen


@dataclass(frozen=True)
class GatherPlan:
    """The ``runs``, where each output begins in each of them (``cuts``), and the URLs of the input ``shards``.

    ``sources`` has for each input shard the index of the source that it belongs to, in the order the user named them.
    If ``outputs`` is not 0, there are so many, and ``cuts`` says instead where each batch of samples begins (see
    splits.py); where the outputs begin is written down for each batch (see boundaries.py). All samples of a ``single``
    batch have the same order.
    """

    runs: tuple[AnyRun, ...]
    cuts: Ints
    shards: tuple[str, ...]
    sources: tuple[int, ...]
    outputs: int = 0
    single: tuple[int, ...] = ()

    def ranks_of(self, batch: int) -> list[int]:
        """Return which samples of a batch are the first of an output."""
        samples, start = int(self.cuts[-1].sum()), int(self.cuts[batch].sum())
        outputs = range(self._first_in(batch), self._first_in(batch + 1))
        return [samples * output // self.outputs - start for output in outputs]

    def _first_in(self, batch: int) -> int:
        """Return the first output that does not begin before a batch."""
        return -(-int(self.cuts[batch].sum()) * self.outputs // max(int(self.cuts[-1].sum()), 1))

    def batch_of(self, output: int) -> tuple[int, int]:
        """Return the batch in which an output begins, and how many outputs begin in it before."""
        samples = int(self.cuts[-1].sum())
        starts = self.cuts.sum(axis=1)
        batch = int(np.searchsorted(starts, samples * output // self.outputs, "right")) - 1
        return batch, output - self._first_in(batch)


def write_collected(url: str, done: Collected, of: Mapping[str, Any]) -> None:
    """Write down what a task has collected; ``of`` says which task it was, as JSON data."""
    with get_storage(url).create(url) as sink:
        noted = {**of, **asdict(replace(done, seen=Seen())), "seen": done.seen.as_json()}
        sink.write(json.dumps(noted).encode("utf-8", "surrogateescape"))


def read_collected(url: str, of: Mapping[str, Any]) -> Collected | None:
    """Return what the task that ``of`` describes has collected before; None if it has not, or its runs are gone.

    Raises:
        StorageError: the storage cannot be read.
    """
    storage = get_storage(url)
    try:
        noted = _object(parse_json(storage.read(url), url))
        if any(noted.get(name) != value for name, value in of.items()):
            return None
        done = Collected(
            tuple(_run(entry, folder_of(url)) for entry in _list(noted.get("runs"))),
            skipped=tuple(_skipped(entry) for entry in _list(noted.get("skipped"))),
            seen=Seen.of_json(noted.get("seen")),
            **{name: _count(noted.get(name)) for name in ("samples", "size", "content", "others")},
        )
        if sum(run.count for run in done.runs) > done.samples:
            raise ValueError("the runs have more samples than were collected")
        if any(storage.stat(run.url).size != run.filesize for run in done.runs):
            return None
    except (NotFoundError, ValueError):  # an earlier attempt's, or damaged: the task does it again
        return None
    return done


def write_plan(url: str, plan: GatherPlan) -> None:
    """Write a plan, for the tasks to read."""
    facts: dict[str, Any] = {
        "runs": [asdict(run) for run in runs_of(plan.runs)],
        "shards": plan.shards,
        "sources": plan.sources,
    }
    facts |= {"outputs": plan.outputs, "single": plan.single}
    facts["chains"] = [len(run.runs) if isinstance(run, Chain) else 0 for run in plan.runs]
    file = BytesIO()
    text = np.frombuffer(json.dumps(facts).encode("utf-8", "surrogateescape"), np.uint8)
    np.savez(file, cuts=plan.cuts, told=text)
    with get_storage(url).create(url) as sink:
        sink.write(file.getvalue())


@lru_cache(maxsize=4)
def read_plan(url: str, fingerprint: str) -> GatherPlan:
    """Return a plan that was written for the job of ``fingerprint``; it is read once in each process.

    Raises:
        StorageError: it cannot be read.
        CorruptError: it is damaged.
    """
    data = get_storage(url).read(url)
    try:
        return _parse_plan(load_npz(data), url)
    except (MemoryError, SystemError):  # which do not come from the bytes
        raise
    except Exception as error:  # zipfile and numpy raise a dozen kinds for damaged bytes
        raise CorruptError("the plan in the spill is damaged", url=url, fix="delete it and run again") from error


def _parse_plan(arrays: Mapping[str, Any], url: str) -> GatherPlan:
    facts = _object(parse_json(arrays["told"].tobytes().decode("utf-8", "surrogateescape"), url))
    runs = _chains([_run(entry, folder_of(url)) for entry in _list(facts.get("runs"))], _list(facts.get("chains")))
    shards = tuple(map(_text, _list(facts.get("shards"))))
    sources = tuple(map(_count, _list(facts.get("sources"))))
    cuts = arrays["cuts"].astype(np.int64, casting="safe")
    counts = np.array([run.count for run in runs], np.int64)
    rises = cuts.ndim == 2 and len(cuts) and cuts.shape[1] == len(runs) and (np.diff(cuts, axis=0) >= 0).all()
    if not rises or (cuts[0] != 0).any() or (cuts[-1] != counts).any() or len(sources) != len(shards):
        raise ValueError("its cuts are not those of its runs")
    outputs = _count(facts.get("outputs"))
    if outputs > MAX_SHARDS:
        raise ValueError("it has too many outputs")
    return GatherPlan(runs, cuts, shards, sources, outputs, tuple(map(_count, _list(facts.get("single")))))


def _chains(runs: Sequence[Run], lengths: Sequence[Any]) -> tuple[AnyRun, ...]:
    """Return runs, and chains of so many runs each; a run with the length 0 is in no chain."""
    found: list[AnyRun] = []
    left = iter(runs)
    for length in map(_count, lengths):
        some = tuple(islice(left, max(length, 1)))
        if len(some) != max(length, 1):
            raise ValueError("its chains are not those of its runs")
        found.append(Chain(some) if length else some[0])
    if next(left, None) is not None:
        raise ValueError("it has runs that are in no chain")
    return tuple(found)


def _run(entry: Any, folder: str) -> Run:
    """Return a run that is written down as JSON data, and must be in ``folder``."""
    noted = _object(entry)
    if {*noted} != {field.name for field in fields(Run)}:
        raise ValueError("this is not a run")
    url = _text(noted["url"])
    names = tuple(map(_text, _list(noted["fields"])))
    if folder_of(url) != folder or wrong_fields(names):
        raise ValueError("a run is outside the spill, or has fields that are not valid")
    numbers = ("count", "data_bytes", "order_bytes", "key_bytes", "members", "sampled", "sampled_bytes", "checksum")
    return Run(url=url, fields=names, **{name: _count(noted[name]) for name in numbers})


def _skipped(entry: Any) -> tuple[str, str | None, str]:
    url, key, reason = _list(entry)
    return _text(url), None if key is None else _text(key), _text(reason)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("this is not an object")
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError("this is not a list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("this is not a text")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError("this is not a count")
    return value
