"""Lists of indexes and masks, as numpy takes them, as indexes that are not negative."""

from __future__ import annotations

from typing import Any

import numpy as np

from shardtools.types import Ints


def normalize(index: Any, size: int) -> Ints:
    """Return an array of indexes of ``size`` samples, or a mask of that length, as indexes that are not negative.

    Raises:
        IndexError: an index is out of range, or the mask has another length.
        TypeError: the elements are neither integers nor booleans.
    """
    indexes = np.asarray(index)
    if indexes.dtype == bool:
        if indexes.shape != (size,):
            raise IndexError(f"the mask has shape {indexes.shape}, but the dataset has {size:,} samples")
        return np.flatnonzero(indexes)
    if indexes.size == 0:
        return indexes.astype(np.int64)
    if indexes.dtype.kind not in "iu":
        raise TypeError(f"indexes must be integers or booleans, not {indexes.dtype}")
    indexes = indexes.astype(np.int64)
    if indexes.min() < -size or indexes.max() >= size:
        wrong = indexes[(indexes < -size) | (indexes >= size)].flat[0]
        raise IndexError(f"index {wrong} is out of range: the dataset has {size:,} samples")
    return np.where(indexes < 0, indexes + size, indexes)
