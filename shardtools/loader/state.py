"""Where a loader stands, as a few numbers of JSON data that another process can load.

A state is ``{"version", "dataset", "seed", "epoch", "shuffle", "delivered"}``: up to position ``delivered`` of the
epoch's order all samples were delivered, by all ranks and workers together. Therefore it is good for any number of
ranks and workers, and any batch size. Of samples that were chosen, ``where`` has the conditions and a digest of what
they chose: with other labels, the same condition may choose other samples, in another order. Of batches by buckets,
``buckets`` has the expression, the edges and a digest of the samples' buckets, and ``step`` is
``batch_size * world_size``, on which the order depends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from shardtools.errors import JobError
from shardtools.types import Ints
from shardtools.urls import name_of

VERSION = 1

_OPTIONAL = ("worker", "where", "buckets", "step")


@dataclass(frozen=True)
class State:
    """``dataset`` is a digest of the shards' names and counts; ``worker`` is the state of one worker alone.

    That is ``[number, workers, batch_size * world_size]``, and ``delivered`` is then where its next batch begins.
    """

    dataset: str
    seed: int
    epoch: int
    shuffle: Any
    delivered: int
    worker: Sequence[int] | None = None
    version: int = VERSION
    where: Mapping[str, Any] | None = None
    buckets: Mapping[str, Any] | None = None
    step: int | None = None

    def dump(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in _OPTIONAL}

    def identity(self) -> dict[str, Any]:
        """Return what the order of an epoch depends on, as JSON data."""
        data = self.dump()
        return {name: data[name] for name in ("dataset", "seed", "shuffle", "where", "buckets") if name in data}


def parse_state(data: Mapping[str, Any]) -> State:
    """Return the state that `State.dump` gave ``data`` for.

    Raises:
        JobError: it is none, or of another version.
    """
    try:
        if data["version"] != VERSION:
            raise JobError(
                f"the state has version {data['version']}, not {VERSION}",
                fix="use the version of shardtools that saved it",
            )
        state = State(**data)
        if min(state.epoch, state.delivered) < 0 or type(state.seed + state.epoch + state.delivered) is not int:
            raise TypeError
    except (KeyError, TypeError) as error:
        raise JobError("this is not the state of a loader", fix="give what state_dict() returned") from error
    return state


def check_same(state: State, mine: State) -> None:
    """Raise if a state is of another dataset or another order.

    Raises:
        JobError: it says what differs.
    """
    for name, what in (("dataset", "shards"), ("seed", "seed"), ("shuffle", "shuffle")):
        theirs, ours = getattr(state, name), getattr(mine, name)
        if json.dumps(theirs, sort_keys=True) != json.dumps(ours, sort_keys=True):
            values = "" if name == "dataset" else f": {theirs}, not {ours}"
            raise JobError(f"the state was saved with another {what}{values}", fix=f"load it with the same {what}")
    _check_same_choice(state.where, mine.where)
    _check_same_buckets(state, mine)


def _check_same_buckets(state: State, mine: State) -> None:
    fix = "load it with the same bucket_by, buckets, and batch_size times ranks"
    if state.buckets != mine.buckets:
        theirs, ours = (dict(some.buckets or {}) for some in (state, mine))
        for name, what in (("by", "bucket_by"), ("edges", "edges of buckets"), ("numbers", "samples in its buckets")):
            if theirs.get(name) != ours.get(name):
                values = "" if name == "numbers" else f": {theirs.get(name)}, not {ours.get(name)}"
                raise JobError(f"the state was saved with another {what}{values}", fix=fix)
    if state.step != mine.step:
        what = f"the state was saved with global batches of {state.step}, not {mine.step}, which bucket_by depends on"
        raise JobError(what, fix=fix)


def _check_same_choice(theirs: Mapping[str, Any] | None, ours: Mapping[str, Any] | None) -> None:
    if theirs == ours:
        return
    fix = "load it with the samples that the same condition chooses"
    conditions = [_conditions(where) for where in (theirs, ours)]
    if conditions[0] != conditions[1]:
        raise JobError(f"the state was saved with {conditions[0]}, not with {conditions[1]}", fix=fix)
    counts = [where.get("samples") if isinstance(where, Mapping) else None for where in (theirs, ours)]
    what = f"the state was saved when {conditions[0]} chose other samples: {counts[0]}, and now {counts[1]}"
    raise JobError(what, fix="use the labels or the table of then, or begin the epoch anew by set_epoch")


def _conditions(where: Mapping[str, Any] | None) -> str:
    if not isinstance(where, Mapping):
        return "all samples"
    return f"where {' and '.join(map(str, where.get('conditions', ())))}" if where.get("conditions") else "a join"


def describe_choice(conditions: Sequence[str], chosen: Ints) -> dict[str, Any]:
    """Return as JSON data what identifies the samples with some indexes, which conditions chose."""
    made = blake2b(np.ascontiguousarray(chosen, "<i8").data, digest_size=16).hexdigest()
    return {"conditions": list(conditions), "samples": len(chosen), "chosen": made}


def digest(urls: Sequence[str], counts: Sequence[int], joined: str = "") -> str:
    """Return a text that tells datasets apart by the names of their shards and how many samples each has.

    ``joined`` tells apart what is joined with them.
    """
    text = json.dumps([list(map(name_of, urls)), list(counts), *([joined] if joined else [])])
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
