"""What arrays that are not in memory have of numpy's reductions: a few parts are in memory at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from shardtools.view import reductions
from shardtools.view.array_like import ArrayLike


class Reducible(ArrayLike):
    """The reductions of an array, by its `pieces`; see ``reductions.py``."""

    def sum(self, axis: Any = None) -> Any:
        """Return the sum, with the type that numpy gives it."""
        return reductions.reduce(self, "sum", axis)

    def min(self, axis: Any = None) -> Any:
        """Return the smallest element."""
        return reductions.reduce(self, "min", axis)

    def max(self, axis: Any = None) -> Any:
        """Return the largest element."""
        return reductions.reduce(self, "max", axis)

    def any(self, axis: Any = None) -> Any:
        """Return whether any element is true."""
        return reductions.reduce(self, "any", axis)

    def all(self, axis: Any = None) -> Any:
        """Return whether all elements are true."""
        return reductions.reduce(self, "all", axis)

    def mean(self, axis: Any = None) -> Any:
        """Return the mean."""
        return reductions.moments(self, axis).mean

    def var(self, axis: Any = None, ddof: int = 0) -> Any:
        """Return the variance."""
        return reductions.moments(self, axis).variance(ddof)

    def std(self, axis: Any = None, ddof: int = 0) -> Any:
        """Return the standard deviation."""
        return np.sqrt(self.var(axis, ddof))
