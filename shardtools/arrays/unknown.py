"""What an error says of an array or a commit that there is not: where it is, or what else there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shardtools.errors import JobError, NotFoundError, RefusedError
from shardtools.log.log import Snapshot

if TYPE_CHECKING:
    from shardtools.arrays.hub import Hub

_BRANCHES = 10
"""Other branches that are looked into."""


def unknown_array(hub: Hub, snapshot: Snapshot, path: str) -> NotFoundError:
    """Return the error for an array that a snapshot does not have."""
    documents = hub.documents(snapshot)
    there = ", ".join(name for name, document in documents if name and hub.is_array(document, name))
    others = [name for name in _other_branches(hub, snapshot) if hub.read_document(hub.log.head(name), path)]
    if others:
        name = others[0]
        fix = f"it is in {name}: hub.load({f'{path}:{name}'!r}), or hub.transaction(version={name!r}) to write"
    elif there:
        fix = f"there is {there[:300]}"
    else:
        fix = "create it first: hub.array(NAME, shape=…, dtype=…)"
    return NotFoundError(f"there is no array {path} in {_describe(snapshot)}", url=hub.url, fix=fix)


def nothing_to_tag(hub: Hub, snapshot: Snapshot, tag: str) -> JobError:
    """Return the error for a tag of a branch that has no commit yet."""
    others = [name for name in _other_branches(hub, snapshot) if hub.log.head(name).commit is not None]
    fix = f"name another version, hub.tag({tag!r}, {others[0]!r})" if others else "write something first"
    return JobError(f"there is no commit yet in {_describe(snapshot)} that could have a tag", url=hub.url, fix=fix)


def _other_branches(hub: Hub, snapshot: Snapshot) -> Sequence[str]:
    try:
        names = hub.branches()
    except RefusedError:  # the storage does not list
        return ()
    return [name for name in names if name != snapshot.branch.name][:_BRANCHES]


def _describe(snapshot: Snapshot) -> str:
    return snapshot.fixed or snapshot.branch.name
