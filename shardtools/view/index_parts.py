"""The parts of an index, such as those of ``view[0:10, mask, ...]``: which kind of numpy's indexing each is."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_mask(part: Any) -> bool:
    """Return whether a part of an index is an array or list of booleans."""
    return isinstance(part, np.ndarray | list) and np.asarray(part).dtype == bool and np.size(part) > 0


def is_basic(part: Any) -> bool:
    """Return whether a part of an index is for numpy's basic indexing: an integer, a slice, None or an ellipsis."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return True
    return isinstance(part, int | np.integer) and not isinstance(part, bool)


def is_full(part: Any) -> bool:
    """Return whether a part of an index selects everything."""
    return part is Ellipsis or (isinstance(part, slice) and part == slice(None))
