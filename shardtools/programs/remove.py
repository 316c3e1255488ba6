"""htrm as a function."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shardtools.programs.running import naming, run_options
from shardtools.storage import using

if TYPE_CHECKING:
    from shardtools.jobs.remove import Removal


def remove(
    source: str | os.PathLike[str], *, dry_run: bool = False, retries: int = 5, timeout: float = 60.0
) -> Removal:
    """Remove the dataset ``source``, with its index files, and return what was removed. Nothing is asked.

    With its shards go sidecars, manifest, table, file of keys, the summary and page beside it, and what jobs to this
    dataset have left that did not end. Other files stay, and other datasets in the same folder. ``dry_run`` removes
    nothing. ``retries``: how often in a row to try again when a server fails. ``timeout``: how many seconds to wait for
    the next bytes.

    Raises:
        SpecError: the source is not one dataset.
        NotFoundError: there is nothing of it.
        JobError: some of its shards belong to another dataset, too.
        OutputBusyError: a job is writing it.
        StorageError: something cannot be removed.

    >>> import os, shardtools as st
    >>> removed = st.remove("train-@2.tar")
    >>> len(removed.shards), len(removed.sidecars), [url for url in os.listdir() if url.startswith("train")]
    (2, 2, [])
    """
    from shardtools.jobs.remove import check_unlocked, plan_removal, remove_dataset

    spec = os.fspath(source)
    options = naming(run_options(retries=retries, timeout=timeout), spec)
    with using(options.storage):
        removal = plan_removal(spec)
        if dry_run:
            check_unlocked(removal.spec)
        else:
            remove_dataset(removal)
    return removal
