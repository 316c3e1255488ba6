"""The numpy arrays that every layer uses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
"""Bytes of a file, or of texts end to end."""

Ints = npt.NDArray[np.int64]
"""Offsets, sizes, rows, and other whole numbers."""
