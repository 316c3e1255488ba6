"""The rows of an array as a map-style dataset of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from shardtools.dataset.indexes import normalize
from shardtools.loader.rows import RowArray


class ArrayRows(Dataset[Any]):
    """The rows of an array by their indexes, as numpy arrays; ``array.to_torch()`` returns it.

    A DataLoader gives it the indexes of a whole batch at a time, which are then read together. Without a sampler of
    your own, ``ShardIterable(array, shuffle=True)`` is faster, as it reads each chunk once, and can resume.
    """

    def __init__(self, array: RowArray, transform: Callable[[Any], Any] | None = None):
        """``transform`` is called with a row, and returns the sample."""
        if not array.shape:
            raise TypeError("an array without axes has no rows")
        self._array, self._transform = array, transform

    def __len__(self) -> int:
        return self._array.shape[0]

    def __getitem__(self, index: int) -> Any:
        """Return one sample.

        Raises:
            IndexError: there is no such index.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indexes: Sequence[int]) -> list[Any]:
        """Return some samples, in the order asked for."""
        wanted = normalize(np.asarray(indexes, np.int64), len(self))
        if not len(wanted):
            return []
        unique, places = np.unique(wanted, return_inverse=True)
        block = self._array[unique]
        rows = [block[place] for place in places.reshape(-1).tolist()]
        return rows if self._transform is None else list(map(self._transform, rows))
