"""What all jobs have in common: their options, and what may be done about outputs that exist."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal
from urllib.parse import unquote

from shardtools.engine import ClusterLike, Connection
from shardtools.errors import JobError, OutputExistsError, RefusedError
from shardtools.query.table_file import Asked
from shardtools.shards.packers import packer_for
from shardtools.shards.sidecar import sidecar_url
from shardtools.spec import Destination
from shardtools.storage import DEFAULT_OPTIONS, StorageOptions, get_storage
from shardtools.storage.stats import prefixes_of
from shardtools.storage.together import each
from shardtools.urls import absolute, identity, is_local, name_of

OnError = Literal["fail", "skip"]


@dataclass(frozen=True)
class TableRequest:
    """What the table of a new dataset is to have: of ``fields``, None for the small ones, and widths and heights."""

    fields: tuple[Asked, ...] | None = None
    dimensions: bool = False


@dataclass(frozen=True)
class RunOptions:
    """How a job is run.

    ``cluster`` is ``"threads"``, ``"processes"`` or what `shardtools.engine.run` takes for a Dask cluster, and ``jobs``
    the number of tasks at a time (None: one for each processor).
    ``overwrite`` replaces outputs that exist; ``resume`` keeps those that this very job has completed and makes the
    others. ``on_error`` says whether a sample or shard that fails ends the job, or is skipped and reported. ``report``
    is the URL of a JSON report, or None. ``table`` says what the table of the dataset that is written has, None for no
    table.
    """

    cluster: ClusterLike = "threads"
    jobs: int | None = None
    overwrite: bool = False
    resume: bool = False
    on_error: OnError = "fail"
    report: str | None = None
    table: TableRequest | None = None
    storage: StorageOptions = DEFAULT_OPTIONS

    @property
    def on_this_machine(self) -> bool:
        """Whether all tasks run on this machine: on no Dask cluster that others have started."""
        return self.cluster in ("threads", "processes")

    def close(self) -> None:
        """Close the connection to a cluster, if there is one."""
        if isinstance(self.cluster, Connection):
            self.cluster.close()


def check_outputs(sources: Sequence[str], destination: Destination, report: str | None = None) -> None:
    """Raise if an output could not be a shard, or is an input as well, or ``report`` is either.

    Raises:
        SpecError: the destination's name is not that of a shard.
        JobError: an output is an input, or the report is one of them.
    """
    inputs = {_object(url): url for url in sources}
    outputs = destination.urls()
    for url in outputs:
        packer_for(url)
        if url != "-" and (same := inputs.get(_object(url))) is not None:
            raise JobError("this shard is an input and an output", url=same, fix="write to another destination")
    written = [] if destination.spec == "-" else [*map(sidecar_url, outputs), destination.manifest]
    if report and _object(report) in {*inputs, *map(_object, outputs + written)}:
        raise JobError("the report would replace a part of a dataset", url=report, fix="give it a name of its own")


def _object(url: str) -> str:
    """Return a text that is equal for URLs of the same object, also through links or %-escapes."""
    if is_local(url):
        return os.path.realpath(absolute(url))
    return unquote(identity(url))


def list_outputs(destination: Destination) -> list[str] | None:
    """Return the URLs that listings have where a destination's shards, sidecars and manifest are or would be.

    None if there are no listings of them.
    """
    if destination.spec == "-" or name_of(destination.spec).startswith("."):  # which no listing shows
        return None
    storage = get_storage(destination.spec)
    try:
        return list(chain.from_iterable(each(storage.list, prefixes_of(_outputs(destination)))))
    except RefusedError:  # the server does not list
        return None


def _outputs(destination: Destination) -> list[str]:
    shards = destination.urls()
    return [*shards, *map(sidecar_url, shards), destination.manifest]


def existing_outputs(destination: Destination, listed: Iterable[str] | None) -> list[str]:
    """Return the shards, sidecars and manifest of the destination that exist already, given `list_outputs` of it."""
    if destination.spec == "-":
        return []
    wanted = _outputs(destination)
    if listed is None:
        storage = get_storage(destination.spec)
        return [url for url, found in zip(wanted, each(storage.exists, wanted), strict=True) if found]
    names = {unquote(identity(url)) for url in listed}
    return [url for url in wanted if unquote(identity(url)) in names] if names else []


def refuse_existing(destination: Destination, listed: Iterable[str] | None, options: RunOptions) -> list[str]:
    """Return the outputs that exist, if the options allow that there are any, given `list_outputs` of them.

    Raises:
        OutputExistsError: there are some, and they may be neither replaced nor continued.
    """
    found = existing_outputs(destination, listed)
    if found and not options.overwrite and not options.resume:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise OutputExistsError(
            f"the output exists{more}", url=found[0], fix="use --resume to continue the job, or --overwrite to replace"
        )
    return found
