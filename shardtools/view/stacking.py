"""From the values of samples to one array of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.shards.images import check_image, open_image

Array = npt.NDArray[Any]


class UnequalShapes(Exception):
    """Two values, ``first`` and ``second`` by their positions, do not have one shape."""

    def __init__(self, first: int, second: int, shapes: tuple[Any, Any]):
        super().__init__()
        self.first, self.second, self.shapes = first, second, shapes


def stack(arrays: Sequence[Array]) -> Array:
    """Return arrays as one with one more axis.

    Raises:
        UnequalShapes: they do not have one shape.
    """
    first = arrays[0]
    for i, array in enumerate(arrays):
        if array.shape != first.shape:
            raise UnequalShapes(0, i, (first.shape, array.shape))
    return np.stack(arrays)


def as_array(value: Any) -> Array:
    """Return a number as an array of it, and any other object that is no array as one element."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, bool | int | float | complex | np.generic):
        return np.asarray(value)
    if isinstance(value, list | tuple) and value and all(isinstance(part, int | float) for part in value):
        return np.asarray(value)
    array = np.empty((), object)
    array[()] = value
    return array


def resized(data: bytes, size: tuple[int, int]) -> Array:
    """Return an image of (height, width), by bilinear interpolation.

    Raises:
        ValueError: it is none.
        LimitError: it is too large.
        OSError: it is damaged.
    """
    from PIL import Image

    with open_image(data) as image:
        image.draft("RGB", (2 * size[1], 2 * size[0]))  # a JPEG can be unpacked smaller, which is faster
        check_image(image)
        usual = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
        return np.array(usual.resize((size[1], size[0]), Image.Resampling.BILINEAR))
