"""Where a loader stands, as a few numbers of JSON data that another process can load.

A state is ``{"version", "dataset", "seed", "epoch", "shuffle", "delivered"}``: up to position ``delivered`` of the
epoch's order all samples were delivered, by all ranks and workers together. Therefore it is good for any number of
ranks and workers, and any batch size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from shardtools.errors import JobError
from shardtools.urls import name_of

VERSION = 1


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

    def dump(self) -> dict[str, Any]:
        """Return it as JSON data."""
        data = asdict(self)
        if self.worker is None:
            del data["worker"]
        return data


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


def digest(urls: Sequence[str], counts: Sequence[int]) -> str:
    """Return a text that tells datasets apart by the names of their shards and how many samples each has."""
    text = json.dumps([list(map(name_of, urls)), list(counts)])
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
