"""Draw arrays: two axes as a picture in grey, three channels in colour, one axis as a line."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from shardtools.shards.fields import decode

Array = np.ndarray[Any, Any]


def describe_array(name: str, data: bytes) -> dict[str, Any]:
    """Return shape, type and extremes of the array that ``data`` is.

    Raises:
        FieldError: it is none.
    """
    array = decode_array(name, data)
    found: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype), "min": None, "max": None}
    if array.size and array.dtype.kind in "biuf":
        finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
        if finite.size:
            found |= {"min": finite.min().item(), "max": finite.max().item()}
    return found


def decode_array(name: str, data: bytes) -> Array:
    """Return the array of a field ``npy``; of several, the first.

    Raises:
        FieldError: it is none.
    """
    value = decode(name, data)
    return np.asarray(next(iter(value.values())) if isinstance(value, dict) else value)


def draw_array(data: bytes, *, name: str, side: int) -> bytes:
    """Return a small picture of an array, as PNG.

    Raises:
        FieldError, ValueError: it is no array of numbers, or empty.
    """
    from PIL import Image

    array = decode_array(name, data)
    if array.dtype.kind not in "biuf" or not array.size:
        raise ValueError(f"an array of {array.dtype}, shape {array.shape}, is not drawn")
    picture = _plane(array)
    image = Image.fromarray(_line(picture, side)) if picture.ndim == 1 else _scaled(picture, side)
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def _plane(array: Array) -> Array:
    """Return one or two axes of an array, or height, width and three channels."""
    array = array.reshape(1) if array.ndim == 0 else array
    while array.ndim > 3 or (array.ndim == 3 and array.shape[2] != 3 and array.shape[0] != 3):
        array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array[0]
    return array.transpose(1, 2, 0) if array.ndim == 3 and array.shape[2] != 3 else array


def _scaled(plane: Array, side: int) -> Any:
    from PIL import Image

    step = max(1, -(-max(plane.shape[:2]) // (4 * side)))
    plane = plane[::step, ::step]
    if plane.dtype != np.uint8 or plane.ndim == 2:
        plane = _grey(plane)
    image = Image.fromarray(np.ascontiguousarray(plane))
    if max(image.size) > side:
        image.thumbnail((side, side))
    return image


def _grey(values: Array) -> Array:
    """Return values as bytes, from the smallest to the largest."""
    numbers = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = numbers.min(), numbers.max()
    return np.asarray((numbers / 2 - low / 2) * (255 / ((high / 2 - low / 2) or 1)), np.uint8)


def _line(values: Array, side: int) -> Array:
    """Return a picture of a line through values."""
    step = max(1, -(-len(values) // side))
    grey = _grey(values)
    pieces = [grey[at : at + step] for at in range(0, len(values), step)]
    height = max(side // 2, 8)
    canvas = np.full((height, len(pieces)), 255, np.uint8)
    before = None
    for column, piece in enumerate(pieces):
        low, high = int(piece.min()), int(piece.max())
        low, high = (min(low, before), max(high, before)) if before is not None else (low, high)
        canvas[(255 - high) * (height - 1) // 255 : (255 - low) * (height - 1) // 255 + 1, column] = 40
        before = int(piece[-1])
    return canvas
