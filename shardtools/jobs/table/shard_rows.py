"""The task of a table: the rows of one shard, as a part in storage.

shard -> its rows in memory (query/shard_rows.py), and the hashes of its keys -> a file of Arrow
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shardtools.errors import StaleTableError
from shardtools.query.key_file import hashes_in
from shardtools.query.kinds import Kinds
from shardtools.query.shard_rows import place_columns, value_columns
from shardtools.query.table_file import AnyTable, Asked, ShardState
from shardtools.shards.members import IndexedShard
from shardtools.shards.open_shard import keep_freed_memory
from shardtools.shards.sidecar import find_sidecar
from shardtools.storage import get_storage
from shardtools.storage.limited import read_optional
from shardtools.urls import name_of

HASH = "__hash"
"""The column of a part for the file of keys: a name that no field has."""

_ENTRY = b"shardtools-part"


@dataclass(frozen=True)
class PartTask:
    """What one task does: write the rows of the shard ``source``, which is number ``number``, to ``part``.

    A part that is there is kept if it fits and need not be made ``anew``.
    """

    source: str
    number: int
    part: str
    asked: tuple[Asked, ...]
    anew: bool = False


@dataclass(frozen=True)
class ShardPart:
    """The rows of one shard at the URL ``part``: the state of the shard, and the kinds of the columns of values.

    ``wrong`` counts values that were left out, and ``cut`` names columns with texts that are not whole. ``fields`` are
    those of the shard, and ``crowded`` those with more than `MOST_PATHS` paths, whose columns are left out.
    """

    url: str
    part: str
    state: ShardState
    kinds: Mapping[str, Kinds]
    wrong: Mapping[str, int]
    cut: tuple[str, ...]
    fields: tuple[str, ...]
    crowded: tuple[str, ...] = ()


def write_part(task: PartTask) -> ShardPart:
    """Write the rows of a shard, unless they are there.

    Raises:
        StaleTableError: the shard has no matching sidecar.
        ShardtoolsError: the shard cannot be read, or the part cannot be written.
    """
    keep_freed_memory()
    url = task.source
    sidecar = find_sidecar(url, get_storage(url).stat(url))
    if sidecar is None:
        raise StaleTableError("it has no matching sidecar", url=url, fix="make it with htindex")
    state = ShardState(name_of(url), sidecar.filesize, sidecar.checksum, len(sidecar))
    if not task.anew and (there := _read_facts(task, state)) is not None:
        return there
    shard = IndexedShard(url, sidecar)
    columns = {**place_columns(shard.table, task.number), HASH: hashes_in(shard.table)}
    values = value_columns(shard, task.asked)
    part = ShardPart(url, task.part, state, values.kinds, values.wrong, values.cut, shard.table.fields, values.crowded)
    _write(part, task, columns, values.table)
    return part


# --- parts


def _write(part: ShardPart, task: PartTask, columns: Mapping[str, Any], values: AnyTable | None) -> None:
    import pyarrow
    from pyarrow import ipc

    all_columns, taken = dict(columns), {name.lower() for name in columns}
    for name, column in () if values is None else zip(values.column_names, values.columns, strict=True):
        if name.lower() not in taken:  # Parquet's readers know no small and capital letters
            taken.add(name.lower())
            all_columns[name] = column
    table = pyarrow.table(all_columns)
    facts = {**asdict(part), "asked": [asdict(one) for one in task.asked], "number": task.number}
    facts["kinds"] = {name: [sorted(kinds.found), kinds.wide] for name, kinds in part.kinds.items()}
    table = table.replace_schema_metadata({_ENTRY: json.dumps(facts)})
    file = pyarrow.BufferOutputStream()
    with ipc.new_file(file, table.schema, options=ipc.IpcWriteOptions(compression="lz4", use_threads=False)) as writer:
        writer.write_table(table)
    with get_storage(part.part).create(part.part) as sink:
        sink.write(file.getvalue())


def read_part(url: str) -> AnyTable:
    """Return the rows of a part.

    Raises:
        StorageError: it cannot be read.
    """
    from pyarrow import ipc

    return ipc.open_file(get_storage(url).read(url)).read_all()


def _read_facts(task: PartTask, state: ShardState) -> ShardPart | None:
    """Return the part that is there, if it is one of this shard as it is, and of what is asked."""
    import pyarrow
    from pyarrow import ipc

    data = read_optional(task.part, "sidecar")
    try:
        metadata = {} if data is None else ipc.open_file(data).schema.metadata or {}
    except pyarrow.ArrowException:  # what it was when somebody stopped it, it is made again
        return None
    try:
        facts = json.loads(metadata[_ENTRY])
        same = facts["asked"] == [asdict(one) for one in task.asked] and facts["number"] == task.number
        if not same or facts["state"] != asdict(state):
            return None
        kinds = {name: Kinds(frozenset(found), wide) for name, (found, wide) in facts["kinds"].items()}
        texts = (tuple(facts[name]) for name in ("cut", "fields", "crowded"))
        return ShardPart(task.source, task.part, state, kinds, facts["wrong"], *texts)
    except (KeyError, TypeError, ValueError):  # it is none of ours
        return None
