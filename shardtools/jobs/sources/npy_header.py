"""The head of an array in the npy format: which numbers, in which shape, follow it.

numpy reads heads of version 3 (names of fields that are not Latin-1) only together with their arrays.
"""

from __future__ import annotations

import ast
import struct
from dataclasses import dataclass
from math import prod
from typing import IO, Any

import numpy as np

_MAGIC = b"\x93NUMPY"
_MOST = 1 << 20


@dataclass(frozen=True)
class Header:
    """What the head of an array says, and how many bytes (``size``) it takes itself."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    size: int

    @property
    def nbytes(self) -> int:
        """The bytes of the array's data."""
        return prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Return the head of an array, which is at the position of ``file``; what follows are its data.

    Raises:
        ValueError: there is none, or it is damaged.

    >>> import io
    >>> np.save(file := io.BytesIO(), np.zeros((2, 3), "int16"))
    >>> read_header(io.BytesIO(file.getvalue()))
    Header(dtype=dtype('int16'), shape=(2, 3), fortran=False, size=128)
    """
    head = file.read(8)
    if len(head) < 8 or not head.startswith(_MAGIC):
        raise ValueError(f"no array begins with {head!r}")
    version = head[6]
    if version not in (1, 2, 3):
        raise ValueError(f"version {version} of the npy format is not known")
    width, layout = (2, "<H") if version == 1 else (4, "<I")
    (length,) = struct.unpack(layout, _exactly(file, width))
    if length > _MOST:
        raise ValueError("its header is too long")
    text = _exactly(file, length).decode("utf-8" if version == 3 else "latin-1")
    try:
        fields = ast.literal_eval(text.strip())
        dtype = np.lib.format.descr_to_dtype(fields["descr"])
        shape, fortran = fields["shape"], fields["fortran_order"]
        is_shape = isinstance(shape, tuple) and all(type(length) is int and length >= 0 for length in shape)
    except (ValueError, SyntaxError, TypeError, LookupError, RecursionError, MemoryError) as error:
        raise ValueError("its header cannot be read") from error
    if not is_shape or not isinstance(fortran, bool):
        raise ValueError("its header cannot be read")
    return Header(dtype, shape, fortran, 8 + width + length)


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("it ends too early")
    return data
