"""Small copies of images, to look at.

bytes -> open_image -> unpacked no larger than needed -> at most ``side`` wide and high -> PNG or JPEG
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from shardtools.shards.images import check_image, open_image

if TYPE_CHECKING:
    from PIL import Image

SIDE = 96
"""The largest width and height of a small copy, in pixels, if nobody asks for another."""

EXACT = 64 * 64
"""The pixels of an image up to which its copy has no loss."""


def thumbnail(data: bytes, side: int = SIDE) -> tuple[str, bytes, tuple[int, int]]:
    """Return a small copy of an image as "png" or "jpeg" and its bytes, and the width and height of the whole one.

    The copy is at most ``side`` pixels wide and high.

    Raises:
        ValueError: the data is not an image.
        LimitError: the image is too large.
        OSError: the image is damaged.
    """
    from PIL import Image

    with open_image(data) as image:
        size = image.size
        image.draft("RGB", (2 * side, 2 * side))  # a JPEG can be unpacked smaller, which is faster
        check_image(image)
        small = _shrunk(image, side)
        if "A" in small.mode:
            white = Image.new("RGB", small.size, "white")
            white.paste(small, mask=small.getchannel("A"))
            small = white
        stream, kind = io.BytesIO(), "png" if size[0] * size[1] <= EXACT else "jpeg"
        small.save(stream, kind, **({} if kind == "png" else {"quality": 80}))
    return kind, stream.getvalue(), size


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    """Return an image at most ``side`` wide and high, as L, RGB or RGBA."""
    from PIL import Image

    if image.mode[0] in "IF":  # 16 bits, or floats, which have no white of their own
        small = image if image.mode == "F" else image.convert("I").convert("F")
        small.thumbnail((side, side))
        values = np.nan_to_num(np.asarray(small, np.float64), posinf=0, neginf=0)
        low, high = float(values.min()), float(values.max())
        return Image.fromarray(((values - low) * (255 / ((high - low) or 1))).astype(np.uint8))
    transparent = image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info
    small = image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGBA" if transparent else "RGB")
    small.thumbnail((side, side))
    return small
