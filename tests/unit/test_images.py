"""Images and bytes: what comes back, what is read whatever its name, and heads that claim too much."""

import contextlib
import io
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from shardtools.errors import FieldError
from shardtools.limits import Limits
from shardtools.shards.fields import decode, encode
from shardtools.storage import StorageOptions, using
from tests.arrays import same

LOSSLESS = {
    "png": (1, 3, 4),
    "webp": (3,),
    "bmp": (1, 3),
    "ppm": (1, 3),
    "pgm": (1,),
    "tif": (1, 3, 4),
    "tiff": (1, 3, 4),
}


@st.composite
def images(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    """An extension without loss, and an image that it holds."""
    extension = draw(st.sampled_from(sorted(LOSSLESS)))
    channels = draw(st.sampled_from(LOSSLESS[extension]))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    shape = (height, width) if channels == 1 else (height, width, channels)
    return extension, draw(npst.arrays(np.uint8, shape))


@given(images())
def test_images_come_back(image: tuple[str, np.ndarray]) -> None:
    extension, value = image
    assert same(value, decode(extension, encode(extension, value)))


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_depth_maps_come_back(extension: str) -> None:
    depth = np.arange(60000, 60012, dtype=np.uint16).reshape(3, 4)
    assert same(depth, decode(extension, encode(extension, depth)))


def test_webp_keeps_colours_and_alpha() -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 6, 4), dtype=np.uint8)
    assert same(image, decode("webp", encode("webp", image)))


@pytest.mark.parametrize("extension", ["jpg", "jpeg"])
def test_jpeg_comes_close(extension: str) -> None:
    y, x = np.mgrid[:64, :64]
    for image in (np.uint8(x + y), np.stack([x, y, x + y], axis=2).astype(np.uint8)):
        found = decode(extension, encode(extension, image))
        assert isinstance(found, np.ndarray)
        assert found.shape == image.shape
        assert np.abs(found.astype(int) - image.astype(int)).mean() < 2


def test_one_channel_is_grey() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    assert same(image[:, :, 0], decode("png", encode("png", image)))


@pytest.mark.parametrize(
    ("mode", "shape", "dtype"),
    [("1", (3, 4), "uint8"), ("LA", (3, 4, 4), "uint8"), ("P", (3, 4, 3), "uint8"), ("RGBA", (3, 4, 4), "uint8")],
)
def test_pil_images_come_back_as_they_look(mode: str, shape: tuple[int, ...], dtype: str) -> None:
    red = Image.new("RGB", (4, 3), (255, 0, 0)) if mode != "1" else Image.new("1", (4, 3), 1)
    found = decode("png", encode("png", red.convert(mode)))
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == (shape, dtype)
    assert found.max() == 255


def test_a_transparent_palette_is_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=1)
    found = decode("png", stream.getvalue())
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [[[10, 20, 30, 255], [40, 50, 60, 0]]]


def test_cmyk_becomes_rgb() -> None:
    found = decode("jpg", encode("jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 0))))
    assert same(np.full((8, 8, 3), 255, np.uint8), found)


def test_an_image_with_the_wrong_extension_is_read() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert same(image, decode("jpg", encode("png", image)))


# what others claim


def png_head(width: int, height: int) -> bytes:
    """Return a small PNG that claims to be of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1)])
def test_images_that_claim_to_be_large(width: int, height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FieldError, match=r"more than 1,073,741,824 bytes, .* --max value="):
            decode("png", png_head(width, height))


def test_large_images_that_are_none_too_large() -> None:
    """Pillow would warn of this one, which is large but may be what it says."""
    image = np.zeros((9_500, 9_500), np.uint8)
    data = encode("png", image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(decode("png", data), image)
        with using(StorageOptions(limits=Limits(value=image.size - 1))), pytest.raises(FieldError, match="the limit"):
            decode("png", data)


@given(st.sampled_from(["png", "jpg", "gif", "tif", "bmp", "webp", "ppm"]), st.data())
def test_images_that_are_damaged(kind: str, draw: Any) -> None:
    """Whatever a byte is changed to, it is an array or our error."""
    stream = io.BytesIO()
    Image.new("RGB", (5, 4), (1, 2, 3)).save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()))
    data = bytearray(stream.getvalue())
    for _ in range(3):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    field = "png" if kind == "gif" else kind
    with warnings.catch_warnings(), contextlib.suppress(FieldError):
        warnings.simplefilter("ignore")
        with using(StorageOptions(limits=Limits(value=1 << 20))):
            assert isinstance(decode(field, bytes(data[: draw.draw(st.integers(1, len(data)))])), np.ndarray)
