"""Parts of an array: rows that are loaded when they are needed, and what ``array.oindex`` and ``array.vindex`` are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shardtools.arrays.grid import Selected, Shape
from shardtools.view.array_like import ArrayLike

if TYPE_CHECKING:
    from shardtools.arrays.array import ChunkedArray

Array = npt.NDArray[Any]


class RowRange(ArrayLike):
    """RowRange of an array that are loaded when they are needed: a part of a reduction."""

    def __init__(self, array: ChunkedArray, start: int, stop: int):
        self._array, self._start, self._stop = array, start, stop

    @property
    def ndim(self) -> int:
        return self._array.ndim

    @property
    def nbytes(self) -> int:
        return self._array.nbytes // max(len(self._array), 1) * len(self)

    def __len__(self) -> int:
        return max(self._stop - self._start, 0)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        loaded = np.asarray(self._array[self._start : self._stop])
        return loaded if dtype is None else loaded.astype(dtype, copy=False)

    def pieces(self, size: int) -> Iterator[RowRange]:
        return (
            RowRange(self._array, at, min(at + size, self._stop)) for at in range(self._start, max(self._stop, 1), size)
        )


class Indexer:
    """``array.oindex`` or ``array.vindex``: indexing by another rule, ``select``, than that of ``array[...]``."""

    def __init__(self, array: ChunkedArray, select: Callable[[Any, Shape], Selected]):
        self._array, self._select = array, select

    def __getitem__(self, index: Any) -> Array:
        """Return what is selected.

        Raises:
            IndexError: it is out of range, or not allowed.
        """
        now = self._array.as_now()
        selection = self._select(index, now.shape)
        return selection.result(now.read_selection(selection))

    def __setitem__(self, index: Any, values: Any) -> None:
        self._array.write(self._select(index, self._array.shape), values)
