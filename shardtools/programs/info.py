"""htinfo as a function."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from shardtools.errors import SpecError
from shardtools.programs.running import naming, run_options
from shardtools.spec import parts_of
from shardtools.storage import using
from shardtools.urls import at_home

if TYPE_CHECKING:
    from shardtools.query.describe import Description


def info(
    source: str | os.PathLike[str],
    *,
    shards: bool = False,
    retries: int = 5,
    timeout: float = 60.0,
    cache: str | None = None,
    index: str | None = None,
) -> Description:
    """Return what is known of the dataset ``source``: its size, fields, classes, origin and index files.

    That needs about a dozen requests, whatever the number of shards. ``shards`` lists them, too: with their samples,
    their sizes, and whether they have sidecars. ``retries``: how often in a row to try again when a server fails.
    ``timeout``: how many seconds to wait for the next bytes. ``cache``: ``DIR`` or ``DIR:SIZE``, a folder that keeps
    what is read from servers. ``index``: the URL of a place for index files that do not lie beside their shards.
    `dataclasses.asdict` makes data for JSON of the result.

    Raises:
        SpecError: the source is not one dataset.
        StorageError, ShardError: none of its shards can be read.

    >>> import shardtools as st
    >>> found = st.info("train-@2.tar", shards=True)
    >>> found.samples, [(field.name, field.kind, field.count) for field in found.fields]
    (4, [('cls', 'number', 4), ('txt', 'text', 4)])
    >>> [(shard.samples, shard.sidecar) for shard in found.shard_list]
    [(2, True), (2, True)]
    """
    [spec] = single_specs([os.fspath(source)]) if len(parts_of(os.fspath(source))) == 1 else [None]
    if spec is None:
        raise SpecError("these are several datasets", url=os.fspath(source), fix="ask for one after the other")
    options = naming(run_options(retries=retries, timeout=timeout, cache=cache, index=index), spec)
    with using(options.storage):
        return describe_source(spec, shards=shards)


def single_specs(sources: Iterable[str]) -> list[str]:
    """Return the single specs in some sources.

    Raises:
        SpecError: one is standard input.

    >>> single_specs(["a-@2.tar::b.tar", "c.tar"])
    ['a-@2.tar', 'b.tar', 'c.tar']
    """
    specs = [at_home(spec) for spec in parts_of(sources)]
    if "-" in specs:
        raise SpecError("standard input is no dataset", url="-", fix="give the path or URL of shards")
    return specs


def describe_source(spec: str, *, shards: bool) -> Description:
    """Return what `info` does, with the options of storage that are in use."""
    from shardtools.query.describe import describe
    from shardtools.query.shard_list import list_shards

    found = describe(spec)
    return replace(found, shard_list=list_shards(spec)) if shards else found
