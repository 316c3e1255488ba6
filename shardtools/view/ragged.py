"""The samples of a view as lists, for samples of different shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from shardtools.view.field_view import FieldView


class Ragged:
    """The samples of a view, where slices give lists instead of arrays."""

    def __init__(self, view: FieldView):
        self._view = view

    def __len__(self) -> int:
        return len(self._view)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._view)

    def __getitem__(self, index: Any) -> Any:
        """Return the value of one sample, or a list of values."""
        value = self._view[index]
        first = index[0] if isinstance(index, tuple) and index else index
        return value if isinstance(first, int | np.integer) else list(value)
