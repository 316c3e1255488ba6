"""Stack the values of samples to one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shardtools.shards.images import check_image, open_image

Array = npt.NDArray[Any]


class UnequalShapes(Exception):
    """The values at the positions ``first`` and ``second`` have different shapes."""

    def __init__(self, first: int, second: int, shapes: tuple[Any, Any]):
        super().__init__()
        self.first, self.second, self.shapes = first, second, shapes


def stack(arrays: Sequence[Array]) -> Array:
    """Return arrays of one shape as one array, with a new first axis.

    Raises:
        UnequalShapes: the shapes differ.
    """
    first = arrays[0]
    for i, array in enumerate(arrays):
        if array.shape != first.shape:
            raise UnequalShapes(0, i, (first.shape, array.shape))
    return np.stack(arrays)


def as_array(value: Any) -> Array:
    """Return an array, a number or a list of numbers as an array, and any other object as an array of one object."""
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
    """Return an image resized to (height, width), by bilinear interpolation.

    Raises:
        ValueError: the data is not an image.
        LimitError: the image is too large.
        OSError: the image is damaged.
    """
    from PIL import Image

    with open_image(data) as image:
        image.draft("RGB", (2 * size[1], 2 * size[0]))  # a JPEG can be unpacked smaller, which is faster
        check_image(image)
        usual = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")
        return np.array(usual.resize((size[1], size[0]), Image.Resampling.BILINEAR))
