"""Arrays made from other arrays, and filled from them: numpy, Dask, Zarr, or a view of a dataset's samples.

like -> shape, type, chunks
rows, whole chunks at a time -> tasks of the engine -> one transaction, one commit
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from shardtools.arrays.dask_arrays import is_dask
from shardtools.engine import ClusterLike, Task
from shardtools.engine.ordered import run_each
from shardtools.errors import JobError

if TYPE_CHECKING:
    from shardtools.arrays.array import HubArray
    from shardtools.arrays.hub import Hub

_ROWS = 1 << 24
"""Decoded bytes of the rows that one task writes, about."""


def shape_like(values: Any) -> tuple[tuple[int, ...], Any, tuple[int, ...] | None]:
    """Return the shape and type of an array, and the chunks that it has; None if it has none.

    Raises:
        JobError: it has none.
    """
    array = values if hasattr(values, "shape") and hasattr(values, "dtype") else np.asarray(values)
    if array.dtype.hasobject:
        raise JobError(f"an array of {array.dtype} cannot be stored", fix="convert it to numbers or texts first")
    shape = tuple(map(int, array.shape))
    if is_dask(values):
        return shape, array.dtype, tuple(map(int, values.chunksize))
    if isinstance(chunks := getattr(values, "chunks", None), tuple) and all(isinstance(size, int) for size in chunks):
        return shape, array.dtype, chunks
    return shape, array.dtype, None


def fill(
    hub: Hub,
    name: str,
    values: Any,
    *,
    cluster: ClusterLike = "threads",
    jobs: int | None = None,
    message: str = "",
    author: str = "",
    advance: Callable[[int, int], object] | None = None,
) -> HubArray:
    """Write all of an array as one commit; see `Hub.fill`."""
    path, version = hub.split(name)
    with hub.transaction(message or f"fill {path}", author=author, version=version) as transaction:
        target = transaction[path]
        array = values if hasattr(values, "shape") else np.asarray(values)
        if tuple(array.shape) != target.shape:
            raise ValueError(f"could not fill an array of shape {target.shape} with values of shape {array.shape}")
        if is_dask(array) or not target.ndim:
            target[...] = array
        else:
            tasks = [
                Task(_write_rows, (target, _part(array, start, stop), start, stop), f"{hub.url}{path}")
                for start, stop in _bounds(target.shape, target.chunks, target.dtype.itemsize)
            ]

            def done(index: int, nbytes: int) -> None:
                if advance is not None:
                    advance(tasks[index].args[3] - tasks[index].args[2], nbytes)

            run_each(tasks, done, cluster=cluster, jobs=jobs)
    return hub.load(name)


def _bounds(shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int) -> Iterator[tuple[int, int]]:
    """Yield where the rows begin and end that one task writes: whole chunks."""
    height = max(prod(shape[1:]) * itemsize * chunks[0], 1)
    step = max(_ROWS // height, 1) * chunks[0]
    return ((start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _part(values: Any, start: int, stop: int) -> Any:
    """Return what a task reads its rows from: the rows themselves, or a view that is loaded there."""
    return values[start:stop] if isinstance(values, np.ndarray) else _Lazy(values, start, stop)


class _Lazy:
    """Rows of an array that are loaded when they are needed, where they are needed."""

    def __init__(self, values: Any, start: int, stop: int):
        self._values, self._start, self._stop = values, start, stop

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.asarray(self._values[self._start : self._stop], dtype)


def _write_rows(target: Any, rows: Any, start: int, stop: int) -> int:
    loaded = np.asarray(rows)
    target[start:stop] = loaded
    return loaded.nbytes
