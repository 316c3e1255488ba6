"""``htarray import --field`` as a function: a field of all samples becomes an array."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from shardtools.errors import FieldError, JobError, SampleError

if TYPE_CHECKING:
    from shardtools.arrays.array import HubArray
    from shardtools.arrays.hub import Hub
    from shardtools.engine import ClusterLike


def import_samples(
    hub: Hub,
    source: str,
    name: str,
    field: str,
    resize: str | None = None,
    *,
    cluster: ClusterLike = "threads",
    jobs: int | None = None,
    author: str = "",
    advance: Callable[[int, int], object] | None = None,
) -> HubArray:
    """Make the array ``name`` of a field of all samples of the shards ``source``, and fill it as one commit.

    A new array is removed again if samples do not fit.

    Raises:
        JobError: it has no name, or ``resize`` is not of the form HxW.
        SampleError: the samples have different shapes.
    """
    from shardtools.reading import open_dataset

    if not name:
        raise JobError("the array needs a name", fix="give NAME, or NAME:BRANCH")
    view = open_dataset(source).view(field, resize=_size(resize))
    is_new = name not in hub
    hub.array(name, like=view)
    message = f"import {field}"
    try:
        return hub.fill(name, view, cluster=cluster, jobs=jobs, author=author, message=message, advance=advance)
    except (SampleError, FieldError):
        if is_new:  # nothing will ever be in it
            del hub[name]
        raise


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise JobError(f"--resize {text}: not of the form HxW", fix="write it as 224x224")
    return int(match[1]), int(match[2])
