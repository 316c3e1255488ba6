"""Dask arrays: told from others, and written to an array of a transaction."""

from __future__ import annotations

from typing import Any

from shardtools.arrays.grid import PointSelection, select


def is_dask(values: Any) -> bool:
    """Return whether values are a Dask array."""
    return hasattr(values, "__dask_graph__")


def store(values: Any, target: Any, index: Any) -> None:
    """Compute a Dask array and write its blocks, each where it was computed.

    Raises:
        ValueError: the shape does not fit.
    """
    import dask.array as da

    selection = select(index, target.shape)
    if isinstance(selection, PointSelection):
        raise IndexError("a Dask array can be written to slices only, not to points")
    region = []
    for axis, part in zip(selection.axes, selection.index, strict=False):
        if not isinstance(axis, range) or part != slice(None):
            raise IndexError("a Dask array can be written to slices with a positive step only")
        region.append(slice(axis.start, axis.stop, axis.step))
    if values.shape != selection.block:
        raise ValueError(f"could not write an array of shape {values.shape} into {selection.block}")
    da.store(values, target, regions=tuple(region), lock=False)
