"""Comparing arrays."""

from __future__ import annotations

import numpy as np


def same(a: np.ndarray, b: object) -> bool:
    """Return whether ``b`` is an array like ``a``, to the last bit."""
    return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
