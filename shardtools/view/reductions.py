"""Sums, extremes and moments of a view. Only a few batches are in memory at a time.

view -> batches of samples -> engine -> the result of each batch -> joined, in order
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools import engine
from shardtools.engine.ordered import run_in_order
from shardtools.view.array_like import ArrayLike

Axes = tuple[int, ...]

BATCH = 256
"""Samples in a batch."""

_UFUNCS: dict[str, np.ufunc] = {
    "sum": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "any": np.logical_or,
    "all": np.logical_and,
}


@dataclass(frozen=True)
class Moments:
    """The mean of ``count`` numbers, and the sum of the squared differences from it."""

    mean: Any
    squares: Any
    count: int

    def variance(self, ddof: int) -> Any:
        """Return the variance; as in numpy it is NaN or infinite if there are too few numbers."""
        return np.divide(self.squares, max(self.count - ddof, 0))


def reduce(view: ArrayLike, name: str, axis: Any) -> Any:
    """Return the result of numpy's function ``name`` for the array of all samples."""
    axes = _axes(axis, view.ndim)
    if not view.ndim:
        return _reduced(view, name, axes)
    if 0 in axes:
        return _fold(view, _reduced, (name, axes), _UFUNCS[name])
    return np.concatenate(_fold(view, _one_reduced, (name, axes), list.__iadd__))


def moments(view: ArrayLike, axis: Any) -> Moments:
    """Return mean and squares along ``axis``. Those of batches are joined as by Chan, Golub and LeVeque (1979)."""
    axes = _axes(axis, view.ndim)
    if not view.ndim:
        return _moments(view, axes)
    if 0 in axes:
        result: Moments = _fold(view, _moments, (axes,), _joined)
        return result
    parts: list[Moments] = _fold(view, _one_moments, (axes,), list.__iadd__)
    means, squares = (np.concatenate([getattr(part, name) for part in parts]) for name in ("mean", "squares"))
    return Moments(means, squares, parts[0].count)


def _axes(axis: Any, ndim: int) -> Axes:
    axes = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    fixed = tuple(a + ndim if a < 0 else a for a in axes)
    if any(not 0 <= a < ndim for a in fixed) or len(set(fixed)) < len(fixed):
        raise np.exceptions.AxisError(f"axis {axis} is out of bounds for {ndim} axes")
    return fixed


def _fold(view: ArrayLike, of_batch: Callable[..., Any], arguments: tuple[Any, ...], join: Callable[..., Any]) -> Any:
    """Return the results of ``of_batch``, joined in order, so that rounding does not depend on timing."""
    tasks = [engine.Task(of_batch, (batch, *arguments), "a part of a view") for batch in view.pieces(BATCH)]
    joined: list[Any] = []

    def take(part: Any) -> None:
        joined[:] = [join(joined[0], part)] if joined else [part]

    run_in_order(tasks, take)
    return joined[0]


def _reduced(view: ArrayLike, name: str, axes: Axes) -> Any:
    return _UFUNCS[name].reduce(np.asarray(view), axis=axes)


def _one_reduced(view: ArrayLike, name: str, axes: Axes) -> list[Any]:
    return [_reduced(view, name, axes)]


def _moments(view: ArrayLike, axes: Axes) -> Moments:
    array: npt.NDArray[Any] = np.asarray(view)
    wide = array.astype(np.result_type(array.dtype, np.float64), copy=False)
    mean = wide.mean(axis=axes, keepdims=True)
    squares = (np.abs(wide - mean) ** 2).sum(axis=axes)
    return Moments(np.squeeze(mean, axis=axes)[()], squares, int(np.prod([array.shape[a] for a in axes])))


def _one_moments(view: ArrayLike, axes: Axes) -> list[Moments]:
    return [_moments(view, axes)]


def _joined(one: Moments, other: Moments) -> Moments:
    count = one.count + other.count
    if not count:
        return one
    difference = other.mean - one.mean
    mean = one.mean + difference * (other.count / count)
    squares = one.squares + other.squares + np.abs(difference) ** 2 * (one.count * other.count / count)
    return Moments(mean, squares, count)
