"""Encode and decode images: uint8 arrays, or PIL images, and the bytes of a file.

    array or PIL image -> encode_image -> bytes -> decode_image -> array
    bytes -> open_image -> a PIL image, of which only the head has been read -> check_image

``jpg`` is written at quality 95 (encode it yourself for another), ``webp`` without loss. ``png`` and ``tif`` take
uint16 arrays H×W as well, for depth maps. Floats are refused, since nothing says whether they go up to 1 or 255.

Decoding gives an array H×W, H×W×3 or H×W×4 of what is seen: a palette is looked up, CMYK becomes RGB, black and white
become 0 and 255. Only the first frame is decoded. WebP forgets an alpha channel that is opaque everywhere.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shardtools.storage import current_options

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


@dataclass(frozen=True)
class ImageFormat:
    """A format of PIL: the ``modes`` whose images read back the same, and the ``options`` to save with."""

    name: str
    modes: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes(self) -> str:
        """What can be written in this format, for messages."""
        shapes = (("L", "HxW"), ("RGB", "HxWx3"), ("RGBA", "HxWx4"))
        return f"a uint8 array {' or '.join(shape for mode, shape in shapes if mode in self.modes)}, a PIL image"


_JPEG = ImageFormat("JPEG", ("L", "RGB", "CMYK"), {"quality": 95})
_TIFF = ImageFormat("TIFF", ("1", "L", "RGB", "RGBA", "I;16", "F"))

IMAGE_FORMATS: dict[str, ImageFormat] = {
    "png": ImageFormat("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    **dict.fromkeys(("jpg", "jpeg"), _JPEG),
    "webp": ImageFormat("WEBP", ("RGB", "RGBA"), {"lossless": True, "exact": True}),
    "bmp": ImageFormat("BMP", ("1", "L", "P", "RGB")),
    "ppm": ImageFormat("PPM", ("1", "L", "RGB")),
    "pgm": ImageFormat("PPM", ("L",)),
    **dict.fromkeys(("tif", "tiff"), _TIFF),
}
"""The format of each extension."""

_READABLE = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""The formats to try, whatever the extension: in real datasets it is not always right."""


def encode_image(image_format: ImageFormat, value: object) -> bytes:
    """Return an array, or a PIL image, as the bytes of an image file.

    Raises:
        TypeError: it is neither.
        ValueError: the format cannot hold it.
    """
    from PIL import Image

    image = value if isinstance(value, Image.Image) else _image_of(value)
    if image.mode not in image_format.modes:
        raise ValueError(f"{image_format.name} holds {', '.join(image_format.modes)}, not {image.mode}")
    stream = io.BytesIO()
    image.save(stream, format=image_format.name, **image_format.options)
    return stream.getvalue()


def _image_of(value: object) -> Image.Image:
    from PIL import Image

    from shardtools.shards.npy import as_array

    array = as_array(value)
    if array.ndim < 2 or not array.size or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ValueError("not the shape of an image")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == "uint8" or (array.dtype == "uint16" and array.ndim == 2):
        return Image.fromarray(array)
    raise ValueError("not uint8")


def open_image(data: bytes) -> Image.Image:
    """Return an image of which only the head has been read, whatever size it claims to have.

    Like ``PIL.Image.open``, this warns of large images, or refuses them, by a limit of PIL's own.

    Raises:
        ValueError: it is not an image that can be read.
    """
    from PIL import Image

    Image.preinit()
    for name in _READABLE:
        if name not in Image.OPEN:
            Image.init()  # which imports all others
        factory, accept = Image.OPEN.get(name, (None, None))
        try:
            if factory and (accept is None or accept(data[:16]) in (True, 1)):
                return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # it is of another format, or damaged
            continue
        except Exception as error:
            raise ValueError(f"the head of the image is damaged: {error}") from error
    raise ValueError(f"not an image: it begins with {data[:12]!r}")


def check_image(image: Image.Image) -> None:
    """Raise if an image has more bytes than a value may have, once its pixels are unpacked.

    Raises:
        LimitError: it has.
    """
    pixel = {"1": 1, "L": 1, "RGB": 3}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    current_options().limits.check("value", image.width * image.height * pixel)


def decode_image(data: bytes) -> np.ndarray[Any, Any]:
    """Return the pixels of an image.

    Raises:
        ValueError: it is not an image that can be read.
        LimitError: it is larger than a value may be.
        Exception: PIL raises many other kinds for damaged data.
    """
    import numpy as np

    with open_image(data) as image:
        check_image(image)
        if image.mode in ("L", "RGB", "RGBA", "F"):
            return np.array(image)
        if image.mode.startswith("I"):  # 16 bits are "I;16", "I;16B" or, in a PNG read by an older Pillow, "I"
            is_deep = image.mode != "I" or image.format == "PNG"
            return np.array(image).astype(np.uint16 if is_deep else np.int32)
        transparent = image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info
        return np.array(image.convert("L" if image.mode == "1" else "RGBA" if transparent else "RGB"))
